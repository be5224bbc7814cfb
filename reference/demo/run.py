"""Plays the stories one after the other on one stack, and makes the table and the report."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from reference.core.errors import BlackstartError, InputError, ServiceError
from reference.demo.bench import JOB_DEADLINE_S, OLD, TERMINAL, Bench, until
from reference.demo.judge import Judged, Verdict, judge, unjudged
from reference.demo.stories import STORIES, Story
from reference.stack import DEFAULT_AGENTS, Agents, Device, Stack
from reference.support.files import write_durably

LIMITS = {"pull_attempts_many": 4, "backoff_first_ms": 200, "backoff_limit_ms": 2_000}
"""The bounds on the demo's devices: a registry that is down is given up in seconds, not in minutes."""

Say = Callable[[str, str], None]
"""Called with a story's name (or `set-up`) and what happens now."""


@dataclass(slots=True)
class Report:
    """What `--json` prints and `report.json` holds."""

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
) -> Report:
    """Play and judge. `keep`: a folder for everything the parts leave behind; without it, it is removed.
    `agents`: other agents than the real ones, to show that the judge sees what is wrong.

    Raises BlackstartError when the stack itself does not come up.
    """
    began, report = time.monotonic(), Report()
    with tempfile.TemporaryDirectory(prefix="blackstart-", ignore_cleanup_errors=True) as scratch:
        async with Stack(keep or Path(scratch), seed=seed, agents=agents) as stack, stack.api() as api:
            benches = await _set_up(stack, stories, say, api)
            for story, bench in zip(stories, benches, strict=True):
                report.stories.append(await _play(story, bench, say))
    report.seconds = time.monotonic() - began
    return report


async def _play(story: Story, bench: Bench, say: Say) -> Judged:
    say(story.name, story.about)
    try:
        await story.act(bench)
        judged = await judge(story, bench)
    except BlackstartError as error:
        judged = unjudged(story, bench, error)
    except httpx.HTTPError as error:
        judged = unjudged(story, bench, ServiceError(f"the service did not answer: {error!r}"))
    finally:
        await bench.stack.stop_device(bench.device)
    say(story.name, judged.verdict.value)
    return judged


async def _set_up(stack: Stack, stories: Sequence[Story], say: Say, api: httpx.AsyncClient) -> list[Bench]:
    say("set-up", "building and pushing images")
    await stack.publish(OLD)
    for name in sorted({s.registry for s in stories} - {"registry"}):
        await stack.start_registry(name)
    for version, defect, registry in sorted({(s.version, s.defect or "", s.registry) for s in stories}):
        await stack.publish(version, defect or None, registry)
    say("set-up", f"installing {OLD} on {len(stories)} devices")
    devices = [await stack.add_device(story.name, LIMITS) for story in stories]
    await asyncio.gather(*(install(stack, device, api) for device in devices))
    for name in sorted({s.registry for s in stories} - {"registry"}):
        await stack.stop_part(name)
    return [_bench(stack, device, api, story, say) for story, device in zip(stories, devices, strict=True)]


def _bench(stack: Stack, device: Device, api: httpx.AsyncClient, story: Story, say: Say) -> Bench:
    bench = Bench(stack, device, api, lambda what: say(story.name, what))
    bench.notes["version"] = story.version
    return bench


async def install(stack: Stack, device: Device, api: httpx.AsyncClient) -> None:
    """The first install, by the same path as every update."""
    await stack.start_agent(device)
    answer = await api.post(f"/api/v1/clients/{device.client_id}/update", json={"targetVersion": OLD})
    if answer.status_code != 202:
        raise ServiceError(f"the first install was not accepted: {answer.status_code} {answer.text}")
    job_id = answer.json()["jobId"]

    async def ended() -> dict[str, object] | None:
        job: dict[str, object] = (await api.get(f"/api/v1/jobs/{job_id}")).json()
        return job if job.get("status") in TERMINAL else None

    job = await until(ended, JOB_DEADLINE_S, f"the first install on {device.client_id} did not end")
    if job.get("status") != "SUCCEEDED":
        raise ServiceError(f"the first install on {device.client_id} ended as {job}")


def write_report(report: Report, path: Path) -> None:
    """Write `report.json`. Raises InputError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, report.to_json().encode() + b"\n", 0o644)
    except OSError as error:
        raise InputError(
            f"cannot be written: {error.strerror}", where=str(path), todo="Give --report."
        ) from None
