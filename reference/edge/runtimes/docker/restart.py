"""A restart of the engine, by whatever this device restarts it with."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from reference.core.errors import EngineError
from reference.edge.runtimes.docker.engine import Engine

if TYPE_CHECKING:
    from reference.edge.settings import EngineSettings

_SYSTEMD = Path("/run/systemd/system")
_POLL_S = 0.05
_SHOWN = 400


def command(settings: EngineSettings) -> list[str]:
    """What restarts the engine. Raises EngineError when nothing does."""
    if settings.restart is not None:
        return list(settings.restart)
    if _SYSTEMD.is_dir():
        return ["systemctl", "restart", "docker"]
    todo = "Say in `engine.restart` of the configuration how that is done."
    raise EngineError("nothing on this device is known to restart the engine", todo=todo)


async def restart_engine(engine: Engine, settings: EngineSettings) -> None:
    """Restart it and wait until it answers. Raises EngineError."""
    words = command(settings)
    try:
        async with asyncio.timeout(settings.restart_timeout_ms / 1000):
            await _run(words)
            engine.forget()
            while not await _answers(engine):  # noqa: ASYNC110 - nobody tells when
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        what = f"the engine does not answer {settings.restart_timeout_ms} ms after it was restarted"
        raise EngineError(what, where=words[0], todo="See its log: journalctl -u docker.") from None


async def _run(words: list[str]) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise EngineError(f"the engine cannot be restarted: {error.strerror}", where=words[0]) from error
    try:
        _, said = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    if process.returncode != 0:
        text = said.decode("utf-8", "replace").strip()[-_SHOWN:]
        what = f"the restart of the engine ended with exit code {process.returncode}: {text}"
        raise EngineError(what, where=words[0])


async def _answers(engine: Engine) -> bool:
    try:
        await engine.ask("see whether it answers", lambda api: api.ping())
    except EngineError:
        return False
    return True
