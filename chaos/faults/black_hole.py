"""Connections stay, and nothing passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from chaos.faults._network import ToxicFault, Wanted
from chaos.faults.base import register

if TYPE_CHECKING:
    from chaos.proxies.watch import Seen

SILENCE_S = 0.5
SHARE = 0.8
"""Of the time that it has been in force: what was on its way when it came may arrive."""


@register
class BlackHole(ToxicFault):
    """Toxiproxy's `timeout` without an end, both ways. Healing it ends the connections that were in it."""

    name: ClassVar[str] = "black-hole"
    about: ClassVar[str] = "Connections stay open, new ones too, but not one byte passes either way."
    shown_by: ClassVar[str] = (
        "bytes that were sent, and nothing that came back on any connection for half a second or more"
    )

    def toxics(self) -> Sequence[Wanted]:
        return [Wanted("timeout", {"timeout": 0}, ("upstream", "downstream"))]

    def proof(self, seen: Seen) -> str:
        """What is acknowledged by nobody is on its way on every link: only a silence of all shows a hole."""
        silence_s = seen.until - max(seen.began, seen.last_received or 0.0)
        if not seen.unanswered or silence_s < max(SILENCE_S, SHARE * (seen.until - seen.began)):
            return ""
        return f"{seen.unanswered} bytes were sent, and nothing came back for {silence_s:.2f} s"
