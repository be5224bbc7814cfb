"""The machine: one device, its updater and its service, as states that are a few numbers each.

It drives the same `decide`, `advance` and `receive` as the edge agent, one atom after the other. What a step does
depends on a part of the state only, so each part is worked out once and looked up afterwards: that is what lets a
hundred thousand states a second be judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from reference.core import invariants
from reference.core.delivery import Memory
from reference.core.invariants import Violation
from reference.core.limits import Limits
from reference.core.model import Failure, Phase, World
from reference.core.record import UpdateRecord
from reference.core.steps import Act, Journal, Step, Wait
from reference.world import engine as engines
from reference.world import process as processes
from reference.world import rules
from reference.world.atoms import Atom
from reference.world.disk import synced
from reference.world.engine import Engine, RefusedError, Setting
from reference.world.nouns import HEALTH, LIMITS
from reference.world.process import Process
from reference.world.service import Service
from reference.world.state import BOOTS, EPOCHS, Decision, Rules, Said, State, Watch, Way, ranked, resting
from reference.world.tables import Table
from reference.world.volumes import listed

__all__ = ["EPOCHS", "Decision", "Machine", "Rules", "Said", "State", "Watch", "Way", "resting"]


class Machine:
    """All that is known of one story's world. States are only good for the machine that made them."""

    def __init__(
        self,
        setting: Setting,
        limits: Limits = LIMITS,
        rules_: Rules | None = None,
        *,
        unbounded: bool = False,
    ) -> None:
        self.setting, self.limits, self.rules = setting, limits, rules_ or Rules()
        self.now_ms = 0
        """Wall time, for expiry only. Whoever changes it forgets the decisions that hang on it."""
        self.unbounded = unbounded
        """There may be any number of cuts: more than what a trial, or a pull, has to live through."""
        self.journals: Table[tuple[int, ...]] = Table()
        self.memories: Table[Memory] = Table()
        self.engines: Table[Engine] = Table()
        self.processes: Table[Process] = Table()
        self.services: Table[Service] = Table()
        self.watches: Table[Watch] = Table()
        self.steps: Table[Step] = Table()
        self._records: Table[UpdateRecord] = Table()
        self._views: Table[tuple[object, ...]] = Table()
        self._record_of: list[int] = []
        self._view_of: list[int] = []
        self._settled: list[bool] = []
        self._decisions: dict[tuple[int, int, int, int], Decision] = {}
        self._failures: Table[Failure | None] = Table()
        self._acts: dict[tuple[int, int], tuple[tuple[tuple[Atom, int], ...], int]] = {}
        self._acted: dict[tuple[int, int, int, int], int] = {}
        self._journaled: dict[tuple[int, int, int], int] = {}
        self._advanced: dict[tuple[int, int], int] = {}
        self._looked: dict[tuple[int, int, int], int] = {}
        self._waited: dict[tuple[int, int, int, int, int], tuple[int, int]] = {}
        self._boots: dict[int, tuple[tuple[str, int], ...]] = {}
        self._unwatched: dict[int, int] = {}
        self._next_lives: dict[tuple[int, bool], int] = {}
        self._said: dict[tuple[object, ...], Said] = {}
        self._cut_watches: dict[tuple[int, int, bool], int] = {}
        self._final: dict[tuple[int, int], tuple[Violation, ...]] = {}
        self._holds: dict[tuple[int, int], tuple[Violation, ...]] = {}
        self._ahead: list[tuple[Violation, ...]] = []

    # ---- numbers for values

    def memory(self, memory: Memory) -> int:
        """The number of a memory."""
        number = self.memories.number(self.seen(memory))
        if number == len(self._record_of):
            known = self.memories[number]
            self._record_of.append(self._records.number(known.record))
            self._ahead.append(tuple(invariants.status_not_ahead(known)))
        return number

    def seen(self, memory: Memory) -> Memory:
        """What of a memory is told apart: only the order of its reports counts, and whether there was an outage."""
        return ranked(memory)

    def engine(self, engine: Engine) -> int:
        """The number of an engine."""
        number = self.engines.number(engine)
        if number == len(self._view_of):
            now = engine.disk.volumes[-1]
            view = (engine.containers, tuple(engine.images.items()), tuple(listed(now).items()))
            self._view_of.append(self._views.number(view))
            self._settled.append(engine.disk.settled)
        return number

    def service(self, service: Service) -> int:
        """The number of a service. What it is told next is always newer."""
        client = replace(service.client, sequence=-1)
        jobs = tuple(replace(j, sequence=-1) for j in service.jobs)
        return self.services.number(service._replace(client=client, jobs=jobs))

    def begin(self, memory: Memory, engine: Engine, process: Process, service: Service) -> State:
        """A state that is synced throughout."""
        journal = self.journals.number((self.memory(memory),))
        return State(
            journal, self.engine(engine), self.processes.number(process), 0, self.service(service),
            self.watches.number(Watch()),
        )  # fmt: skip

    def read(self, state: State) -> int:
        """The number of the memory that is read now."""
        return self.journals[state.journal][-1]

    def memory_of(self, state: State) -> Memory:
        """The memory that is read now."""
        return self.memories[self.read(state)]

    def said(self, key: tuple[object, ...], work: Callable[[], Said]) -> Said:
        """What a message leaves, worked out once for each `key`."""
        found = self._said.get(key)
        if found is None:
            found = self._said[key] = work()
        return found

    # ---- a turn of the updater's loop

    def look(self, state: State) -> tuple[State, Decision]:
        """Observe and decide."""
        record = self._record_of[self.read(state)]
        view = self._view_of[state.engine]
        key = (record, view, state.process)
        process = self._looked.get(key)
        if process is None:
            process = self._looked[key] = self._look(record, state)
        if process != state.process:
            state = State(state.journal, state.engine, process, state.boot, state.service, state.watch)
        asked = (record, view, process, state.boot)
        decision = self._decisions.get(asked)
        if decision is None:
            decision = self._decisions[asked] = self._decide(state)
        return state, decision

    def _look(self, record: int, state: State) -> int:
        known = self._records[record]
        process = processes.settled(self.processes[state.process], known, self.world(state))
        return self.processes.number(process)

    def world(self, state: State) -> World:
        """The world as `decide` sees it."""
        engine, process = self.engines[state.engine], self.processes[state.process]
        record = self._records[self._record_of[self.read(state)]]
        job = record.job.job_id if record.job is not None else ""
        return World(
            boot_id=BOOTS[state.boot],
            containers=engine.containers,
            images=engine.images,
            dirty=process.dirty,
            error=process.error,
            failures=process.failures,
            since_failure_ms=process.since_failure_ms,
            restores=process.restores,
            since_restore_ms=process.since_restore_ms,
            engine_restarted=process.restarted_for == job,
            jitter_permille=1000,
            outage_ms=None if process.down is None else int(process.down),
            hold=process.hold,
            locked_ms=process.locked_ms if process.lock else None,
            snapshots=listed(engine.disk.volumes[-1]),
            survived_ms=process.survived_ms,
        )

    def _decide(self, state: State) -> Decision:
        memory, world = self.memory_of(state), self.world(state)
        step = self.rules.decide(memory.record, world, self.now_ms, self.limits)
        found = tuple(invariants.every_step(memory, step, world, self.limits))
        return Decision(step, self.steps.number(step), found, resting(memory.record, step, world))

    def violations(self, state: State, decision: Decision) -> tuple[Violation, ...]:
        """All that does not hold when the updater has looked, whatever comes next."""
        found = decision.found + self._ahead[self.read(state)]
        if not self._settled[state.engine] and not self.processes[state.process].dirty:
            found += tuple(rules.clean_is_settled(False, self.engines[state.engine].disk))
        return found

    def holds(self, state: State, *, everything: bool = True) -> tuple[Violation, ...]:
        """What does not hold in a state, between two atoms too, over every value that a stored thing may have.

        Not `everything`: but what strangers can break.
        """
        key = (state.journal, state.engine)
        found = self._holds.get(key)
        if found is None:
            engine = self.engines[state.engine]
            records = [self.memories[m].record for m in self.journals[state.journal]]
            found = (
                *invariants.never_two_active(engine.containers),
                *invariants.same_configuration(engine.containers),
                *(rules.trusted_survives(records, engine.disk) if everything else ()),
            )
            self._holds[key] = found
        return found

    def go(self, state: State, decision: Decision) -> tuple[Way, tuple[Violation, ...]]:
        """The atoms of the step, each with the state after it, and what its journal entry breaks."""
        step = decision.step
        if isinstance(step, Journal):
            return self._journal(state, step.record)
        if isinstance(step, Wait):
            return [(Atom.WAIT_PASS, self.wait(state, step.for_ms))], ()
        return self._act(state, decision.number, step), ()

    def _journal(self, state: State, record: UpdateRecord) -> tuple[Way, tuple[Violation, ...]]:
        before = self.read(state)
        key = (before, self._records.number(record))
        after = self._advanced.get(key)
        if after is None:
            after = self._advanced[key] = self.memory(self.rules.advance(self.memories[before], record))
        asked = (state.process, self._record_of[before], self._record_of[after])
        process = self._journaled.get(asked)
        if process is None:
            known = processes.journaled(self.processes[state.process], self.memories[before].record, record)
            process = self._journaled[asked] = self.processes.number(known)
        return self.write(state, after, process)

    def write(
        self, state: State, after: int, process: int | None = None
    ) -> tuple[Way, tuple[Violation, ...]]:
        """The atoms of a transaction that makes a memory durable."""
        values = self.journals[state.journal]
        journal = self.journals.number((*(m for m in values if m != after), after))
        _, engine, as_before, boot, service, watch = state
        appended = State(journal, engine, as_before, boot, service, watch)
        last = journal if not self.rules.journal_synced else self.journals.number((after,))
        watch, found = self._note(state, after)
        synced = State(last, engine, as_before if process is None else process, boot, service, watch)
        return [(Atom.JOURNAL_APPEND, appended), (Atom.JOURNAL_SYNC, synced)], found

    def _note(self, state: State, after: int) -> tuple[int, tuple[Violation, ...]]:
        before = self.read(state)
        found = self._final.get((before, after))
        if found is None:
            told = rules.told_is_final(self.memories[before], self.memories[after])
            rise = invariants.generations_rise(self.memories[before].record, self.memories[after].record)
            found = self._final[before, after] = (*told, *rise)
        old, new = self.memories[before].record, self.memories[after].record
        if new.phase is not Phase.SWITCHING or old.phase is Phase.SWITCHING or new.job is None:
            return state.watch, found
        watch = self.watches[state.watch]
        watch = watch._replace(switched=(*watch.switched, new.job.generation), cuts=0)
        found += tuple(invariants.one_install_per_generation(watch.switched))
        return self.watches.number(watch), found

    def _act(self, state: State, number: int, step: Act) -> Way:
        key = (state.engine, number)
        done = self._acts.get(key)
        if done is None:
            done = self._acts[key] = self._perform(self.engines[state.engine], step)
        atoms, failure = done
        journal, _, before, boot, service, watch = state
        way = [(atom, State(journal, engine, before, boot, service, watch)) for atom, engine in atoms]
        record = self._record_of[self.read(state)]
        asked = (state.process, number, failure, record)
        process = self._acted.get(asked)
        if process is None:
            job = self._records[record].job
            after = processes.acted(
                self.processes[state.process],
                step,
                self._failures[failure],
                job.job_id if job is not None else "",
                self.limits,
            )
            process = self._acted[asked] = self.processes.number(after)
        last_atom, last = way[-1] if way else (engines.first(step), state)
        ended = (last_atom, last._replace(process=process))
        return [*way[:-1], ended]

    def _perform(self, engine: Engine, step: Act) -> tuple[tuple[tuple[Atom, int], ...], int]:
        atoms: list[tuple[Atom, int]] = []
        failure: Failure | None = None
        try:
            for atom, after in engines.perform(self.setting, engine, step):
                atoms.append((atom, self.engine(after)))
        except RefusedError as refused:
            failure = refused.failure
        return tuple(atoms), self._failures.number(failure)

    def wait(self, state: State, ms: int) -> State:
        """The state after so much time."""
        record = self._record_of[self.read(state)]
        key = (state.engine, state.process, state.boot, record, ms)
        found = self._waited.get(key)
        if found is None:
            before = self.world(state)
            engine = engines.advance(self.setting, self.engines[state.engine], ms)
            revived, engine = engine.revived, engine._replace(revived=0)
            after = state._replace(engine=self.engine(engine))
            process = processes.waited(
                self.processes[state.process], self._records[record], before, self.world(after), ms,
                self.limits, revived,
            )  # fmt: skip
            found = self._waited[key] = (after.engine, self.processes.number(process))
        return State(state.journal, found[0], found[1], state.boot, state.service, state.watch)

    # ---- what a cut leaves

    def open(self, state: State) -> tuple[Way, tuple[Violation, ...]]:
        """A process begins: the journal is read, and synced before it is believed."""
        process = self.processes[state.process]._replace(opened=True)
        read = self.read(state)
        journal = self.journals.number((read,)) if self.rules.opens_synced else state.journal
        watch = self._cut_watch(state, read, cut=False)
        after = state._replace(journal=journal, process=self.processes.number(process), watch=watch)
        return [(Atom.OPEN_READ, state), (Atom.OPEN_SYNC, after)], ()

    def reread(self, state: State) -> State:
        """The journal is read again after a write that failed, and synced before it is believed."""
        journal = self.journals.number((self.read(state),)) if self.rules.opens_synced else state.journal
        return state._replace(journal=journal)

    def killed(self, state: State) -> State:
        """The updater's process ends, and nothing else."""
        engine = self._unwatched.get(state.engine)
        if engine is None:
            engine = self.engine(engines.unwatched(self.engines[state.engine]))
            self._unwatched[state.engine] = engine
        process = self._fresh(state.process, boot=False)
        return State(state.journal, engine, process, state.boot, state.service, state.watch)

    def _fresh(self, process: int, *, boot: bool) -> int:
        found = self._next_lives.get((process, boot))
        if found is None:
            found = self.processes.number(self.rules.fresh(self.processes[process], boot=boot))
            self._next_lives[process, boot] = found
        return found

    def cut(self, state: State) -> list[tuple[str, State]]:
        """Every state that the device may boot into after a power cut now, by name."""
        process = self._fresh(state.process, boot=True)
        found = []
        for number, memory in enumerate(self.journals[state.journal]):
            boot_id = self.memories[memory].record.boot_id
            boot = 1 if boot_id == BOOTS[0] else 0
            journal, watch = self.journals.number((memory,)), self._cut_watch(state, memory)
            for name, engine in self._booted(state.engine):
                after = State(journal, engine, process, boot, state.service, watch)
                found.append((f"journal {number}, {name}", after))
        return found

    def _booted(self, engine: int) -> tuple[tuple[str, int], ...]:
        found = self._boots.get(engine)
        if found is None:
            came = engines.boots(self.setting, self.engines[engine])
            first: dict[int, str] = {}
            for name, after in came:
                first.setdefault(self.engine(after), name)
            found = self._boots[engine] = tuple((name, number) for number, name in first.items())
        return found

    def _cut_watch(self, state: State, memory: int, *, cut: bool = True) -> int:
        key = (state.watch, memory, cut)
        found = self._cut_watches.get(key)
        if found is None:
            after = self._watched(self.watches[state.watch], self.memories[memory].record, cut=cut)
            found = self._cut_watches[key] = self.watches.number(after)
        return found

    def _watched(self, watch: Watch, record: UpdateRecord, *, cut: bool) -> Watch:
        """A switch whose transaction reached the disk though nobody had heard of it is one, too."""
        if record.phase not in (Phase.SWITCHING, Phase.VERIFYING):
            return watch
        if record.job is not None and record.job.generation not in watch.switched:
            watch = watch._replace(switched=(*watch.switched, record.job.generation), cuts=0)
        if not cut or record.job is None:
            return watch
        cuts, generation = min(watch.cuts + 1, self.limits.boots + 1), record.job.generation
        worn = cuts > self.limits.boots and generation not in watch.worn
        return watch._replace(cuts=cuts, worn=(*watch.worn, generation) if worn else watch.worn)

    def lost(self, state: State, epoch: str = "") -> State:
        """The journal cannot be believed: it is set aside and made anew from what is seen and synced, by a new process.

        `epoch` of the new one; without it, one that neither side knows now.
        """
        state = self.killed(state)
        engine = self.engines[state.engine]
        state = state._replace(engine=self.engine(engine._replace(disk=synced(engine.disk))))
        known = {self.memory_of(state).record.epoch, self.services[state.service].client.epoch or ""}
        epoch = epoch or next(e for e in EPOCHS if e not in known)
        record = self.rules.adopted(self.world(state), epoch, HEALTH)
        journal = self.journals.number((self.memory(Memory(record)),))
        # What was installed before is not remembered: a command whose answer went with the journal may come again.
        watch = self.watches.number(self.watches[state.watch]._replace(switched=()))
        return state._replace(journal=journal, watch=watch)

    def outdated(self, state: State) -> bool:
        """Whether the journal is older than what was done here, which sets it aside at the start."""
        return self.rules.outdated(self.memory_of(state).record, self.world(state))
