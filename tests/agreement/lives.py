"""The tests' side of `forker.py`: agents that live, are killed, and live again."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from reference.support.processes import ROOT
from tests.agreement.agent import TASK
from tests.agreement.device import Task

PATIENCE_S = 120.0


class Lives:
    """Starts lives of agents and waits for their ends; several at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[int]] = {}

    async def live(self, task: Task) -> int:
        """One life: its exit code, or minus the signal that ended it."""
        assert self._process.stdin is not None
        number = next(self._numbers)
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[number] = ended
        line = {"id": number, "task": TASK.dump_python(task, mode="json")}
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        async with asyncio.timeout(PATIENCE_S):
            return await ended

    async def read(self) -> None:
        """Hear of ends, until the forker has none to tell any more."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            self._waiting.pop(said["id"]).set_result(said["status"])
        for ended in self._waiting.values():
            ended.set_exception(AssertionError("the forker is gone"))


@asynccontextmanager
async def lives(folder: Path) -> AsyncIterator[Lives]:
    """A forker of agents; what still runs of them at the end is killed."""
    with (folder / "forker.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.agreement.forker", stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=log, cwd=ROOT,
        )  # fmt: skip
    made = Lives(process)
    reading = asyncio.create_task(made.read())
    try:
        yield made
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await reading
