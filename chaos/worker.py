"""One scenario in a process of its own: `python -m chaos.worker`, told what to do by one line on its standard input.

A process of its own, because what it mounts is its own and ends with it, because runs side by side then use all
processors, and because one that is stuck can be ended. It answers with lines of JSON: {"say": ...}, then {"result": ...}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from pathlib import Path

from chaos.load import load
from chaos.needs import why_skipped
from chaos.result import RunResult
from chaos.runner import Options, check_faults, play, wants_of
from chaos.verdict import Ended
from reference.core.errors import BlackstartError
from reference.power.disk import private_mounts
from reference.stack import Agents
from reference.support.unwinding import unwinding


def _tell(kind: str, what: object) -> None:
    with contextlib.suppress(OSError):  # Nobody listens any more: what is in force is healed all the same.
        sys.stdout.write(json.dumps({kind: what}) + "\n")
        sys.stdout.flush()


def main() -> int:
    """The process's entry. Exit codes: 0 there is a result, 2 the scenario is wrong, 128 + N ended by signal N."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    for noisy in ("httpx", "urllib3", "docker"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    job = json.loads(sys.stdin.readline())
    path, folder = Path(job["file"]), Path(job["folder"])
    try:
        scenario = load(path)
        check_faults(scenario)
        if reason := why_skipped(scenario):
            skipped = RunResult(
                path.stem, str(path), scenario.title, scenario.seed, Ended.SKIPPED, reason, scenario.proves
            )
            _tell("result", json.loads(skipped.to_json()))
            return 0
        if wants_of(scenario).disk_bytes or os.geteuid() == 0:
            with contextlib.suppress(OSError):  # Without the right to it, nothing is mounted either.
                private_mounts()
        options = Options(job.get("seed"), Agents(**job["agents"]))
        told: list[int] = []
        running = play(scenario, path.stem, str(path), folder, options, lambda what: _tell("say", what))
        try:
            result = asyncio.run(unwinding(running, told))
        except asyncio.CancelledError:
            if not told:
                raise
            return 128 + told[0]
        _tell("result", json.loads(result.to_json()))
    except BlackstartError as error:
        _tell("error", {"what": error.what, "where": error.where, "todo": error.todo})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
