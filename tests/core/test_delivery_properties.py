"""The conversation under every order of events: lost, doubled and late messages, births, cancels, lost journals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from reference.core import delivery, invariants
from reference.core.adopt import adopted
from reference.core.delivery import BirthVerdict, ClientState, Memory, StatusVerdict, Verdict
from reference.core.job import Job, JobStatus, Report, canceled, overdue, overtaken, superseded
from reference.core.limits import ServiceLimits
from reference.core.model import Command, Outcome
from reference.world.machine import resting
from tests.core.engine import HEALTH, LIMITS, Behaviour, command
from tests.core.world import Driver, device

SERVICE = ServiceLimits()
LATE_MS = SERVICE.job_deadline_ms + 1


@dataclass(frozen=True)
class Cancel:
    job_id: str
    generation: int


@dataclass(frozen=True)
class Birth:
    epoch: str
    floor: int | None
    nonce: str


@dataclass(frozen=True)
class Answer:
    nonce: str
    epoch: str
    floor: int


@dataclass(frozen=True)
class Acknowledge:
    epoch: str
    job_id: str
    sequence: int


@dataclass(frozen=True)
class Status:
    epoch: str
    report: Report


Down = Command | Cancel | Answer | Acknowledge
Up = Birth | Status


@dataclass
class Bench:
    """A service, a device and what is in flight between them. Every change is checked."""

    driver: Driver
    client: ClientState = field(default_factory=lambda: ClientState(issued=1))
    jobs: dict[str, Job] = field(default_factory=dict)
    orders: dict[str, Command] = field(default_factory=dict)
    down: list[Down] = field(default_factory=list)
    up: list[Up] = field(default_factory=list)
    births: int = 0
    epochs: int = 1
    accepted: set[str] = field(default_factory=set)
    forgotten: bool = False
    """A journal was lost, and with it what was accepted in it."""

    # -- the service

    def issue(self, version: str) -> None:
        generation = delivery.next_generation(self.client)
        assert generation > self.client.issued and generation > self.client.reported
        order = command(generation, version)
        for job in self.jobs.values():
            if not job.status.terminal:
                self.change(superseded(job, generation, sent=True))
        self.client = replace(self.client, issued=generation)
        self.jobs[order.job_id], self.orders[order.job_id] = Job(order.job_id, generation), order
        self.down.append(order)

    def change(self, after: Job) -> None:
        before = self.jobs[after.id]
        assert invariants.terminal_is_final(before, after) == []
        if before.epoch == after.epoch:
            assert after.sequence >= before.sequence
        self.jobs[after.id] = after
        for job in self.jobs.values():
            self.jobs[job.id] = overtaken(job, after)

    def cancel(self, number: int) -> None:
        job = self.nth(number)
        if job is not None and not job.status.terminal:
            self.down.append(Cancel(job.id, job.generation))
            self.change(canceled(job))

    def time_out(self, number: int) -> None:
        if (job := self.nth(number)) is not None:
            self.change(overdue(job, LATE_MS, LATE_MS, SERVICE))

    def nth(self, number: int) -> Job | None:
        return list(self.jobs.values())[number % len(self.jobs)] if self.jobs else None

    def resend(self) -> None:
        pending = (
            j for j in self.jobs.values() if delivery.command_pending(j, 0, self.orders[j.id].expires_at_ms)
        )
        self.down += [self.orders[j.id] for j in pending]

    def at_service(self, message: Up) -> None:
        if isinstance(message, Birth):
            self.client, verdict = delivery.birth(self.client, message.epoch, message.floor)
            if verdict is not BirthVerdict.REPLACED:
                queued = [j for j in self.jobs.values() if j.status is JobStatus.QUEUED]
                waiting = [j.generation for j in queued if j.superseded_by is None]
                floor = delivery.birth_floor(self.client, min(waiting, default=None))
                self.down.append(Answer(message.nonce, message.epoch, floor))
            return
        done = delivery.ingest(
            self.client, self.jobs.get(message.report.job_id), message.report, message.epoch
        )
        self.client = done.client
        if done.job is not None:
            self.change(done.job)
        assert (done.verdict is StatusVerdict.WRONG_EPOCH) is not done.acknowledge
        if done.acknowledge:
            self.down.append(Acknowledge(message.epoch, message.report.job_id, message.report.sequence))

    # -- the device

    def remember(self, after: Memory) -> None:
        before = self.driver.memory
        assert after.record.epoch == before.record.epoch
        assert after.sequence >= before.sequence
        assert invariants.generations_rise(before.record, after.record) == []
        assert invariants.status_not_ahead(after) == []
        assert len({(r.job_id, r.generation) for r in after.outbox}) == len(after.outbox)
        assert all(r.sequence <= after.sequence for r in after.outbox)
        self.driver.memory = after

    def at_device(self, message: Down) -> None:
        memory = self.driver.memory
        match message:
            case Command():
                after, verdict = delivery.receive(memory, message, 0, LIMITS)
                assert (verdict is Verdict.ACCEPTED) is (after.record.floor != memory.record.floor)
                if verdict is Verdict.ACCEPTED:
                    assert message.job_id not in self.accepted or self.forgotten, "taken twice"
                    self.accepted.add(message.job_id)
                self.remember(after)
            case Cancel(job_id, generation):
                self.remember(delivery.receive_cancel(memory, job_id, generation))
            case Answer(nonce, epoch, floor):
                sent = f"nonce-{self.births}"
                self.remember(delivery.receive_birth_answer(memory, sent, nonce, epoch, floor))
            case Acknowledge(epoch, job_id, sequence):
                self.remember(delivery.receive_acknowledgement(memory, epoch, job_id, sequence))

    def birth(self) -> None:
        self.births += 1
        record = self.driver.record
        self.up.append(Birth(record.epoch, record.floor, f"nonce-{self.births}"))

    def send(self) -> None:
        epoch = self.driver.record.epoch
        self.up += [Status(epoch, r) for r in delivery.to_send(self.driver.memory, {}, LIMITS)]

    def work(self, steps: int) -> None:
        for _ in range(steps):
            step, world = self.driver.next_step()
            if resting(self.driver.record, step, world):
                return
            before = self.driver.memory
            self.driver.take(step)
            after, self.driver.memory = self.driver.memory, before
            self.remember(after)

    def lose_the_journal(self) -> None:
        self.epochs += 1
        record = adopted(self.driver.world(), f"epoch-{self.epochs}", HEALTH)
        self.driver.memory = Memory(record)
        self.driver.switched, self.driver.outcomes, self.forgotten = (), {}, True

    # -- the way between

    def deliver(self, number: int, *, copy: bool) -> None:
        """One message of each direction, any of those in flight; a copy may stay behind."""
        if self.down:
            index = number % len(self.down)
            self.at_device(self.down[index] if copy else self.down.pop(index))
        if self.up:
            index = number % len(self.up)
            self.at_service(self.up[index] if copy else self.up.pop(index))

    def settle(self) -> None:
        """Faults stop. Everything in flight is gone, and then nothing more is lost."""
        self.down.clear()
        self.up.clear()
        for _ in range(8):
            self.birth()
            self.flow()
            self.resend()
            self.flow()
            self.work(300)
            self.send()
            self.flow()

    def flow(self) -> None:
        while self.down or self.up:
            self.deliver(0, copy=False)


OPERATIONS = st.one_of(
    st.tuples(st.just("issue"), st.sampled_from(["v1", "v2", "v3"])),
    st.tuples(st.sampled_from(["deliver", "copy", "lose_down", "lose_up"]), st.integers(0, 9)),
    st.tuples(st.sampled_from(["cancel", "time_out"]), st.integers(0, 9)),
    st.tuples(st.sampled_from(["birth", "send", "resend", "lose_the_journal"]), st.none()),
    st.tuples(st.just("work"), st.integers(1, 30)),
)


def perform(bench: Bench, name: str, argument: int | str | None) -> None:
    match name, argument:
        case "deliver" | "copy", int(number):
            bench.deliver(number, copy=name == "copy")
        case "lose_down" | "lose_up", int(number):
            queue: list[Down] | list[Up] = bench.down if name == "lose_down" else bench.up
            if queue:
                queue.pop(number % len(queue))
        case _:
            getattr(bench, name)(*(() if argument is None else (argument,)))


@given(
    st.lists(OPERATIONS, max_size=40),
    st.sampled_from([Behaviour(), Behaviour(crashes=True), Behaviour(healthy_at=None)]),
)
def test_every_accepted_job_ends_and_no_end_changes(
    operations: list[tuple[str, int | str | None]], v2: Behaviour
) -> None:
    bench = Bench(device({"v2": v2}))
    for name, argument in operations:
        perform(bench, name, argument)
    bench.settle()
    assert bench.driver.memory.outbox == (), "every report was acknowledged"
    for job in bench.jobs.values():
        if bench.forgotten and not job.status.terminal:
            bench.change(job := overdue(job, LATE_MS, LATE_MS, SERVICE))  # Only silence is left to say of it.
        assert job.status.terminal, job
        ended = bench.driver.outcomes.get(job.id)
        if ended is not None and job.outcome is not None and not bench.forgotten:
            assert (job.outcome, job.reason) == ended
            assert invariants.agrees(job, *ended) == []
        if job.outcome is Outcome.SUCCEEDED:
            assert job.status is JobStatus.SUCCEEDED
    assert bench.client.epoch == bench.driver.record.epoch
    assert bench.driver.record.floor is not None and bench.driver.record.floor >= max(
        (j.generation for j in bench.jobs.values() if j.id in bench.accepted), default=0
    )
