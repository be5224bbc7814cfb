"""What a flood is made of: one stream for each device."""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections import Counter

import httpx

from chaos.faults._hostile import judgements, size_of
from chaos.faults.base import FaultError, Ground
from chaos.proxies.mqtt import Injected, Stream
from reference.core.errors import Reason
from reference.protocol import topics
from reference.stack import Device

JUDGED_S = 5.0
"""How long what was sent may take to be handled."""
POLL_S = 0.02
AT_ONCE = 20
"""Requests that wait for their answer at once: more wait for room."""
JUNK_BYTES = (1, 512)


class Flow(ABC):
    """What is sent to, or in the name of, one device."""

    def __init__(self, ground: Ground, device: Device, chance: random.Random) -> None:
        self.ground = ground
        self.device = device
        self.chance = chance
        self.sent = 0

    @abstractmethod
    async def send(self) -> None:
        """One."""

    @abstractmethod
    async def shown(self) -> str:
        """What became of them; empty when nothing shows it."""

    async def end(self) -> None:  # noqa: B027 - most have nothing that goes on
        """Nothing of it goes on."""


class JunkCommands(Flow):
    """To the device, which has to refuse them."""

    def __init__(self, ground: Ground, device: Device, chance: random.Random) -> None:
        super().__init__(ground, device, chance)
        self._way = ground.mqtt(device)
        self._topic = topics.update(ground.stack.tenant, device.client_id)
        self._since = size_of(device.log)

    async def send(self) -> None:
        """See the base."""
        junk = self.chance.randbytes(self.chance.randint(*JUNK_BYTES))
        self.sent += bool(self._way.inject_publish(self._topic, junk).sent)

    async def shown(self) -> str:
        """See the base."""
        end = time.monotonic() + JUDGED_S
        sent = self.sent
        while (refused := self._refused()) < sent and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        name = self.device.client_id
        return f"{sent} junk commands were sent to {name}, it refused {refused}" if refused else ""

    def _refused(self) -> int:
        found = judgements(self.device.log, self._since)
        return sum(judged.reason == Reason.MALFORMED and not judged.job_id for judged in found)


class OwnBirths(Flow):
    """The device's own birth, again and again, to the service."""

    def __init__(self, ground: Ground, device: Device, chance: random.Random) -> None:
        super().__init__(ground, device, chance)
        self._way = ground.mqtt(device)
        self._topic = topics.birth(ground.stack.tenant, device.client_id)
        self._told: list[Injected] = []
        if "birth" not in self._way.first:
            raise FaultError("the device has not announced itself yet", where=device.client_id)
        # Its own: any other would speak of another journal, and that is another fault.
        self._payload = self._way.first["birth"]

    async def send(self) -> None:
        """See the base."""
        told = self._way.inject_publish(self._topic, self._payload, stream=Stream.UPSTREAM)
        self._told.append(told)
        self.sent += bool(told.sent)

    async def shown(self) -> str:
        """See the base."""
        end = time.monotonic() + JUDGED_S
        sent = self.sent
        while (taken := sum(told.acknowledged for told in self._told)) < sent:
            if time.monotonic() > end:
                break
            await asyncio.sleep(POLL_S)
        name = self.device.client_id
        return f"{sent} births of {name} were sent, the broker acknowledged {taken}" if taken else ""


class Requests(Flow):
    """To the API, about the device."""

    def __init__(self, ground: Ground, device: Device, chance: random.Random) -> None:
        super().__init__(ground, device, chance)
        self._answered: Counter[str] = Counter()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(self) -> None:
        """See the base."""
        await self._room.acquire()
        self.sent += 1
        task = asyncio.create_task(self._ask())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self) -> None:
        try:
            answer = await self.ground.api.get(f"/api/v1/clients/{self.device.client_id}")
            self._answered[str(answer.status_code)] += 1
        except httpx.HTTPError as error:
            self._answered[type(error).__name__] += 1
        finally:
            self._room.release()

    async def end(self) -> None:
        """See the base."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def shown(self) -> str:
        """See the base."""
        if not any(status.isdecimal() for status in self._answered):
            return ""
        said = ", ".join(f"{status} ({many})" for status, many in sorted(self._answered.items()))
        return f"{self.sent} requests were sent about {self.device.client_id}; the API answered {said}"
