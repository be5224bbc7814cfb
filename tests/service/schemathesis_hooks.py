"""Loaded by schemathesis: its check of good requests, but for what no schema can promise."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

MEANING = frozenset({"query.cursor", "Idempotency-Key", "targetVersion", "csr", "proof"})
"""What can be well-formed and mean nothing: a cursor that this list never gave, a key that came with another request,
a version that nobody has registered, a certificate request that is none. The problem names it."""


@schemathesis.check
def good_requests_are_accepted(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    """Instead of `positive_data_acceptance`."""
    if response.status_code == 422 and response.json().get("where") in MEANING:
        return None
    return positive_data_acceptance(ctx, response, case)
