"""The machine of the search: true sequences and epochs, a clock, and every turn and message worked out once."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from reference.core.delivery import Memory, Verdict
from reference.core.invariants import Violation
from reference.core.job import Report
from reference.core.limits import Limits
from reference.core.model import Command, Outcome, Phase
from reference.core.record import UpdateRecord
from reference.core.steps import Journal, Step
from reference.world.engine import Setting
from reference.world.machine import Decision, Machine, State
from reference.world.nouns import FAR
from reference.world.replay import brief
from reference.world.search.rules import Sides
from reference.world.service import Service
from reference.world.tables import Table


class Turn(NamedTuple):
    """One turn of the updater's loop."""

    after: State
    way: tuple[State, ...]
    """The states between its atoms, the last one included."""
    found: tuple[Violation, ...]
    rests: bool = False
    outdated: bool = False
    """The journal is older than what was done here, and is set aside."""
    opens: bool = False
    code: int = 0
    """The same for the same turn in every process."""
    step: Step | None = None


class Heard(NamedTuple):
    """What a message has made of a device."""

    after: State
    found: tuple[Violation, ...]
    verdict: str = ""


class Birth(NamedTuple):
    """What a device says of itself."""

    epoch: str
    floor: int | None
    open_job: str | None


class Driver(Machine):
    """Drives the updater of every device of every seed: what was worked out for one is known for all."""

    def __init__(self, setting: Setting, limits: Limits, sides: Sides) -> None:
        super().__init__(setting, limits, sides.device)
        self.sides = sides
        self.commands: Table[Command] = Table()
        self.reports: Table[Report] = Table()
        self.nobody = self.services.number(Service())
        self._turns: dict[State, Turn] = {}
        self._turns_late: dict[State, Turn] = {}
        self._in_time: dict[tuple[int, int, int, int], Decision] = {}
        self._late: dict[tuple[int, int, int, int], Decision] = {}
        self._held: dict[tuple[tuple[int, ...], int, bool], tuple[Violation, ...]] = {}
        self._codes: dict[int, int] = {}
        self._expires: list[int | None] = []
        self._outboxes: list[tuple[tuple[Report, int], ...]] = []
        self._births: dict[int, Birth] = {}
        self._runs: dict[int, str | None] = {}
        self._heard: dict[tuple[int, int, bool], tuple[int, Verdict]] = {}
        self._answered: dict[tuple[int, bool, str, int], int] = {}
        self._acknowledged: dict[tuple[int, str, str, int], int] = {}
        self._canceled: dict[tuple[int, str, int], int] = {}
        self._written: dict[tuple[State, int], Heard] = {}

    def seen(self, memory: Memory) -> Memory:
        """A memory as it is: here sequences count."""
        return memory

    def memory(self, memory: Memory) -> int:
        """The number of a memory."""
        number = super().memory(memory)
        if number == len(self._outboxes):
            self._outboxes.append(tuple((r, self.reports.number(r)) for r in memory.outbox))
            record = memory.record
            waits = record.phase is Phase.ACCEPTED and record.job is not None
            expires = record.job.expires_at_ms if waits and record.job is not None else FAR
            self._expires.append(expires if expires < FAR else None)
        return number

    @property
    def size(self) -> int:
        """How many values it has seen."""
        return len(self._turns) + len(self.memories) + len(self._written)

    # ---- the updater's loop

    def turn(self, state: State, now_ms: int) -> Turn:
        """What the updater does next, at this wall time."""
        expires = self._expires[self.journals[state.journal][-1]]
        late = expires is not None and now_ms > expires + self.limits.clock_skew_ms
        turns = self._turns_late if late else self._turns
        found = turns.get(state)
        if found is None:
            self.now_ms = now_ms if late else 0
            self._decisions = self._late if late else self._in_time
            found = turns[state] = self._turn(state)
        return found

    def _turn(self, state: State) -> Turn:
        if not self.processes[state.process].opened:
            if self.outdated(state):
                return Turn(state, (), (), outdated=True, code=1)
            way, found = self.open(state)
            return Turn(way[-1][1], tuple(s for _, s in way), found, opens=True, code=2)
        looked, decision = self.look(state)
        record = self._records[self._record_of[self.read(state)]]
        found = self.violations(looked, decision) + self.holds(looked) + _older(record, decision.step)
        if decision.resting:
            return Turn(looked, (), found, rests=True, code=3, step=decision.step)
        way, broken = self.go(looked, decision)
        code = self._codes.get(decision.number)
        if code is None:
            code = self._codes[decision.number] = zlib.crc32(repr(decision.step).encode())
        return Turn(way[-1][1], tuple(s for _, s in way), found + broken, code=code, step=decision.step)

    def holds(self, state: State, *, everything: bool = True) -> tuple[Violation, ...]:
        """The same, known by the records alone: sequences make no difference to it."""
        records = tuple(self._record_of[m] for m in self.journals[state.journal])
        key = (records, state.engine, everything)
        found = self._held.get(key)
        if found is None:
            found = self._held[key] = super().holds(state, everything=everything)
        return found

    # ---- what the device says

    def outbox(self, memory: int) -> tuple[tuple[Report, int], ...]:
        """Its reports, with their numbers."""
        return self._outboxes[memory]

    def birth(self, memory: int) -> Birth:
        """What it says of itself."""
        found = self._births.get(memory)
        if found is None:
            record = self.memories[memory].record
            open_job = record.job.job_id if record.job is not None else None
            found = self._births[memory] = Birth(record.epoch, record.floor, open_job)
        return found

    def runs(self, engine: int) -> str | None:
        """The digest of what runs."""
        if engine not in self._runs:
            running = (c.image.digest for c in self.engines[engine].containers if c.running)
            self._runs[engine] = next(running, None)
        return self._runs[engine]

    # ---- what the device hears

    def hear_command(self, state: State, command: int, now_ms: int) -> Heard:
        """A command arrives."""
        order, memory = self.commands[command], self.read(state)
        late = now_ms > order.expires_at_ms + self.limits.clock_skew_ms
        key = (memory, command, late)
        found = self._heard.get(key)
        if found is None:
            now = now_ms if late else 0
            after, verdict = self.rules.receive(self.memories[memory], order, now, self.limits)
            found = self._heard[key] = (self.memory(after), verdict)
        return self._write(state, found[0])._replace(verdict=found[1].value)

    def hear_cancel(self, state: State, job_id: str, generation: int) -> Heard:
        """A cancel arrives."""
        memory = self.read(state)
        key = (memory, job_id, generation)
        after = self._canceled.get(key)
        if after is None:
            known = self.rules.receive_cancel(self.memories[memory], job_id, generation)
            after = self._canceled[key] = self.memory(known)
        return self._write(state, after)

    def hear_answer(self, state: State, asked: bool, expected: bool, epoch: str, floor: int) -> Heard:
        """An answer to a birth arrives. `asked`: one is awaited; `expected`: it repeats the nonce of that birth."""
        memory = self.read(state)
        key = (memory * 2 + asked, expected, epoch, floor)
        after = self._answered.get(key)
        if after is None:
            sent, nonce = ("this" if asked else None), ("this" if expected else "another")
            known = self.rules.receive_birth_answer(self.memories[memory], sent, nonce, epoch, floor)
            after = self._answered[key] = self.memory(known)
        heard = self._write(state, after)
        if after == memory:
            return heard
        return heard._replace(
            found=heard.found + self._answer_obeyed(memory, after, asked and expected, epoch)
        )

    def _answer_obeyed(self, memory: int, after: int, expected: bool, epoch: str) -> tuple[Violation, ...]:
        before, now = self.memories[memory].record, self.memories[after].record
        found = []
        if not expected or epoch != before.epoch:
            found.append(
                Violation("answer_is_expected", f"an answer for {epoch} that nobody waits for is obeyed")
            )
        here = max((i.generation - 1 for i in (now.current, now.previous) if i is not None), default=0)
        if now.floor is not None and now.floor < here:
            found.append(Violation("generations_rise", f"floor {now.floor} is below what is installed"))
        return tuple(found)

    def hear_acknowledgement(self, state: State, epoch: str, job_id: str, sequence: int) -> Heard:
        """The service has stored a report."""
        memory = self.read(state)
        key = (memory, epoch, job_id, sequence)
        after = self._acknowledged.get(key)
        if after is None:
            known = self.rules.receive_acknowledgement(self.memories[memory], epoch, job_id, sequence)
            after = self._acknowledged[key] = self.memory(known)
        return self._write(state, after)

    def remind(self, state: State) -> State:
        """The open job is reported anew."""
        return self._write(state, self.memory(self.sides.remind(self.memory_of(state)))).after

    def _write(self, state: State, after: int) -> Heard:
        if after == self.read(state):
            return Heard(state, ())
        key = (state, after)
        found = self._written.get(key)
        if found is None:
            way, broken = self.write(state, after)
            found = self._written[key] = Heard(way[-1][1], broken)
        return found


def in_words(turn: Turn, record: UpdateRecord) -> str:
    """A turn in a few words. `record`: as it was before."""
    if turn.outdated:
        return "finds its journal outdated"
    return "opens its journal" if turn.step is None else f"{record.phase}: {brief(turn.step)}"


def _older(record: UpdateRecord, step: Step) -> tuple[Violation, ...]:
    """Whatever journal was lost on the way: no switch leads to an older generation than what is installed here."""
    if (
        not isinstance(step, Journal)
        or step.record.phase is not Phase.SWITCHING
        or record.phase is Phase.SWITCHING
    ):
        return ()
    newest = max((i.generation for i in (record.current, record.previous) if i is not None), default=0)
    job = step.record.job
    if job is None or job.generation >= newest:
        return ()
    return (
        Violation(
            "older_never_applied", f"generation {job.generation} is switched to, {newest} is installed"
        ),
    )


def end_of(report: Report) -> tuple[object, Outcome | None, object]:
    """What must not change in what is told of a job's end."""
    return (report.status, report.outcome, report.reason)
