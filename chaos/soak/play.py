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
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from chaos.bench import Bench
from chaos.checkers import Case
from chaos.dump import dump
from chaos.faults import fault_named
from chaos.faults.base import Wants
from chaos.history import Event, History
from chaos.judge import judge
from chaos.method import Coming, Player
from chaos.moments import Reached
from chaos.plan import Planned, plan
from chaos.result import FaultRow
from chaos.scenario import Scenario
from chaos.soak.draw import Guards, draw_round
from chaos.soak.found import Violation, number_of, scenario_of, with_method
from chaos.soak.result import SoakResult
from chaos.soak.table import BODY, Wild, available, one_each, slot_of
from chaos.soak.watch import TERMINAL, Confirmed, RoundRecorder, Scan, Watch, cpu_s, journal_observer
from chaos.steady import converge, steady
from chaos.verdict import Finding, Verdict
from reference.core.errors import BlackstartError, ServiceError
from reference.stack import Agents, Device

FLOOR_S = 0.3
"""Good answers before a round's first order."""
SETTLE_S = 0.5
REST_POLL_S = 0.5
PROGRESS_S = 2.0
RESTART_S = 2.0
"""RestartSec of deploy/blackstart-edge.service."""
RESTART_LOOK_S = 0.5
ORDER_S = 20.0
"""An order is repeated for so long, under the same key, while the service does not answer."""
MOST_FOUND = 3
"""Scenarios made of one round's violations, at most."""
_GLOBAL = frozenset({"run", "fault", "action", "api"})
"""Sources whose events about no device are about all; what the registry was asked is nobody's."""

Tell = Callable[[str, object], None]
"""`say` and a text, or `progress` and a mapping."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for."""

    minutes: float
    seed: int
    guards: Guards


class GuardedPlayer(Player):
    """Keeps apart in fact what was drawn apart: on a slow machine an end takes longer than was thought."""

    _slots: dict[tuple[str, int | None], asyncio.Lock]
    _held: dict[int, asyncio.Lock]
    _healing: set[asyncio.Task[None]]

    def __init__(self, bench: Bench, items: tuple[Planned, ...]) -> None:
        super().__init__(bench, items, lambda: True)
        self._slots, self._held, self._healing = defaultdict(asyncio.Lock), {}, set()

    @property
    def unhealed(self) -> set[str]:
        """Devices that a fault has left as no test can judge them; the empty name: all."""
        return {row.device for row in self.rows if row.failed.startswith("could not be healed")}

    async def heal_all(self) -> None:
        """See the base; what is being healed is waited for."""
        await asyncio.gather(*self._healing, return_exceptions=True)
        await super().heal_all()

    async def look_after(self) -> None:
        """Start agents that have ended by themselves again, as a service manager does; until it is cancelled."""
        since: dict[str, float] = {}
        while True:
            await asyncio.sleep(RESTART_LOOK_S)
            for number, device in enumerate(self.bench.devices, 1):
                slot, name = self._slots[BODY, number], device.client_id
                if slot.locked() or not self.bench.power(device).on or (device.agent and device.agent.alive):
                    since.pop(name, None)
                elif time.monotonic() - since.setdefault(name, time.monotonic()) > RESTART_S:
                    async with slot:
                        self.bench.recorder.record("action", "restarted", name)
                        self.problems.append(f"{name}: the agent had ended by itself, and was started again")
                        with contextlib.suppress(BlackstartError, OSError):  # Then again, in a while.
                            await self.bench.start_agent(device)

    async def _begin(self, coming: Coming, reached: Reached) -> None:
        use = coming.fault.use
        slot = self._slots[slot_of(use), use.device]
        await slot.acquire()
        self._held[id(coming)] = slot
        try:
            await super()._begin(coming, Reached(max(reached.t, self.bench.recorder.now())))
        except (BlackstartError, OSError):
            await self._heal(coming)  # Half of it may be there.
            raise
        if not coming.fault.lasts:
            self._let_go(coming)

    async def _heal(self, coming: Coming) -> None:
        # To its end, also when the round is broken off meanwhile.
        healing = asyncio.create_task(self._healed(coming))
        self._healing.add(healing)
        healing.add_done_callback(self._healing.discard)
        await asyncio.shield(healing)

    async def _healed(self, coming: Coming) -> None:
        try:
            await super()._heal(coming)
        finally:
            self._let_go(coming)

    def _let_go(self, coming: Coming) -> None:
        if (slot := self._held.pop(id(coming), None)) is not None:
            slot.release()


class SoakBench(Bench):
    """A bench whose service may be gone when an order is given: an order is given until it was taken, and once."""

    async def order(self, device: Device, version: str) -> str:
        """See the base. The key makes the service take it once, whatever became of its answer."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        where, end = f"/api/v1/clients/{device.client_id}/update", time.monotonic() + ORDER_S
        while True:
            said = ""
            try:
                answer = await self.api.post(
                    where, json={"targetVersion": version}, params={"supersede": "true"}, headers=headers
                )
                if answer.status_code == httpx.codes.ACCEPTED:
                    job_id = str(answer.json()["jobId"])
                    self._jobs.setdefault(device.client_id, []).append(job_id)
                    self.orders.setdefault(device.client_id, []).append(version)
                    return job_id
                said = f"{answer.status_code} {answer.text}"
            except httpx.HTTPError as error:
                said = repr(error)
            else:
                if not answer.is_server_error:
                    raise ServiceError(f"the update was not accepted: {said}", where=device.client_id)
            if time.monotonic() > end:
                raise ServiceError(f"the update was not accepted: {said}", where=device.client_id)
            await asyncio.sleep(0.3)


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
        violations = _once([*watch.violations, *found])
        if broken := player.unhealed:
            # A harness that has not undone what it did proves nothing against the product; nor can it go on.
            violations = [v for v in violations if v.device not in broken and "" not in broken]
            self.result.problems.append(f"round {self._number}: ended, as faults could not be healed")
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
            alone = _alone(scenario, device, first)
            mine = _of_device(history, device)
            concerned = tuple(row for row in rows if row.device in ("", device))
            findings, _ = judge(Case(alone, History(mine), concerned))
            for finding in findings:
                self.result.findings += 1
                if (
                    finding.checker not in ("faults-fired", "method-played")
                    or finding.verdict is Verdict.FAIL
                ):
                    self.result.unjudged += finding.verdict is Verdict.UNKNOWN
                if finding.verdict is Verdict.UNKNOWN and finding.checker != "faults-fired":
                    self.result.problems.append(
                        f"round {self._number}, {device}: {finding.checker}: {finding.measured}"
                    )
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

    def _after(self, player: Player, history: History) -> None:
        for row in player.rows:
            self._unshown[row.fault] += not row.fired
        self.result.problems += [f"round {self._number}: {problem}" for problem in player.problems]
        if (rest := history.last("run", "converged")) is not None:
            self.result.rest_ms = max(self.result.rest_ms, int(str(rest.data.get("ms"))))

    def _count(self, event: Event) -> None:
        """Each job by its end, once."""
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


def _alone(scenario: Scenario, device: str, begins: str) -> Scenario:
    """The round as that device has lived it."""
    number = number_of(device)
    kept = [item for item in scenario.method if getattr(item, "device", None) in (None, number)]
    return with_method(scenario, [item.model_copy(update={"device": None}) for item in kept], begins)


def _of_device(history: History, device: str) -> tuple[Event, ...]:
    """What is about it; that another one did not come to rest is not."""
    found = []
    for event in history.events:
        if (event.source, event.event) == ("run", "not-converged"):
            what = str(event.data.get("what"))
            if "edge-" in what and f"{device}:" not in what:
                event = replace(event, event="converged", data={"ms": 0})  # noqa: PLW2901
        if event.device == device or (not event.device and event.source in _GLOBAL):
            found.append(event)
    return tuple(found)


def _once(violations: list[Violation]) -> list[Violation]:
    """One for each device and checker: what was seen live knows when."""
    found: dict[tuple[str, str], Violation] = {}
    for violation in violations:
        found.setdefault((violation.device, violation.checker), violation)
    return list(found.values())


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
