"""A registry that does not take credentials that are right."""

from __future__ import annotations

from chaos.faults._registry import AnswerFault
from chaos.faults.base import register


@register
class Unauthorized(AnswerFault):
    """See `about`."""

    name = "registry-unauthorized"
    about = "The registry wants other credentials, though the device's are right: 401."
    shown_by = "requests that were answered with 401"
    status = 401
    code = "UNAUTHORIZED"
    message = "authentication required"

    def fields(self) -> tuple[tuple[str, str], ...]:
        """A challenge, as every 401 has one."""
        return (("WWW-Authenticate", 'Basic realm="registry"'),)
