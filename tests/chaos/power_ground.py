"""A stand-in for the bench around one real device with a disk and a clock of its own, and tests that have mounts of
their own, as the worker of a scenario has."""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from chaos.clock import FakeClock, library
from chaos.faults import fault_named
from chaos.faults.base import Fault, Ground, checked
from chaos.guard import Guard
from chaos.history import Recorder
from chaos.power import Power
from chaos.scenario.model import FaultUse
from reference.core.model import Health
from reference.demo.run import install
from reference.power.disk import Disk, _run, private_mounts
from reference.stack import Device, Stack
from reference.stack.box import ProcessBox
from reference.stack.probe import ask

needs_faketime = pytest.mark.skipif(library() is None, reason="libfaketime is not installed")
LIMIT_S = 240
OLD = "1.0.0"
QUICK = Health(probe="/healthz", start_period_ms=5_000, window_ms=5_000, stable_for_ms=50)
Body = Callable[[Path], Awaitable[None]]


def alone(body: Body) -> Callable[[Path], None]:
    """Run it in a process of its own with private mounts; afterwards nothing of it may be left."""

    def test(tmp_path: Path) -> None:
        folder = tmp_path / "run"
        folder.mkdir()
        before = groups()
        words = [
            sys.executable,
            "-m",
            "tests.chaos.power_ground",
            body.__module__,
            body.__name__,
            str(folder),
        ]
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert leftovers(folder) == []
        assert [g for g in groups() - before if f"-{done.stdout.strip()}-" in g] == []

    test.__name__, test.__doc__, test.__module__ = body.__name__, body.__doc__, body.__module__
    test.body = body  # type: ignore[attr-defined]
    return test


def leftovers(folder: Path) -> list[str]:
    """Loop devices, mounts and processes that know the folder."""
    mounts = Path("/proc/self/mounts").read_text("utf-8").splitlines()
    found = [line for line in [*_run("losetup", "-a").splitlines(), *mounts] if str(folder) in line]
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if os.fsencode(folder) in words:
            found.append(f"{entry.name} {words!r}")
    return found


def groups() -> set[str]:
    """Control groups and shared memory that faults make."""
    here = {str(p) for p in Path("/sys/fs/cgroup").glob("*/blackstart-slow-*")}
    return here | {str(p) for p in Path("/dev/shm").glob("*blackstart-*")}


@dataclass(slots=True)
class StandIn:
    """What the faults of power and disk ask of `chaos.faults.base.Ground`."""

    folder: Path
    stack: Stack
    device: Device
    guard: Guard
    recorder: Recorder
    power_: Power
    clock_: FakeClock | None

    @property
    def on(self) -> bool:
        """Whether the device is on, and its agent runs."""
        return self.power_.on and self.device.agent is not None and self.device.agent.alive

    def chosen(self, _: int | None) -> list[Device]:
        return [self.device]

    def power(self, _: Device) -> Power:
        return self.power_

    def clock(self, _: Device) -> FakeClock:
        assert self.clock_ is not None
        return self.clock_

    async def start_agent(self, device: Device) -> None:
        told = self.clock_.environment() if self.clock_ is not None else None
        await self.stack.start_agent(device, environment=told)

    def fault(self, name: str, given: Mapping[str, object] | None = None, *, lasts: str = "") -> Fault:
        """One coming of it, not begun."""
        use, kind = use_of(name, given, lasts), fault_named(name)
        return kind(cast("Ground", self), use, checked(kind, use), random.Random(1))

    async def publish(self, version: str) -> None:
        """Make a good version."""
        await self.stack.publish(version, health=QUICK)

    async def answers(self, version: str = OLD) -> None:
        """Wait until the client answers well."""
        async with asyncio.timeout(20):
            while True:
                seen = await asyncio.to_thread(ask, self.device.client_port)
                if seen.good and seen.version == version:
                    return
                await asyncio.sleep(0.02)

    async def order(self, version: str) -> str:
        """Ask for a version."""
        async with self.stack.api() as api:
            path = f"/api/v1/clients/{self.device.client_id}/update"
            answer = await api.post(path, json={"targetVersion": version})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["jobId"])

    async def job(self, job_id: str, *statuses: str) -> dict[str, object]:
        """The job, once it has one of these."""
        async with asyncio.timeout(30), self.stack.api() as api:
            while True:
                found: dict[str, object] = (await api.get(f"/api/v1/jobs/{job_id}")).json()
                if found["status"] in statuses:
                    return found
                await asyncio.sleep(0.05)


def use_of(name: str, given: Mapping[str, object] | None, lasts: str = "") -> FaultUse:
    """As a scenario has it."""
    body: dict[str, object] = {"fault": name, "with": dict(given or {})}
    return FaultUse.model_validate(body | ({"for": lasts} if lasts else {}))


def given(name: str, given: Mapping[str, object]) -> dict[str, object]:
    """What a fault makes of what it is given. Raises InputError."""
    return checked(fault_named(name), use_of(name, given)).model_dump()


def bare(folder: Path) -> StandIn:
    """A device on which nothing runs, without a disk and a clock of its own."""
    device = Device("acme", "edge-1", folder / "edge-1", 4_840, ProcessBox)
    device.run_dir.mkdir(parents=True)
    guard, recorder = Guard(folder), Recorder()
    stack = Stack(folder / "stack")
    return StandIn(folder, stack, device, guard, recorder, Power(device, guard, None, recorder), None)


@asynccontextmanager
async def ground(
    folder: Path, *, disk_bytes: int = 0, clock: bool = False, settings: Mapping[str, object] | None = None
) -> AsyncIterator[StandIn]:
    """A device on which the old version runs."""
    root = folder / "stack" / "devices" / "edge-1"
    disk = Disk(folder / "disk.img", root, disk_bytes) if disk_bytes else None
    clock_ = FakeClock(folder / "clock") if clock else None
    recorder = Recorder()
    try:
        if disk is not None:
            await asyncio.to_thread(disk.format)
            await asyncio.to_thread(disk.mount)
        async with Stack(folder / "stack", seed=1) as stack:
            await stack.publish(OLD, health=QUICK)
            device = await stack.add_device("edge-1", {"backoff_first_ms": 50, "poll_ms": 8}, settings)
            guard = Guard(folder)
            power = Power(device, guard, disk, recorder)
            made = StandIn(folder, stack, device, guard, recorder, power, clock_)
            try:
                if clock_ is None:
                    async with stack.api() as api:
                        await install(stack, device, api, OLD)
                else:
                    await made.start_agent(device)
                    await made.job(await made.order(OLD), "SUCCEEDED")
                await power.settle()
                yield made
            finally:
                await power.close()
    finally:
        if disk is not None:
            await asyncio.to_thread(disk.release)
        if clock_ is not None:
            clock_.close()


def main(module: str, name: str, folder: str) -> None:
    """In the process of its own."""
    if os.geteuid() == 0:
        private_mounts()
    test = getattr(importlib.import_module(module), name)
    asyncio.run(test.body(Path(folder)))
    print(os.getpid())


if __name__ == "__main__":
    main(*sys.argv[1:])
