"""A soak from outside: its worker is started and listened to; what it has found is replayed, made small and written."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from chaos.dump import dump
from chaos.lanes import end, end_of_log, play_file, spawn
from chaos.leftovers import SOAK, scratch, sweep_abandoned
from chaos.load import load
from chaos.runner import Options
from chaos.scenario import Scenario
from chaos.soak.play import Wanted
from chaos.soak.result import SoakResult
from chaos.soak.shrink import Budget, shrink
from chaos.verdict import Ended, Verdict
from reference.core.errors import InputError, ServiceError

log = logging.getLogger("chaos")
Tell = Callable[[str, object], None]
"""`say` and a text, or `progress` and a mapping: `left_s`, `round`, `updates`, `faults`, `violations`."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is spent on making one scenario small."""

    tries: int = 30
    seconds: float = 420.0
    again: int = 3
    """So often the whole is replayed, until it fails: some things need luck."""


async def soak(
    wanted: Wanted,
    options: Options,
    tell: Tell,
    folder: Path | None = None,
    bounds: Bounds = Bounds(),
) -> SoakResult:
    """Play it. `folder`: where scenarios and histories of what was found go; None: the current one, if any is found.

    Raises InputError when something cannot be written; ServiceError when the bench does not stand, or the soak ended
    without a result.
    """
    await sweep_abandoned()
    async with scratch(SOAK) as given:
        result, files = await _played(wanted, options, tell, given)
        if result.violations:
            kept = folder if folder is not None else Path()
            await asyncio.to_thread(_keep, given, kept, result)
            result.scenarios = await _shrunk(files, kept, result, options, tell, bounds)
        return result


async def _played(
    wanted: Wanted, options: Options, tell: Tell, scratch: Path
) -> tuple[SoakResult, Mapping[str, str]]:
    job = {
        "minutes": wanted.minutes, "seed": wanted.seed, "guards": asdict(wanted.guards), "folder": str(scratch),
        "agents": asdict(options.agents),
    }  # fmt: skip
    worker_log = scratch / "soak.log"
    process = await spawn("chaos.soak.worker", job, options.environment, worker_log)
    found: Mapping[str, object] | None = None
    try:
        assert process.stdout is not None
        async for line in process.stdout:
            said = _said(line)
            for kind in ("say", "progress"):
                if kind in said:
                    tell(kind, said[kind])
            if "error" in said:
                error = dict(said["error"])
                raise ServiceError(error["what"], where=error["where"], todo=error["todo"])
            found = said.get("result", found)
        await process.wait()
    finally:
        await end(process)
    if found is None:
        tail = await asyncio.to_thread(end_of_log, worker_log)
        raise ServiceError(f"the soak ended with exit code {process.returncode} and no result: {tail}")
    files = found["files"]
    assert isinstance(files, dict)
    return SoakResult.from_json(json.dumps(found["soak"])), files


def _said(line: bytes) -> dict[str, dict[str, str]]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _keep(scratch: Path, folder: Path, result: SoakResult) -> None:
    """The history of the round, and what the agents of the devices concerned have said."""
    name = f"found-{result.seed}-{result.violations[0].round}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept = {scratch / "history.jsonl": f"{name}.history.jsonl"}
        for device in {violation.device for violation in result.violations if violation.device}:
            kept[scratch / "logs" / f"{device}.log"] = f"{name}.{device}.log"
        for source, target in kept.items():
            if source.exists():
                shutil.copyfile(source, folder / target)
    except OSError as error:
        raise _unwritten(folder, error) from None


async def _shrunk(
    files: Mapping[str, str], folder: Path, result: SoakResult, options: Options, tell: Tell, bounds: Bounds
) -> list[str]:
    """Write each scenario as it was found, and the smallest that fails alike; the names of the files."""
    written = []
    for name, text in files.items():
        path = folder / name
        await asyncio.to_thread(_write, path, text)
        written.append(str(path))
        small = await _small(path, options, tell, bounds)
        if small is None:
            result.problems.append(f"{path}: did not fail again, alone on a bench, in {bounds.again} runs")
            continue
        target = path.with_name(f"{path.stem}-small.yaml")
        await asyncio.to_thread(_write, target, dump(small))
        written.append(str(target))
    return written


async def _small(path: Path, options: Options, tell: Tell, bounds: Bounds) -> Scenario | None:
    """The smallest scenario that fails; None when the whole does not fail again."""
    scenario = load(path)
    for count in range(bounds.again):
        tell("say", f"{path.name}: replayed ({count + 1} of {bounds.again})")
        if checkers := await _failing(scenario, path.stem, options):
            break
    else:
        return None
    budget = Budget(bounds.tries, bounds.seconds)

    async def fails(candidate: Scenario) -> bool:
        tell("say", f"{path.name}: {len(candidate.method)} items, try {budget.used} of {budget.tries}")
        return bool(checkers & await _failing(candidate, path.stem, options))

    return await shrink(scenario, fails, budget)


async def _failing(scenario: Scenario, name: str, options: Options) -> set[str]:
    """Names of the checkers that a replay fails; empty when it does not fail."""
    with tempfile.TemporaryDirectory(prefix="blackstart-shrink-") as folder:
        path = Path(folder) / f"{name}.yaml"
        await asyncio.to_thread(_write, path, dump(scenario))
        played = await play_file(path, options)
    if played.ended is not Ended.FAIL:
        log.info("%s: %s %s", name, played.ended.value, played.reason)
        return set()
    return {finding.checker for finding in played.findings if finding.verdict is Verdict.FAIL}


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot be written: {error.strerror}", where=str(path), todo="Give --report another folder."
    )
