"""The rules of the search in Hypothesis' hands: any order of anything, and everything comes to its end."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from reference.world.search.mutants import MUTANTS
from reference.world.search.parties import Client, Device
from reference.world.search.run import Run
from reference.world.search.wire import Down, Flight
from reference.world.search.world import ROUND_MS, World

WORLD = World()
ANY = st.integers(0, 2**16)
DEVICE = st.integers(0, 1)


class Conversation(RuleBasedStateMachine):
    """Two devices of the bench are played with, the others only live."""

    world = WORLD

    def __init__(self) -> None:
        super().__init__()
        self.run = Run(self.world, ())
        self.bench = self.run.bench
        self.backups: list[list[Client]] = []

    def device(self, who: int) -> Device:
        return self.bench.devices[who]

    @initialize(versions=st.tuples(ANY, ANY))
    def begin(self, versions: tuple[int, int]) -> None:
        self.backups.append(self.bench.backup())
        for who, version in enumerate(versions):
            self.bench.tell(who)
            self.bench.order(who, version, 0, supersede=False)
        self.rounds_pass(3)

    # ---- people

    @rule(who=DEVICE, version=ANY, life=ANY, supersede=st.booleans())
    def order(self, who: int, version: int, life: int, supersede: bool) -> None:
        self.bench.order(who, version, life, supersede=supersede)

    @rule(who=DEVICE)
    def cancel(self, who: int) -> None:
        self.bench.cancel(who)

    # ---- the way between

    def _queue(self, who: int, down: bool) -> list[Flight]:
        return self.device(who).down if down else self.device(who).up

    @rule(who=DEVICE, down=st.booleans(), number=ANY)
    def deliver(self, who: int, down: bool, number: int) -> None:
        """Any message that is on its way, out of turn."""
        queue = self._queue(who, down)
        if not queue or (down and not (self.device(who).open and self.device(who).online)):
            return
        flight = queue.pop(number % len(queue))
        if down:
            self.bench.at_device(who, flight)
        else:
            self.bench.at_service(who, flight)

    @rule(who=DEVICE, down=st.booleans(), number=ANY)
    def drop(self, who: int, down: bool, number: int) -> None:
        queue = self._queue(who, down)
        if queue:
            queue.pop(number % len(queue))

    @rule(who=DEVICE, down=st.booleans(), number=ANY, rounds=st.integers(1, 12), copy=st.booleans())
    def hold_back(self, who: int, down: bool, number: int, rounds: int, copy: bool) -> None:
        """A message, or a copy of it, comes later."""
        queue = self._queue(who, down)
        if queue:
            flight = queue[number % len(queue)] if copy else queue.pop(number % len(queue))
            queue.append(flight._replace(due=self.bench.round + rounds))

    @rule(who=DEVICE, number=ANY)
    def stale(self, who: int, number: int) -> None:
        """A command or an answer of long ago is on its way again."""
        device = self.device(who)
        old: list[Down] = [*device.commands, *device.answers]
        if old:
            device.down.append(Flight(self.bench.round, old[number % len(old)]))

    @rule(who=DEVICE)
    def send(self, who: int) -> None:
        self.bench.send(who, everything=True)

    @rule(who=DEVICE, rounds=st.integers(1, 9))
    def disconnect(self, who: int, rounds: int) -> None:
        self.bench.disconnect(who, self.bench.round + rounds)

    # ---- the devices

    @rule(who=DEVICE, turns=st.integers(1, 12))
    def work(self, who: int, turns: int) -> None:
        for _ in range(turns):
            if self.bench.turn(who).rests:
                return

    @rule(who=DEVICE)
    def tell(self, who: int) -> None:
        self.bench.tell(who)

    @rule(who=DEVICE, after=ANY, branch=ANY)
    def cut(self, who: int, after: int, branch: int) -> None:
        self.bench.cut(who, after, branch)

    @rule(who=DEVICE, after=ANY)
    def kill(self, who: int, after: int) -> None:
        self.bench.kill(who, after)

    @rule(who=DEVICE)
    def lose_journal(self, who: int) -> None:
        self.bench.lose_journal(who)

    @rule(who=DEVICE, rounds=st.integers(-60, 60))
    def set_clock(self, who: int, rounds: int) -> None:
        self.device(who).clock_ms = rounds * ROUND_MS

    # ---- the service, and time

    @rule()
    def back_up(self) -> None:
        self.backups.append(self.bench.backup())

    @precondition(lambda self: self.backups)
    @rule(number=ANY)
    def restore(self, number: int) -> None:
        self.bench.restore(self.backups[number % len(self.backups)])
        self.bench.restart_service(0, self.bench.round)

    @rule(rounds=st.sampled_from([-700, -20, 0, 20, 700]))
    def restart_service(self, rounds: int) -> None:
        self.bench.restart_service(rounds * ROUND_MS, self.bench.round)

    @rule(rounds=st.integers(1, 3))
    def rounds_pass(self, rounds: int) -> None:
        """All do what they do by themselves."""
        for _ in range(rounds):
            self.run.next_round()

    @invariant()
    def nothing_is_wrong(self) -> None:
        assert self.bench.found == []

    def teardown(self) -> None:
        self.run.settle()
        assert self.bench.found == []


SETTINGS = settings(
    max_examples=200, stateful_step_count=60, deadline=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
Conversation.TestCase.settings = SETTINGS
TestConversation = Conversation.TestCase


@pytest.mark.parametrize("name", ["newest_of_any", "any_answer_obeyed"])
def test_it_can_fail(name: str) -> None:
    """The same rules find a mutant: what the machine asserts is not empty."""
    mutant = next(m for m in MUTANTS if m.name == name)

    class Broken(Conversation):
        world = World(mutant.sides)

    quick = settings(SETTINGS, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(Broken, settings=quick)
    assert mutant.killed_by in str(caught.value)
