"""Connections are reset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from chaos.faults._network import Hurt, ToxicFault, Wanted, several
from chaos.faults.base import Params, register
from chaos.scenario.quantities import Duration

if TYPE_CHECKING:
    from chaos.proxies.watch import Seen


class ResetParams(Params):
    """How soon."""

    after: Duration = 0
    """From the first byte that comes back on a new connection to its reset; that byte is lost."""


@register
class Reset(ToxicFault):
    """Toxiproxy's `reset_peer`, which works on new connections only: those that are open are cut beside it."""

    name: ClassVar[str] = "reset"
    about: ClassVar[str] = "Every open connection is reset at once, and every new one at the first answer."
    shown_by: ClassVar[str] = "connections that were reset"
    params: ClassVar[type[Params]] = ResetParams
    looks_before: ClassVar[bool] = True
    given: ResetParams

    def toxics(self) -> Sequence[Wanted]:
        return [Wanted("reset_peer", {"timeout": self.given.after})]

    async def hurt(self, way: Hurt) -> None:
        await super().hurt(way)
        way.passage.cut()

    def proof(self, seen: Seen) -> str:
        if not seen.resets + seen.cut:
            return ""
        return f"{several(seen.resets + seen.cut, 'connection')} reset, {seen.cut} of them open before"
