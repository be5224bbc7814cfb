"""A registry that has lost an image."""

from __future__ import annotations

from chaos.faults._registry import AnswerFault
from chaos.faults.base import register


@register
class NotFound(AnswerFault):
    """See `about`."""

    name = "registry-not-found"
    about = "The registry says that it does not have the image: 404."
    shown_by = "requests that were answered with 404"
    status = 404
    code = "MANIFEST_UNKNOWN"
    message = "manifest unknown"
