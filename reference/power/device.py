"""The device: the agent of `reference.edge`, whole, with a line to its service in place of the MQTT link.

Everything that decides, remembers and acts is what a device in the field runs: agent, journal, eyes, runtime
and the conversation with its signed commands. It is forked from a process that has imported all of it, so a boot costs
milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from reference.core.delivery import Memory
from reference.core.errors import BlackstartError, JournalError, Reason
from reference.core.limits import Limits
from reference.core.model import Phase
from reference.core.update import UpdateRecord
from reference.edge import main as edge
from reference.edge.agent import Agent
from reference.edge.conversation import Conversation
from reference.edge.hold import hold_file
from reference.edge.journal import set_aside
from reference.edge.observe import Eyes
from reference.edge.runtimes.base import Runtime
from reference.edge.settings import EdgeSettings
from reference.power import line
from reference.protocol import topics
from reference.protocol.envelope import PublicKey
from reference.support import logging as json_logging
from reference.support.mqtt import Connected, Event, Message, MqttLink


@dataclass(frozen=True, slots=True)
class Boot:
    """What a device has when it boots, beside its disk."""

    settings: EdgeSettings
    limits: Limits
    keys: Mapping[str, PublicKey]
    line: socket.socket
    hold_at: Phase | None = None
    """Stand still once this phase is durable: a hand on its shoulder, for cuts at a named phase."""


Device = Callable[[Boot], None]


def boot(given: Boot) -> None:
    """Run the agent until the power goes. Raises BlackstartError when it cannot go on."""
    json_logging.configure("edge", logging.INFO)
    asyncio.run(_run(given))


class Line:
    """In the place of `MqttLink`, as far as the conversation uses it: messages in, messages out."""

    def __init__(self, end: socket.socket, settings: EdgeSettings) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self._end = end
        self._names = (settings.tenant_id, settings.client_id)

    def listen(self) -> None:
        """Be connected from now on."""
        self.events.put_nowait(Connected())
        asyncio.get_running_loop().add_reader(self._end, self._hear)

    def _hear(self) -> None:
        if (packet := line.receive(self._end)) is None:
            asyncio.get_running_loop().remove_reader(self._end)
            return
        word, content = packet
        topic = topics.topic(*self._names, topics.Kind(word))
        self.events.put_nowait(Message(topic, content, False, lambda: self.tell(line.PUBACK, word.encode())))

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,  # noqa: ARG002 - the link's own signature
        timeout_s: float = 5.0,  # noqa: ARG002
        correlation: bytes | None = None,  # noqa: ARG002
        content_type: str | None = None,  # noqa: ARG002
    ) -> None:
        """As `MqttLink.publish`; it never fails while there is power."""
        self.tell(topics.parse_topic(topic).kind.value, payload)

    def tell(self, word: str, content: bytes) -> None:
        """Send one packet."""
        line.send(self._end, word, content)

    # ---- an onlooker of the agent

    def changed(self, before: Memory, after: Memory) -> None:
        """See Onlooker: phases, for whoever wants to cut there."""
        if before.record.phase is not after.record.phase:
            self.tell(line.PHASE, after.record.phase.value.encode())

    def failed(self, error: BlackstartError) -> None:
        """See Onlooker."""


def _holding(phase: Phase | None) -> edge.AgentFactory:
    if phase is None:
        return Agent

    class Held(Agent):
        async def take_record(self, record: UpdateRecord) -> None:
            await super().take_record(record)
            if record.phase is phase:
                await asyncio.Event().wait()

    return Held


async def _run(given: Boot) -> None:
    settings = given.settings
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with edge.alone(settings.state_dir):
        runtime = edge.open_runtime(settings)
        held, lock = hold_file(settings.state_dir), settings.run_dir / "lock"
        eyes = Eyes(runtime, settings.client, settings.run_dir, settings.seed, hold_file=held, lock_file=lock)
        with edge.alone(settings.run_dir):
            while await _serve(given, runtime, eyes):
                logging.getLogger("reference.edge").critical("the journal was lost while the agent ran")


async def _serve(given: Boot, runtime: Runtime, eyes: Eyes) -> bool:
    """For ever, or until the journal cannot be believed any more; answers whether to begin again."""
    settings = given.settings
    journal = await edge.open_journal(settings, eyes, runtime)
    agent = _holding(given.hold_at)(settings, runtime, journal, eyes, given.limits)
    link = Line(given.line, settings)
    agent.onlookers.append(link)
    link.tell(line.PHASE, agent.memory.record.phase.value.encode())
    conversation = Conversation(settings, cast(MqttLink, link), agent, given.keys)
    lost: JournalError | None = None
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.run())
            group.create_task(conversation.run())
            # A birth tells what runs; the conversation would come back to it only after a second.
            while not agent.has_looked:  # noqa: ASYNC110 - the agent has no event for it
                await asyncio.sleep(0.002)
            images = {digest: state.value for digest, state in eyes.view.images.items()}
            link.tell(line.IMAGES, json.dumps(images).encode())
            link.listen()
    except* JournalError as errors:
        lost = next(error for error in errors.exceptions if isinstance(error, JournalError))
    finally:
        journal.close()
    if lost is None or lost.reason is not Reason.JOURNAL_CORRUPT:
        raise lost or AssertionError("the agent ends with an error only")
    set_aside(journal.path, time.time())
    return True
