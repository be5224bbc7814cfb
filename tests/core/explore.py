"""Every cut at every step, enumerated: the same state is judged once, so that two cuts in a row stay cheap."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

from reference.core import delivery
from reference.core.errors import Reason
from reference.core.invariants import Violation
from reference.core.model import Outcome, Phase, Policy
from reference.core.steps import Pull, Step, Wait
from tests.core.engine import Behaviour, Cut, command
from tests.core.world import Driver, ViolatedError, device

Expected = dict[str, tuple[Outcome, Reason | None]]
MOST_STEPS = 300


def nothing_else(driver: Driver, step: Step) -> bool:
    """No event from outside."""
    return False


@dataclass(frozen=True)
class Story:
    """A device and a command, what else happens, and how it has to end, cuts or none."""

    name: str
    begin: Callable[[], Driver]
    expected: Expected
    runs: tuple[str, ...]
    event: Callable[[Driver, Step], bool] = nothing_else
    """Called before each step; answers whether it changed the memory. What it does it does once."""

    def judge(self, driver: Driver) -> None:
        """The end as expected, or ViolatedError."""
        found = []
        if driver.outcomes != self.expected:
            found.append(Violation("expected_outcome", f"{driver.outcomes} instead of {self.expected}"))
        if tuple(driver.running()) != self.runs:
            found.append(Violation("expected_outcome", f"{driver.running()} run instead of {self.runs}"))
        told = {r.job_id: (r.outcome, r.reason) for r in driver.memory.outbox if r.status.terminal}
        if told != self.expected:
            found.append(Violation("reported", f"{told} is reported instead of {self.expected}"))
        if found:
            raise ViolatedError(found, driver.trace)


@dataclass
class Explorer:
    """Walks a story with up to `cuts` cuts, each of each kind before each step and at the end."""

    story: Story
    cuts: int
    kinds: Iterable[Cut] = tuple(Cut)
    done: set[tuple[int, Hashable]] = field(default_factory=set)

    def run(self) -> int:
        """States seen. Raises ViolatedError with the way to the first one that is bad."""
        todo = [(self.cuts, self.story.begin())]
        while todo:
            left, driver = todo.pop()
            for state in self._walk(left, driver):
                todo += [(left - 1, self._cut(state, kind)) for kind in (self.kinds if left else ())]
        return len(self.done)

    @staticmethod
    def _cut(state: Driver, kind: Cut) -> Driver:
        after = state.fork()
        after.cut(kind)
        return after

    def _walk(self, left: int, driver: Driver) -> list[Driver]:
        """On to the end without another cut; the new states on the way."""
        new: list[Driver] = []
        chain: set[Hashable] = set()
        while True:
            key = driver.key()
            if key in chain or len(chain) > MOST_STEPS:
                raise ViolatedError([Violation("converges", "a cycle, or no end in sight")], driver.trace)
            if (left, key) in self.done:
                break
            chain.add(key)
            new.append(driver)
            driver = driver.fork()
            step, world = driver.next_step()
            if self.story.event(driver, step):
                continue
            if driver.resting(step, world):
                if found := driver.judged(world):
                    raise ViolatedError(found, driver.trace)
                self.story.judge(driver)
                break
            driver.take(step)
        self.done.update((left, key) for key in chain)
        return new


def ordered(behaviours: dict[str, Behaviour] | None = None, *, first: bool = False) -> Driver:
    """A device that has just taken the command for v2."""
    driver = device(behaviours, first=first)
    driver.tell(command(2, "v2"))
    return driver


def with_policy(policy: Policy, behaviours: dict[str, Behaviour] | None = None) -> Callable[[], Driver]:
    """A story's beginning with a command that says so."""

    def begin() -> Driver:
        driver = device(behaviours)
        driver.tell(command(2, "v2", policy=policy))
        return driver

    return begin


def held() -> Driver:
    """As `ordered`, and an operator holds the device."""
    driver = ordered()
    driver.hold = True
    return driver


def locked() -> Driver:
    """As `ordered`, and the client has taken the update lock."""
    driver = ordered()
    driver.lock = True
    return driver


def let_go(driver: Driver, step: Step) -> bool:
    """The operator releases a device that waits for it, and the client gives the lock back."""
    if isinstance(step, Wait) and "held" in step.why and driver.hold:
        driver.hold = False
        return True
    if isinstance(step, Wait) and "lock" in step.why and driver.lock:
        driver.lock = False
        return True
    return False


def pull_fails(*reasons: Reason) -> Driver:
    """As `ordered`; the next pulls of v2 fail so."""
    driver = ordered()
    driver.engine.pull_failures[command(2, "v2").image.digest] = reasons
    return driver


def cancel_mid_pull(driver: Driver, step: Step) -> bool:
    """Job 2 is cancelled when it is about to pull."""
    if not isinstance(step, Pull) or driver.record.cancel:
        return False
    driver.memory = delivery.receive_cancel(driver.memory, "job-2", 2)
    return driver.record.cancel


def newer_mid_pull(driver: Driver, step: Step) -> bool:
    """Generation 3 arrives when generation 2 is about to pull."""
    if not isinstance(step, Pull) or driver.record.floor != 2:
        return False
    return driver.tell(command(3, "v3")) is delivery.Verdict.ACCEPTED


def newer_on_trial(driver: Driver, step: Step) -> bool:
    """Generation 3 arrives when generation 2 is on trial."""
    if driver.record.phase is not Phase.VERIFYING or driver.record.floor != 2:
        return False
    return driver.tell(command(3, "v3")) is delivery.Verdict.ACCEPTED


SUCCEEDED: Expected = {"job-2": (Outcome.SUCCEEDED, None)}


def rolled_back(reason: Reason) -> Expected:
    return {"job-2": (Outcome.ROLLED_BACK, reason)}


def bad(**behaviour: int | bool | None) -> Callable[[], Driver]:
    """A story's beginning with a v2 that behaves so."""
    return lambda: ordered({"v2": Behaviour(**behaviour)})  # type: ignore[arg-type]


STORIES = [
    Story("success", ordered, SUCCEEDED, ("v2",)),
    Story("crash", bad(crashes=True), rolled_back(Reason.CANDIDATE_EXITED), ("v1",)),
    Story("never_healthy", bad(healthy_at=None), rolled_back(Reason.CANDIDATE_NEVER_HEALTHY), ("v1",)),
    Story("dies_in_window", bad(dies_at=60), rolled_back(Reason.CANDIDATE_EXITED), ("v1",)),
    Story("turns_bad", bad(bad_at=60), rolled_back(Reason.CANDIDATE_UNHEALTHY), ("v1",)),
    Story("start_refused", bad(refused=True), rolled_back(Reason.START_REFUSED), ("v1",)),
    Story("stuck_port", bad(stuck_port=True), SUCCEEDED, ("v2",)),
    Story(
        "pull_fails_for_good",
        lambda: pull_fails(*[Reason.REGISTRY_DENIED] * 9),
        {"job-2": (Outcome.FAILED, Reason.REGISTRY_DENIED)},
        ("v1",),
    ),
    Story(
        "pull_fails_then_works",
        lambda: pull_fails(Reason.REGISTRY_UNREACHABLE, Reason.REGISTRY_THROTTLED),
        SUCCEEDED,
        ("v2",),
    ),
    Story("snapshot", with_policy(Policy(snapshot=True)), SUCCEEDED, ("v2",)),
    Story(
        "bad_migration",
        with_policy(Policy(snapshot=True), {"v2": Behaviour(migrates=True, dies_at=60)}),
        rolled_back(Reason.CANDIDATE_EXITED),
        ("v1",),
    ),
    Story("probation", with_policy(Policy(probation_ms=500)), SUCCEEDED, ("v2",)),
    Story("held", held, SUCCEEDED, ("v2",), let_go),
    Story("lock_given_back", locked, SUCCEEDED, ("v2",), let_go),
    Story("lock_kept", locked, {"job-2": (Outcome.FAILED, Reason.UPDATE_LOCKED)}, ("v1",)),
    Story("first_install", lambda: ordered(first=True), SUCCEEDED, ("v2",)),
    Story(
        "first_install_bad",
        lambda: ordered({"v2": Behaviour(crashes=True)}, first=True),
        {"job-2": (Outcome.FAILED, Reason.CANDIDATE_EXITED)},
        (),
    ),
    Story(
        "cancel_mid_pull",
        ordered,
        {"job-2": (Outcome.FAILED, Reason.CANCELED)},
        ("v1",),
        cancel_mid_pull,
    ),
    Story(
        "superseded",
        ordered,
        {"job-2": (Outcome.FAILED, Reason.SUPERSEDED), "job-3": (Outcome.SUCCEEDED, None)},
        ("v3",),
        newer_mid_pull,
    ),
    Story(
        "newer_waits",
        ordered,
        {"job-2": (Outcome.SUCCEEDED, None), "job-3": (Outcome.SUCCEEDED, None)},
        ("v3",),
        newer_on_trial,
    ),
]
