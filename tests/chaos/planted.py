"""Defects planted into the updater and the service, one switch each, and the scenario that has to turn red.

The parts are started as usual, from `tests.chaos.planted_agent` and `tests.chaos.planted_service`, which read the switch
from the environment: nothing in the product knows of it. docs/chaos.md shows this table.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SWITCH = "BLACKSTART_PLANTED"


@dataclass(frozen=True, slots=True)
class Planted:
    """One defect."""

    name: str
    part: str
    """`updater` or `service`."""
    what: str
    """What is wrong, in one sentence."""
    scenario: str
    """The one that has to notice."""
    plant: Callable[[], None]


def _put(where: object, name: str, what: object) -> None:
    """In the place of what is there."""
    assert hasattr(where, name), f"{where} has no {name}: the defect would be none"
    setattr(where, name, what)


def _health_window_skipped() -> None:
    from reference.core.model import Container, Health

    def stable(self: Container, health: Health) -> bool:
        return self.running

    _put(Container, "stable", stable)


def _success_reported_early() -> None:
    from reference.core import delivery
    from reference.core.delivery import Memory
    from reference.core.job import JobStatus
    from reference.core.model import Outcome, Phase
    from reference.core.update import UpdateRecord
    from reference.edge import agent

    advance = delivery.advance

    def hasty(memory: Memory, record: UpdateRecord) -> Memory:
        after = advance(memory, record)
        if record.phase is not Phase.VERIFYING or record.current is None:
            return after
        lie: dict[str, Any] = {"status": JobStatus.SUCCEEDED, "outcome": Outcome.SUCCEEDED}
        return replace(after, outbox=tuple(replace(r, **lie) for r in after.outbox))

    _put(agent, "advance", hasty)


def _old_image_deleted_early() -> None:
    from reference.core.model import Phase
    from reference.core.update import UpdateRecord
    from reference.edge.agent import Agent

    take = Agent.take_record

    async def eager(self: Agent, record: UpdateRecord) -> None:
        await take(self, record)
        if record.phase is Phase.VERIFYING and record.current is not None:
            for found in (await self._runtime.observe()).containers:
                if found.generation == record.current.generation:
                    await self._runtime.remove(found.id)
            await self._runtime.remove_image(record.current.image.digest)

    _put(Agent, "take_record", eager)


def _dedupe_off() -> None:
    from reference.core import delivery
    from reference.core.delivery import Memory, Verdict
    from reference.core.limits import Limits
    from reference.core.model import Command

    receive = delivery.receive

    def naive(memory: Memory, command: Command, now_ms: int | None, limits: Limits) -> tuple[Memory, Verdict]:
        if memory.record.floor is not None:
            memory = replace(memory, record=replace(memory.record, floor=command.generation - 1))
        return receive(memory, command, now_ms, limits)

    _put(delivery, "receive", naive)
    _put(delivery, "_again", lambda *_: None)


def _signature_not_checked() -> None:
    import json
    from base64 import b64decode

    from reference.protocol import envelope

    _put(envelope, "_verified", lambda data, _: b64decode(json.loads(data)["payload"]))


def _device_not_checked() -> None:
    import json

    from reference.edge import conversation
    from reference.protocol import envelope

    opened = envelope.open_envelope

    def lenient(data: bytes, keys: Any, tenant: str, client: str, expected: Any) -> Any:
        named = json.loads(envelope._verified(data, keys))
        return opened(data, keys, str(named["tenantId"]), str(named["clientId"]), expected)

    _put(conversation, "open_envelope", lenient)


def _expiry_not_checked() -> None:
    from reference.edge.agent import Agent

    _put(Agent, "now_ms", lambda _: 0)


def _digest_not_checked() -> None:
    from reference.edge.runtimes import partial

    _put(partial._SoFar, "right", property(lambda self: self.count == self.blob.size))


def _nothing_tried_again() -> None:
    from reference.core.limits import Limits

    _put(Limits, "attempts", lambda *_: 1)


def _data_not_synced() -> None:
    """Neither the engine's data nor the blobs that were fetched are put on the disk before the journal says they are."""
    from reference.edge.runtimes.process import ProcessRuntime

    async def forgotten(_: ProcessRuntime) -> None:
        return None

    _put(ProcessRuntime, "sync", forgotten)
    _put(os, "fsync", lambda _: None)
    _put(os, "fdatasync", lambda _: None)


def _old_version_not_stopped() -> None:
    from reference.edge.runtimes.process import ProcessRuntime

    async def spared(self: ProcessRuntime, container_id: str, grace_ms: int) -> None:
        return None

    _put(ProcessRuntime, "stop", spared)


def _snapshot_not_brought_back() -> None:
    from reference.edge.runtimes import snapshot

    _put(snapshot, "_bring_back", lambda _: None)


def _layers_lead_anywhere() -> None:
    from pathlib import PurePosixPath

    from reference.edge.runtimes import unpack

    _put(unpack, "_parts", lambda name: tuple(p for p in PurePosixPath(name).parts if p not in ("/", "..")))
    _put(unpack, "_inside", lambda _root, _folder, target: target)
    _put(unpack, "_resolved", lambda _root, path: Path(path))


def _statuses_told_once() -> None:
    from reference.core import delivery

    def once(memory: Any, sent_ms_ago: dict[int, int], limits: Any) -> Any:
        return tuple(r for r in memory.outbox if r.sequence not in told and not told.add(r.sequence))  # type: ignore[func-returns-value]

    told: set[int] = set()
    _put(delivery, "to_send", once)


def _rollback_forgets_to_start() -> None:
    from reference.core.model import Phase
    from reference.core.steps import Start
    from reference.edge import agent
    from reference.edge.executor import execute

    async def lazy(act: Any, runtime: Any, *rest: Any) -> None:
        if isinstance(act, Start) and getattr(lazy, "phase", None) is Phase.ROLLING_BACK:
            return
        await execute(act, runtime, *rest)

    take = agent.Agent.take_record

    async def noting(self: agent.Agent, record: Any) -> None:
        await take(self, record)
        lazy.phase = record.phase  # type: ignore[attr-defined]

    _put(agent.Agent, "take_record", noting)
    _put(agent, "execute", lazy)


def _volumes_forgotten() -> None:
    from reference.edge import executor

    _put(
        executor,
        "_mounts",
        lambda client, view: {
            k: v for k, v in client.mounts.items() if not (view.containers and k == "/data")
        },
    )


def _silence_not_noticed() -> None:
    from reference.edge import main
    from reference.edge.runtimes.pull import PullLimits

    def patient(*_: Any, **given: Any) -> PullLimits:
        return PullLimits(**{**given, "stall_ms": 3_600_000, "slow_ms": 3_600_000})

    _put(main, "PullLimits", patient)


def _command_sent_once() -> None:
    from reference.service import ingest

    _put(ingest, "resend_after_ms", lambda *_, **__: 3_600_000)


def _reason_lost() -> None:
    from reference.service import records

    save = records.save_job

    def forgetful(connection: Any, record: Any, job: Any, now_ms: int, **more: Any) -> Any:
        return save(connection, record, replace(job, reason=None), now_ms, **more)

    _put(records, "save_job", forgetful)


def _later_statuses_overwritten() -> None:
    """Whatever comes last counts, an old status after the end, too."""
    from reference.core import delivery
    from reference.core.job import Job

    def naive(job: Job, report: Any, epoch: str) -> Job:
        return replace(
            job, status=report.status, phase=report.phase, outcome=report.outcome, reason=report.reason,
            message=report.message, downtime_ms=report.downtime_ms, epoch=epoch, sequence=report.sequence,
        )  # fmt: skip

    _put(delivery, "told", naive)


def _success_at_first_word() -> None:
    from reference.core import delivery
    from reference.core.job import Job, JobStatus, told
    from reference.core.model import Outcome

    def hasty(job: Job, report: Any, epoch: str) -> Job:
        return replace(told(job, report, epoch), status=JobStatus.SUCCEEDED, outcome=Outcome.SUCCEEDED)

    _put(delivery, "told", hasty)


def _status_acknowledged_unstored() -> None:
    """The acknowledgement goes out, and what the device said is not written; the bench's first install is."""
    from reference.service import records

    save = records.save_job

    def spared(connection: Any, record: Any, job: Any, now_ms: int, **more: Any) -> Any:
        first_install = job.generation == 1
        return save(connection, record, job, now_ms, **more) if first_install else record

    _put(records, "save_job", spared)


UPDATER, SERVICE = "updater", "service"
DEFECTS = (
    Planted("health-window-skipped", UPDATER, "whatever runs is taken for healthy", "never-healthy", _health_window_skipped),
    Planted("success-reported-early", UPDATER, "success is told as the trial begins", "plain-update", _success_reported_early),
    Planted("old-image-deleted-early", UPDATER, "container and image of the old version go as the trial begins", "crash-on-start", _old_image_deleted_early),
    Planted("dedupe-off", UPDATER, "every command is new", "command-replayed", _dedupe_off),
    Planted("signature-not-checked", UPDATER, "a signature is never verified", "command-forged", _signature_not_checked),
    Planted("device-not-checked", UPDATER, "a command for another device is obeyed", "command-for-another", _device_not_checked),
    Planted("expiry-not-checked", UPDATER, "no command is too old", "command-expired", _expiry_not_checked),
    Planted("digest-not-checked", UPDATER, "a layer of the right length is right", "registry-corrupted", _digest_not_checked),
    Planted("nothing-tried-again", UPDATER, "a failed pull is final", "registry-unavailable", _nothing_tried_again),
    Planted("data-not-synced", UPDATER, "nothing is synced to the disk before the journal says it is there", "power-cut-verifying", _data_not_synced),
    Planted("old-version-not-stopped", UPDATER, "the old version runs on beside the new one", "plain-update", _old_version_not_stopped),
    Planted("snapshot-not-brought-back", UPDATER, "the copy of the volume stays where it is", "bad-migration", _snapshot_not_brought_back),
    Planted("layers-lead-anywhere", UPDATER, "a layer may write outside of its image", "registry-path-escape", _layers_lead_anywhere),
    Planted("statuses-told-once", UPDATER, "a status is sent once, and then believed to be known", "mqtt-drop-statuses", _statuses_told_once),
    Planted("rollback-forgets-to-start", UPDATER, "the way back does not start the old version", "crash-on-start", _rollback_forgets_to_start),
    Planted("volumes-forgotten", UPDATER, "the new container does not get the client's volume", "plain-update", _volumes_forgotten),
    Planted("silence-not-noticed", UPDATER, "a pull that stands still is waited for", "registry-stalled", _silence_not_noticed),
    Planted("command-sent-once", SERVICE, "a command that was lost on the way is not sent again", "mqtt-drop", _command_sent_once),
    Planted("reason-lost", SERVICE, "why a job ended is not kept", "registry-forbidden", _reason_lost),
    Planted("later-statuses-overwritten", SERVICE, "an older status takes a newer one's place", "mqtt-reorder", _later_statuses_overwritten),
    Planted("success-at-first-word", SERVICE, "a job has succeeded as soon as its device speaks", "plain-update", _success_at_first_word),
    Planted("status-acknowledged-unstored", SERVICE, "a status is acknowledged and not stored", "plain-update", _status_acknowledged_unstored),
)  # fmt: skip
"""The switch table."""


def plant(part: str) -> None:
    """Plant what the environment says, where it is about this part."""
    chosen = os.environ[SWITCH]
    [found] = [defect for defect in DEFECTS if defect.name == chosen]
    if found.part == part:
        found.plant()
