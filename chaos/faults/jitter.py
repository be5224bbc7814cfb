"""What comes back takes now longer, now shorter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from chaos.faults._network import ToxicFault, Wanted, ms
from chaos.faults.base import Params, register
from chaos.scenario.quantities import Duration

if TYPE_CHECKING:
    from chaos.proxies.watch import Seen

PART, LEAST_S = 10, 0.01
"""Two answers that differ by this part of the jitter, and by so much at least, are not equally long."""
SLOW_PART = 4
"""One that took this part of it was late: few answers come in a pull, and each is late by chance."""


class JitterParams(Params):
    """How much."""

    jitter: Annotated[Duration, Field(ge=50)]
    """At least 50ms. What comes back is late by up to twice this, by chance: Toxiproxy draws it, no seed of ours."""


@register
class Jitter(ToxicFault):
    """Toxiproxy's `latency` that is all jitter, on the way back."""

    name: ClassVar[str] = "jitter"
    about: ClassVar[str] = "What comes back over the link comes later, each time by another while."
    shown_by: ClassVar[str] = "answers that took longer, and not equally long"
    params: ClassVar[type[Params]] = JitterParams
    given: JitterParams

    def toxics(self) -> Sequence[Wanted]:
        return [Wanted("latency", {"latency": self.given.jitter, "jitter": self.given.jitter})]

    def proof(self, seen: Seen) -> str:
        jitter_s, apart_s = self.given.jitter / 1000, seen.slowest_s - seen.quickest_s
        if (
            seen.exchanges < 2
            or apart_s < max(jitter_s / PART, LEAST_S)
            or seen.slowest_s < jitter_s / SLOW_PART
        ):
            return ""
        return f"{seen.exchanges} answers took from {ms(seen.quickest_s)} to {ms(seen.slowest_s)}"
