"""A soak, played in this process: one bench, round after round, until the time is over or something must not be.

Each round has two parts. First orders and faults come as they were drawn, and only what must never be is looked for.
Then all faults are healed, everything has to come to rest in time, and all invariants are judged on each device by the
checkers, over the history of the round.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chaos.bench import Bench
from chaos.checkers import Case
from chaos.dump import dump
from chaos.faults import fault_named
from chaos.faults.base import Wants
from chaos.history import Event, History
from chaos.judge import judge
from chaos.observers.confirmed import Confirmed
from chaos.plan import plan
from chaos.result import FaultRow
from chaos.scenario import Scenario
from chaos.soak.draw import Guards, draw_round
from chaos.soak.found import Violation, scenario_of
from chaos.soak.ground import GuardedPlayer, SoakBench
from chaos.soak.judged import alone, of_device, once
from chaos.soak.result import SoakResult
from chaos.soak.table import Wild, available, one_each
from chaos.soak.watch import TERMINAL, RoundRecorder, Scan, Watch, cpu_s, journal_observer
from chaos.steady import converge, steady
from chaos.verdict import Finding, Verdict
from reference.core.errors import ServiceError
from reference.stack import Agents

FLOOR_S = 0.3
"""Good answers before a round's first order."""
SETTLE_S = 0.5
REST_POLL_S = 0.5
PROGRESS_S = 2.0
MOST_FOUND = 3
"""Scenarios made of one round's violations, at most."""
_OF_THE_ROUND = frozenset({"faults-fired", "method-played"})
"""Checkers whose doubts are counted by themselves: a fault that met nobody, an order while the service was gone."""

Tell = Callable[[str, object], None]
"""`say` and a text, or `progress` and a mapping."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for."""

    minutes: float
    seed: int
    guards: Guards


@dataclass(slots=True)
class Soak:
    """One, in `folder`, which is its own."""

    wanted: Wanted
    folder: Path
    agents: Agents
    tell: Tell
    result: SoakResult = field(init=False)
    files: dict[str, str] = field(default_factory=dict)
    """Scenarios of what was found, by the file's name."""
    _updates: Counter[str] = field(default_factory=Counter)
    _fired: Counter[str] = field(default_factory=Counter)
    _unshown: Counter[str] = field(default_factory=Counter)
    _counted: set[str] = field(default_factory=set)
    _end: float = 0.0
    _number: int = 0

    def __post_init__(self) -> None:
        wanted = self.wanted
        self.result = SoakResult(wanted.minutes, wanted.seed, wanted.guards.devices)

    async def run(self) -> SoakResult:
        """To its end. Raises BlackstartError when the bench does not stand."""
        began, cpu = time.monotonic(), cpu_s()
        wild, self.result.left_out = available()
        recorder = RoundRecorder()
        recorder.listen(self._count)
        first = draw_round(self.wanted.seed, 1, self.wanted.guards, wild)
        bench = SoakBench(
            first, self.folder, recorder, _wants(wild), lambda what: self.tell("say", what),
            seed=self.wanted.seed % 2**31, agents=self.agents,
        )  # fmt: skip
        async with bench:
            cpu, began = cpu_s(), time.monotonic()
            await self._rounds(bench, recorder, wild)
            self.result.seconds = round(time.monotonic() - began, 1)
            self.result.cpu_share = round((cpu_s() - cpu) / max(time.monotonic() - began, 1), 2)
        return self._counted_up()

    async def _rounds(self, bench: SoakBench, recorder: RoundRecorder, wild: list[Wild]) -> None:
        self._end = time.monotonic() + self.wanted.minutes * 60
        confirmed, scan, journal = Confirmed(bench), Scan(), journal_observer(bench)
        unlisten = confirmed.start()
        journal.start()
        progress = asyncio.create_task(self._progress())
        try:
            if not await steady(bench):
                raise ServiceError("the bench is not well before anything was done", where=str(self.folder))
            # A round that could not come to its end in time is not begun; one there always is.
            while not self._number or self._left() > self.wanted.guards.active_ms / 1000:
                self._number += 1
                await confirmed.ask()
                scenario = draw_round(self.wanted.seed, self._number, self.wanted.guards, wild)
                if await self._round(bench, recorder, confirmed, scan, scenario):
                    break
        finally:
            progress.cancel()
            await journal.stop()
            unlisten()

    async def _round(
        self, bench: SoakBench, recorder: RoundRecorder, confirmed: Confirmed, scan: Scan, scenario: Scenario
    ) -> list[Violation]:
        begins = {device.client_id: confirmed.version(device.client_id) for device in bench.devices}
        bench.scenario = scenario
        recorder.cut()
        recorder.record("run", "steady", holds=True, probes={})
        watch = Watch(bench, confirmed, scan, self._number)
        watch.start()
        player = GuardedPlayer(bench, plan(scenario, scenario.seed))
        looking_after = asyncio.create_task(player.look_after())
        try:
            await asyncio.sleep(FLOOR_S)
            self.tell("say", f"round {self._number}: {len(scenario.faults)} faults")
            try:
                await _until(player.play(scenario.time_limit / 1000), watch.broken)
            finally:
                await player.heal_all()
            if watch.broken.is_set():
                recorder.record("run", "method-ends", why="done", problems=player.problems)
            self.tell("say", f"round {self._number}: waiting for rest")
            await converge(bench, REST_POLL_S)
            await asyncio.sleep(SETTLE_S)
        finally:
            looking_after.cancel()
            await asyncio.gather(looking_after, return_exceptions=True)
        await watch.end()
        self.tell("say", f"round {self._number}: judging")
        history = recorder.history()
        found = await asyncio.to_thread(self._judge, scenario, history, player.rows, begins)
        self._after(player, history)
        violations = once([*watch.violations, *found])
        if broken := player.unhealed:
            # A harness that has not undone what it did proves nothing against the product; nor can it go on.
            violations = [v for v in violations if v.device not in broken and "" not in broken]
            where = ", ".join(sorted(broken - {""})) or "what all share"
            self.result.broken_off = f"in round {self._number} a fault could not be healed: {where}"
            self._end = 0.0
        if violations:
            self.result.violations += violations
            await asyncio.to_thread(self._keep, bench, scenario, violations, begins, history)
        return violations

    # ---- judging

    def _judge(
        self, scenario: Scenario, history: History, rows: list[FaultRow], begins: Mapping[str, str]
    ) -> list[Violation]:
        """All checkers, on each device by itself."""
        found = []
        for device, first in begins.items():
            mine_alone = alone(scenario, device, first)
            mine = of_device(history, device)
            concerned = tuple(row for row in rows if row.device in ("", device))
            findings, _ = judge(Case(mine_alone, History(mine), concerned))
            for finding in findings:
                self.result.findings += 1
                if finding.verdict is Verdict.UNKNOWN and finding.checker not in _OF_THE_ROUND:
                    self.result.unjudged += 1
                    what = f"{finding.checker}: {finding.measured}"
                    self.result.problems.append(f"round {self._number}, {device}: {what}")
                if finding.verdict is Verdict.FAIL:
                    found.append(self._violation(finding, device))
        self.result.rounds += 1
        return found

    def _violation(self, finding: Finding, device: str) -> Violation:
        return Violation(self._number, device, finding.checker, finding.measured, finding.expected)

    def _keep(
        self,
        bench: Bench,
        scenario: Scenario,
        violations: list[Violation],
        begins: Mapping[str, str],
        history: History,
    ) -> None:
        """The scenarios that show it again, the round's history, and the logs of the devices concerned."""
        chosen: dict[str, Violation] = {}
        for violation in violations:
            if violation.device in begins:
                chosen.setdefault(violation.device, violation)
        for count, violation in enumerate(list(chosen.values())[:MOST_FOUND], 1):
            name = f"found-{self.wanted.seed}-{self._number}" + (f"-{count}" if count > 1 else "")
            made = scenario_of(scenario, violation, begins[violation.device])
            if made.method:
                self.files[f"{name}.yaml"] = dump(made)
        lines = "".join(f"{event.to_json()}\n" for event in history.events)
        (self.folder / "history.jsonl").write_text(lines, "utf-8")
        (self.folder / "logs").mkdir(exist_ok=True)
        for device in bench.devices:
            if device.client_id in chosen:
                with contextlib.suppress(OSError):  # Its disk may be what is wrong.
                    shutil.copyfile(device.log, self.folder / "logs" / f"{device.client_id}.log")

    # ---- counting, and telling

    def _after(self, player: GuardedPlayer, history: History) -> None:
        for row in player.rows:
            self._unshown[row.fault] += not row.fired
        self.result.problems += [f"round {self._number}: {problem}" for problem in player.problems]
        if (rest := history.last("run", "converged")) is not None:
            self.result.rest_ms = max(self.result.rest_ms, int(str(rest.data.get("ms"))))

    def _count(self, event: Event) -> None:
        """Each job by its end, once; each fault that was shown to have happened."""
        if (event.source, event.event) == ("fault", "fired"):
            self._fired[str(event.data.get("fault"))] += 1
        if (
            self._number
            and (event.source, event.event) == ("api", "job")
            and event.data.get("status") in TERMINAL
        ):
            job = str(event.data.get("jobId"))
            if job not in self._counted:
                self._counted.add(job)
                self._updates[str(event.data.get("outcome") or event.data.get("status")).lower()] += 1

    def _counted_up(self) -> SoakResult:
        result = self.result
        result.updates = dict(sorted(self._updates.items()))
        result.faults_fired = dict(sorted(self._fired.items()))
        result.faults_unshown = {name: n for name, n in sorted(self._unshown.items()) if n}
        return result

    def _left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    async def _progress(self) -> None:
        while True:
            self.tell(
                "progress",
                {
                    "left_s": round(self._left()), "round": self._number, "updates": dict(self._updates),
                    "faults": dict(self._fired), "violations": len(self.result.violations),
                },
            )  # fmt: skip
            await asyncio.sleep(PROGRESS_S)


def _wants(wild: list[Wild]) -> Wants:
    wants = Wants()
    for use in one_each(wild):
        fault_named(use.fault).wants(use, wants)
    return wants


async def _until(playing: Coroutine[None, None, str], broken: asyncio.Event) -> None:
    """Play to the end, or until something is broken."""
    tasks: list[asyncio.Future[object]] = [
        asyncio.ensure_future(playing),
        asyncio.ensure_future(broken.wait()),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
