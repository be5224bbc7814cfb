"""The service of one device, as `reference.core.delivery` has it: births, commands, statuses, acknowledgements.

It loses no power, forgets nothing, and writes down everything that it was told, for the judge. What it sends is
signed, and goes over the wire's own messages.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from reference.core import delivery
from reference.core.delivery import BirthVerdict, ClientState
from reference.core.errors import CommandError
from reference.core.job import Job, JobStatus, Report
from reference.core.model import Command, ImageState, Phase
from reference.power import line
from reference.power.line import Packet
from reference.protocol.envelope import SigningKey, sign
from reference.protocol.models import (
    Acknowledgement,
    BirthAnswer,
    Reply,
    UpdateCommand,
    parse_birth,
    parse_status,
)
from reference.protocol.topics import Kind

TENANT, CLIENT = "acme", "edge-1"


@dataclass(frozen=True, slots=True)
class Said:
    """A status that has arrived, and the journal that it came from."""

    epoch: str
    report: Report


@dataclass(slots=True)
class Desk:
    """One order for one device. `issued`: the generation of the last command before it."""

    key: SigningKey
    command: Command
    issued: int = 0
    job: Job = field(init=False)
    said: list[Said] = field(default_factory=list)
    took: bool = False
    """The device has acknowledged (PUBACK) the command: its journal must know it."""
    phase: Phase | None = None
    """The last phase that passed by, for timing only."""
    images: dict[str, ImageState] | None = None
    """What the runtime made of the images when it first looked in this boot; None: it has not looked."""
    _client: ClientState = field(init=False)

    def __post_init__(self) -> None:
        self.job = Job(self.command.job_id, self.command.generation)
        self._client = ClientState(issued=self.command.generation, reported=self.issued)

    def hear(self, packet: Packet) -> list[Packet]:
        """Take what the device says; answers what it is told. Raises CommandError for what is no message of ours."""
        word, content = packet
        match word:
            case line.PHASE:
                self.phase = Phase(content.decode())
            case line.PUBACK:
                self.took = self.took or content.decode() == Kind.UPDATE.value
            case line.IMAGES:
                self.images = {digest: ImageState(state) for digest, state in json.loads(content).items()}
            case Kind.BIRTH.value:
                return self._birth(content)
            case Kind.STATUS.value:
                return self._status(content)
            case _:
                raise CommandError(f"{word!r} is no message to a service")
        return []

    def _birth(self, content: bytes) -> list[Packet]:
        birth = parse_birth(content)
        self._client, verdict = delivery.birth(self._client, birth.journal_epoch, birth.generation)
        if verdict is BirthVerdict.REPLACED:
            return []
        self.job = delivery.orphaned(self.job, verdict, birth.open_job_id)
        waiting = self.job.status is JobStatus.QUEUED
        floor = delivery.birth_floor(self._client, self.job.generation if waiting else None)
        answer = BirthAnswer(nonce=birth.nonce, journal_epoch=birth.journal_epoch, floor=floor)
        told = [self._reply(Reply(tenant_id=TENANT, client_id=CLIENT, birth=answer))]
        if waiting:
            command = UpdateCommand.from_core(self.command, TENANT, CLIENT, issued_at_ms=0)
            told.append((Kind.UPDATE.value, sign(command, self.key)))
        return told

    def _status(self, content: bytes) -> list[Packet]:
        status = parse_status(content)
        report, epoch = status.to_core(), status.journal_epoch
        self.said.append(Said(epoch, report))
        ours = (report.job_id, report.generation) == (self.job.id, self.job.generation)
        found = delivery.ingest(self._client, self.job if ours else None, report, epoch)
        self._client = found.client
        if found.job is not None:
            self.job = found.job
        if not found.acknowledge:
            return []
        told = Acknowledgement(
            journal_epoch=epoch, job_id=report.job_id, generation=report.generation, sequence=report.sequence
        )
        return [self._reply(Reply(tenant_id=TENANT, client_id=CLIENT, acknowledgement=told))]

    def _reply(self, reply: Reply) -> Packet:
        return (Kind.REPLIES.value, sign(reply, self.key))
