"""What a device runs its client on, as far as a lane has to know it: a port with two implementations.

A lane boots it, cuts it, and looks at what is left; which of them it is, it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Protocol

from reference.power.bench import PORT, Bench
from reference.power.judge import Stored
from reference.power.look import look, process_containers, process_images
from reference.power.room import Room


class Rig(Protocol):
    """One lane's. It lives in the lane's own mounts, and nothing of it may outlive the lane."""

    def settings(self, network: str) -> Mapping[str, object]:
        """What the agent's configuration says of it; `client` holds what is added there."""

    def address(self, network: str) -> str:
        """Where the lane reaches the client at its port."""

    def boot(self) -> None:
        """Before each boot: what a boot forgets is forgotten. Nothing of the device runs."""

    def run(self, device: Callable[[], None], *, early: bool) -> None:
        """In the room: all that a boot starts, the device among it. Returns when the device does.

        `early`: the device is not started last.
        """

    def emptied(self) -> None:
        """After each emptying of the room: take away what the kernel keeps of it."""

    def clients(self, room: Room) -> tuple[str, ...]:
        """The digest that each client process runs, one for each process."""

    def look(self) -> Stored:
        """What lies on the mounted disk, while nothing of the device runs."""

    def close(self) -> None:
        """Leave nothing behind that the kernel would not take away."""


class ProcessRig:
    """The process runtime: no engine, and the client is a process of the machine's own network."""

    def __init__(self, bench: Bench, address: str) -> None:
        self._bench = bench
        self._address = address
        self._engine = bench.at / "state" / "engine"
        config = {"port": PORT, "host": address, "interval_ms": 5}
        (bench.here / "config.json").write_text(json.dumps(config), "utf-8")

    def settings(self, network: str) -> Mapping[str, object]:  # noqa: ARG002 - there is one
        """See Rig."""
        mounts = {
            "/data": str(self._bench.at / "data"),
            "/etc/opc-client/config.json": str(self._bench.here / "config.json"),
        }
        return {"client": {"address": self._address, "mounts": mounts}}

    def address(self, network: str) -> str:  # noqa: ARG002
        """See Rig."""
        return self._address

    def boot(self) -> None:
        """See Rig: what is forgotten lies in the agent's `run_dir`, which the lane itself clears."""

    def run(self, device: Callable[[], None], *, early: bool) -> None:  # noqa: ARG002 - there is nothing else
        """See Rig."""
        device()

    def emptied(self) -> None:
        """See Rig."""

    def clients(self, room: Room) -> tuple[str, ...]:
        """See Rig: by the path of their program."""
        images = str(self._engine / "images") + "/"
        programs = (word for words in room.processes().values() for word in words if word.startswith(images))
        return tuple(
            "sha256:" + word.removeprefix(images).partition("/")[0]
            for word in programs
            if word.endswith("/main.py")
        )

    def look(self) -> Stored:
        """See Rig."""
        scratch = self._bench.here / "scratch"
        containers = process_containers(self._engine, scratch)
        return look(self._bench.at, scratch, process_images(self._engine, self._bench.files), containers)

    def close(self) -> None:
        """See Rig."""
