"""When everything is quiet, and what must hold then."""

from __future__ import annotations

from reference.core import invariants
from reference.core.errors import Reason
from reference.core.invariants import Violation
from reference.core.job import Job, JobStatus
from reference.core.model import Outcome
from reference.world.search.bench import Bench
from reference.world.search.device import end_of
from reference.world.search.parties import Client, Device
from reference.world.search.world import GOOD


def noises(bench: Bench, who: int) -> list[str]:
    """Why this device and its part of the service are not quiet yet."""
    device, client, driver = bench.devices[who], bench.clients[who], bench.world.driver
    found = []
    if not device.asleep:
        found.append("its updater works")
    if device.down or device.up:
        found.append("messages are on their way")
    if not device.online or device.nonce is not None:
        found.append("its birth is not answered")
    if driver.outbox(driver.read(device.state)):
        found.append("a report is not acknowledged")
    now_ms = bench.clock_ms()
    for (job_id, _), row in client.rows.items():
        job = bench.world.desk.kept[client.kept].job(job_id)
        # A cancel is sent until its job ends, which for a job of a backup may be by silence only.
        if row.command is not None and job is not None and bench.pending(job, row, now_ms):
            found.append(f"the command of {job_id} is not taken")
    return found


def quiet(bench: Bench) -> bool:
    """Whether nothing more will happen but that time passes."""
    if any(d.down or d.up or not d.asleep for d in bench.devices):
        return False
    return not any(noises(bench, who) for who in range(len(bench.devices)))


def judged(bench: Bench) -> None:
    """All that must hold in the quiet."""
    for who, (device, client) in enumerate(zip(bench.devices, bench.clients, strict=True)):
        left = noises(bench, who)
        found = [Violation("converges", f"no quiet: {why}") for why in left]
        record = bench.world.driver.memory_of(device.state).record
        if not left:
            found += invariants.converged(record, bench.world.driver.world(device.state))
            found += _service_knows(bench, who, device, client)
            found += _good_is_not_blamed(bench, device)
        bench.wrong(who, tuple(found))


def _service_knows(bench: Bench, who: int, device: Device, client: Client) -> list[Violation]:
    """Every job has ended, as its device has told; and the service knows what runs."""
    kept, driver = bench.world.desk.kept[client.kept], bench.world.driver
    record = driver.memory_of(device.state).record
    found = []
    if kept.client.epoch != record.epoch:
        found.append(
            Violation("service_agrees", f"{kept.client.epoch} is valid, {record.epoch} is the device's")
        )
    if kept.running != driver.runs(device.state.engine):
        found.append(Violation("service_agrees", f"{kept.running} runs, says the service"))
    taken = (
        j.generation for j in kept.jobs if j.epoch == record.epoch and j.status is not JobStatus.REJECTED
    )
    if record.floor is None or record.floor < max(taken, default=0):
        found.append(Violation("generations_rise", f"the floor is {record.floor} at the end"))
    for job in kept.jobs:
        if not job.status.terminal:
            if not _only_silence(bench, who, job, client):
                found.append(
                    Violation("every_job_ends", f"{job.id} is {job.status} in {job.phase}, and all is quiet")
                )
        elif _told_by_device(job) and (who, job.id) not in bench.restored:
            found += _agrees(job, device)
    return found


def _only_silence(bench: Bench, who: int, job: Job, client: Client) -> bool:
    """Whether nobody is left who would speak of it: its command has expired unheard, or that of the one that it was put
    aside for, or a backup has brought it back after its end was told."""
    if (who, job.id) in bench.restored:
        return True
    kept = bench.world.desk.kept[client.kept]
    newer = next((j for j in kept.jobs if j.generation == job.superseded_by), None)
    if newer is not None and not newer.status.terminal and _only_silence(bench, who, newer, client):
        return True
    # Its row goes once it has expired, though the service's clock may say later that it has not.
    expired = client.expires[job.id] < bench.clock_ms() or (job.id, job.generation) not in client.rows
    return job.status is JobStatus.QUEUED and job.superseded_by is None and expired


def _told_by_device(job: Job) -> bool:
    """Ends that the service gives by itself have no outcome."""
    lost = job.reason is Reason.JOURNAL_CORRUPT
    return (
        job.epoch is not None and not lost and (job.outcome is not None or job.status is JobStatus.REJECTED)
    )


def _agrees(job: Job, device: Device) -> list[Violation]:
    told = device.ends.get((job.epoch or "", job.id, job.generation))
    if told == (job.status, job.outcome, job.reason):
        return []
    detail = f"service: {job.id} {job.status} {job.outcome} {job.reason}; device: {told}"
    return [Violation("service_agrees", detail)]


def _good_is_not_blamed(bench: Bench, device: Device) -> list[Violation]:
    """Cuts alone never turn a good version back within the boots that a trial may live through."""
    driver, found = bench.world.driver, []
    versions = {
        driver.commands[c.command].job_id: driver.commands[c.command].image.version for c in device.commands
    }
    for report in driver.memory_of(device.state).finished:
        back = report.outcome in (Outcome.ROLLED_BACK, Outcome.ROLLBACK_FAILED)
        if back and versions.get(report.job_id) in GOOD and report.reason is not Reason.TOO_MANY_BOOTS:
            found.append(Violation("good_not_blamed", f"{report.job_id}: {end_of(report)}"))
    return found
