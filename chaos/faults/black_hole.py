"""Connections stay, and nothing passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from chaos.faults._network import ToxicFault, Wanted
from chaos.faults.base import register

if TYPE_CHECKING:
    from chaos.proxies.watch import Seen


@register
class BlackHole(ToxicFault):
    """Toxiproxy's `timeout` without an end, both ways. Healing it ends the connections that were in it."""

    name: ClassVar[str] = "black-hole"
    about: ClassVar[str] = "Connections stay open, new ones too, but not one byte passes either way."
    shown_by: ClassVar[str] = "bytes that were sent, and nothing that came back after them"

    def toxics(self) -> Sequence[Wanted]:
        return [Wanted("timeout", {"timeout": 0}, ("upstream", "downstream"))]

    def proof(self, seen: Seen) -> str:
        if not seen.unanswered:
            return ""
        return f"{seen.unanswered} bytes were sent, and nothing came back for {seen.silence_s:.2f} s"
