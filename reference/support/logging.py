"""Logs for machines: one JSON object per line on standard error.

What one request, one message or one job causes is found by one word: set `correlation` where work begins, and every
line that is logged in that context carries it.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

# What every record has: whatever else it carries came in by `extra=` and is written as a field of its own.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OURS = frozenset({"at", "level", "part", "logger", "message", "error", "traceback"})

correlation: ContextVar[str | None] = ContextVar("correlation", default=None)
"""The id under which the work of this context is followed from the API to the device and back. None: there is none."""


@contextmanager
def correlated(correlation_id: str | None) -> Iterator[None]:
    """Within it every log line carries the id, and what is begun there inherits it."""
    token = correlation.set(correlation_id)
    try:
        yield
    finally:
        correlation.reset(token)


class JsonFormatter(logging.Formatter):
    """`at` (ISO 8601, UTC, milliseconds), `level`, `part`, `logger`, `message`, and the record's extra fields.

    `correlation` is the context's, unless the record says its own (`extra={"correlation": ...}`).

    An exception adds `error`, and `traceback` where it comes from our own code: libraries log theirs for bad
    input too, which is nothing to debug.
    """

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """One line; never raises, whatever the extra fields hold."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "at": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "part": self._part,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (context := correlation.get()) is not None:
            line["correlation"] = context
        for key, value in vars(record).items():
            if key == "correlation" and value is None:
                continue
            if key not in _STANDARD:
                line[f"{key}_" if key in _OURS else key] = value
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = "".join(traceback.format_exception_only(record.exc_info[1])).strip()
            if record.name.startswith(("reference", "__main__")):
                line["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(part: str, level: int | str = logging.INFO) -> None:
    """Send every log of this process to standard error as JSON, named as coming from `part`.

    `level` is for our own code; libraries speak from `warning` on. Replaces what was configured before.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(part))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("reference").setLevel(level)
    logging.captureWarnings(capture=True)
