"""The model world's engine under the contract of all runtimes: what is found in the model is what a real one does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar

import pytest

from reference.core.model import ContainerState, ImageState
from tests.edge.runtimes.contract import SLEEPER, RuntimeContract, ignore, made, one
from tests.edge.runtimes.world_runtime import WorldBench


@pytest.fixture
def bench(tmp_path: Path) -> WorldBench:
    return WorldBench(tmp_path)


class TestWorldRuntime(RuntimeContract):
    """The contract, less what a model without processes and files has nothing of."""

    cannot: ClassVar = {
        "test_mounts_and_environment_are_kept": "the model's containers have no mounts and no environment",
        "test_a_restart_policy_that_nobody_knows_is_refused": "the model takes every word for a policy",
        "test_mounts_and_environment_arrive": "the model's programs cannot be asked what they see",
        "test_configuration_is_the_same_for_the_same_mounts_and_environment": "the model has one configuration",
        "test_what_ignores_sigterm_is_killed_after_its_grace": "a stop in the model takes no time, and is heeded",
        "test_a_cancelled_stop_is_continued": "the same; test_an_act_that_is_cancelled_at_any_atom has the model's",
    }


# ---- the model's own


@pytest.mark.parametrize("atoms", range(4))
async def test_an_act_that_is_cancelled_at_any_atom_is_continued(bench: WorldBench, atoms: int) -> None:
    """A step is repeated, and goes on from where the last one has got."""
    image, device = bench.publish(SLEEPER), bench.device
    acts: list[tuple[Callable[[], Awaitable[object]], Callable[[], bool]]] = [
        (
            lambda: bench.runtime.pull(image, ignore),
            lambda: device.engine.images == {image.digest: ImageState.PRESENT},
        ),
        (lambda: made(bench), lambda: [c.id for c in device.engine.containers] == ["c1"]),
        (lambda: bench.runtime.start("c1"), lambda: device.engine.containers[0].running),
        (lambda: bench.runtime.stop("c1", 0), lambda: not device.engine.containers[0].running),
    ]
    for act, done in acts:
        task = asyncio.ensure_future(act())
        for _ in range(atoms):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await act()
        assert done()
    assert (await one(bench.runtime)).state is ContainerState.EXITED
