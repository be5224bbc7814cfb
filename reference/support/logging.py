"""Logs for machines: one JSON object per line on standard error."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

# What every record has: whatever else it carries came in by `extra=` and is written as a field of its own.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OURS = frozenset({"at", "level", "part", "logger", "message", "error", "traceback"})


class JsonFormatter(logging.Formatter):
    """`at` (ISO 8601, UTC, milliseconds), `level`, `part`, `logger`, `message`, and the record's extra fields.

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
        for key, value in vars(record).items():
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
