"""A private engine: started, restarted, killed, taken down."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from reference.core.errors import EngineError, InputError
from reference.engine import firewall, leftovers, links, records
from reference.engine.links import Bridge
from reference.engine.places import RUN, Engine, Places, ask, check_version
from reference.engine.records import Record
from reference.engine.refusals import explain
from reference.support.processes import ROOT, tail

START_S = 60.0
STOP_S = 20.0
POLL_S = 0.02
LOG_BYTES = 20_000
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where dockerd, iptables and docker-proxy are; not on every user's PATH."""


_PROGRAMS = ("dockerd", "containerd", "runc")
"""Without any of them no container runs. docker-proxy and iptables are asked for where they are needed."""


def _path() -> str:
    return os.pathsep.join(filter(None, (os.environ.get("PATH", ""), _SBIN)))


def missing(*also: str) -> str:
    """The first program that is not here, of those without which no engine runs, and of these; empty: all are."""
    absent = (program for program in (*_PROGRAMS, *also) if shutil.which(program, path=_path()) is None)
    return next(absent, "")


def why_not() -> str:
    """Why no private engine can run here, in a few words; empty when nothing speaks against it."""
    if not sys.platform.startswith("linux"):
        return "this is not Linux"
    if program := missing():
        return f"{program} is not installed"
    if os.geteuid() != 0:
        return "dockerd needs root"
    return ""


_INSTALL = (
    "Install it (Debian: apt-get install docker.io iptables), or use an engine that runs "
    "already: BLACKSTART_DOCKER_HOST=unix:///var/run/docker.sock."
)
_TODO = {
    **{f"{program} is not installed": _INSTALL for program in _PROGRAMS},
    "dockerd needs root": "Run this as root.",
    "this is not Linux": "Run this on Linux, or use an engine that runs already: BLACKSTART_DOCKER_HOST.",
}


class PrivateEngine(Engine):
    """A dockerd of one's own, with all it keeps in `folder`. Use as `with PrivateEngine(folder) as engine`.

    `live_restore`: containers go on while dockerd is down. `iptables`: let it write rules; only where no other engine
    shares this network namespace. `config`: more keys of daemon.json.
    """

    def __init__(
        self,
        folder: Path,
        *,
        live_restore: bool = True,
        iptables: bool = False,
        storage_driver: str = "overlay2",
        config: Mapping[str, object] | None = None,
    ) -> None:
        self.places = Places.of(folder)
        super().__init__(self.places.socket)
        self._options: dict[str, object] = {
            "live-restore": live_restore,
            "iptables": iptables,
            "ip-forward": iptables,  # neither is a setting of this machine changed
            "ip-masq": iptables,
            "storage-driver": storage_driver,
            **(config or {}),
        }

    def __enter__(self) -> PrivateEngine:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- what it is

    @property
    def record(self) -> Record | None:
        """What is noted about it while it is up."""
        return records.read(self.places)

    @property
    def bridge(self) -> Bridge:
        """Its part of the addresses. Raises EngineError when it is not up."""
        if (record := self.record) is None:
            raise EngineError(
                "no private engine is up there", where=str(self.places.folder), todo="Start it."
            )
        return record.bridge

    @property
    def pid(self) -> int | None:
        """dockerd's, while it runs."""
        found = [pid for pid in leftovers.processes_of(self.places) if leftovers.is_called(pid, "dockerd")]
        return found[0] if found else None

    @property
    def data_root(self) -> Path:
        """Where images, containers and volumes are."""
        return self.places.data

    @property
    def restart_command(self) -> tuple[str, ...]:
        """What restarts its dockerd, for an updater that may."""
        module = (sys.executable, "-m", "reference.engine", "restart", str(self.places.folder))
        return ("env", f"PYTHONPATH={ROOT}", *module)

    # ---- its life

    def start(self, *, outlives_us: bool = False) -> None:
        """Bring it up, with what was left of an earlier one cleared. Raises EngineError, InputError.

        `outlives_us`: it stays up until it is told; otherwise whoever starts one next takes ours down if we were killed.
        """
        self._refuse_if_impossible()
        with _alone():
            sweep()
            if (record := self.record) is not None and self.pid is not None:
                who = f" for process {record.owner[0]}" if record.owner else ""
                raise InputError(
                    f"an engine runs on this folder{who}",
                    where=str(self.places.folder),
                    todo="End it first (blackstart engine stop --data), or name another folder.",
                )
            if self._options["iptables"]:
                firewall.refuse_beside_another(self.places)
            self._clear()
            with self._disk_errors():
                for folder in (self.places.data, self.places.exec):
                    folder.mkdir(parents=True, exist_ok=True)
                bridge = links.claim(int(self.places.name, 16) % links.PARTS)
                owner = None if outlives_us else os.getpid()
                records.write(self.places, Record.made(self.places.folder, bridge, owner))
                self.places.config.write_text(json.dumps(self._daemon_json(bridge), indent=1))
                self.places.log.unlink(missing_ok=True)
        try:
            self.resume()
        except BaseException:
            self._clear()
            raise

    def halt(self) -> None:
        """Ask dockerd to end, and wait until it has. With live restore the containers go on."""
        if (pid := self.pid) is None:
            return
        if not self._end(pid, signal.SIGTERM):
            self.kill()

    def kill(self) -> None:
        """SIGKILL dockerd, and its containerd with it. Containers go on."""
        for pid in leftovers.processes_of(self.places):
            if leftovers.is_called(pid, "dockerd", "containerd"):
                self._end(pid, signal.SIGKILL)

    def _end(self, pid: int, number: signal.Signals) -> bool:
        """Whether it has ended, in time."""
        begun = leftovers.started(pid) or 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return _until(lambda: not leftovers.alive(pid, begun), STOP_S)

    def resume(self, timeout_s: float = START_S) -> None:
        """Start dockerd again after `halt` or `kill`, and wait until it answers. Raises EngineError with its last words."""
        if self.pid is not None:
            return
        if not self.places.config.exists() or self.record is None:
            raise EngineError(
                "no private engine is up there", where=str(self.places.folder), todo="Start it."
            )
        # Of killed ones: the numbers may be others' by now, or that of a zombie, which dockerd takes for alive.
        self.places.pid_file.unlink(missing_ok=True)
        if not any(leftovers.is_called(pid, "containerd") for pid in leftovers.processes_of(self.places)):
            (self.places.exec / "containerd" / "containerd.pid").unlink(missing_ok=True)
        began = self.places.log.stat().st_size if self.places.log.exists() else 0
        pid = self._spawn()
        answered = _until(lambda: self.answers() or leftovers.started(pid) is None, timeout_s)
        if not answered or not self.answers():
            raise explain(self._said(began), self.places, "was not ready" if not answered else "ended")
        check_version(self.socket)

    def restart(self) -> None:
        """Let dockerd end and start it again; one after the other, when several ask for it. Raises EngineError."""
        if not self.places.run.is_dir():
            self.resume()  # Says that there is none.
            return
        with _locked(self.places.run / "restart.lock"):
            self.halt()
            self.resume()

    def answers(self) -> bool:
        """Whether the API answers."""
        return bool(self._version())

    def stop(self) -> None:
        """Take everything down: containers, networks, daemons, mounts, links. Images and volumes stay in the folder."""
        bridge = self._bridge_left()
        if self.answers():
            with contextlib.suppress(Exception):  # what the API will not remove is ended below
                self.remove_everything_made()
        self.halt()
        self._clear(bridge)

    def wipe(self) -> None:
        """Remove what it keeps: images, volumes, its log. Raises EngineError while it is up."""
        if self.record is not None:
            raise EngineError("the engine is up", where=str(self.places.folder), todo="Stop it first.")
        shutil.rmtree(self.places.data, ignore_errors=True)
        for path in (self.places.config, self.places.log):
            path.unlink(missing_ok=True)

    def remove_everything_made(self) -> None:
        """Remove all containers and networks. Raises what the SDK raises."""
        client = self.client()
        try:
            with ThreadPoolExecutor(4) as pool:
                ids = [str(found["Id"]) for found in client.api.containers(all=True)]
                list(pool.map(lambda name: client.api.remove_container(name, force=True, v=True), ids))
            for network in client.api.networks():
                if network["Name"] not in ("bridge", "host", "none"):
                    client.api.remove_network(network["Id"])
        finally:
            client.close()

    def status(self) -> dict[str, object]:
        """How it is, for people and machines."""
        said = self._version()
        record = self.record
        return {
            "answers": bool(said),
            "host": self.host,
            "folder": str(self.places.folder),
            "pid": self.pid,
            "version": said.get("Version"),
            "apiVersion": said.get("ApiVersion"),
            "bridge": record.bridge.name if record else None,
            "subnet": str(record.bridge.subnet) if record else None,
            "log": str(self.places.log),
        }

    # ---- inside

    def _version(self) -> dict[str, object]:
        try:
            return ask(self.socket, "/version")
        except EngineError:
            return {}

    def _refuse_if_impossible(self) -> None:
        if reason := why_not():
            raise EngineError(
                f"no engine can be started here: {reason}", where="dockerd", todo=_TODO.get(reason, "")
            )

    def _daemon_json(self, bridge: Bridge) -> dict[str, object]:
        return {
            "data-root": str(self.places.data),
            "exec-root": str(self.places.exec),
            "pidfile": str(self.places.pid_file),
            "hosts": [self.host],
            "bridge": bridge.name,
            "default-address-pools": [{"base": str(bridge.pool), "size": 27}],
            "cgroup-parent": f"/{self.places.cgroup}",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            **self._options,
        }

    def _spawn(self) -> int:
        """dockerd as a child of init: whoever ends it later, nobody has to reap it."""
        script = 'PATH=$1; shift; "$@" >>"$LOG" 2>&1 & echo $!'
        command = ("dockerd", "--config-file", str(self.places.config))
        environment = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
        # No proxy stands between it and registries on this machine.
        direct = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
        environment["NO_PROXY"] = ",".join(filter(None, (direct, "localhost,127.0.0.0/8", str(links.RANGE))))
        done = subprocess.run(
            ["/bin/sh", "-c", script, "sh", _path(), *command],
            env={**environment, "LOG": str(self.places.log)}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=True, start_new_session=True, timeout=STOP_S,
        )  # fmt: skip
        return int(done.stdout)

    def _said(self, began: int) -> str:
        """What dockerd has logged since its log had that many bytes."""
        size = self.places.log.stat().st_size if self.places.log.exists() else 0
        return tail(self.places.log, min(LOG_BYTES, max(0, size - began)) or 1)

    def _clear(self, bridge: Bridge | None = None) -> None:
        """Everything but the data. Raises EngineError."""
        bridge = bridge or self._bridge_left()
        leftovers.end_processes(self.places)
        leftovers.unmount(self.places)
        if bridge is not None:
            firewall.remove_rules(bridge, _path())
            links.remove(bridge)
        leftovers.remove_run(self.places)

    def _bridge_left(self) -> Bridge | None:
        """The bridge that is to go with it. One whose record is gone has it in its daemon.json as long as it runs."""
        if (record := self.record) is not None:
            return record.bridge if record.here else None
        if self.pid is None:
            return None  # Then whatever is called so may be another one's by now.
        with contextlib.suppress(OSError, ValueError, KeyError):
            return Bridge.called(str(json.loads(self.places.config.read_bytes())["bridge"]))
        return None

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = str(error.filename or self.places.folder)
            raise InputError(
                f"cannot be used: {error.strerror or error}", where=place, todo="Name another folder."
            ) from error


def _until(done: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it came true in time. Polled: neither dockerd nor the kernel tells a stranger."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


@contextmanager
def _alone() -> Iterator[None]:
    """Only one at a time looks for leftovers and claims addresses. Raises EngineError."""
    try:
        RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(RUN, error) from error
    with _locked(RUN / "lock"):
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _unwritable(where: Path, error: OSError) -> EngineError:
    return EngineError(f"cannot be written: {error.strerror}", where=str(where), todo="Run this as root.")


def sweep() -> list[Path]:
    """Take down the engines whose owners were killed. Their folders.

    One whose links are in another network namespace is left to those who see them, or they would stay; where nobody is
    left in it they end with it.
    """
    found = []
    for places, record in records.all_of_them():
        if not record.abandoned:
            continue
        if record.here or not record.is_lived_in(but=leftovers.processes_of(places)):
            with contextlib.suppress(
                EngineError
            ):  # What cannot be ended keeps nobody from starting another one.
                PrivateEngine(places.folder)._clear()
                found.append(places.folder)
    return found
