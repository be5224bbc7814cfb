"""The stories: what is done to a device, and how it has to end. The judge compares; a story never judges itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

from reference.core.errors import Reason
from reference.core.model import Outcome, Phase
from reference.demo.bench import NEW, OLD, Bench
from reference.pki.authority import DevelopmentCA
from reference.pki.names import SERVICE_NAME
from reference.protocol import topics
from reference.stack import HOST
from reference.support.mqtt import Connected, MqttLink, TlsFiles

Act = Callable[[Bench], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Story:
    """A story by name; `version` is asked for, `runs` is what has to answer in the end."""

    name: str
    about: str
    version: str
    outcome: Outcome
    reason: Reason | None
    runs: str
    act: Act
    defect: str | None = None
    registry: str = "registry"
    touches_client: bool = True
    """False: the client must not have missed a single probe."""


async def _plain(bench: Bench) -> None:
    await bench.finish(await bench.command(_version(bench)))


async def _command_twice(bench: Bench) -> None:
    """The very bytes of the command arrive again in the middle of the update, and again after its end."""
    job_id = await bench.command(_version(bench))
    await bench.reached(job_id, Phase.VERIFYING)
    await _deliver_again(bench, job_id)
    await bench.finish(job_id)
    before = bench.client_pids()
    await _deliver_again(bench, job_id)
    await asyncio.sleep(0.5)
    bench.notes["same_process_after_replay"] = bench.client_pids() == before
    bench.job = await bench.look(job_id)


async def _deliver_again(bench: Bench, job_id: str) -> None:
    # Only the service may publish commands, so it makes room for as long as its certificate is used here.
    payload = await asyncio.to_thread(_stored_command, bench, job_id)
    await bench.stack.stop_part("service")
    try:
        files = DevelopmentCA.open_or_create(bench.stack.data / "ca").issue_service()
        tls = TlsFiles(files.ca, files.cert, files.key)
        link = MqttLink(HOST, bench.stack.broker_port, SERVICE_NAME, tls=tls, subscriptions=())
        await link.start()
        try:
            async with asyncio.timeout(10):
                while not isinstance(await link.events.get(), Connected):
                    pass
            topic = topics.update(bench.stack.tenant, bench.device.client_id)
            for _ in range(2):
                await link.publish(topic, payload, timeout_s=5.0)
                bench.notes["replays"] = int(str(bench.notes.get("replays", 0))) + 1
        finally:
            await link.stop()
    finally:
        await bench.stack.start_service()


def _stored_command(bench: Bench, job_id: str) -> bytes:
    import sqlite3
    from contextlib import closing

    database = next((bench.stack.data / "service").glob("*.db"))
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as connection:
        row = connection.execute(
            "SELECT payload FROM outbox WHERE job = ? AND kind = 'update'", (job_id,)
        ).fetchone()
    return bytes(row[0])


def _killed_in(phase: Phase) -> Act:
    async def act(bench: Bench) -> None:
        await bench.pause_at(phase)
        job_id = await bench.command(_version(bench))
        await bench.paused()
        await bench.kill_everything()
        await bench.boot()
        await bench.finish(job_id)

    return act


def _version(bench: Bench) -> str:
    return str(bench.notes["version"])


STORIES: tuple[Story, ...] = (
    Story("update-succeeds", "a good version arrives", NEW, Outcome.SUCCEEDED, None, NEW, _plain),
    Story(
        "crash-on-start", "the new version exits at once", "2.0.1-crash", Outcome.ROLLED_BACK,
        Reason.CANDIDATE_EXITED, OLD, _plain, defect="crash-on-start",
    ),
    Story(
        "never-healthy", "the new version runs and is never well", "2.0.2-sick", Outcome.ROLLED_BACK,
        Reason.CANDIDATE_NEVER_HEALTHY, OLD, _plain, defect="never-healthy",
    ),
    Story(
        "registry-down", "the registry is gone when the pull begins", "2.0.3-gone", Outcome.FAILED,
        Reason.REGISTRY_UNREACHABLE, OLD, _plain, registry="registry-down", touches_client=False,
    ),
    Story("command-twice", "the command arrives five times", NEW, Outcome.SUCCEEDED, None, NEW, _command_twice),
    Story(
        "killed-in-switching", "agent and client killed as the switch is journaled, then a boot", NEW,
        Outcome.SUCCEEDED, None, NEW, _killed_in(Phase.SWITCHING),
    ),
    Story(
        "killed-in-verifying", "agent and client killed as the trial begins, then a boot", NEW,
        Outcome.SUCCEEDED, None, NEW, _killed_in(Phase.VERIFYING),
    ),
)  # fmt: skip
