"""Several scenarios, a few at a time, each in a process of its own; nothing of them is left when this ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from chaos.history import History
from chaos.leftovers import LOCK, RUN, scratch, sweep
from chaos.result import Report, RunResult
from chaos.runner import Options
from chaos.verdict import Ended
from reference.core.errors import BlackstartError, InputError
from reference.support.processes import ROOT, ends_with_us

log = logging.getLogger("chaos")
LANES = 2
"""Runs at once, where nobody says."""
END_S = 60.0
"""How long a run may take to clear up when it is told to end."""
LINE_BYTES = 64 << 20
"""A result with its plan may be long."""

Tell = Callable[[str, str], None]
"""Called with a scenario's name and what happens now."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Where things are kept."""

    report: Path | None = None
    """A folder with one for each run: history and reports."""
    bench: bool = False
    """Whether the bench's own folder (logs, journals, volumes) is kept there, too."""


async def play_all(
    paths: Sequence[Path],
    options: Options,
    tell: Tell,
    lanes: int = LANES,
    kept: Kept = Kept(),
) -> Report:
    """Play them all; the order of the report is that of their names. A cancel ends every run before it goes on.

    Raises InputError for a file that is wrong: all are looked at before the first is played.
    """
    began = time.monotonic()
    free = asyncio.Semaphore(lanes)

    async def one(path: Path) -> RunResult:
        async with free:
            folder = kept.report / path.stem if kept.report is not None else None
            try:
                return await _until_judged(
                    path, options, lambda what: tell(path.stem, what), folder, kept.bench
                )
            except OSError as error:  # A full disk is no reason to lose the others.
                log.error("%s could not be played: %s", path, error)
                return _unknown(path, options, f"it could not be played: {error}")

    tasks = [asyncio.create_task(one(path)) for path in paths]
    try:
        runs = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return Report.of(runs, time.monotonic() - began)


async def _until_judged(
    path: Path, options: Options, say: Callable[[str], None], folder: Path | None, keep_bench: bool
) -> RunResult:
    """Play it, and again while it could not be judged, as often as `options` lets us."""
    played = 1
    while True:
        result = await play_file(path, options, say, folder, keep_bench=keep_bench, played=played)
        if result.ended is not Ended.UNKNOWN or played > options.again:
            return result
        played += 1


async def play_file(
    path: Path,
    options: Options = Options(),  # noqa: B008 - it cannot be changed
    say: Callable[[str], None] = lambda _: None,
    folder: Path | None = None,
    *,
    keep_bench: bool = False,
    played: int = 1,
) -> RunResult:
    """Play one scenario in a process of its own. `folder`: where history and reports go; None: nowhere. `played`: for
    the how many-th time.

    Raises InputError for a file that is wrong. A run that ends without a result is unknown, with the end of its log;
    one whose reports cannot be written has its result all the same, and it is logged.
    """
    async with scratch(RUN) as given:
        result = await _run(path, options, say, given)
        result.played = played
        if folder is not None:
            await asyncio.to_thread(_keep, given, folder, result, keep_bench)
        return result


async def spawn(
    module: str, job: Mapping[str, object], environment: Mapping[str, str], worker_log: Path
) -> asyncio.subprocess.Process:
    """Start a worker, told what to do by one line; it ends with us. `end` ends it, `sweep` what it may have left."""
    root = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    given = {"PYTHONUNBUFFERED": "1", **os.environ, "PYTHONPATH": root, **environment}
    with worker_log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=file, env=given,
            start_new_session=True, preexec_fn=ends_with_us(), limit=LINE_BYTES,
        )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps(job).encode() + b"\n")
    return process


async def _run(path: Path, options: Options, say: Callable[[str], None], folder: Path) -> RunResult:
    job = {
        "file": str(Path.cwd() / path), "folder": str(folder), "seed": options.seed, "agents": asdict(options.agents),
    }  # fmt: skip
    worker_log = folder / "run.log"
    process = await spawn("chaos.worker", job, options.environment, worker_log)
    found: RunResult | None = None
    try:
        found = await _listen(process, say)
        await process.wait()
    finally:
        await end(process)
    if found is None:
        tail = await asyncio.to_thread(end_of_log, worker_log)
        what = f"the run ended with exit code {process.returncode} and no result"
        found = _unknown(path, options, f"{what}; the end of its log: {tail}")
    return found


def _unknown(path: Path, options: Options, reason: str) -> RunResult:
    """The result of a run that has none."""
    return RunResult(path.stem, str(path), path.stem, options.seed or 0, Ended.UNKNOWN, reason)


async def _listen(process: asyncio.subprocess.Process, say: Callable[[str], None]) -> RunResult | None:
    assert process.stdout is not None
    found = None
    async for line in process.stdout:
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if "say" in said:
                say(str(said["say"]))
            elif "error" in said:
                raise InputError(**said["error"])
            elif "result" in said:
                found = RunResult.from_json(json.dumps(said["result"]))
    return found


async def end(process: asyncio.subprocess.Process) -> None:
    """Ask it to end and clear up, and end it when it does not. A cancel waits for that, too."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    waiting = asyncio.ensure_future(process.wait())
    end = time.monotonic() + END_S
    while not waiting.done() and time.monotonic() < end:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({waiting}, timeout=1.0)
    if not waiting.done():
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await waiting


def _keep(given: Path, folder: Path, result: RunResult, keep_bench: bool) -> None:
    """Write what is to be kept of a run. What cannot be written is logged, and costs no result."""
    from chaos.load import load
    from chaos.report import write_run

    history = given / "history.jsonl"
    seen = _read(history, result)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if history.exists():
            shutil.copyfile(history, folder / "history.jsonl")
            result.folder = str(folder)
        if keep_bench:
            shutil.copytree(given, folder / "bench", dirs_exist_ok=True, symlinks=True, ignore=_no_sockets)
        write_run(result, seen, folder, load(Path(result.file)))
    except (BlackstartError, OSError, shutil.Error) as error:
        log.error("what was seen of %s cannot be kept in %s: %s", result.name, folder, error)


def _read(history: Path, result: RunResult) -> History:
    """What was seen. A result that is good on half of it is not known."""
    if not history.exists():
        return History()
    try:
        seen = History.read(history)
        wrong = "its history breaks off in the middle of a line: was the disk full?" if seen.torn else ""
    except InputError as error:
        seen, wrong = History(), f"its history cannot be read: {error}"
    if wrong:
        result.reason = "; ".join(filter(None, (result.reason, wrong)))
        result.ended = Ended.UNKNOWN if result.ended is Ended.PASS else result.ended
    return seen


def _no_sockets(folder: str, names: list[str]) -> list[str]:
    """Sockets and disk images are nothing to look at afterwards."""
    left = []
    for name in names:
        path = Path(folder, name)
        if (
            name == LOCK
            or name.endswith(".img")
            or not (path.is_file() or path.is_dir() or path.is_symlink())
        ):
            left.append(name)
    return left


def end_of_log(path: Path) -> str:
    """What a worker's log says last; empty when there is none."""
    try:
        return path.read_text("utf-8", "replace")[-1500:]
    except OSError:
        return ""


def reasons(report: Report) -> Mapping[str, list[str]]:
    """The names of what was skipped, by reason."""
    found: dict[str, list[str]] = {}
    for run in report.runs:
        if run.ended is Ended.SKIPPED:
            found.setdefault(run.reason, []).append(run.name)
    return found


__all__ = [
    "LANES", "BlackstartError", "Kept", "Tell", "end", "end_of_log", "play_all", "play_file", "reasons", "spawn", "sweep",
]  # fmt: skip
