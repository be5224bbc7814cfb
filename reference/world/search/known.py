"""What is known not to hold, by name. It is counted apart, so that nothing hides behind it; mended, its entry goes."""

from __future__ import annotations

from reference.core.delivery import ClientState
from reference.core.invariants import Violation
from reference.world.search.device import Driver
from reference.world.search.parties import Device

KNOWN = {
    "adopted_image": "a container of a failed trial, removed and not synced before a power cut, is there again; if the "
    "journal is lost then, its version is taken for the previous one, whose image a cut may leave broken or gone",
    "locked_out": "a birth that is overtaken by one of a newer journal, and that the service hears of for the first "
    "time, replaces the newer journal: its device is never answered again",
    "images_stay": "images that were removed and not synced before a power cut, or pulled before a journal was lost, "
    "stay until the next job, though more than are to be kept",
}


def gap(driver: Driver, device: Device, client: ClientState, violation: Violation) -> str | None:
    """The name of what is known, None: it is not."""
    invariant, detail = violation.invariant, violation.detail
    epoch = driver.memory_of(device.state).record.epoch
    if invariant in ("converges", "service_agrees", "every_job_ends") and epoch in client.replaced:
        return "locked_out"
    if invariant == "trusted_survives" and device.journals_lost:
        previous = driver.memory_of(device.state).record.previous
        if previous is not None and f"leave {previous.image.version} broken or gone" in detail:
            return "adopted_image"
    if invariant == "bounded" and detail.startswith("images:") and (device.cuts or device.journals_lost):
        return "images_stay"
    return None
