"""Commands that a device must not obey: made, put on the wire to it, and what its log says became of them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
import uuid
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import httpx
import psycopg

from chaos.faults.base import Family, FaultError, Ground, Instant, Params
from chaos.scenario.model import VersionName
from reference.core.errors import Reason
from reference.pki.signing import command_signing_key
from reference.protocol import topics
from reference.protocol.envelope import SigningKey, load_private_key
from reference.protocol.models import HealthSpec, ImageSpec, UpdateCommand
from reference.stack import Device

NEWER = 1_000
"""A generation that is above all that a run comes to."""
HOUR_MS = 3_600_000
CONNECTED_S = 5.0
"""How long a device may take to be connected, where it is not."""
JUDGED_S = 3.0
"""How long it may take to judge what has come."""
POLL_S = 0.02


class AsksFor(Params):
    """What a command is about."""

    to: VersionName | None = None
    """The version that it asks for; without it the last one that the scenario names."""


# ---- what a device's log says


@dataclass(frozen=True, slots=True)
class Judged:
    """What the device said of a message."""

    reason: str
    """Why it was refused; empty for a command that was read."""
    job_id: str
    verdict: str


def judgements(log: Path, since: int) -> Iterator[Judged]:
    """What it said of commands, from that byte of its log on."""
    try:
        with log.open("rb") as file:
            file.seek(since)
            lines = file.read().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # Not whole yet, or none of the agent's own.
            continue
        if isinstance(entry, dict) and entry.get("message") in ("refused", "command"):
            found = (str(entry.get(name) or "") for name in ("reason", "job", "verdict"))
            yield Judged(*found)


def size_of(log: Path) -> int:
    """Bytes that a log has now."""
    return log.stat().st_size if log.exists() else 0


# ---- what goes to a device


def service_key(ground: Ground) -> SigningKey:
    """What the service signs with."""
    return load_private_key(command_signing_key(ground.stack.data / "signing").private)


async def deliver(ground: Ground, device: Device, payloads: Sequence[bytes]) -> int:
    """Put these on the wire to the device, as commands; how many went. One that is not connected is waited for."""
    way, topic = ground.mqtt(device), topics.update(ground.stack.tenant, device.client_id)
    end = time.monotonic() + CONNECTED_S
    sent = 0
    for payload in payloads:
        while not way.inject_publish(topic, payload).sent:
            if time.monotonic() > end:
                return sent
            await asyncio.sleep(POLL_S)
        sent += 1
    return sent


@dataclass(slots=True)
class _Sent:
    device: Device
    since: int
    """Bytes of its log before."""
    job_ids: tuple[str, ...]
    sent: int


class HostileCommand(Instant):
    """Puts commands on the wire to a device, and looks what its log says of them."""

    family = Family.HOSTILE
    shown_by = "the device's log, which says that it came and what became of it"
    refused_for: ClassVar[Reason | None] = None
    """Why such a message is refused."""

    @abstractmethod
    async def made(self, device: Device) -> tuple[Sequence[bytes], tuple[str, ...]]:
        """The messages, and the ids of the jobs that they are about. Raises FaultError."""

    async def begin(self) -> None:
        """See the port. Raises FaultError."""
        self._sent: list[_Sent] = []
        for device in self.ground.chosen(self.use.device):
            payloads, job_ids = await self.made(device)
            since = size_of(device.log)
            sent = await deliver(self.ground, device, payloads)
            self._sent.append(_Sent(device, since, job_ids, sent))

    async def fired(self) -> str:
        """See the port. A message that was taken has fired, too: what follows from that is for the checkers."""
        said = [await self._shown(sent) for sent in self._sent]
        return "; ".join(said) if all(said) else ""

    async def _shown(self, sent: _Sent) -> str:
        end = time.monotonic() + JUDGED_S
        while len(found := self._found(sent)) < sent.sent and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        if not found:
            return ""
        counted = Counter(judged.reason or judged.verdict for judged in found)
        said = ", ".join(f"{what} ({many})" for what, many in sorted(counted.items()))
        return f"{sent.sent} put on the wire to {sent.device.client_id}, its log says {said}"

    def _found(self, sent: _Sent) -> list[Judged]:
        return [
            judged
            for judged in judgements(sent.device.log, sent.since)
            if judged.job_id in sent.job_ids or (not judged.job_id and judged.reason == self.refused_for)
        ]

    async def command(
        self,
        to: str | None,
        *,
        client_id: str,
        generation: int,
        lives_ms: int = HOUR_MS,
    ) -> UpdateCommand:
        """A command that is right in every word. `lives_ms`: from now. Raises FaultError."""
        scenario = self.ground.scenario
        found = await _version(self.ground, to or scenario.versions[-1])
        now_ms = time.time_ns() // 1_000_000
        image = {name: found[name] for name in ("repository", "digest", "version")}
        return UpdateCommand(
            tenant_id=self.ground.stack.tenant,
            client_id=client_id,
            job_id=str(uuid.UUID(int=self.chance.getrandbits(128), version=4)),
            generation=generation,
            issued_at=min(now_ms, now_ms + lives_ms - HOUR_MS),
            expires_at=now_ms + lives_ms,
            image=ImageSpec.model_validate(image),
            health=HealthSpec.model_validate(found["health"]),
        )


async def _version(ground: Ground, version: str) -> dict[str, object]:
    """As the API shows it. Raises FaultError."""
    try:
        answer = await ground.api.get(f"/api/v1/versions/{version}")
    except httpx.HTTPError as error:
        raise FaultError(f"the service did not say what the version {version} is: {error!r}") from error
    if answer.status_code != httpx.codes.OK:
        raise FaultError(
            f"the version {version} is not known ({answer.status_code})", todo="Name one of the scenario's."
        )
    found: dict[str, object] = answer.json()
    return found


# ---- what the service has sent before


async def stored_command(ground: Ground, job_id: str) -> bytes:
    """The very bytes of a job's command, from the service's outbox. Raises FaultError."""
    try:
        row = await asyncio.to_thread(_stored, ground, job_id)
    except (sqlite3.Error, psycopg.Error) as error:
        raise FaultError(f"the service's database cannot be read: {error}") from error
    if row is None:
        raise FaultError(f"the service has no command of the job {job_id}")
    return bytes(row[0])


def _stored(ground: Ground, job_id: str) -> tuple[bytes] | None:
    query = "SELECT payload FROM outbox WHERE kind = 'update' AND job = "
    if ground.stack.database is None:
        path = next((ground.stack.data / "service").glob("*.db"))
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            found: tuple[bytes] | None = connection.execute(f"{query}?", (job_id,)).fetchone()
            return found
    name = ground.stack.database.partition("?")[0].rpartition("/")[2]
    # Straight to it: what stands between it and the service may be hurt.
    url = str(ground.postgres().url(name)).replace("postgresql+psycopg:", "postgresql:")
    with psycopg.connect(url, connect_timeout=3) as connected:
        return connected.execute(f"{query}%s".encode(), (job_id,)).fetchone()
