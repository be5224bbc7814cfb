"""A run: versions built and pushed, lanes started, cuts played, everything taken down again whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from reference.core.errors import BlackstartError, DeviceError, InputError, Reason
from reference.core.model import Outcome, Phase
from reference.power.bench import DOCKER, PROCESS, Bench
from reference.power.disk import loops_of, require
from reference.power.ends import End, Maps, legal
from reference.power.engine import NETWORKS, require_engine
from reference.power.judge import Kind
from reference.power.plan import Cut, plan
from reference.power.stories import OLD, STORIES
from reference.power.versions import push_all
from reference.protocol.envelope import generate_key, write_private_key
from reference.support.processes import ROOT, ends_with_us, start_module, tail

DEVICE = "reference.power.device:boot"
LANES = 2
"""Devices side by side."""
ENOUGH = 60
"""From so many cuts on a phase that no cut has landed in is a finding."""
MEASURED_EACH = 25
"""After so many cuts of a story its length is measured again: the machine may have become slower."""
_STOP_S = 15.0

Play = tuple[str, str]
"""A story, and the network that the client is on."""
Say = Callable[[str, str], None]
"""Told of progress: what it is about, and a word on it."""


@dataclass(slots=True)
class Report:
    """What all cuts have come to."""

    cuts: int
    seed: int
    at_random: int
    landed: Counter[str] = field(default_factory=Counter)
    """By the phase in the journal after the cut; where that cannot be read, the last one that was seen."""
    counts: Counter[str] = field(default_factory=Counter)
    """Cuts with a problem of that kind, and `old_healthy` and `new_healthy`."""
    problems: list[dict[str, object]] = field(default_factory=list)
    seconds: float = 0.0
    """Spent on the cuts, without what is done once before and after them."""
    before_s: float = 0.0
    """Spent before the first cut: versions built and pushed, installed, each story measured."""

    def add(self, found: dict[str, object], maps: Maps) -> bool:
        """Count one finding of a lane; answers whether it is a good one."""
        story, kinds = str(found["story"]), set()
        self.landed[str(found["landed"])] += 1
        if found["healthy"] is not None:
            self.counts["old_healthy" if found["healthy"] == OLD else "new_healthy"] += 1
        details = found["problems"]
        assert isinstance(details, list), "a lane answers a list of problems"
        end = _end(found["end"])
        if not maps(story, end):
            details.append([Kind.UNMAPPED.value, f"no legal end: {_words(end)}"])
        for kind, detail in details:
            kinds.add(kind)
            about = {"number": found["number"], "story": story, "landed": found["landed"]}
            about |= {"network": found["network"]} if found.get("network") else {}
            self.problems.append({**about, "kind": kind, "detail": detail})
        self.counts.update(kinds)
        return not kinds

    @property
    def missed(self) -> list[str]:
        """Phases that no cut has landed in, when there were enough of them."""
        return [p.value for p in Phase if not self.landed[p.value]] if self.cuts >= ENOUGH else []

    def by_phase(self) -> dict[str, int]:
        """Cuts by the phase that they landed in, in the order of an update."""
        return {phase.value: self.landed[phase.value] for phase in Phase}

    def exit_code(self) -> int:
        """0: nothing was lost and every phase was landed in; 1: something was, or one was not."""
        return 1 if self.missed or any(self.counts[kind] for kind in Kind) else 0

    def to_json(self) -> dict[str, object]:
        """The report as one document."""
        healthy = {name: self.counts[name] for name in ("old_healthy", "new_healthy")}
        return {
            "cuts": self.cuts,
            "landed": self.by_phase(),
            **healthy,
            **{kind.value: self.counts[kind.value] for kind in Kind},
            "seed": self.seed,
            "at_random": self.at_random,
            "seconds": round(self.seconds, 1),
            "before_s": round(self.before_s, 1),
            "cuts_per_hour": round(self.cuts * 3600 / self.seconds) if self.seconds else 0,
            "missed": self.missed,
            "problems": self.problems,
        }


def _end(found: object) -> End:
    assert isinstance(found, dict), "a lane answers where it ended"
    outcome, reason = found["outcome"], found["reason"]
    return End(
        Outcome(outcome) if outcome is not None else None,
        Reason(reason) if reason is not None else None,
        found["runs"],
        found["current"],
        found["previous"],
    )


def _words(end: End) -> str:
    outcome = end.outcome.value if end.outcome is not None else "no outcome"
    reason = end.reason.value if end.reason is not None else "no reason"
    return f"{outcome}, {reason}; runs {end.runs}, current {end.current}, previous {end.previous}"


def planned(cuts: int, seed: int, runtime: str) -> list[Cut]:
    """The cuts of a seed that fit the runtime."""
    return plan(cuts, seed, networks=NETWORKS, engine=True) if runtime == DOCKER else plan(cuts, seed)


async def run_cuts(
    cuts: int,
    seed: int,
    *,
    maps: Maps = legal,
    say: Say = lambda *_: None,
    chosen: Sequence[Cut] | None = None,
    runtime: str = PROCESS,
    device: str = DEVICE,
    lanes: int = LANES,
    keep: Path | None = None,
) -> Report:
    """Play `cuts` of a seed, or those that are `chosen`, and judge each of them. May be cancelled at any time.

    `runtime`: what the client runs on, `process` or `docker`. `device`: MODULE:FUNCTION of what boots. `keep`: a new
    folder for logs, journals and images; without it all goes.
    Raises InputError where power cannot be cut, DeviceError when a story fails without any cut.
    """
    if cuts < 1:
        raise InputError(f"{cuts} cuts are none", where="--cuts", todo="Give a number of 1 or more.")
    require()
    if runtime == DOCKER:
        require_engine()
    wanted = list(chosen) if chosen is not None else planned(cuts, seed, runtime)
    report = Report(len(wanted), seed, sum(one.phase is None for one in wanted))
    begun = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="blackstart-cut-")) if keep is None else keep
    folder.mkdir(parents=True, exist_ok=True)
    try:
        plays = list(dict.fromkeys((one.story, one.network) for one in wanted))
        stories = [STORIES[name] for name in dict.fromkeys(one.story for one in wanted)]
        async with (
            _registry(folder) as host,
            _lanes(folder, min(lanes, len(wanted)), device) as running,
        ):
            say("versions", "build and push")
            pushed = await asyncio.to_thread(push_all, folder, host, stories, with_base=runtime == DOCKER)
            bench = Bench(str(folder), host, pushed.digests, pushed.files, pushed.layers, runtime)
            write_private_key(generate_key(), bench.key)
            bench.save()
            say("device", "install the old version")
            for network in dict.fromkeys(network for _, network in plays):
                await running[0].ask({"do": "install", "network": network})
            lengths = await _measured(running, plays, maps, say)
            begin = time.monotonic()
            report.before_s = begin - begun
            await _played(running, wanted, lengths, report, maps, say)
            report.seconds = time.monotonic() - begin
    finally:
        await asyncio.shield(asyncio.to_thread(_clear, folder, keep is None))
    return report


async def _measured(running: list[_Lane], plays: Sequence[Play], maps: Maps, say: Say) -> dict[Play, float]:
    """How long each story is without a cut, in seconds. Raises DeviceError when one does not end as it may even so."""
    lengths: dict[Play, float] = {}
    waiting = list(plays)

    async def work(lane: _Lane) -> None:
        while waiting:
            play = waiting.pop()
            say(" ".join(play).strip(), "measure, without a cut")
            lengths[play] = await lane.measure(play, maps)

    await _together([work(lane) for lane in running])
    return lengths


async def _played(
    running: list[_Lane], wanted: list[Cut], lengths: dict[Play, float], report: Report, maps: Maps, say: Say
) -> None:
    waiting = list(reversed(wanted))
    played: Counter[Play] = Counter()

    async def work(lane: _Lane) -> None:
        while waiting:
            one = waiting.pop()
            play = (one.story, one.network)
            played[play] += 1
            if played[play] % MEASURED_EACH == 0:
                lengths[play] = await lane.measure(play, maps)
            done = await lane.ask({"do": "cut", "cut": asdict(one), "length_s": lengths[play]})
            good = report.add(done, maps)
            say(one.story, f"cut in {done['landed']}: {'pass' if good else 'fail'}")

    await _together([work(lane) for lane in running])


async def _together(works: Sequence[Coroutine[None, None, None]]) -> None:
    """All of them; the first that fails ends the others, and its error is raised as it is."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# ---- the parts


@contextlib.asynccontextmanager
async def _registry(folder: Path) -> AsyncIterator[str]:
    """A registry outside the disks that are cut; answers its host and port."""
    arguments = ["--data", str(folder / "registry"), "--port", "0", "--no-auth"]
    process = await start_module("reference.registry", *arguments, log_path=folder / "registry.log")
    try:
        yield f"127.0.0.1:{(await process.ready())['port']}"
    finally:
        await process.stop()


class _Lane:
    """A running lane."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    async def ask(self, what: dict[str, object]) -> dict[str, object]:
        """Have it do something; its answer. Raises InputError or DeviceError, as it says, and DeviceError when it died."""
        assert self._process.stdin is not None and self._process.stdout is not None, "opened with pipes"
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            await self._process.stdin.drain()
        text = await self._process.stdout.readline()
        if not text:
            raise DeviceError(f"a lane has died; the end of its log: {tail(self._log)}", where=str(self._log))
        found: dict[str, object] = json.loads(text)
        if "error" in found:
            kind: type[BlackstartError] = InputError if found["input"] else DeviceError
            raise kind(str(found["error"]))
        return found

    async def measure(self, play: Play, maps: Maps) -> float:
        """How long a story is without a cut, in seconds. Raises DeviceError when it has no good end even so."""
        story, network = play
        answer = await self.ask({"do": "measure", "story": story, "network": network})
        if not maps(story, end := _end(answer["end"])):
            raise DeviceError(f"the story {story} has no legal end without any cut: {_words(end)}")
        return float(str(answer["length_s"]))

    async def stop(self) -> None:
        """End it; it leaves nothing mounted and nothing running, and the kernel sees to that if it cannot."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def _lanes(folder: Path, count: int, device: str) -> AsyncIterator[list[_Lane]]:
    """Lanes that are starting: each reads what was built when it is first asked for something."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    found: list[_Lane] = []
    try:
        for number in range(count):
            log = folder / f"lane-{number}.log"
            with log.open("ab") as errors:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "reference.power.lane", str(folder), str(number), device,
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
                    env={**os.environ, "PYTHONPATH": path}, start_new_session=True, preexec_fn=ends_with_us(),
                    limit=1 << 24,
                )  # fmt: skip
            found.append(_Lane(process, log))
        yield found
    finally:
        await asyncio.shield(asyncio.gather(*(lane.stop() for lane in found)))


def _clear(folder: Path, remove: bool) -> None:
    """Wait until the kernel has let go of every image, and remove what was made. Raises DeviceError."""
    end = time.monotonic() + _STOP_S
    for image in folder.glob("*.img"):
        while loops := loops_of(image):
            if time.monotonic() > end:
                raise DeviceError(f"the kernel does not let go of it: {loops}", where=str(image))
            time.sleep(0.01)
    if remove:
        shutil.rmtree(folder, ignore_errors=True)
