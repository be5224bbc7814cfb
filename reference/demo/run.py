"""Plays the stories on one stack, and makes the report."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from reference.core.errors import BlackstartError, InputError, ServiceError
from reference.demo.bench import JOB_DEADLINE_S, OLD, TERMINAL, Bench, until
from reference.demo.front import FRONT, Front
from reference.demo.ground import DockerGround, Ground, ProcessGround
from reference.demo.judge import Judged, Verdict, judge, unjudged
from reference.demo.report import page
from reference.demo.stories import STORIES
from reference.demo.story import CHECK, PLAIN, Story
from reference.stack import DEFAULT_AGENTS, Agents, Device, Stack
from reference.stack.box import BoxMaker
from reference.support.files import write_durably

LIMITS = {"pull_attempts_many": 4, "backoff_first_ms": 200, "backoff_limit_ms": 2_000}
"""The bounds on the demo's devices: a registry that is down is given up in seconds, not in minutes."""

Say = Callable[[str, str], None]
"""Called with a story's name (or `set-up`) and what happens now."""


@dataclass(slots=True)
class Report:
    """What `--json` prints and `report.json` holds."""

    runtime: str = "process"
    stories: list[Judged] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, verdict: Verdict) -> int:
        """How many stories got this verdict."""
        return sum(s.verdict is verdict for s in self.stories)

    def exit_code(self) -> int:
        """1 when a story failed, else 3 when one is unknown, else 0. Skips do not fail."""
        if self.count(Verdict.FAIL):
            return 1
        return 3 if self.count(Verdict.UNKNOWN) or not self.stories else 0

    def to_json(self) -> str:
        """The report as JSON."""
        rows = [
            {
                "name": s.name,
                "outcome": s.outcome,
                "reason": s.reason,
                "downtime_ms": s.downtime_ms,
                "rollback_ms": s.rollback_ms,
                "verdict": s.verdict.value,
                "evidence": s.evidence,
            }
            for s in self.stories
        ]
        body = {
            "runtime": self.runtime,
            "stories": rows,
            "passed": self.count(Verdict.PASS),
            "failed": self.count(Verdict.FAIL),
            "unknown": self.count(Verdict.UNKNOWN),
            "skipped": self.skipped,
            "seconds": round(self.seconds, 1),
        }
        return json.dumps(body, indent=1)


def chosen(names: Sequence[str]) -> tuple[Story, ...]:
    """The stories of these names, all without names. Raises InputError for a name that is none."""
    known = {story.name: story for story in STORIES}
    for name in names:
        if name not in known:
            raise InputError(
                f"there is no story {name!r}", where="--only", todo=f"Known: {', '.join(known)}."
            )
    return tuple(known[name] for name in dict.fromkeys(names)) if names else STORIES


async def run_demo(
    stories: Sequence[Story],
    seed: int | None,
    say: Say,
    keep: Path | None = None,
    agents: Agents = DEFAULT_AGENTS,
    broker: str = "amqtt",
    runtime: str = "process",
    engine: str | None = None,
) -> Report:
    """Play and judge. `keep`: a folder for everything the parts leave behind; without it, it is removed.
    `agents`: other agents than the real ones, to show that the judge sees what is wrong.
    `engine`: address of an engine that runs already, for the Docker runtime; without it there are some of our own.

    Stories that measure, or hurt what all share, are played alone; the others a few at a time. Raises BlackstartError
    when the stack itself does not come up.
    """
    began, report, front = time.monotonic(), Report(runtime), Front()
    judged: dict[str, Judged] = {}
    with tempfile.TemporaryDirectory(prefix="blackstart-", ignore_cleanup_errors=True) as scratch:
        folder = keep or Path(scratch)
        ground = _ground(runtime, folder / "engines", stories, engine)
        playable = [s for s in stories if not ground.why_not(s)]
        report.skipped = [{"name": s.name, "reason": why} for s in stories if (why := ground.why_not(s))]
        say("set-up", "starting the parts")
        async with (
            ground,
            Stack(
                folder, seed=seed, agents=agents, broker=broker, images_on_base=runtime == "docker"
            ) as stack,
            stack.api() as api,
        ):
            try:
                await _set_up(stack, front, playable, say)
                for story in (s for s in playable if s.alone):
                    async with ground.box_for(story) as box:
                        judged[story.name] = await _play(story, stack, box, front, api, say)
                lanes = asyncio.Semaphore(ground.lanes)

                async def beside(story: Story) -> None:
                    async with ground.box_for(story) as box, lanes:
                        judged[story.name] = await _play(story, stack, box, front, api, say)

                async with asyncio.TaskGroup() as group:
                    for story in (s for s in playable if not s.alone):
                        group.create_task(beside(story))
            finally:
                await front.stop()
    report.stories = [judged[story.name] for story in playable]
    report.seconds = time.monotonic() - began
    return report


def _ground(runtime: str, folder: Path, stories: Sequence[Story], engine: str | None) -> Ground:
    if runtime == "docker":
        return DockerGround(folder, stories, engine)
    if runtime != "process":
        raise InputError(
            f"there is no runtime {runtime!r}", where="--runtime", todo="Known: process, docker."
        )
    if engine is not None:
        raise InputError(
            "the process runtime has no engine",
            where="--engine",
            todo="Add --runtime docker, or leave it out.",
        )
    return ProcessGround()


async def _play(
    story: Story, stack: Stack, box: BoxMaker, front: Front, api: httpx.AsyncClient, say: Say
) -> Judged:
    say(story.name, story.about)
    device = await stack.add_device(story.client_id, {**LIMITS, **story.limits}, story.settings, box)
    bench = Bench(stack, device, api, front, story.version, story.begins, lambda what: say(story.name, what))
    try:
        if story.begins is None:
            await stack.start_agent(device)
        else:
            bench.notes["installed_by"] = await install(stack, device, api, story.begins)
        await story.act(bench)
        judged = await judge(story, bench)
    except BlackstartError as error:
        judged = unjudged(story, bench, error)
    except httpx.HTTPError as error:
        judged = unjudged(story, bench, ServiceError(f"the service did not answer: {error!r}"))
    except TimeoutError:
        judged = unjudged(story, bench, ServiceError("the story did not come to its end in time"))
    finally:
        await stack.stop_device(device)
    say(story.name, judged.verdict.value)
    return judged


async def _set_up(stack: Stack, front: Front, stories: Sequence[Story], say: Say) -> None:
    """Registries, their front, and every version that a story needs."""
    say("set-up", "building and pushing images")
    await front.start(stack.registry().host)
    stack.add_front(FRONT, front.host)
    needed = {
        *(s.before for s in stories if s.before is not None),
        *(s.published for s in stories),
        *({PLAIN} if any(s.refused for s in stories) else ()),
    }
    down = sorted({p.registry for p in needed} - {"registry", FRONT})
    for name in down:
        await stack.start_registry(name)
    for published in sorted(needed):
        if published.lost:
            digest = f"sha256:{hashlib.sha256(published.version.encode()).hexdigest()}"
            repository = f"{stack.registry().host}/{published.repository}"
            await stack.register(published.version, repository, digest, published.health)
            continue
        await stack.publish(
            published.version,
            published.defect or None,
            published.registry,
            published.health,
            repository=published.repository,
            architecture=published.architecture or None,
            policy=published.policy,
            labels=published.labels,
            healthcheck=CHECK if published.checks_itself else None,
        )
    for name in down:
        await stack.stop_part(name)


async def install(stack: Stack, device: Device, api: httpx.AsyncClient, version: str = OLD) -> str:
    """The first install, by the same path as every update; answers the job's id."""
    await stack.start_agent(device)
    answer = await api.post(f"/api/v1/clients/{device.client_id}/update", json={"targetVersion": version})
    if answer.status_code != 202:
        raise ServiceError(f"the first install was not accepted: {answer.status_code} {answer.text}")
    job_id = str(answer.json()["jobId"])

    async def ended() -> dict[str, object] | None:
        job: dict[str, object] = (await api.get(f"/api/v1/jobs/{job_id}")).json()
        return job if job.get("status") in TERMINAL else None

    job = await until(ended, JOB_DEADLINE_S, f"the first install on {device.client_id} did not end")
    if job.get("status") != "SUCCEEDED":
        raise ServiceError(f"the first install on {device.client_id} ended as {job}")
    return job_id


def write_report(report: Report, path: Path) -> None:
    """Write `report.json`, and beside it the same for people, `report.html`. Raises InputError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        body = report.to_json()
        write_durably(path, body.encode() + b"\n", 0o644)
        write_durably(path.with_suffix(".html"), page(json.loads(body)).encode(), 0o644)
    except OSError as error:
        raise InputError(
            f"cannot be written: {error.strerror}", where=str(path), todo="Give --report."
        ) from None
