"""What is known not to hold, by name. It is counted apart, so that nothing hides behind it; mended, its entry goes."""

from __future__ import annotations

from reference.core.delivery import ClientState
from reference.core.invariants import Violation
from reference.world.search.device import Driver
from reference.world.search.parties import Device

KNOWN = {
    "locked_out": "a birth that is overtaken by one of a newer journal, and that the service hears of for the first "
    "time, replaces the newer journal: its device is never answered again",
}


def gap(driver: Driver, device: Device, client: ClientState, violation: Violation) -> str | None:
    """The name of what is known, None: it is not."""
    epoch = driver.memory_of(device.state).record.epoch
    unheard = violation.invariant in ("converges", "service_agrees", "every_job_ends")
    return "locked_out" if unheard and epoch in client.replaced else None
