"""A Docker Engine of a device's own, whose power can be cut: its data on the device's disk, all else in the room.

    disk   data-root (images, containers, the network's database), and the agent's state
    room   dockerd, containerd, shims, containers, the agent: one pid and mount namespace, killed at once
    boot   a network namespace and a /run for each: bridges, links, firewall rules, ports, sockets and exec-root of
           the boot before are gone

The registry is outside. In each new network a socket listens where the registry was when the images were pushed, and
`reference.power.wire` carries what connects there.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import importlib
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from reference.core.errors import DeviceError, InputError
from reference.engine import missing
from reference.power.bench import PORT, Bench
from reference.power.disk import call, fresh_tmpfs
from reference.power.engine_look import DataRoot
from reference.power.judge import Stored
from reference.power.look import look
from reference.power.room import Room
from reference.power.wire import Wire

ENGINE_BYTES = 512 << 20
"""Of a disk with an engine on it. Sparse."""
HOST, BRIDGE = "host", "bridge"
NETWORKS = (HOST, BRIDGE)
_RUN = Path("/run")
_SOCKET, _PID_FILE = _RUN / "docker.sock", _RUN / "docker.pid"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
_GROUPS = Path("/sys/fs/cgroup")
_PREFIX = "blackstart-cut-"
_GONE_S = 10.0
_READY_S = 20.0
_AGAIN_S = 0.1
_RESTART = """
old=$(cat "$0") && kill "$old" || exit 1
while kill -0 "$old" 2>/dev/null; do sleep 0.02; done
until [ -s "$0" ] && kill -0 "$(cat "$0")" 2>/dev/null; do sleep 0.02; done
"""
"""As `systemctl restart docker`: ends the engine; whoever keeps it starts it again."""


def require_engine() -> None:
    """See that an engine can be started here. Raises InputError, one sentence, where it cannot."""
    if name := missing("iptables"):
        raise InputError(f"cuts under Docker need {name}: install the packages docker.io and iptables")


def _search_path() -> str:
    return os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


class DockerRig:
    """See reference.power.rig.Rig."""

    def __init__(self, bench: Bench) -> None:
        # What the device will need is imported here, once, and forked with it.
        importlib.import_module("reference.edge.runtimes.docker")
        self._bench = bench
        self._root = bench.at / "docker"
        self._daemon_config = bench.here / "daemon.json"
        self._group = f"{_PREFIX}{os.getpid()}"
        clear_groups()
        self._daemon_config.write_text(
            "{}", "utf-8"
        )  # whatever this machine's own engine is told is not for it
        for network in NETWORKS:
            config = {"port": PORT, "host": "127.0.0.1" if network == HOST else "0.0.0.0", "interval_ms": 5}  # noqa: S104
            self._config(network).write_text(json.dumps(config), "utf-8")
        self._wire = Wire(bench.registry, bench.here / "wire.log")

    def _config(self, network: str) -> Path:
        return self._bench.here / f"config-{network}.json"

    def settings(self, network: str) -> Mapping[str, object]:
        """See Rig."""
        mounts = {
            "/data": str(self._bench.at / "data"),
            "/etc/opc-client/config.json": str(self._config(network)),
        }
        client: dict[str, object] = {"address": "127.0.0.1", "mounts": mounts, "network": network}
        if network == BRIDGE:
            client["publish"] = {str(PORT): f"127.0.0.1:{PORT}"}
        restart = ["/bin/sh", "-c", _RESTART, str(_PID_FILE)]
        engine = {"socket": f"unix://{_SOCKET}", "restart": restart}
        return {"runtime": "docker", "engine": engine, "client": client}

    def address(self, network: str) -> str:  # noqa: ARG002
        """See Rig: its own loopback."""
        return "127.0.0.1"

    # ---- boot

    def boot(self) -> None:
        """See Rig: a new network, with nothing in it but the way to the registry."""
        call("unshare", _NEW_NETWORK)
        _loopback_up()
        host, _, port = self._bench.registry.rpartition(":")
        with socket.create_server((host, int(port))) as listening:
            self._wire.lead(listening)

    def run(self, device: Callable[[], None], *, early: bool) -> None:
        """See Rig: the engine, kept up as an init system keeps it, and the device once the engine answers, or at once."""
        fresh_tmpfs(_RUN)
        if os.fork() == 0:
            self._keep()
        end = time.monotonic() + _READY_S
        while not early and not self._answers():
            if time.monotonic() > end:
                raise DeviceError("the engine does not start; see the log")
            time.sleep(0.01)
        device()

    def _keep(self) -> NoReturn:
        """Start it, and start it again when it has ended."""
        while True:
            with contextlib.suppress(OSError):
                subprocess.run(self._command(), check=False, env={**os.environ, "PATH": _search_path()})
            time.sleep(_AGAIN_S)

    def _command(self) -> list[str]:
        return [
            "dockerd", "--data-root", str(self._root), "--exec-root", str(_RUN / "docker"), "--pidfile", str(_PID_FILE),
            "--host", f"unix://{_SOCKET}", "--storage-driver", "overlay2", "--live-restore", "--log-level", "warn",
            "--cgroup-parent", f"/{self._group}", "--exec-opt", "native.cgroupdriver=cgroupfs",
            "--config-file", str(self._daemon_config),
        ]  # fmt: skip

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("localhost", timeout=1.0)
        try:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(1.0)
            connection.sock.connect(str(_SOCKET))
            connection.request("GET", "/_ping")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def emptied(self) -> None:
        """See Rig: what dies without warning leaves its control groups behind."""
        remove_groups(self._group)

    # ---- what is seen

    def clients(self, room: Room) -> tuple[str, ...]:  # noqa: ARG002 - their processes are in rooms of their own
        """See Rig: by the control group that each of them is in, and the container's description on the disk."""
        digest = {found.id: found.digest or "" for found in self._data_root().containers()}
        return tuple(
            digest.get(container, f"unknown container {container}")
            for container, words in _grouped(self._group)
            if any(word.endswith("/main.py") for word in words)
        )

    def look(self) -> Stored:
        """See Rig."""
        root = self._data_root()
        images, containers = root.images(self._bench.layers), root.containers()
        return look(self._bench.at, self._bench.here / "scratch", images, containers)

    def _data_root(self) -> DataRoot:
        return DataRoot(self._root, self._bench.files)

    def close(self) -> None:
        """See Rig."""
        self._wire.close()
        remove_groups(self._group)


def _loopback_up() -> None:
    """In a new network namespace even loopback is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = fcntl.ioctl(any_socket, _GET_FLAGS, struct.pack("16sh14x", b"lo", 0))
        _, flags = struct.unpack("16sh14x", asked)
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


def _hierarchies() -> list[Path]:
    """The one of version 2, or each of version 1."""
    return [_GROUPS, *(path for path in _GROUPS.iterdir() if path.is_dir() and not path.is_symlink())]


def _grouped(name: str) -> list[tuple[str, list[str]]]:
    """The container and the command line of every process in a container below the control group."""
    found = []
    group = next((parent / name for parent in _hierarchies() if (parent / name).is_dir()), None)
    for container in group.iterdir() if group is not None else ():
        with contextlib.suppress(OSError):
            for pid in (container / "cgroup.procs").read_text("ascii").split():
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                found.append((container.name, [os.fsdecode(word) for word in words if word]))
    return found


def remove_groups(name: str) -> None:
    """Remove control groups of that name in every hierarchy. Raises DeviceError when one stays in use."""
    end = time.monotonic() + _GONE_S
    for parent in _hierarchies():
        while (parent / name).is_dir():
            for folder, _, _ in os.walk(parent / name, topdown=False):
                with contextlib.suppress(OSError):  # a process that was killed may still be on its way out
                    Path(folder).rmdir()
            if time.monotonic() > end:
                raise DeviceError("control groups stay in use", where=str(parent / name))


def clear_groups() -> None:
    """Remove those of lanes that were killed and could not do it."""
    for parent in _hierarchies():
        for left in parent.glob(f"{_PREFIX}*"):
            pid = left.name.removeprefix(_PREFIX)
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                remove_groups(left.name)


__all__ = ["BRIDGE", "HOST", "NETWORKS", "DockerRig", "clear_groups", "remove_groups", "require_engine"]
