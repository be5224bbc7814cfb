"""Two reports, before and now: which verdicts changed, and how much longer or shorter the client was down. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from chaos.result import Report, RunResult
from chaos.verdict import Ended


@dataclass(frozen=True, slots=True)
class Change:
    """A scenario that was played both times. Milliseconds of its worst device; None: not measured."""

    name: str
    before: Ended
    now: Ended
    downtime_before_ms: int | None = None
    downtime_now_ms: int | None = None
    rollback_before_ms: int | None = None
    rollback_now_ms: int | None = None

    @property
    def changed(self) -> bool:
        """Whether the verdict is another one."""
        return self.before is not self.now


@dataclass(frozen=True, slots=True)
class Compared:
    """All that differs."""

    both: tuple[Change, ...] = ()
    new: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    problem: str = ""
    """Why nothing was compared; empty: it was."""
    earlier: Mapping[str, int] = field(default_factory=dict)
    """How many ended how, in the earlier one."""

    @property
    def verdicts(self) -> tuple[Change, ...]:
        """Those whose verdict is another one."""
        return tuple(change for change in self.both if change.changed)

    def to_json(self) -> dict[str, object]:
        """As `report.json` has it under `compared`."""
        return {
            "problem": self.problem,
            "earlier": dict(self.earlier),
            "verdicts": [
                {"name": c.name, "before": c.before.value, "now": c.now.value} for c in self.verdicts
            ],
            "measured": [asdict(c) for c in self.both],
            "new": list(self.new),
            "vanished": list(self.vanished),
        }


def compare(before: Report, now: Report) -> Compared:
    """Runs of the same name are compared in the order in which they were played."""
    old, new = _by_name(before.runs), _by_name(now.runs)
    both = tuple(
        _change(name, a, b)
        for name in sorted(old.keys() & new.keys())
        for a, b in zip(old[name], new[name], strict=False)
    )
    counts = {ended.value: before.count(ended) for ended in Ended}
    return Compared(
        both, tuple(sorted(new.keys() - old.keys())), tuple(sorted(old.keys() - new.keys())), earlier=counts
    )


def worst(values: Iterable[int | None]) -> int | None:
    """The most of those that were measured."""
    return max((v for v in values if v is not None), default=None)


def _by_name(runs: Iterable[RunResult]) -> Mapping[str, list[RunResult]]:
    found: dict[str, list[RunResult]] = defaultdict(list)
    for run in runs:
        found[run.name].append(run)
    return found


def _change(name: str, before: RunResult, now: RunResult) -> Change:
    return Change(
        name,
        before.ended,
        now.ended,
        worst(d.downtime_ms for d in before.devices),
        worst(d.downtime_ms for d in now.devices),
        worst(d.rollback_ms for d in before.devices),
        worst(d.rollback_ms for d in now.devices),
    )
