"""A registry that is there, and not able to serve."""

from __future__ import annotations

from chaos.faults._registry import AnswerFault
from chaos.faults.base import register


@register
class Unavailable(AnswerFault):
    """See `about`."""

    name = "registry-unavailable"
    about = "The registry answers 503."
    shown_by = "requests that were answered with 503"
    status = 503
    code = "UNAVAILABLE"
    message = "down for maintenance"
