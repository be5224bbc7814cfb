"""Connections end late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from chaos.faults._network import ToxicFault, Wanted, ms, several
from chaos.faults.base import Params, register
from chaos.scenario.quantities import Duration

if TYPE_CHECKING:
    from chaos.proxies.watch import Seen

EARLY_S = 0.002


class SlowCloseParams(Params):
    """How late."""

    delay: Annotated[Duration, Field(gt=0)]
    """How much later."""


@register
class SlowClose(ToxicFault):
    """Toxiproxy's `slow_close`, both ways."""

    name: ClassVar[str] = "slow-close"
    about: ClassVar[str] = "The end of a connection is told to the other side only so much later, both ways."
    shown_by: ClassVar[str] = "an end that took at least the delay"
    params: ClassVar[type[Params]] = SlowCloseParams
    given: SlowCloseParams

    def toxics(self) -> Sequence[Wanted]:
        return [Wanted("slow_close", {"delay": self.given.delay}, ("upstream", "downstream"))]

    def proof(self, seen: Seen) -> str:
        if not seen.ends or seen.slowest_end_s < self.given.delay / 1000 - EARLY_S:
            return ""
        return (
            f"{several(len(seen.ends), 'connection')} ended late, one of them after {ms(seen.slowest_end_s)}"
        )
