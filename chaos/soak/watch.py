"""Who looks on during a round of a soak: the same observers as in a single run, gentler, and a judge of what is seen live.

One look at the processes of this machine serves all devices; a history is kept for one round, and then cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from pathlib import Path

from chaos.bench import Bench
from chaos.history import Event, Recorder
from chaos.observers.api import ApiObserver
from chaos.observers.confirmed import Confirmed
from chaos.observers.journal import JournalObserver, write_ends_running
from chaos.observers.probe import ProbeObserver
from chaos.soak.found import Violation
from reference.core.errors import BlackstartError
from reference.core.job import JobStatus
from reference.edge.inspect import look
from reference.edge.settings import load_settings
from reference.stack.box import ProcessBox, Site, commands
from reference.stack.probe import ask

PROBE_EVERY_S = 0.1
LOOK_EVERY_S = 0.25
API_EVERY_S = 0.5
JOURNAL_EVERY_S = 2.0
SCAN_S = 0.1
"""A look at all processes is good for so long."""
TERMINAL = frozenset(status.value for status in JobStatus if status.terminal)


class RoundRecorder(Recorder):
    """A history that forgets what is over."""

    def cut(self) -> None:
        """Forget all that was recorded until now."""
        with self._lock:
            self._events.clear()


class Scan:
    """All processes of this machine, looked at once for many."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: list[tuple[int, bytes]] = []
        self._at = float("-inf")

    def commands(self) -> list[tuple[int, bytes]]:
        """Pids and command lines, at most `SCAN_S` old."""
        with self._lock:
            if time.monotonic() - self._at > SCAN_S:
                self._found = commands()
                self._at = time.monotonic()
            return self._found


class ScannedBox(ProcessBox):
    """A device's, as an observer sees it."""

    def __init__(self, site: Site, scan: Scan) -> None:
        super().__init__(site)
        self._scan = scan

    def processes(self) -> list[int]:
        """See the port. Two were there at once only if both still are: a look at all takes a while, and is old."""
        found = [pid for pid, command in self._scan.commands() if self._is_client(command)]
        return found if len(found) < 2 else [pid for pid in found if self._is_client(_command(pid))]

    def _is_client(self, command: bytes) -> bool:
        words = command.split(b"\0")
        return any(word.startswith(self._marker) and b"/rootfs/" in word for word in words)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Watch:
    """Everything that looks on during one round, and what it must not see."""

    def __init__(self, bench: Bench, confirmed: Confirmed, scan: Scan, number: int) -> None:
        self._bench = bench
        self._number = number
        self.violations: list[Violation] = []
        """What was seen while it was so."""
        self.broken = asyncio.Event()
        """Set with the first of them."""
        self._api = ApiObserver(bench.recorder, bench.polled, bench.jobs, API_EVERY_S)
        self._probes = [
            ProbeObserver(
                bench.recorder, d.client_id, d.client_port, ScannedBox(d, scan), confirmed.kept(d), PROBE_EVERY_S,
                LOOK_EVERY_S,
            )
            for d in bench.devices
        ]  # fmt: skip
        self._ends: dict[str, str] = {}
        self._durable: set[str] = set()
        self._began = bench.recorder.now()
        self._loop = asyncio.get_running_loop()
        self._asking: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to watch."""
        self._began = self._bench.recorder.now()
        self._unlisten = self._bench.recorder.listen(self._hear)
        self._bench.api_observer = self._api
        self._api.start()
        for probe in self._probes:
            probe.start()

    async def end(self) -> None:
        """Write what is left, with the agents running on: everything is at rest."""
        await self._api.stop()
        await asyncio.gather(*(asyncio.to_thread(probe.stop) for probe in self._probes))
        for device in self._bench.devices:
            answer = await asyncio.to_thread(ask, device.client_port)
            await write_ends_running(self._bench.recorder, device, answer.good)
        self._unlisten()
        await asyncio.gather(*self._asking, return_exceptions=True)

    # ---- what must not be seen

    def _hear(self, event: Event) -> None:
        """Called by whichever thread records."""
        match event.source, event.event:
            case "processes", "count":
                many = event.data.get("n")
                if isinstance(many, int) and many > 1:
                    self._tell(
                        event, "never-two-active", f"{many} client processes: {event.data.get('pids')}"
                    )
            case "image", "missing":
                self._tell(event, "current-kept", f"the image {event.data.get('digest')} is gone")
            case "hostile", "got-in":
                self._tell(event, "strangers-stay-out", f"the broker let in {event.data.get('who')}")
            case "phase", "durable" if event.data.get("outcome"):
                self._durable.add(str(event.data.get("job_id")))
            case "api", "job":
                self._loop.call_soon_threadsafe(self._job, event)
            case _:
                pass

    def _job(self, event: Event) -> None:
        job, status = str(event.data.get("jobId")), str(event.data.get("status"))
        if (before := self._ends.get(job)) is not None and before != status:
            self._tell(event, "terminal-is-final", f"job {job} was {before}, and is {status}")
        if status in TERMINAL:
            self._ends.setdefault(job, status)
        if status == JobStatus.SUCCEEDED.value and job not in self._durable:
            task = asyncio.create_task(self._ahead(event, job))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ahead(self, event: Event, job: str) -> None:
        """The agent has not said it on the line: it may have been killed as it spoke. Its journal knows."""
        device = next(d for d in self._bench.devices if d.client_id == event.device)
        with contextlib.suppress(BlackstartError, OSError, ValueError):
            history = (await asyncio.to_thread(look, load_settings(device.config), "journal"))["history"]
            rows = history if isinstance(history, list) else []
            ends = [row for row in rows if row.get("job_id") == job and row.get("outcome")]
            if not ends:
                self._tell(
                    event, "status-not-ahead", f"job {job} is shown as SUCCEEDED, the journal has no end"
                )

    def _tell(self, event: Event, checker: str, what: str) -> None:
        t = round(event.t - self._began, 3)
        found = Violation(self._number, event.device, checker, what, t=t, seen="live")
        self._loop.call_soon_threadsafe(self._note, found)

    def _note(self, found: Violation) -> None:
        self.violations.append(found)
        self.broken.set()


def journal_observer(bench: Bench) -> JournalObserver:
    """One for the whole soak: it tells each entry once."""
    return JournalObserver(bench.recorder, bench.devices, JOURNAL_EVERY_S)


def cpu_s() -> float:
    """Seconds of processor that this process has used."""
    took = os.times()
    return took.user + took.system
