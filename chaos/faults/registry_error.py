"""A registry with an error of its own."""

from __future__ import annotations

from chaos.faults._registry import AnswerFault
from chaos.faults.base import register


@register
class InternalError(AnswerFault):
    """See `about`."""

    name = "registry-error"
    about = "The registry answers 500."
    shown_by = "requests that were answered with 500"
    status = 500
    code = "UNKNOWN"
    message = "internal error"
