"""What comes back comes in small pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from chaos.faults._network import ToxicFault, Wanted
from chaos.faults.base import Params, register
from chaos.scenario.quantities import Duration, Size

if TYPE_CHECKING:
    from chaos.proxies.watch import Seen

TOGETHER = 4
"""So many pieces may be read as one: the kernel joins what has come."""


class SlicerParams(Params):
    """How small."""

    size: Annotated[Size, Field(ge=2)]
    """Of a piece, on average."""
    delay: Annotated[Duration, Field(gt=0)] = 1
    """After each piece."""


@register
class Slicer(ToxicFault):
    """Toxiproxy's `slicer`, on the way back."""

    name: ClassVar[str] = "slicer"
    about: ClassVar[str] = "What comes back over the link comes in small pieces, with a pause after each."
    shown_by: ClassVar[str] = "an answer that came in pieces of about that size"
    params: ClassVar[type[Params]] = SlicerParams
    given: SlicerParams

    def toxics(self) -> Sequence[Wanted]:
        size, delay_us = self.given.size, self.given.delay * 1000
        return [Wanted("slicer", {"average_size": size, "size_variation": size // 2, "delay": delay_us})]

    def proof(self, seen: Seen) -> str:
        burst, size = seen.most_pieces, self.given.size
        if burst is None or burst.pieces < 2 or burst.size <= 2 * size:
            return ""
        if burst.size / burst.pieces > TOGETHER * size:
            return ""
        return f"an answer of {burst.size} bytes came in {burst.pieces} pieces; the largest of all: {seen.largest_piece}"
