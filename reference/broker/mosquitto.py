"""Mosquitto as our child: started, its rights and its list of revoked certificates kept current, ended.

What Mosquitto 2.0 does at SIGHUP, as measured: the rights count at once, also for those who are connected, and no
message is lost; the list of revoked certificates counts for those who connect from then on; who is connected stays.
So a revocation is a SIGHUP, which closes the door at once, and then a restart, which ends the living sessions; what
was kept for the others is kept over it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import signal
import socket
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from reference.broker.mosquitto_files import (
    CONFIG,
    CRL,
    DAMAGED,
    MosquittoFolder,
    TlsServerFiles,
    account,
    configuration,
    device_called,
    find_program,
)
from reference.broker.revoked import WATCH_S, Watched, read_revoked
from reference.broker.server import server_context
from reference.core.errors import InputError, ServiceError
from reference.support.processes import ends_with_us

log = logging.getLogger(__name__)

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
LOCK_TIMEOUT_S = 3.0
"""How long the Mosquitto of a broker that was killed may take to be gone."""
LEARN_S = 0.05
LEARN_S_PER_PAIR = 2e-7
"""Devices that connect for the first time within `LEARN_S`, and as much longer as a reload takes, get their rights in
one reload. Mosquitto 2.0 reads n entries in about 2e-8 n^2 s (20 ms for 1,000, 2 s for 10,000) and does nothing else
meanwhile: so it is at work on that for a tenth of the time at most."""
_CONNECTED = re.compile(r"New client connected from \S+ as (\S+) \(p\d+, c\d, k\d+, u'(\S+)'\)\.")
_LINES_KEPT = 20


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 is a free one."""

    host: str
    port: int


class Mosquitto:
    """`start()` it, `await` its `watch()`, `stop()` it."""

    def __init__(self, address: Address, data: Path, files: TlsServerFiles) -> None:
        self._program = find_program()
        self._who = account()
        self._wanted = address
        self._files = files
        server_context(files.ca, files.cert, files.key)
        self._revoked = self._read_revoked()
        self._folder = MosquittoFolder(data, self._who)
        self._lock_path = data / "mosquitto.lock"
        self._lock: int | None = None
        self._devices = self._folder.known_devices()
        self._new = asyncio.Event()
        self._running = asyncio.Event()
        self._said: deque[str] = deque(maxlen=_LINES_KEPT)
        self._child: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.port = address.port

    @property
    def pid(self) -> int:
        """Mosquitto's own process id."""
        assert self._child is not None, "started"
        return self._child.pid

    async def start(self) -> None:
        """Raises `InputError` when it cannot listen or the folder is in use, `ServiceError` when it does not run."""
        self._lock = await self._take_lock()
        self._folder.take_over()
        self._folder.copy_certificates(self._files)
        self._folder.write_rights(self._devices)
        self.port = _free_port(self._wanted)
        crl = self._files.crl is not None
        self._folder.write(CONFIG, configuration(self._wanted.host, self.port, crl=crl).encode())
        await self._start_child()

    async def stop(self) -> None:
        """End it; it saves what it keeps."""
        await self._end_child()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def watch(self) -> None:
        """Keep rights, certificates and the list of revoked ones current. Raises `ServiceError` when Mosquitto ends."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._give_rights())
            group.create_task(self._follow_files())

    # ---- the child

    async def _take_lock(self) -> int:
        """One Mosquitto to a folder: it inherits the lock, which so lasts as long as itself, whatever becomes of us."""
        fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = asyncio.get_running_loop().time() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if asyncio.get_running_loop().time() < deadline:
                    await asyncio.sleep(0.02)
                    continue
                os.close(fd)
                raise InputError(
                    "another broker runs on this folder",
                    where=str(self._lock_path.parent),
                    todo="End that one first, or give --data another folder.",
                ) from None
            return fd

    async def _start_child(self) -> None:
        """Once more without what it kept, where that is damaged: messages are sent again end to end, a door is not."""
        try:
            await self._launch()
        except ServiceError as error:
            if DAMAGED not in error.what or not self._folder.set_aside_kept():
                raise
            log.critical("what Mosquitto kept is damaged: set aside, begun anew", extra={"why": error.what})
            await self._launch()

    async def _launch(self) -> None:
        assert self._lock is not None, "start() took it"
        who = self._who
        self._running.clear()
        self._said.clear()
        # As its user from the start: when it drops root by itself the kernel forgets that it is to end with us.
        # SIGKILL, so that a broker that is killed is a broker that crashes.
        child = await asyncio.create_subprocess_exec(
            self._program,
            "-c",
            CONFIG,
            cwd=self._folder.path,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            user=who.uid if who else None,
            group=who.gid if who else None,
            extra_groups=[] if who else None,
            pass_fds=(self._lock,),
            preexec_fn=ends_with_us(signal.SIGKILL),
        )
        self._child = child
        assert child.stderr is not None
        self._reader = asyncio.create_task(self._read_log(child.stderr))
        running = asyncio.create_task(self._running.wait())
        ended = asyncio.create_task(child.wait())
        try:
            await asyncio.wait({running, ended}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await self._end_child()
                raise self._failure("did not start")
        finally:
            running.cancel()
            ended.cancel()

    def _failure(self, what: str) -> ServiceError | InputError:
        said = "; ".join(self._said)
        if "Address already in use" in said:
            return InputError(
                "cannot listen: the port is in use",
                where=f"{self._wanted.host}:{self.port}",
                todo="Choose another port.",
            )
        return ServiceError(f"Mosquitto {what}: {said or 'it said nothing'}", where=str(self._folder.path))

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        async for raw in stream:
            line = raw.decode("utf-8", "replace").rstrip()
            self._said.append(line)
            log.info("mosquitto", extra={"said": line})
            if line.startswith("mosquitto version") and line.endswith("running"):
                self._running.set()
            elif (connected := _CONNECTED.fullmatch(line)) is not None:
                self._learn(connected[2])

    def _learn(self, name: str) -> None:
        device = device_called(name)
        if device is not None and device not in self._devices:
            self._devices.add(device)
            self._new.set()

    async def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await child.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
        if self._reader is not None:
            await self._reader

    def _reload(self) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(signal.SIGHUP)

    # ---- what changes while it runs

    async def _give_rights(self) -> None:
        while True:
            await self._new.wait()
            await asyncio.sleep(LEARN_S + LEARN_S_PER_PAIR * len(self._devices) ** 2)
            self._new.clear()
            self._folder.write_rights(self._devices)
            self._reload()
            log.info("rights given", extra={"devices": len(self._devices)})

    async def _follow_files(self) -> None:
        files = self._files
        ours = Watched(files.ca, files.cert, files.key)
        listed = Watched(files.crl) if files.crl is not None else None
        asked = Watched(self._folder.asked_for)
        while True:
            await asyncio.sleep(WATCH_S)
            if self._child is None or self._child.returncode is not None:
                raise self._failure("has ended")
            if asked.changed():
                for device in self._folder.known_devices():
                    self._learn(device.mqtt_id)
            if ours.changed():
                self._renew()
            if listed is not None and listed.changed():
                await self._revoke()

    def _renew(self) -> None:
        """The broker's own certificate has changed: connections from now on see the new one."""
        try:
            server_context(self._files.ca, self._files.cert, self._files.key)
            self._folder.copy_certificates(self._files)
        except InputError as error:  # half of a pair is there, perhaps: the next change tells
            log.error("the new certificate is not used", extra={"why": str(error)})
            return
        self._reload()

    def _read_revoked(self) -> frozenset[int]:
        return read_revoked(self._files.crl, self._files.ca) if self._files.crl is not None else frozenset()

    async def _revoke(self) -> None:
        assert self._files.crl is not None
        try:
            revoked = self._read_revoked()
            self._folder.write(CRL, self._files.crl.read_bytes())
        except (InputError, OSError) as error:
            log.critical("the list of revoked certificates is not used", extra={"why": str(error)})
            return
        new, self._revoked = revoked - self._revoked, revoked
        self._reload()
        if new:
            log.warning("certificates revoked: every connection begins anew", extra={"many": len(new)})
            await self._end_child()
            await self._start_child()


def _free_port(address: Address) -> int:
    """The port itself, or a free one for 0: asked for and given back, as Mosquitto takes no open socket."""
    if address.port:
        return address.port
    with socket.create_server((address.host, 0)) as found:
        return int(found.getsockname()[1])
