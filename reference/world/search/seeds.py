"""Many seeds, one after the other; one that fails is shrunk, and written down so that it can be played again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reference.core.errors import InputError
from reference.core.invariants import Violation
from reference.world.search.faults import Chance, Fault, draw, from_json
from reference.world.search.ground import Say
from reference.world.search.rules import Sides
from reference.world.search.run import Result, Run
from reference.world.search.shrink import ddmin
from reference.world.search.world import World

FORMAT = "blackstart crash search 1"
"""In every file, so that a foreign one is told apart."""
Stream = Callable[[int], Chance]
"""A seeded stream for a seed: `lambda seed: random.Random(seed).random`."""


@dataclass(frozen=True, slots=True)
class Case:
    """A list of faults, and what it broke."""

    seed: int
    faults: tuple[Fault, ...]
    violations: tuple[Violation, ...]

    def to_json(self) -> dict[str, object]:
        """As it is written to a file."""
        return {
            "format": FORMAT,
            "seed": self.seed,
            "faults": [f.to_json() for f in self.faults],
            "violations": [{"invariant": v.invariant, "detail": v.detail} for v in self.violations],
        }


def case_from_json(value: object, where: str) -> Case:
    """A case as it was written. Raises InputError."""
    if not isinstance(value, Mapping) or value.get("format") != FORMAT:
        raise InputError(
            f"is no file of this search: its format is not {FORMAT!r}", where=where,
            todo="Files to replay are written by `blackstart crash search`.",
        )  # fmt: skip
    seed, told = value.get("seed"), value.get("violations")
    if not isinstance(seed, int) or isinstance(seed, bool) or not isinstance(told, list):
        raise InputError("its seed has to be a number, and its violations a list", where=where)
    violations = []
    for entry in told:
        if not isinstance(entry, Mapping) or not all(
            isinstance(entry.get(key), str) for key in ("invariant", "detail")
        ):
            raise InputError("a violation needs an invariant and a detail", where=where)
        violations.append(Violation(entry["invariant"], entry["detail"]))
    return Case(seed, from_json(value.get("faults"), where), tuple(violations))


class Search:
    """Plays seeds. What one has worked out is known for the next; what comes of a seed does not depend on that."""

    def __init__(self, stream: Stream, sides: Sides | None = None) -> None:
        self._stream, self._sides = stream, sides
        self._world = World(sides)

    def faults(self, seed: int) -> tuple[Fault, ...]:
        """What a seed draws."""
        return draw(self._stream(seed))

    def play(self, faults: Sequence[Fault], say: Say | None = None) -> Result:
        """A list of faults, to its end."""
        if self._world.worn:
            self._world = World(self._sides)
        return Run(self._world, faults, say).play()

    def seed(self, seed: int) -> Result:
        """All that a seed draws, to its end."""
        return self.play(self.faults(seed))

    def shrunk(self, seed: int) -> Case:
        """The fewest faults of a failing seed that break the same invariant. Raises ValueError: it does not fail."""
        faults = self.faults(seed)
        whole = self.play(faults)
        if not whole.violations:
            raise ValueError(f"seed {seed} does not fail")
        first = whole.violations[0].invariant

        def fails(some: Sequence[Fault]) -> bool:
            return any(v.invariant == first for v in self.play(some).violations)

        left = ddmin(faults, fails)
        return Case(seed, left, self.play(left).violations)
