"""One word for all that a request causes: taken from the caller when it is good, made here when not.

It goes back in the answer's header and in problems, into every log line, with the command to the device, and comes
back with the device's statuses. It is for finding things, never for deciding anything: callers may choose it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable

from reference.protocol.models import CORRELATION_PATTERN
from reference.support.logging import correlation

HEADER = "X-Correlation-ID"
_NAME = HEADER.lower().encode()
_GOOD = re.compile(CORRELATION_PATTERN.encode().removesuffix(b"$") + rb"\Z")
_TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?\Z", re.DOTALL)


def current() -> str | None:
    """The id of the request that is being answered; None outside of one."""
    return correlation.get()


def of_headers(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's `X-Correlation-ID`, else the trace id of its `traceparent` (W3C Trace Context, section 3.2), else
    a new one. A value that is not well-formed counts as none; names are in lower case, as ASGI gives them."""
    given = dict(headers)
    own = given.get(_NAME, b"")
    if _GOOD.match(own):
        return own.decode()
    trace = _TRACE.match(given.get(b"traceparent", b""))
    # All zeros is the specification's word for "invalid", and so is version ff.
    if trace and trace[1].strip(b"0") and not trace[0].startswith(b"ff"):
        return trace[1].decode()
    return uuid.uuid4().hex
