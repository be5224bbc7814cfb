"""Histories for checkers: a run of a few seconds that is right in every respect, to be spoilt in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from pydantic import TypeAdapter

from chaos.checkers import Case
from chaos.history import Event, History
from chaos.result import FaultRow
from chaos.scenario.model import Scenario
from reference.core.delivery import Memory
from reference.core.model import (
    Container,
    ContainerState,
    Health,
    HealthState,
    Image,
    ImageState,
    Installed,
    World,
)
from reference.core.record import UpdateRecord

EDGE = "edge-1"
WALL_MS = 1_764_421_000_000.0
"""When every run began."""
OLD, NEW = "1.0.0", "2.0.0"
DIGESTS = {OLD: "sha256:" + "1" * 64, NEW: "sha256:" + "2" * 64}
SETUP, JOB = "job-0", "job-1"
BEGINS, ENDS = 1.2, 2.3
"""Of the method."""
UPDATE: Mapping[str, object] = {"action": "update", "to": NEW}
_MEMORY, _WORLD = TypeAdapter(Memory), TypeAdapter(World)


def scenario(method: tuple[Mapping[str, object], ...] = (UPDATE,), **parts: object) -> Scenario:
    """A scenario; `expect` and `bench` as in its file."""
    return Scenario.model_validate({"title": "a story", "method": list(method), **parts})


def container(version: str, *, state: str = "running", health: str = "healthy", **more: object) -> Container:
    """A container of a version."""
    made = Container(
        f"c-{version}", 1 if version == OLD else 2, Image("r/opc-client", DIGESTS.get(version, "sha256:0"), version),
        ContainerState(state), health=HealthState(health), configuration="conf",
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def world(*containers: Container, missing: str = "") -> object:
    """What the runtime shows in the end, as the history has it."""
    images = {digest: ImageState.PRESENT for version, digest in DIGESTS.items() if version != missing}
    return _WORLD.dump_python(World("boot", containers, images), mode="json")


def memory(current: str | None, **more: object) -> object:
    """What the journal holds in the end, as the history has it. `more`: of the memory."""
    made = container(current) if current else None
    installed = Installed(made.image, Health(), made.generation, made.id) if made else None
    record = UpdateRecord("epoch", floor=2, current=installed)
    return _MEMORY.dump_python(replace(Memory(record), **more), mode="json")  # type: ignore[arg-type]


def entry(t: float, phase: str, job: str | None = JOB, **more: object) -> dict[str, object]:
    """A row of the journal's history."""
    generation = {JOB: 2, SETUP: 1}.get(job or "")
    row = {"at_ms": round(WALL_MS + t * 1000), "job_id": job, "generation": generation, "phase": phase}
    return {**row, "outcome": None, "reason": None, "boot_id": "boot", **more}


@dataclass(slots=True)
class Run:
    """A history in the making."""

    events: list[Event] = field(default_factory=list)
    faults: list[FaultRow] = field(default_factory=list)

    def add(self, t: float, source: str, event: str, device: str = "", /, **data: object) -> Self:
        """One event."""
        self.events.append(Event(t, WALL_MS + t * 1000, source, event, device, data))
        return self

    def without(self, source: str, event: str, device: str | None = None) -> Self:
        """No event of that kind."""
        self.events = [
            e
            for e in self.events
            if (e.source, e.event) != (source, event) or (device is not None and e.device != device)
        ]
        return self

    def having(self, source: str, event: str, /, **data: object) -> Self:
        """The events of that kind with other data."""
        self.events = [
            replace(e, data={**e.data, **data}) if (e.source, e.event) == (source, event) else e
            for e in self.events
        ]
        return self

    def moved(self, source: str, event: str, t: float, wanted: Callable[[Event], bool] = bool) -> Self:
        """The events of that kind at another time."""
        self.events = [
            replace(e, t=t, wall_ms=WALL_MS + t * 1000)
            if (e.source, e.event) == (source, event) and wanted(e)
            else e
            for e in self.events
        ]
        return self

    def phases(self, device: str, rows: list[dict[str, object]]) -> Self:
        """The journal's rows: said by the agent, seen live, and there in the end."""
        for row in rows:
            t = (float(str(row["at_ms"])) - WALL_MS) / 1000
            said = {key: row[key] for key in ("phase", "generation", "job_id", "outcome", "reason")}
            self.add(t, "phase", "durable", device, held=False, **said)
            self.add(t, "journal", "entry", device, **row)
        return self

    def job(self, t: float, device: str, status: str, outcome: str | None = None, **more: object) -> Self:
        """A job as the API shows it."""
        body = {
            "jobId": JOB,
            "status": status,
            "phase": "idle",
            "outcome": outcome,
            "reason": None,
            "generation": 2,
        }
        return self.add(t, "api", "job", device, **{**body, **more})

    def case(self, of: Scenario | None = None) -> Case:
        """What checkers get."""
        return Case(of or scenario(), History.made_of(self.events), tuple(self.faults))


def _setup_rows() -> list[dict[str, object]]:
    rows = [entry(0.1, "accepted", SETUP), entry(0.2, "switching", SETUP), entry(0.3, "committing", SETUP)]
    return [*rows, entry(0.4, "cleaning_up", SETUP, outcome="succeeded"), entry(0.5, "idle", None)]


def frame(*devices: str) -> Run:
    """What every run has, whatever comes of it: its own words, and quiet devices."""
    run = Run()
    run.add(0.0, "run", "began", scenario="a-story", seed=1, plan=[]).add(1.0, "run", "bench-ready", ms=1000)
    run.add(1.1, "run", "steady", holds=True, probes={"client-healthy": ""}).add(
        BEGINS, "run", "method-begins"
    )
    run.add(ENDS, "run", "method-ends", why="done", problems=[]).add(2.31, "run", "healed-all")
    run.add(2.4, "run", "converged", ms=90).add(2.6, "run", "stopped")
    for device in devices:
        run.phases(device, _setup_rows())
        run.add(0.9, "probe", "good", device, version=OLD).add(
            0.9, "processes", "count", device, n=1, pids=[10]
        )
        run.add(0.95, "tap", "connected", device, code=0)
        run.add(2.5, "image", "end", device, digest=DIGESTS[OLD], looks=50, missing=0)
        run.add(2.5, "samples", "end", device, first=1, last=40, broken_at=None, lost=0)
        run.add(2.5, "processes", "end", device, n=1, most=1)
        run.add(2.5, "refusals", "end", device, reasons=[])
    return run


def _order(run: Run, device: str) -> None:
    run.add(1.25, "action", "update", device, to=NEW, digest=DIGESTS[NEW], jobId=JOB, status=202)
    run.add(1.3, "tap", "publish", device, to="device", kind="command", packet=1, qos=1)
    for t in (1.31, 1.6, 2.2):
        run.add(t, "tap", "publish", device, to="broker", kind="status", packet=2, qos=1)
    run.job(1.26, device, "QUEUED").job(1.4, device, "IN_PROGRESS")


def _ended(run: Run, device: str, rows: list[dict[str, object]], runs: str, **job: object) -> Run:
    run.phases(device, rows)
    shown = {"jobId": JOB, "generation": 2, "reason": None, "lateOutcome": None, **job}
    if job:
        run.add(2.5, "api", "end", device, job=shown)
    run.add(2.5, "probe", "end", device, good=True, version=runs, probes=400, failed=9)
    run.add(2.5, "containers", "end", device, world=world(container(runs)))
    run.add(2.5, "journal", "end", device, memory=memory(runs), history=[*_setup_rows(), *rows])
    return run


def succeeded(*devices: str) -> Run:
    """An update that succeeded on each device, with an outage of 80 ms."""
    run = frame(*(devices or (EDGE,)))
    for device in devices or (EDGE,):
        _order(run, device)
        run.add(1.62, "probe", "bad", device).add(1.7, "probe", "good", device, version=NEW)
        run.add(1.7, "processes", "count", device, n=1, pids=[11])
        run.job(2.15, device, "SUCCEEDED", "succeeded")
        rows = [
            entry(1.3, "accepted"), entry(1.35, "pulling"), entry(1.5, "staged"), entry(1.6, "switching"),
            entry(1.7, "verifying"), entry(2.0, "committing"), entry(2.05, "cleaning_up", outcome="succeeded"),
            entry(2.1, "idle", None),
        ]  # fmt: skip
        _ended(run, device, rows, NEW, status="SUCCEEDED", outcome="succeeded")
    return run


def rolled_back(device: str = EDGE) -> Run:
    """An update whose new version failed its trial: 480 ms down, of it 200 ms after the rollback was journaled."""
    run = frame(device)
    _order(run, device)
    run.add(1.62, "probe", "bad", device).add(2.1, "probe", "good", device, version=OLD)
    run.job(2.25, device, "FAILED", "rolled_back", reason={"code": "candidate_exited", "message": "exit 1"})
    rows = [
        entry(1.3, "accepted"), entry(1.35, "pulling"), entry(1.5, "staged"), entry(1.6, "switching"),
        entry(1.7, "verifying"), entry(1.9, "rolling_back", reason="candidate_exited"),
        entry(2.2, "cleaning_up", outcome="rolled_back", reason="candidate_exited"), entry(2.22, "idle", None),
    ]  # fmt: skip
    job = {"status": "FAILED", "outcome": "rolled_back"}
    return _ended(run, device, rows, OLD, **job, reason={"code": "candidate_exited", "message": "exit 1"})


def quiet(*devices: str) -> Run:
    """Nothing was ordered, and nothing happened."""
    run = frame(*(devices or (EDGE,)))
    for device in devices or (EDGE,):
        _ended(run, device, [], OLD)
    return run
