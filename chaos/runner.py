"""One scenario, played once, in this process: bench, steady state, method, rollbacks, convergence, judgement.

play        here, on a bench of its own
play_file   the same in a process of its own (chaos/worker.py): what it mounts, starts and forgets ends with it
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from chaos.actions import act
from chaos.bench import AGENTS, Bench, Say
from chaos.checkers import Case
from chaos.faults import fault_named
from chaos.faults.base import Wants, checked
from chaos.history import Recorder
from chaos.judge import judge
from chaos.method import Player
from chaos.observers.api import ApiObserver
from chaos.observers.confirmed import Confirmed
from chaos.observers.journal import JournalObserver, write_ends
from chaos.observers.probe import LOOK_EVERY_S, PROBE_EVERY_S, ProbeObserver
from chaos.plan import as_table, plan
from chaos.result import RunResult
from chaos.scenario import Scenario
from chaos.steady import converge, steady
from chaos.verdict import Ended, overall
from reference.core.errors import BlackstartError
from reference.stack import Agents
from reference.stack.probe import ask

log = logging.getLogger("chaos")
FLOOR_S = 0.2
"""Good answers before anything happens."""
SETTLE_S = 0.3
"""And after everything has."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to play, beyond what the scenario says."""

    seed: int | None = None
    """In place of the scenario's own."""
    agents: Agents = AGENTS
    """Other modules than the usual: tests put broken ones here."""
    environment: dict[str, str] = field(default_factory=dict)
    """Of the run's process, beside ours."""
    again: int = 0
    """So often a run that could not be judged is played once more."""


def wants_of(scenario: Scenario) -> Wants:
    """What the faults of a scenario ask of the bench. Raises InputError."""
    wants = Wants()
    for use in scenario.faults:
        fault_named(use.fault).wants(use, wants)
    return wants


def check_faults(scenario: Scenario) -> None:
    """Raises InputError for a fault that is not known, or is given what it does not take."""
    for use in scenario.faults:
        checked(fault_named(use.fault), use)


async def play(
    scenario: Scenario, name: str, file: str, folder: Path, options: Options, say: Say
) -> RunResult:
    """Play it in `folder`, which holds the history afterwards. What goes wrong on the way is in the result."""
    seed = scenario.seed if options.seed is None else options.seed
    items = plan(scenario, seed)
    result = RunResult(
        name, file, scenario.title, seed, Ended.UNKNOWN, proves=scenario.proves, description=scenario.description,
        tags=list(scenario.tags), runtime=scenario.bench.runtime, plan=as_table(items), began_wall_ms=time.time() * 1000,
        machine=f"{platform.system()} {platform.release()}, Python {platform.python_version()}", version=_version(),
    )  # fmt: skip
    began = time.monotonic()
    recorder = Recorder(folder / "history.jsonl")
    recorder.record("run", "began", scenario=name, seed=seed, plan=result.plan)
    ended = began
    try:
        check_faults(scenario)
        bench = Bench(
            scenario, folder, recorder, wants_of(scenario), say, seed=seed % 2**31, agents=options.agents
        )
        async with bench:
            result.setup_ms = round((time.monotonic() - began) * 1000)
            player = Player(bench, items, bench.all_ended)
            try:
                await _play(bench, player, say)
            finally:
                result.faults = player.rows
                result.reason = "; ".join(player.undone)
                ended = time.monotonic()
        result.teardown_ms = round((time.monotonic() - ended) * 1000)
        recorder.record("run", "stopped")
    except* (BlackstartError, OSError, httpx.HTTPError) as group:
        log.exception("could not be played")
        first = _first(group)
        result.reason = f"could not be played: {first if isinstance(first, BlackstartError) else repr(first)}"
    finally:
        recorder.close()
    _judge(result, scenario, recorder)
    result.seconds = round(time.monotonic() - began, 2)
    say(result.ended.value)
    return result


def _judge(result: RunResult, scenario: Scenario, recorder: Recorder) -> None:
    case = Case(scenario, recorder.history(), tuple(result.faults), plan(scenario, result.seed))
    result.findings, result.devices = judge(case)
    verdict = overall(result.findings)
    result.ended = Ended.UNKNOWN if result.reason else Ended(verdict.value)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _play(bench: Bench, player: Player, say: Say) -> None:
    say("looking for the steady state")
    async with watched(bench) as observers:
        if not await steady(bench):
            bench.recorder.record("run", "method-ends", why="not-begun", problems=[])
            return
        await asyncio.sleep(FLOOR_S)
        say("playing")
        try:
            await player.play(bench.scenario.time_limit / 1000)
        finally:
            await to_its_end(_undo(bench, player))
        say("waiting for rest")
        await converge(bench)
        await asyncio.sleep(SETTLE_S)
        await player.prove_all()
        say("judging")
        await observers.end()


async def _undo(bench: Bench, player: Player) -> None:
    """End every fault, then what the scenario asks for; what of it cannot be done makes the run unknown."""
    await player.heal_all()
    for item in bench.scenario.rollbacks:
        try:
            await act(bench, item)
        except (BlackstartError, OSError, httpx.HTTPError) as error:
            player.undone.append(f"rollbacks: {item.action}: {error}")


async def to_its_end(work: Coroutine[None, None, None]) -> None:
    """Also when we are cancelled meanwhile: then it is waited for, and the cancel goes on."""
    task, canceled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            canceled = True
            if task.cancelled():
                break
    if canceled:
        raise asyncio.CancelledError
    task.result()


class Observers:
    """All that look on while a method is played."""

    def __init__(
        self, bench: Bench, probe_every_s: float = PROBE_EVERY_S, look_every_s: float = LOOK_EVERY_S
    ) -> None:
        self._bench = bench
        self.api = ApiObserver(bench.recorder, bench.polled, bench.jobs)
        self.journal = JournalObserver(bench.recorder, bench.devices)
        self.confirmed = Confirmed(bench)
        self._deaf: Callable[[], None] = lambda: None
        self.probes = [
            ProbeObserver(
                bench.recorder,
                d.client_id,
                d.client_port,
                d.box,
                self.confirmed.kept(d),
                probe_every_s,
                look_every_s,
            )
            for d in bench.devices
        ]
        self._ended = False

    def start(self) -> None:
        """Begin to watch."""
        self._bench.api_observer = self.api
        self.confirmed.begin(self._bench.scenario.bench.begins)
        self._deaf = self.confirmed.start()
        self.api.start()
        self.journal.start()
        for probe in self.probes:
            probe.start()

    async def end(self) -> None:
        """Stop the agents, which must leave the clients alone, and write what is left. Again is success."""
        if self._ended:
            return
        self._ended = True
        await self.api.stop()
        await self.journal.stop()
        bench = self._bench
        for device in bench.devices:
            if device.agent is not None and device.agent.alive:
                await device.agent.stop()
        for probe in self.probes:
            await asyncio.to_thread(probe.stop)
        self._deaf()
        for device in bench.devices:
            answer = await asyncio.to_thread(ask, device.client_port)
            await write_ends(bench.recorder, device, answer.good)


@contextlib.asynccontextmanager
async def watched(bench: Bench) -> AsyncIterator[Observers]:
    """While it lasts everything is watched."""
    observers = Observers(bench)
    observers.start()
    try:
        yield observers
    finally:
        await observers.end()


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("blackstart")
    except PackageNotFoundError:
        return "not installed"
