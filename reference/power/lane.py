"""`python -m reference.power.lane FOLDER NUMBER`: one device after the other, each with its power cut once.

Told by lines of JSON on standard input, answers a line for each. Its mounts are its own and its processes are in rooms
(`reference.power.room`), so that whatever ends it, SIGKILL included, leaves nothing mounted and nothing running.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from reference.core.errors import BlackstartError, DeviceError, InputError
from reference.core.model import Phase
from reference.edge.settings import EdgeSettings
from reference.power import judge, line
from reference.power.bench import DOCKER, GENERATION, LIMITS, PORT, Bench
from reference.power.desk import Desk
from reference.power.device import Boot, Device
from reference.power.disk import SIZE_BYTES, Disk, fresh_tmpfs, private_mounts
from reference.power.engine import ENGINE_BYTES, DockerRig
from reference.power.judge import Heard, Rest
from reference.power.plan import Cut
from reference.power.rig import ProcessRig, Rig
from reference.power.room import Room, enter
from reference.power.stories import NEW, OLD, OLD_VERSION, STORIES, UNKNOWN, Story
from reference.protocol.envelope import key_ring, load_private_key, public_key
from reference.support.files import syncfs

PHASE_S = 30.0
"""Longest wait for a named phase, or for a story without a cut."""
REST_S = 60.0
"""Longest wait for a device to come to rest after a cut; a device in the field has all the time it needs."""
STEADY_S = 0.03
"""So long a client at rest answers well without a break, and nothing is said any more."""
_PROBE_S = 1.0


class Lane:
    """One lane. `device` is what boots: `reference.power.device.boot`, or a broken one in tests."""

    def __init__(self, folder: Path, number: int, device: Device) -> None:
        self._bench = Bench.load(folder)
        docker = self._bench.runtime == DOCKER
        self._disk = Disk(
            folder / f"lane-{number}.img", self._bench.at, ENGINE_BYTES if docker else SIZE_BYTES
        )
        self._folder = folder
        self._log = folder / f"install-{number}.log"
        self._boot = device
        self._key = load_private_key(self._bench.key)
        self._room: Room | None = None
        here = self._bench.here
        here.mkdir(exist_ok=True)
        fresh_tmpfs(here)
        (here / "scratch").mkdir()
        self._rig: Rig = DockerRig(self._bench) if docker else ProcessRig(self._bench, _free_address())
        self._settings: EdgeSettings

    # ---- what is asked of it

    def install(self, network: str) -> None:
        """Make a template: a device on which the old version runs. Raises InputError where no disk can be mounted."""
        self._on(network)
        self._disk.format()
        try:
            self._disk.mount()
        except DeviceError as error:
            raise InputError(f"cuts of a real disk need a loop device: {error.what}") from error
        (self._bench.at / "data").mkdir()
        desk = Desk(self._key, self._bench.first())
        with self._running(desk) as end:
            if not self._to_rest(desk, end, PHASE_S):
                raise DeviceError(f"the old version could not be installed: {desk.job}", where=str(self._log))
        self._disk.release()
        self._disk.image.replace(self._bench.template(network))

    def measure(self, story: Story, network: str) -> dict[str, object]:
        """How long a story is without a cut, in seconds, and its end. Raises DeviceError when that is not a good one."""
        with self._fresh(f"measure-{story.name}", network):
            desk = self._desk(story)
            begin = time.monotonic()
            with self._running(desk) as end:
                settled = self._to_rest(desk, end, PHASE_S)
                length_s = time.monotonic() - begin - STEADY_S
                rest = self._rest(desk, settled)
        problems = judge.at_rest(rest.stored, rest, self._names(story), LIMITS)
        if problems or not settled:
            what = "; ".join(problem.detail for problem in problems) or "it did not come to rest"
            raise DeviceError(f"the story {story.name} fails without any cut: {what}", where=str(self._log))
        return {"length_s": length_s, "end": judge.end_of(rest, self._names(story))._asdict()}

    def cut(self, wanted: Cut, length_s: float) -> dict[str, object]:
        """Play the story, cut, look, boot, judge; the finding, for the report."""
        story = STORIES[wanted.story]
        begin = time.monotonic()
        with self._fresh(f"cut-{wanted.number}", wanted.network):
            desk = self._desk(story)
            with self._running(desk, wanted.phase if wanted.held else None, early=wanted.early) as end:
                self._until_cut(desk, end, wanted, length_s)
                self._take_power(desk, end)
            heard = Heard(tuple(desk.said), desk.took, GENERATION)
            seen = desk.phase
            self._disk.release()
            self._disk.mount()
            after = self._rig.look()
            with self._running(desk, early=wanted.early) as end:
                settled = self._to_rest(desk, end, REST_S)
                after = judge.claimed(after, desk.images)
                rest = self._rest(desk, settled)
        names = self._names(story)
        problems = [*judge.after_cut(heard, after), *judge.at_rest(after, rest, names, LIMITS)]
        landed = after.memory.record.phase if after.memory is not None else seen
        return {
            "number": wanted.number,
            "story": story.name,
            "network": wanted.network,
            "landed": landed,
            "end": judge.end_of(rest, names)._asdict(),
            "healthy": rest.answered if len(rest.clients) == 1 else None,
            "problems": [[problem.kind, problem.detail] for problem in problems],
            "seconds": time.monotonic() - begin,
        }

    def close(self) -> None:
        """Leave nothing running and nothing mounted."""
        if self._room is not None:
            self._room.empty()
        self._rig.close()
        self._disk.release()

    # ---- one device

    def _on(self, network: str) -> None:
        """Have the client on this network from now on."""
        self._settings = EdgeSettings.model_validate(self._bench.settings(self._rig.settings(network)))

    @contextlib.contextmanager
    def _fresh(self, name: str, network: str) -> Iterator[None]:
        """The disk of a device on which the old version was installed; unmounted afterwards. Its log is `name`'s."""
        self._on(network)
        self._log = self._folder / f"{name}{network and '-'}{network}.log"
        self._disk.copy_of(self._bench.template(network))
        self._disk.mount()
        try:
            yield
        finally:
            self._disk.release()

    def _desk(self, story: Story) -> Desk:
        return Desk(self._key, self._bench.order(story), issued=GENERATION - 1)

    @contextlib.contextmanager
    def _running(
        self, desk: Desk, hold_at: Phase | None = None, *, early: bool = False
    ) -> Iterator[socket.socket]:
        """Boot the device: what a boot forgets is forgotten. Afterwards all its processes are dead."""
        run = self._settings.run_dir
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        ours, theirs = line.pair()
        desk.phase = desk.images = None
        self._rig.boot()
        given = Boot(self._settings, LIMITS, key_ring(public_key(self._key)), theirs, hold_at)
        with ours:
            with theirs:
                device = partial(self._boot, given)
                self._room = enter(lambda: self._rig.run(device, early=early), self._log, theirs.fileno())
            try:
                yield ours
            finally:
                self._room.empty()
                self._room = None
                self._rig.emptied()

    def _until_cut(self, desk: Desk, end: socket.socket, wanted: Cut, length_s: float) -> None:
        """Play the service until the moment to cut has come."""
        begin = time.monotonic()
        if wanted.phase is None:
            self._wait(desk, end, begin, wanted.moment * length_s, wanted.flushed)
            return

        def there() -> bool:
            # Idle is the boot, too. It is held only where it was come to, at the end.
            too_early = wanted.held and wanted.phase is Phase.IDLE and not desk.job.status.terminal
            return desk.phase is wanted.phase and not too_early

        if self._talk(desk, end, begin + PHASE_S, there) and wanted.late_ms:
            self._wait(desk, end, time.monotonic(), wanted.late_ms / 1000, wanted.flushed)

    def _wait(
        self, desk: Desk, end: socket.socket, begin: float, for_s: float, flushed: float | None
    ) -> None:
        """Play the service for so long; at the fraction `flushed` of it the kernel writes back."""
        if flushed is not None:
            self._talk(desk, end, begin + flushed * for_s)
            syncfs(self._bench.at)
        self._talk(desk, end, begin + for_s)

    def _take_power(self, desk: Desk, end: socket.socket) -> None:
        """Stop everything, cut, kill, then hear out what had been said: in this order.

        Cut first, and a lie could be heard. Killed first, and the last process of a container would take its mount with
        it: an overlay that is unmounted syncs the file system below it, and nothing would ever be lost.
        """
        assert self._room is not None, "power is taken from a device that runs"
        self._room.freeze()
        self._disk.cut()
        self._room.empty()
        with contextlib.suppress(BlockingIOError):
            while (packet := line.receive(end)) is not None:
                desk.hear(packet)

    def _talk(
        self, desk: Desk, end: socket.socket, until_s: float, stop: Callable[[], bool] | None = None
    ) -> bool:
        """Play the service until `stop` says so (True) or the time has come (False)."""
        alive = True
        while (left_s := until_s - time.monotonic()) > 0:
            pause_s = left_s if stop is None else min(left_s, 0.01)
            if not alive:
                time.sleep(pause_s)
            elif select.select([end], [], [], pause_s)[0]:
                packet = line.receive(end)
                alive = packet is not None
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    for word, content in desk.hear(packet) if packet is not None else ():
                        line.send(end, word, content)
            if stop is not None and stop():
                return True
        return False

    def _to_rest(self, desk: Desk, end: socket.socket, timeout_s: float) -> bool:
        """Whether the job ends, the journal is idle and the client answers well, in time and for a moment."""
        until_s = time.monotonic() + timeout_s

        def quiet() -> bool:
            return desk.job.status.terminal and desk.phase is Phase.IDLE and self._probe() is not None

        while self._talk(desk, end, until_s, quiet):
            heard = len(desk.said)
            self._talk(desk, end, time.monotonic() + STEADY_S)
            if len(desk.said) == heard and quiet():
                return True
        return False

    def _probe(self) -> str | None:
        """The version that answers well now, if one does."""
        connection = http.client.HTTPConnection(self._settings.client.address, PORT, timeout=_PROBE_S)
        try:
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            body = json.loads(answer.read())
            return str(body["version"]) if answer.status == http.HTTPStatus.OK else None
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return None
        finally:
            connection.close()

    # ---- what is seen of it

    def _rest(self, desk: Desk, settled: bool) -> Rest:
        """The end: what runs, what answers, and then, with all processes dead, what lies on the disk."""
        assert self._room is not None, "a device at rest runs"
        answered, clients = self._probe(), self._rig.clients(self._room)
        self._room.empty()
        name = None if answered is None else self._named(answered)
        return Rest(settled, clients, name, desk.job, tuple(desk.said), self._rig.look())

    @staticmethod
    def _named(version: str) -> str:
        return OLD if version == OLD_VERSION else NEW

    def _names(self, story: Story) -> dict[str, str]:
        """Digest -> `v1` or `v2`."""
        names = {self._bench.digests[OLD_VERSION]: OLD}
        if story.defect != UNKNOWN:
            names[self._bench.digests[story.version]] = NEW
        return names


def _free_address() -> str:
    """An address of this machine's own on which the client's port is free: 127.0.0.0/8 is all loopback (RFC 1122)."""
    for number in range(256):
        address = f"127.{64 + os.getpid() % 128}.{os.getpid() // 128 % 256}.{number + 1 & 0xFF}"
        with socket.socket() as server, contextlib.suppress(OSError):
            server.bind((address, PORT))
            return address
    raise DeviceError(f"port {PORT} is taken on every loopback address")


def _obey(lane: Lane, asked: dict[str, object]) -> dict[str, object]:
    match asked:
        case {"do": "install", "network": str(network)}:
            lane.install(network)
            return {}
        case {"do": "measure", "story": str(name), "network": str(network)}:
            return lane.measure(STORIES[name], network)
        case {"do": "cut", "cut": dict(fields), "length_s": float(length_s)}:
            wanted = Cut(**fields)
            phase = Phase(wanted.phase) if wanted.phase is not None else None
            return lane.cut(replace(wanted, phase=phase), length_s)
        case _:
            raise InputError(f"{asked!r} cannot be asked of a lane")


class _Asked:
    """Answers questions; the lane, and its mounts, are made with the first of them."""

    def __init__(self, folder: Path, number: int, device: Device) -> None:
        self._given = (folder, number, device)
        self._lane: Lane | None = None

    def answer(self, text: str) -> dict[str, object]:
        try:
            self._lane = self._lane or self._make()
            return _obey(self._lane, json.loads(text))
        except BlackstartError as error:
            return {"error": str(error), "input": isinstance(error, InputError)}

    def _make(self) -> Lane:
        try:
            private_mounts()
            return Lane(*self._given)
        except OSError as error:
            what = f"cuts of a real disk need the right to mount (CAP_SYS_ADMIN): {error.strerror}"
            raise InputError(what) from error

    def close(self) -> None:
        if self._lane is not None:
            self._lane.close()


def main(arguments: list[str]) -> int:
    """The process's entry: FOLDER, NUMBER, and the device as MODULE:FUNCTION."""
    folder, number, device = arguments
    module, _, name = device.partition(":")

    def end(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us hears it, and tells us
    asked = _Asked(Path(folder), int(number), getattr(importlib.import_module(module), name))
    try:
        for text in sys.stdin:
            print(json.dumps(asked.answer(text)), flush=True)  # noqa: T201
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        asked.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
