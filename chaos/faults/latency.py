"""Everything that comes back takes longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, model_validator

from chaos.faults._network import ToxicFault, Wanted, ms, several
from chaos.faults.base import Params, register
from chaos.scenario.quantities import Duration

if TYPE_CHECKING:
    from chaos.proxies.watch import Seen

LEAST_MS = 20
"""A busy machine takes nearly as long without it."""
EARLY_S = 0.002
"""So much earlier than told something may seem to come: rounding, and bytes on their way."""


class LatencyParams(Params):
    """How long."""

    latency: Annotated[Duration, Field(ge=LEAST_MS)]
    """So much later, at least 20ms."""
    jitter: Duration = 0
    """More or less; at least 20ms of the latency are left."""

    @model_validator(mode="after")
    def _left(self) -> Self:
        if self.latency - self.jitter < LEAST_MS:
            raise ValueError(f"latency without jitter has to be at least {LEAST_MS} ms: less nobody can show")
        return self


@register
class Latency(ToxicFault):
    """Toxiproxy's `latency`, on the way back."""

    name: ClassVar[str] = "latency"
    about: ClassVar[str] = "What comes back over the link comes so much later."
    shown_by: ClassVar[str] = "an answer that took at least the latency"
    params: ClassVar[type[Params]] = LatencyParams
    given: LatencyParams

    def toxics(self) -> Sequence[Wanted]:
        return [Wanted("latency", {"latency": self.given.latency, "jitter": self.given.jitter})]

    def proof(self, seen: Seen) -> str:
        least = (self.given.latency - self.given.jitter) / 1000
        if not seen.exchanges or seen.slowest_s < least - EARLY_S:
            return ""
        return (
            f"{several(seen.exchanges, 'answer')} ({seen.received} bytes) took from {ms(seen.quickest_s)} to "
            f"{ms(seen.slowest_s)}"
        )
