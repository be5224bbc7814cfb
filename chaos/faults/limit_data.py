"""Connections end after so many bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from chaos.faults._network import Hurt, ToxicFault, Wanted, several
from chaos.faults.base import Params, register
from chaos.scenario.quantities import Size

if TYPE_CHECKING:
    from chaos.proxies.watch import Seen

ON_THEIR_WAY = 64 << 10
"""So many bytes may pass on an open connection while the toxic is put there."""
LOOK_S, LOOKS = 0.03, 10


class LimitDataParams(Params):
    """How many."""

    bytes_: Annotated[Size, Field(gt=0)]
    """That may come back on one connection, from when the fault came or it was opened."""


@register
class LimitData(ToxicFault):
    """Toxiproxy's `limit_data`, on the way back."""

    name: ClassVar[str] = "limit-data"
    about: ClassVar[str] = "Each connection is ended once so many bytes have come back on it."
    shown_by: ClassVar[str] = "connections that were ended after exactly so many bytes"
    params: ClassVar[type[Params]] = LimitDataParams
    looks_before: ClassVar[bool] = True
    given: LimitDataParams

    def toxics(self) -> Sequence[Wanted]:
        return [Wanted("limit_data", {"bytes": self.given.bytes_})]

    async def hurt(self, way: Hurt) -> None:
        """What is on its way already is let through first, where somebody stands still meanwhile."""
        for _ in range(LOOKS if way.passage.meter.open else 0):
            before = way.watch.seen().received
            await asyncio.sleep(LOOK_S)
            if way.watch.seen().received == before:
                break
        way.watch.close()
        way.watch = way.passage.watch()
        await super().hurt(way)

    def proof(self, seen: Seen) -> str:
        limit = self.given.bytes_
        # On a connection that was open, bytes may have passed just before the toxic was there.
        most = limit + ON_THEIR_WAY
        ended = [end for end in seen.ends if end.got == limit or (end.was_open and limit < end.got <= most)]
        return f"{several(len(ended), 'connection')} ended after {limit} bytes" if ended else ""
