"""Whether a device has ended as the model says, judged from what is on its disk, what runs, and what it told."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from dataclasses import dataclass

from reference.core.delivery import ClientState, ingest
from reference.core.job import Job, Report
from reference.core.model import Phase
from reference.edge.journal import Journal
from reference.edge.main import journal_path
from reference.world.story import Ends
from tests.agreement.agent import TOLD
from tests.agreement.device import BEFORE, PORT, Device

PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class End:
    """How a device has ended."""

    ends: Ends
    runs: tuple[str, ...]
    """Versions that answer on the client's port."""
    phases: tuple[Phase, ...]
    """That were journaled, one after the other."""
    wrong: tuple[str, ...]
    """What does not fit together."""


async def end_of(device: Device) -> End:
    """Look at everything. No agent may run on the device."""
    wrong: list[str] = []
    with closing(Journal.open(journal_path(device.settings()))) as journal:
        memory, history = journal.memory, journal.history()
    phases = [entry.phase for entry in history]
    record = memory.record
    if record.phase is not Phase.IDLE or record.queued is not None or record.duty:
        wrong.append(f"the journal is not at rest: {record}")
    ends: Ends = {r.job_id: (r.outcome, r.reason) for r in memory.finished if r.outcome is not None}
    told = {r.job_id: (r.outcome, r.reason) for r in memory.outbox}
    if told != ends:
        wrong.append(f"the outbox tells {told}, the journal remembers {ends}")
    wrong += _heard(device, record.epoch, ends)
    running = device.workloads()
    runs = (await version_of(device),) if running else ()
    if len(running) > 1:
        wrong.append(f"{len(running)} processes run")
    wanted = record.current.image.version if record.current is not None else None
    if runs != ((wanted,) if wanted is not None else ()):
        wrong.append(f"{runs} run, the journal has {wanted} installed")
    wrong += _left(device, [i.image.digest for i in (record.current, record.previous) if i is not None])
    wrong += _samples(device)
    deduplicated = tuple(p for n, p in enumerate(phases) if n == 0 or phases[n - 1] is not p)
    return End(ends, runs, deduplicated, tuple(wrong))


def _heard(device: Device, epoch: str, ends: Ends) -> list[str]:
    """The service's side of it: every report in its turn, by core's own rules."""
    client, jobs, wrong = ClientState(epoch=epoch), dict[str, Job](), list[str]()
    for line in device.heard.read_text().splitlines():
        of_epoch, report = TOLD.validate_json(line)
        job = jobs.get(report.job_id) or Job(report.job_id, report.generation)
        after = ingest(client, job, report, of_epoch)
        client = after.client
        if job.status.terminal and _differs(job, report):
            wrong.append(f"told {report} after {job.status}")
        if after.job is not None:
            jobs[report.job_id] = after.job
    heard = {job.id: (job.outcome, job.reason) for job in jobs.values()}
    return (
        wrong if heard == ends else [*wrong, f"the service has heard {heard}, the journal remembers {ends}"]
    )


def _differs(job: Job, report: Report) -> bool:
    return (job.status, job.outcome, job.reason) != (report.status, report.outcome, report.reason)


def _left(device: Device, kept: list[str]) -> list[str]:
    """What must not be left behind."""
    engine, wrong = device.state / "engine", []
    images = {f"sha256:{path.name}" for path in (engine / "images").iterdir()}
    if images != set(kept):
        wrong.append(f"images {images} are left, {kept} are wanted")
    containers = sorted(path.name for path in (engine / "containers").iterdir())
    if len(containers) > 1:
        wrong.append(f"containers {containers} are left")
    wrong += [f"{path.name} is left" for path in device.data.glob(".volume.snapshot-*")]
    wrong += [f"snapshot {path.name} is left" for path in (engine / "snapshots").glob("*.json")]
    return wrong


def _samples(device: Device) -> list[str]:
    """No sample is lost and none is there twice, whatever happened to the versions that wrote them."""
    path = device.volume / "samples.log"
    text = path.read_text() if path.exists() else ""
    if not text.startswith(BEFORE):
        return [f"the samples from before are lost: {text[:100]!r}"]
    lines = text.splitlines()
    numbers = [json.loads(line)["seq"] for line in lines[:-1]]  # The last one may be being written.
    whole = numbers == list(range(1, len(numbers) + 1))
    return [] if whole else [f"the samples are {numbers[:20]}... of {len(numbers)}"]


async def version_of(device: Device) -> str:
    """What the client says that it is; an empty word when it does not come to answer well."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while (version := await _asked(device)) is None:  # noqa: ASYNC110 - another process's
                await asyncio.sleep(0.005)
            return version
    except TimeoutError:
        return ""


async def _asked(device: Device) -> str | None:
    try:
        reader, writer = await asyncio.open_connection(device.address, PORT)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    except OSError:
        return None
    return str(json.loads(body)["version"]) if head.split(b" ")[1:2] == [b"200"] else None
