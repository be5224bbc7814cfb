"""What is done in a scenario, and whether it can be: something in the method, and only what has its turn after it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.scenario.model import Scenario, Wait
from chaos.scenario.sense import Wrong


def idle(scenario: Scenario) -> Iterator[Wrong]:
    """A method that only waits: whatever came of it would prove nothing."""
    if all(isinstance(item, Wait) for item in scenario.method):
        what = "nothing is done: the method only waits"
        yield Wrong(("method",), what, "Put a fault or an action into it.")


def untimely(scenario: Scenario) -> Iterator[Wrong]:
    """Rollbacks that wait for something: they are done at once, one after the other, when the method is over."""
    for index, action in enumerate(scenario.rollbacks):
        if isinstance(action, Wait):
            what = "a rollback cannot be a wait: the method is over"
            yield Wrong(("rollbacks", index, "action"), what, "Leave it out, or put it at the method's end.")
        elif action.when is not None:
            what = "a rollback has no `when`: it is done in its turn, after the method"
            yield Wrong(("rollbacks", index, "when"), what, "Leave it out.")


__all__ = ["idle", "untimely"]
