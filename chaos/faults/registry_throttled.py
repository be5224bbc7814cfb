"""A registry that is asked too often."""

from __future__ import annotations

import math

from chaos.faults._registry import AnswerFault, AnswerParams
from chaos.faults.base import register
from chaos.scenario.quantities import Duration


class ThrottledParams(AnswerParams):
    """How it answers."""

    retry_after: Duration = 1_000
    """What `Retry-After` says; in whole seconds on the wire."""


@register
class Throttled(AnswerFault):
    """See `about`."""

    name = "registry-throttled"
    about = "The registry is asked too often, and says when to come again: 429 with Retry-After."
    shown_by = "requests that were answered with 429"
    params = ThrottledParams
    status = 429
    code = "TOOMANYREQUESTS"
    message = "too many requests"

    def fields(self) -> tuple[tuple[str, str], ...]:
        """When to come again."""
        return (("Retry-After", str(math.ceil(self.given.retry_after / 1000))),)
