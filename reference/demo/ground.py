"""What the stories are played on: each gets a box for its device, and an engine where its runtime needs one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, Self

from reference.core.errors import BlackstartError, InputError
from reference.demo.story import Story
from reference.engine import Engine, PrivateEngine, why_not
from reference.engine.places import Places
from reference.stack.box import BoxMaker, ProcessBox
from reference.stack.docker_box import DockerBox

log = logging.getLogger("reference.demo")
OWN_ENGINES = 2
"""Engines that are there to be hurt, one story at a time on each."""
NOT_OURS = "it would stop or kill the engine that was given, which is not the demo's"


class Ground(Protocol):
    """One runtime's. Open it before the first story, close it after the last."""

    runtime: str
    lanes: int
    """So many stories at once, where they do not disturb each other."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    def why_not(self, story: Story) -> str:
        """Why the story cannot be played here; empty when it can."""

    def box_for(self, story: Story, /) -> contextlib.AbstractAsyncContextManager[BoxMaker]:
        """Room for one device, for as long as the story is played. Raises EngineError."""


class ProcessGround:
    """The embedded runtime needs nothing."""

    runtime = "process"
    lanes = 3

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def why_not(self, story: Story) -> str:
        """See the protocol."""
        return story.not_on.get(self.runtime, "")

    @contextlib.asynccontextmanager
    async def box_for(self, _: Story, /) -> AsyncIterator[BoxMaker]:
        """See the protocol."""
        yield ProcessBox


class DockerGround:
    """Engines of our own in `folder`: one for all, and a few to be hurt. Or one that runs already, at `given`."""

    runtime = "docker"
    lanes = 3

    def __init__(self, folder: Path, stories: Sequence[Story], given: str | None = None) -> None:
        """Raises InputError when there can be no engine here, or `given` is no address of one."""
        self._folder = folder
        self._given = given
        self._shared = PrivateEngine(folder / "shared") if given is None else Engine(_socket(given))
        self._wanted = any(not s.hurts_engine and not self.why_not(s) for s in stories)
        self._free: asyncio.Queue[Path] = asyncio.Queue()
        for number in range(OWN_ENGINES):
            self._free.put_nowait(folder / f"own{number}")
        if given is None and (reason := why_not()):
            raise InputError(
                f"no engine of our own can run: {reason}",
                where="--runtime docker",
                todo="Install Docker Engine (Debian: apt-get install docker.io iptables), and run this as root.",
            )

    async def __aenter__(self) -> Self:
        if self._wanted and isinstance(self._shared, PrivateEngine):
            await asyncio.to_thread(self._shared.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._wanted and isinstance(self._shared, PrivateEngine):
            await asyncio.to_thread(_stop, self._shared)
            shutil.rmtree(self._shared.data_root, ignore_errors=True)
        while not self._free.empty():  # Images of theirs prove nothing; their logs stay.
            shutil.rmtree(Places.of(self._free.get_nowait()).data, ignore_errors=True)

    def why_not(self, story: Story) -> str:
        """See the protocol."""
        if story.hurts_engine and self._given is not None:
            return NOT_OURS
        return story.not_on.get(self.runtime, "")

    @contextlib.asynccontextmanager
    async def box_for(self, story: Story, /) -> AsyncIterator[BoxMaker]:
        """See the protocol. An engine that is there to be hurt is started anew for each story."""
        if not story.hurts_engine:
            yield partial(DockerBox, engine=self._shared, network=story.network)
            return
        folder = await self._free.get()
        engine = PrivateEngine(folder, live_restore=story.live_restore)
        try:
            await asyncio.to_thread(engine.start)
            yield partial(DockerBox, engine=engine, alone=True, network=story.network)
        finally:
            await asyncio.to_thread(_stop, engine)
            self._free.put_nowait(folder)


def _stop(engine: PrivateEngine) -> None:
    """Take it down; one that cannot be is told, and is no reason to lose the verdicts."""
    for last in (False, True):
        try:
            engine.stop()
        except BlackstartError as error:
            if last:
                log.error("an engine could not be taken down: %s", error)
        else:
            return


def _socket(given: str) -> Path:
    if not given.startswith("unix:///"):
        raise InputError(f"{given!r} is no unix socket", where="--engine", todo="Give unix:///PATH.")
    return Path(given.removeprefix("unix://"))
