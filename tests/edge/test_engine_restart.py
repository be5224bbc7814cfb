"""An engine that restarts takes its time, and is left alone meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

from reference.core.errors import EngineError, Reason
from reference.core.job import JobStatus
from reference.core.update import UpdateRecord
from tests.edge.bench import LIMITS, benched, command, image, installed


async def test_an_engine_that_restarts_for_long_is_let_to(tmp_path: Path) -> None:
    """It cannot be looked at meanwhile; and its marker, which is written first, must not end it half-way."""
    async with benched(tmp_path) as bench:
        bench.runtime.install(image(1), 1)
        bench.runtime.fail["start"] = [EngineError("the port is taken", reason=Reason.START_REFUSED)]
        gate = bench.runtime.hold["restart_engine"] = asyncio.Event()
        bench.start(UpdateRecord("epoch", floor=1, current=installed(1)))
        bench.order(command(2))
        await bench.until(lambda: "restart_engine" in bench.runtime.calls)
        away = bench.runtime.fail["observe"] = [EngineError("no answer") for _ in range(9)]
        await asyncio.sleep(LIMITS.watch_ms * 4 / 1000)  # several turns of the loop
        assert len(away) == 9
        bench.runtime.fail["observe"] = []
        gate.set()
        await bench.until(lambda: bool(bench.agent.memory.finished))
        assert bench.agent.memory.finished[-1].status is JobStatus.SUCCEEDED
        assert bench.runtime.calls.count("restart_engine") == 1
        assert bench.runtime.cancelled == []
