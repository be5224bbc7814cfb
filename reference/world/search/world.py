"""What is the same for every seed: versions and how they behave, small bounds, and all that was worked out so far."""

from __future__ import annotations

from dataclasses import replace

from reference.core.delivery import ClientState
from reference.core.errors import Reason
from reference.core.limits import ServiceLimits
from reference.core.model import Command, Handover, Policy
from reference.world import nouns
from reference.world.engine import Setting
from reference.world.machine import EPOCHS, State
from reference.world.nouns import HEALTH, Behaviour, image
from reference.world.process import Process
from reference.world.search.desk import Desk, Kept
from reference.world.search.device import Driver
from reference.world.search.rules import Sides
from reference.world.story import device

ROUND_MS = 100
"""So much time passes in a round at the service and on the devices' clocks."""
LIMITS = replace(nouns.LIMITS, clock_skew_ms=200, outbox_resend_ms=3 * ROUND_MS, remind_ms=24 * ROUND_MS)
_STEP_MS = 120 * ROUND_MS
SERVICE_LIMITS = ServiceLimits(
    accept_deadline_ms=300 * ROUND_MS, accepted_deadline_ms=2 * _STEP_MS, pulling_deadline_ms=_STEP_MS,
    staged_deadline_ms=_STEP_MS, switching_deadline_ms=_STEP_MS, verifying_deadline_ms=_STEP_MS,
    committing_deadline_ms=_STEP_MS, rolling_back_deadline_ms=_STEP_MS, cleaning_up_deadline_ms=_STEP_MS,
    job_deadline_ms=600 * ROUND_MS, resend_first_ms=3 * ROUND_MS, resend_limit_ms=12 * ROUND_MS,
)  # fmt: skip
GOOD = ("v1", "v2", "v3")
UNKNOWN = "v6"
"""The registry does not know it."""
VERSIONS = ("v2", "v3", "v2", "v3", "v1", "v4", "v5", UNKNOWN)
BEHAVIOURS = {
    "v1": Behaviour(overlaps=True), "v2": Behaviour(overlaps=True), "v4": Behaviour(crashes=True, overlaps=True),
    "v5": Behaviour(healthy_at=None, overlaps=True),
}  # fmt: skip
OVERLAP = Policy(handover=Handover.OVERLAP)
"""Of every other order; v3 and v6 do not allow it."""
MOST_VALUES = 400_000
"""A world that has seen so many is put away, and a new one begun: seeds do not depend on it."""


class World:
    """Shared by all seeds of a process."""

    def __init__(self, sides: Sides | None = None) -> None:
        self.sides = sides or Sides()
        behaviours = {image(version).digest: does for version, does in BEHAVIOURS.items()}
        self.driver = Driver(Setting(behaviours), LIMITS, self.sides)
        self.desk = Desk(self.sides.service, SERVICE_LIMITS)
        memory, engine = device(BEHAVIOURS)
        pulls = ((image(UNKNOWN).digest, (Reason.IMAGE_UNKNOWN,) * 9),)
        begun = self.driver.begin(
            memory, engine._replace(pulls=pulls), Process(opened=True), self.driver.services[0]
        )
        self.device: State = begun
        client = ClientState(issued=1, reported=1, epoch=EPOCHS[0])
        self.client = self.desk.number(Kept(client, (), image("v1").digest))

    @property
    def worn(self) -> bool:
        """Whether it has grown too large."""
        return self.driver.size + self.desk.size > MOST_VALUES

    def command(self, generation: int, version: str, job_id: str, expires_at_ms: int) -> int:
        """The number of a command."""
        order = Command(
            job_id,
            generation,
            image(version),
            HEALTH,
            expires_at_ms,
            OVERLAP if generation % 2 == 0 else Policy(),
        )
        return self.driver.commands.number(order)
