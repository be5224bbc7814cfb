"""What a soak stands on: a bench whose service may be gone, and a player that keeps faults apart and agents alive."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import defaultdict

import httpx

from chaos.bench import Bench
from chaos.method import Coming, Player
from chaos.moments import Reached
from chaos.plan import Planned
from chaos.soak.table import BODY, slot_of
from reference.core.errors import BlackstartError, ServiceError
from reference.stack import Device

RESTART_S = 2.0
"""RestartSec of deploy/blackstart-edge.service."""
RESTART_LOOK_S = 0.5
ORDER_S = 20.0
"""An order is repeated for so long, under the same key, while the service does not answer."""


class GuardedPlayer(Player):
    """Keeps apart in fact what was drawn apart: on a slow machine an end takes longer than was thought."""

    _slots: dict[tuple[str, int | None], asyncio.Lock]
    _held: dict[int, asyncio.Lock]

    def __init__(self, bench: Bench, items: tuple[Planned, ...]) -> None:
        super().__init__(bench, items, lambda: True)
        self._slots, self._held = defaultdict(asyncio.Lock), {}

    @property
    def unhealed(self) -> set[str]:
        """Devices that a fault has left as no test can judge them; the empty name: all."""
        return {row.device for row in self.rows if row.failed.startswith("could not be healed")}

    async def look_after(self) -> None:
        """Start agents that have ended by themselves again, as a service manager does; until it is cancelled."""
        since: dict[str, float] = {}
        while True:
            await asyncio.sleep(RESTART_LOOK_S)
            for number, device in enumerate(self.bench.devices, 1):
                slot, name = self._slots[BODY, number], device.client_id
                if slot.locked() or not self.bench.power(device).on or (device.agent and device.agent.alive):
                    since.pop(name, None)
                elif time.monotonic() - since.setdefault(name, time.monotonic()) > RESTART_S:
                    async with slot:
                        self.bench.recorder.record("action", "restarted", name)
                        self.problems.append(f"{name}: the agent had ended by itself, and was started again")
                        with contextlib.suppress(BlackstartError, OSError):  # Then again, in a while.
                            await self.bench.start_agent(device)

    async def _begin(self, coming: Coming, reached: Reached) -> None:
        use = coming.fault.use
        slot = self._slots[slot_of(use), use.device]
        await slot.acquire()
        self._held[id(coming)] = slot
        try:
            await super()._begin(coming, Reached(max(reached.t, self.bench.recorder.now())))
        except (BlackstartError, OSError):
            await self._heal(coming)  # Half of it may be there.
            raise
        if not coming.fault.lasts:
            self._let_go(coming)

    async def _healed(self, coming: Coming) -> None:
        try:
            await super()._healed(coming)
        finally:
            self._let_go(coming)

    def _let_go(self, coming: Coming) -> None:
        if (slot := self._held.pop(id(coming), None)) is not None:
            slot.release()


class SoakBench(Bench):
    """A bench whose service may be gone when an order is given: an order is given until it was taken, and once."""

    async def order(self, device: Device, version: str) -> str:
        """See the base. The key makes the service take it once, whatever became of its answer."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        where, end = f"/api/v1/clients/{device.client_id}/update", time.monotonic() + ORDER_S
        while True:
            said = ""
            try:
                answer = await self.api.post(
                    where, json={"targetVersion": version}, params={"supersede": "true"}, headers=headers
                )
                if answer.status_code == httpx.codes.ACCEPTED:
                    job_id = str(answer.json()["jobId"])
                    self._jobs.setdefault(device.client_id, []).append(job_id)
                    self.orders.setdefault(device.client_id, []).append(version)
                    return job_id
                said = f"{answer.status_code} {answer.text}"
            except httpx.HTTPError as error:
                said = repr(error)
            else:
                if not answer.is_server_error:
                    raise ServiceError(f"the update was not accepted: {said}", where=device.client_id)
            if time.monotonic() > end:
                raise ServiceError(f"the update was not accepted: {said}", where=device.client_id)
            await asyncio.sleep(0.3)
