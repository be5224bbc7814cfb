"""A soak in a process of its own: `python -m chaos.soak.worker`, as chaos.worker is for a scenario.

It is told what to do by one line on its standard input, and answers with lines of JSON: {"say": ...} and
{"progress": ...}, then {"result": ..., "files": {...}}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from pathlib import Path

from pydantic import TypeAdapter

from chaos.soak.draw import Guards
from chaos.soak.play import Soak, Wanted
from reference.core.errors import BlackstartError
from reference.power.disk import private_mounts
from reference.stack import Agents
from reference.support.unwinding import unwinding


def _tell(kind: str, what: object) -> None:
    sys.stdout.write(json.dumps({kind: what}) + "\n")
    sys.stdout.flush()


def main() -> int:
    """The process's entry. Exit codes: 0 there is a result, 2 it could not be played, 128 + N ended by signal N."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    for noisy in ("httpx", "urllib3", "docker"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    job = json.loads(sys.stdin.readline())
    guards = TypeAdapter(Guards).validate_python(job["guards"])
    soak = Soak(
        Wanted(job["minutes"], job["seed"], guards), Path(job["folder"]), Agents(**job["agents"]), _tell
    )
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # Without the right to it, nothing is mounted either.
            private_mounts()
    told: list[int] = []
    try:
        result = asyncio.run(unwinding(soak.run(), told))
    except asyncio.CancelledError:
        if not told:
            raise
        return 128 + told[0]
    except BaseExceptionGroup as group:
        found = group.subgroup(BlackstartError)
        if found is None:
            raise
        return _failed(_first(found))
    except BlackstartError as error:
        return _failed(error)
    _tell("result", {"soak": json.loads(result.to_json()), "files": soak.files})
    return 0


def _failed(error: BaseException) -> int:
    assert isinstance(error, BlackstartError)
    _tell("error", {"what": error.what, "where": error.where, "todo": error.todo})
    return 2


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    sys.exit(main())
