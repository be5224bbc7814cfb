"""A registry that refuses an image to a device that may have it."""

from __future__ import annotations

from chaos.faults._registry import AnswerFault
from chaos.faults.base import register


@register
class Forbidden(AnswerFault):
    """See `about`."""

    name = "registry-forbidden"
    about = "The registry refuses the image to the device: 403."
    shown_by = "requests that were answered with 403"
    status = 403
    code = "DENIED"
    message = "requested access to the resource is denied"
