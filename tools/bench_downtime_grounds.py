"""Where `make bench-downtime` measures: the process runtime, and a Docker engine of its own with each kind of network.

A ground has the device's settings, the two floors, and a power switch. The floors are what an operator would do by
hand with the client's own image, and with a static program that does nothing but answer: stop one, start the other.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reference.edge.runtimes.docker import neighbour
from reference.engine import PrivateEngine, why_not
from reference.engine.leftovers import end_processes
from reference.power.desk import CLIENT, TENANT
from reference.stack.box import kill_all, on_command_line
from reference.support.processes import ROOT

if TYPE_CHECKING:
    from docker import APIClient

PORT, SAME_PORT, STATIC_PORT = 18080, 18081, 18082
"""The client's, and those of the floors."""
INSIDE_PORT = 8080
INTERVAL_MS = 20
GRACE_MS = 5_000
_STATIC = Path(__file__).with_name("bench_downtime_static.c")
_SEARCHED = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
Swap = Callable[[], None]
"""Stop the one that runs, start the other one."""


class Ground(ABC):
    """One runtime on one network."""

    runtime: str
    network: str

    def __init__(self, folder: Path, registry: str) -> None:
        self.folder = folder
        self.registry = registry
        for name in ("data", "same", "run"):
            (folder / name).mkdir(parents=True)

    @property
    def samples(self) -> Path:
        """What the client has collected."""
        return self.folder / "data" / "samples.log"

    def settings(self) -> dict[str, object]:
        """The device's."""
        nowhere = self.folder / "unused"
        return {
            "tenant_id": TENANT, "client_id": CLIENT, "state_dir": self.folder / "state", "run_dir": self.folder / "run",
            "broker": {"host": "127.0.0.1", "port": 1, "ca": nowhere, "cert": nowhere, "key": nowhere},
            "registries": [{"host": self.registry, "plain_http": True}], "command_keys": [nowhere],
            "disk_margin_bytes": 1 << 20, "seed": 1, "runtime": self.runtime,
        }  # fmt: skip

    def config(self, name: str, port: int, host: str) -> Path:
        """Write a client's configuration."""
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps({"port": port, "host": host, "interval_ms": INTERVAL_MS}), "utf-8")
        return path

    def observers(self) -> dict[str, str]:
        """Name -> what the observer is to ask, of the client."""
        return {"": f"127.0.0.1:{PORT}"}

    @abstractmethod
    def floors(self, same_image: str, app: Path) -> dict[str, tuple[Swap, str]]:
        """Bring both floors up: how to swap, and what the observer is to ask. `app` is the client's program."""

    @abstractmethod
    def cut(self) -> None:
        """SIGKILL for everything of the device, engine and agent included, and forget what a boot forgets."""

    @abstractmethod
    def boot(self) -> None:
        """What a boot starts, without the agent."""

    @abstractmethod
    def close(self) -> None:
        """Take everything down."""

    def static_program(self) -> Path | None:
        """The static floor's program, compiled here; None where there is no compiler."""
        if (compiler := shutil.which("cc") or shutil.which("gcc")) is None:
            return None
        made = self.folder / "static" / "static"
        made.parent.mkdir(exist_ok=True)
        subprocess.run([compiler, "-O2", "-static", "-o", str(made), str(_STATIC)], check=True)
        return made


class ProcessGround(Ground):
    """The embedded runtime: its floor is a process that is ended and started by hand."""

    runtime, network = "process", "host"

    def __init__(self, folder: Path, registry: str) -> None:
        super().__init__(folder, registry)
        self._hands: list[subprocess.Popen[bytes]] = []

    def settings(self) -> dict[str, object]:
        """See Ground."""
        mounts = {
            "/data": str(self.folder / "data"),
            "/etc/opc-client/config.json": str(self.config("client", PORT, "127.0.0.1")),
        }
        client = {"port": PORT, "stop_grace_ms": GRACE_MS, "mounts": mounts}
        return {**super().settings(), "client": client}

    def floors(self, same_image: str, app: Path) -> dict[str, tuple[Swap, str]]:  # noqa: ARG002
        """See Ground."""
        mounts = {
            "/data": str(self.folder / "same"),
            "/etc/opc-client/config.json": str(self.config("same", SAME_PORT, "127.0.0.1")),
        }
        environment = {"BLACKSTART_MOUNTS": json.dumps(mounts), "OPC_VERSION": "same", "PATH": os.defpath}
        client = [sys.executable, "-I", "-S", str(app)]
        found = {"same": (self._by_hand(client, environment), f"127.0.0.1:{SAME_PORT}")}
        if (static := self.static_program()) is not None:
            swap = self._by_hand([str(static), str(STATIC_PORT)], {})
            found["static"] = (swap, f"127.0.0.1:{STATIC_PORT}")
        return found

    def _by_hand(self, argv: list[str], environment: dict[str, str]) -> Swap:
        index = len(self._hands)
        self._hands.append(subprocess.Popen(argv, env=environment))

        def swap() -> None:
            self._hands[index].terminate()
            self._hands[index].wait()
            self._hands[index] = subprocess.Popen(argv, env=environment)

        return swap

    def cut(self) -> None:
        """See Ground."""
        for hand in self._hands:  # A floor is no part of the device, but a boot would end it, too.
            hand.kill()
            hand.wait()
        self._hands.clear()
        asyncio.run(kill_all(lambda: on_command_line(self.folder)))
        shutil.rmtree(self.folder / "run")
        (self.folder / "run").mkdir()

    def boot(self) -> None:
        """See Ground: nothing but the agent is started at a boot."""

    def close(self) -> None:
        """See Ground."""
        self.cut()


class DockerGround(Ground):
    """A private engine. `network` is `host` or `bridge`, the latter with a published port."""

    runtime = "docker"

    def __init__(self, folder: Path, registry: str, network: str) -> None:
        super().__init__(folder, registry)
        self.network = network
        self.engine = PrivateEngine(folder / "engine", iptables=network != "host")
        self.engine.start()
        self._api: APIClient = self.engine.client().api

    def settings(self) -> dict[str, object]:
        """See Ground."""
        client: dict[str, Any] = {"port": PORT, "stop_grace_ms": GRACE_MS, "network": self.network}
        if self.network != "host":
            client["publish"] = {str(INSIDE_PORT): f"127.0.0.1:{PORT}"}
        client["mounts"] = {
            "/data": str(self.folder / "data"),
            "/etc/opc-client/config.json": str(self._config("client", PORT)),
        }
        engine = {"socket": self.engine.host, "restart": list(self.engine.restart_command)}
        return {**super().settings(), "client": client, "engine": engine}

    def _config(self, name: str, port: int) -> Path:
        if self.network == "host":
            return self.config(name, port, "127.0.0.1")
        return self.config(name, INSIDE_PORT, "0.0.0.0")

    def observers(self) -> dict[str, str]:
        """See Ground. On a bridge: through the published port, and at the container's address."""
        found = super().observers()
        if self.network != "host":
            mine = self._api.containers(filters={"label": f"blackstart.client={TENANT}.{CLIENT}"})
            [address] = [ep["IPAddress"] for ep in mine[0]["NetworkSettings"]["Networks"].values()]
            found["address"] = f"{address}:{INSIDE_PORT}"
        return found

    def floors(self, same_image: str, app: Path) -> dict[str, tuple[Swap, str]]:  # noqa: ARG002
        """See Ground: two containers of one image each, made beforehand; `plain` without the neighbour's entry."""
        binds = [
            f"{self.folder / 'same'}:/data",
            f"{self._config('same', SAME_PORT)}:/etc/opc-client/config.json:ro",
        ]
        ids = self._pair("same", same_image, SAME_PORT, binds, None)
        target = f"127.0.0.1:{SAME_PORT}"
        found = {"same": (self._swap(ids, told=True), target)}
        if self.network != "host":
            found["plain"] = (self._swap(ids, told=False), target)
        if (static := self.static_program()) is not None:
            packed = subprocess.run(
                ["tar", "-C", str(static.parent), "-c", "static"], check=True, capture_output=True
            )
            self._api.import_image_from_data(packed.stdout, repository="static", tag="1")
            port = str(STATIC_PORT if self.network == "host" else INSIDE_PORT)
            ids = self._pair("static", "static:1", STATIC_PORT, [], ["/static", port])
            found["static"] = (self._swap(ids, told=True), f"127.0.0.1:{STATIC_PORT}")
        return found

    def _pair(
        self, name: str, image: str, port: int, binds: list[str], command: list[str] | None
    ) -> list[str]:
        """Two containers made alike, the first one started. The one that runs comes first."""
        published = {INSIDE_PORT: ("127.0.0.1", port)} if self.network != "host" else None
        host = self._api.create_host_config(network_mode=self.network, binds=binds, port_bindings=published)
        ports = [INSIDE_PORT] if published else None
        ids = [
            str(
                self._api.create_container(
                    image, name=f"{name}-{n}", command=command, ports=ports, host_config=host
                )["Id"]
            )
            for n in (0, 1)
        ]
        self._api.start(ids[0])
        return ids

    def _swap(self, ids: list[str], *, told: bool) -> Swap:
        def swap() -> None:
            self._api.stop(ids[0], timeout=GRACE_MS // 1000)
            self._api.start(ids[1])
            if told and self.network != "host":
                neighbour.introduce(self._api.inspect_container(ids[1]))
            ids.reverse()

        return swap

    def cut(self) -> None:
        """See Ground."""
        self._api.close()
        end_processes(self.engine.places)
        asyncio.run(kill_all(lambda: on_command_line(self.folder)))
        shutil.rmtree(self.folder / "run")
        (self.folder / "run").mkdir()

    def boot(self) -> None:
        """See Ground."""
        self.engine.start()
        self._api = self.engine.client().api

    def close(self) -> None:
        """See Ground."""
        self._api.close()
        self.engine.stop()
        self.engine.wipe()


def fresh_network(argv: list[str]) -> None:
    """Run this program again in a network of its own, where an engine may write its rules and is in nobody's way.

    Returns in there. Without root, or the programs for it, it returns at once: only the process runtime is measured.
    """
    mark = "BLACKSTART_BENCH_NETWORK"
    if why_no_engine() or os.environ.pop(mark, "") == str(os.getpid()):
        return
    script = f'ip link set lo up && export {mark}=$$ && exec "$@"'
    command = ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, *argv]
    child = subprocess.Popen(command, cwd=ROOT)
    while True:
        try:
            raise SystemExit(child.wait())
        except KeyboardInterrupt:  # It has got it, too, and clears up.
            continue


def why_no_engine() -> str:
    """Why Docker cannot be measured here; empty when it can."""
    missing = [name for name in ("ip", "unshare", "iptables") if shutil.which(name, path=_SEARCHED) is None]
    return why_not() or (f"{missing[0]} is not installed" if missing else "")
