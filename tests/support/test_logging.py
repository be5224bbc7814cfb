from __future__ import annotations

import json
import subprocess
import sys

from reference.support.processes import ROOT

SCRIPT = """
import logging
from reference.support.logging import configure
configure("edge", "DEBUG")
ours, theirs = logging.getLogger("reference.x"), logging.getLogger("library")
ours.debug("hello %s", "wörld", extra={"job_id": "j1", "odd": {1}, "part": "mine"})
theirs.info("chatter")
try:
    1 / 0
except ZeroDivisionError:
    ours.exception("two\\nlines")
    theirs.exception("theirs")
"""


def test_one_object_a_line_with_extras_and_errors() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    first, second, third = (json.loads(line) for line in done.stderr.splitlines())
    assert first.pop("at").endswith("Z")
    assert first == {
        "level": "debug",
        "part": "edge",
        "logger": "reference.x",
        "message": "hello wörld",
        "job_id": "j1",
        "odd": "{1}",
        "part_": "mine",
    }
    assert second["error"] == third["error"] == "ZeroDivisionError: division by zero"
    assert "Traceback" in second["traceback"]
    assert "traceback" not in third
