"""What comes back comes slowly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from chaos.faults._network import ToxicFault, Wanted
from chaos.faults.base import Params, register
from chaos.scenario.quantities import Size

if TYPE_CHECKING:
    from chaos.proxies.watch import Seen

KB = 1_000
"""Toxiproxy counts in these, a second."""
FASTEST = 50 << 20
"""Above this a link of this machine is no faster without it."""
LOW, HIGH = 0.2, 1.3
"""A rate within these of the one that was set was held by it: a busy machine makes it lower, nothing makes it higher."""


class BandwidthParams(Params):
    """How slowly."""

    rate: Annotated[Size, Field(ge=KB, le=FASTEST)]
    """Bytes a second on each connection, from 1000B to 50MiB; whole thousands count."""


@register
class Bandwidth(ToxicFault):
    """Toxiproxy's `bandwidth`, on the way back."""

    name: ClassVar[str] = "bandwidth"
    about: ClassVar[str] = "What comes back over the link comes at this rate, on each connection."
    shown_by: ClassVar[str] = "an answer that came at the rate, not faster"
    params: ClassVar[type[Params]] = BandwidthParams
    given: BandwidthParams

    @property
    def rate(self) -> int:
        """Thousands of bytes a second."""
        return self.given.rate // KB

    def toxics(self) -> Sequence[Wanted]:
        return [Wanted("bandwidth", {"rate": self.rate})]

    def proof(self, seen: Seen) -> str:
        if seen.fastest is None:
            return ""
        per_s = seen.fastest.size / seen.fastest.seconds
        if not LOW <= per_s / (self.rate * KB) <= HIGH:
            return ""
        return (
            f"{seen.received} bytes came, at most {per_s / KB:.1f} kB/s: "
            f"{seen.fastest.size} bytes in {seen.fastest.seconds:.2f} s"
        )
