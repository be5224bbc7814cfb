"""Messages come twice, late, out of order, from the wrong hand or for somebody else."""

from __future__ import annotations

import asyncio
import time
import uuid

from reference.core.errors import Reason
from reference.core.model import Command, Image, Phase
from reference.demo.bench import NEW, OLD, Bench
from reference.demo.story import Act, Story
from reference.pki.signing import command_signing_key
from reference.protocol.envelope import SigningKey, generate_key, load_private_key, sign
from reference.protocol.models import UpdateCommand
from reference.stack import DEMO_HEALTH

HOUR_MS = 3_600_000
QUIET_S = 0.5
"""For so long nothing must happen after a message that has to be refused or ignored."""


async def _command_twice(bench: Bench) -> None:
    """The very bytes of the command arrive again in the middle of the update, and again after its end."""
    job_id = await bench.command()
    await bench.reached(job_id, Phase.VERIFYING)
    payload = await bench.stored_command(job_id)
    await bench.deliver(payload, payload)
    await bench.finish(job_id)
    await _quietly(bench, payload, payload)
    bench.job = await bench.look(job_id)


async def _older_generation(bench: Bench) -> None:
    """After the update the command of the first install, generation 1, arrives once more."""
    job_id = await bench.command()
    await bench.finish(job_id)
    first = bench.notes["installed_by"]
    await _quietly(bench, await bench.stored_command(str(first)))
    bench.job = await bench.look(job_id)


async def _quietly(bench: Bench, *payloads: bytes) -> None:
    before = bench.client_pids()
    await bench.deliver(*payloads)
    await asyncio.sleep(QUIET_S)
    bench.notes["same_process_after_replay"] = bench.client_pids() == before


async def _forged(bench: Bench) -> None:
    """Right in every word, signed with a key that this device does not trust."""
    await _strange(bench, generate_key(), bench.device.client_id, HOUR_MS)


async def _for_another(bench: Bench) -> None:
    """Signed by the service for another device, delivered to this one."""
    await _strange(bench, _service_key(bench), "another-device", HOUR_MS)


async def _expired(bench: Bench) -> None:
    """Signed by the service for this device, and expired an hour ago."""
    await _strange(bench, _service_key(bench), bench.device.client_id, -HOUR_MS)


async def _strange(bench: Bench, key: SigningKey, client_id: str, lives_ms: int) -> None:
    bench.observe()
    await asyncio.sleep(0.1)
    now_ms = time.time_ns() // 1_000_000
    image = Image(bench.repository(), bench.stack.digests[NEW], NEW)
    command = Command(str(uuid.uuid4()), 1_000, image, DEMO_HEALTH, now_ms + lives_ms)
    message = UpdateCommand.from_core(command, bench.stack.tenant, client_id, now_ms)
    bench.notes["sent_generation"] = command.generation
    await _quietly(bench, sign(message, key))
    bench.end()


def _service_key(bench: Bench) -> SigningKey:
    return load_private_key(command_signing_key(bench.stack.data / "signing").private)


async def _offline_then_back(bench: Bench) -> None:
    """The device is off when the command is given; it is told when it comes back."""
    await bench.stop_agent()
    job_id = await bench.command()
    await asyncio.sleep(QUIET_S)
    bench.notes["status_while_offline"] = (await bench.look(job_id)).get("status")
    await bench.stack.start_agent(bench.device)
    bench.mark("device back")
    await bench.finish(job_id)


def _ignored(name: str, about: str, act: Act, reason: Reason) -> Story:
    return Story(name, about, act, None, None, runs=OLD, refused=reason, touches_client=False, alone=True)


STORIES: tuple[Story, ...] = (
    Story("command-twice", "the command arrives five times", _command_twice, alone=True),
    Story(
        "offline-then-back", "the device is off while it is commanded", _offline_then_back, network="bridge"
    ),
    Story("older-generation", "an older command arrives after a newer one", _older_generation, alone=True),
    _ignored("forged-command", "a command signed by a stranger", _forged, Reason.BAD_SIGNATURE),
    _ignored("command-for-another-device", "another device's command", _for_another, Reason.WRONG_DEVICE),
    _ignored("expired-command", "a command that is too old", _expired, Reason.EXPIRED),
)
