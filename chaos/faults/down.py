"""The link is down."""

from __future__ import annotations

from typing import ClassVar

from chaos.faults._network import CutOff
from chaos.faults.base import register


@register
class Down(CutOff):
    """Toxiproxy's proxy is disabled."""

    name: ClassVar[str] = "down"
    about: ClassVar[str] = "Every open connection is cut, and no new one comes about."
    shown_by: ClassVar[str] = "connections that were cut or refused"
