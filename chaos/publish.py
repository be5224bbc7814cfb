"""The versions of a scenario: built, pushed and registered before anything is done."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from chaos.scenario.model import Handover, Scenario, VersionSpec
from reference.core.errors import InputError
from reference.core.model import Handover as CoreHandover
from reference.core.model import Health
from reference.stack import Stack

HEALTH = Health(probe="/healthz", start_period_ms=1_000, window_ms=3_000, stable_for_ms=400)
"""Short: the client of the bench is up in some milliseconds."""
REPOSITORY = "opc-client"
OWN_BYTES = 64 << 10
"""What each version has of its own at least: without it all would share their layers, and nothing would be pulled."""


async def publish(stack: Stack, scenario: Scenario, claimed: Iterable[str] = ()) -> None:
    """Publish every version that is named, but those that a fault sees to itself. Raises BlackstartError."""
    for version in scenario.versions:
        if version not in set(claimed):
            await _publish(stack, scenario.bench.spec(version))


async def _publish(stack: Stack, spec: VersionSpec) -> None:
    health, policy = health_of(spec), policy_of(spec)
    if spec.lost:
        digest = f"sha256:{hashlib.sha256(spec.version.encode()).hexdigest()}"
        await stack.register(
            spec.version, f"{stack.registry().host}/{REPOSITORY}", digest, health, policy=policy
        )
        return
    defect, after_ms = defect_of(spec)
    overlaps = spec.handover is Handover.OVERLAP
    await stack.publish(
        spec.version, defect, health=health, policy=policy, architecture=spec.architecture or None,
        labels={"blackstart.handover": CoreHandover.OVERLAP.value} if overlaps else None,
        after_ms=after_ms, padding_bytes=(spec.layer << 20) or OWN_BYTES,
    )  # fmt: skip


def defect_of(spec: VersionSpec) -> tuple[str | None, int | None]:
    """Its name, and its time in ms where one is given: `slow-start:500`. Raises InputError."""
    name, colon, after = spec.defect.partition(":")
    if colon and not after.isdigit():
        raise InputError(
            f"{spec.defect!r} is no defect", where="bench.versions", todo="Write NAME or NAME:MILLISECONDS."
        )
    return name or None, int(after) if colon else None


def health_of(spec: VersionSpec) -> Health:
    """What counts as healthy for it."""
    return replace(
        HEALTH,
        start_period_ms=HEALTH.start_period_ms if spec.start_period is None else spec.start_period,
        window_ms=HEALTH.window_ms if spec.window is None else spec.window,
        stable_for_ms=HEALTH.stable_for_ms if spec.stable_for is None else spec.stable_for,
    )


def policy_of(spec: VersionSpec) -> dict[str, object]:
    """Of its updates, as the API takes it."""
    policy: dict[str, object] = {}
    if spec.snapshot:
        policy["snapshot"] = True
    if spec.handover is Handover.OVERLAP:
        policy["handover"] = CoreHandover.OVERLAP.value
    if spec.probation is not None:
        policy["probationMs"] = spec.probation
    return policy
