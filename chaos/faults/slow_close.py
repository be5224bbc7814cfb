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

PART = 0.5
"""Of the delay. Both sides may end at nearly the same time: then less than all of it lies after the client's end."""


class SlowCloseParams(Params):
    """How late."""

    delay: Annotated[Duration, Field(ge=100)]
    """How much later, at least 100ms."""


@register
class SlowClose(ToxicFault):
    """Toxiproxy's `slow_close`, both ways."""

    name: ClassVar[str] = "slow-close"
    about: ClassVar[str] = "The end of a connection is told to the other side only so much later, both ways."
    shown_by: ClassVar[str] = (
        "a client that had ended, and whose end was answered only after half of the delay or more"
    )
    params: ClassVar[type[Params]] = SlowCloseParams
    given: SlowCloseParams

    def toxics(self) -> Sequence[Wanted]:
        return [Wanted("slow_close", {"delay": self.given.delay}, ("upstream", "downstream"))]

    def proof(self, seen: Seen) -> str:
        if not seen.client_ends or seen.slowest_end_s < self.given.delay / 1000 * PART:
            return ""
        return (
            f"{several(seen.client_ends, 'connection')} that the client had ended ended late, "
            f"one of them after {ms(seen.slowest_end_s)}"
        )
