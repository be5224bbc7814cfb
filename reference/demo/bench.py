"""One story's bench: a device with its client running, an observer on it, and the handles to hurt it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import httpx

from reference.core.errors import ServiceError
from reference.core.model import Phase
from reference.demo.observer import Observer, Seen, client_processes
from reference.stack import Device, Stack

OLD, NEW = "1.0.0", "2.0.0"
POLL_S = 0.05
JOB_DEADLINE_S = 60.0
TERMINAL = {"SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED"}

T = TypeVar("T")


@dataclass(slots=True)
class Bench:
    """What a story works with, and what it finds out."""

    stack: Stack
    device: Device
    api: httpx.AsyncClient
    say: Callable[[str], None]
    observer: Observer | None = None
    seen: Seen = field(default_factory=Seen)
    commanded_ms: float = 0.0
    ended_ms: float = 0.0
    job: dict[str, object] = field(default_factory=dict)
    notes: dict[str, object] = field(default_factory=dict)

    async def command(self, version: str) -> str:
        """Ask for a version; answers the job's id."""
        self.observer = Observer(
            self.device.client_port, self.device.state_dir / "engine", self.stack.digests[OLD]
        )
        self.observer.start()
        await asyncio.sleep(0.1)  # A floor of good answers before anything happens.
        self.commanded_ms = time.time() * 1000
        answer = await self.api.post(
            f"/api/v1/clients/{self.device.client_id}/update", json={"targetVersion": version}
        )
        if answer.status_code != 202:
            raise ServiceError(f"the update was not accepted: {answer.status_code} {answer.text}")
        return str(answer.json()["jobId"])

    async def finish(self, job_id: str) -> None:
        """Wait for the job's end, then let the observer see a little more."""

        async def ended() -> dict[str, object] | None:
            found = await self.look(job_id)
            return found if found.get("status") in TERMINAL else None

        self.job = await until(ended, JOB_DEADLINE_S, f"job {job_id} did not end")
        self.ended_ms = time.time() * 1000
        await asyncio.sleep(0.3)

    async def look(self, job_id: str) -> dict[str, object]:
        """The job as the API shows it; empty while the service does not answer."""
        try:
            answer = await self.api.get(f"/api/v1/jobs/{job_id}")
            found: dict[str, object] = answer.json() if answer.status_code == 200 else {}
        except httpx.HTTPError:
            return {}
        phase = found.get("phase")
        self.say(f"{str(found.get('status', '')).lower()} {phase if phase != 'idle' else ''}".strip())
        return found

    async def reached(self, job_id: str, phase: Phase) -> None:
        """Wait until the service has heard of `phase`."""

        async def there() -> bool | None:
            return (await self.look(job_id)).get("phase") == phase.value or None

        await until(there, JOB_DEADLINE_S, f"job {job_id} never reached {phase.value}")

    async def pause_at(self, phase: Phase) -> None:
        """Run the device's agent so that it stands still once `phase` is durable."""
        if self.device.agent is not None:
            await self.device.agent.stop()
        flag = self.device.root / "paused"
        flag.unlink(missing_ok=True)
        arguments = ["--pause-at", phase.value, "--paused", str(flag)]
        await self.stack.start_agent(self.device, *arguments, pausing=True)

    async def paused(self) -> None:
        """Wait until it stands still."""

        async def flag() -> bool | None:
            return (self.device.root / "paused").exists() or None

        await until(flag, JOB_DEADLINE_S, "the agent never came to the phase it was to be killed in")

    async def kill_everything(self) -> None:
        """SIGKILL for the agent, the shims and the client at once: processes are gone, the page cache is not."""
        self.say("killing agent and client")
        if self.device.agent is not None:
            await self.device.agent.kill()
        for pid in device_processes(self.device):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

        async def gone() -> bool | None:
            return not device_processes(self.device) or None

        await until(gone, 5.0, "processes of the device survived SIGKILL")

    async def boot(self) -> None:
        """What a boot forgets is forgotten; then the agent starts as it would at boot."""
        self.say("booting")
        shutil.rmtree(self.device.run_dir)
        self.device.run_dir.mkdir()
        await self.stack.start_agent(self.device)

    def client_pids(self) -> list[int]:
        """Living client processes."""
        return client_processes(os.fsencode(str(self.device.state_dir / "engine")))


def device_processes(device: Device) -> list[int]:
    """Every process that has the device's folder on its command line, the agent's included."""
    found = []
    marker = os.fsencode(f"{device.root}/")
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError), open(f"{entry.path}/cmdline", "rb") as file:  # noqa: PTH123
                if marker in file.read():
                    found.append(int(entry.name))
    return found


async def until(check: Callable[[], Awaitable[T | None]], deadline_s: float, otherwise: str) -> T:
    """Poll until `check` answers something. Raises ServiceError when it does not in time."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        found = await check()
        if found is not None:
            return found
        await asyncio.sleep(POLL_S)
    raise ServiceError(f"{otherwise} within {deadline_s:g} s")
