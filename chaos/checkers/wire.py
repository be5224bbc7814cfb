"""What was seen on the wire and switched on the device, and how soon all was at rest."""

from __future__ import annotations

from collections.abc import Callable

from chaos.checkers.case import Case, Missing, Told, each_device, held, once
from chaos.checkers.evidence import asked_for, own_entries, switches
from chaos.verdict import Finding, Verdict


def delivery(case: Case) -> list[Finding]:
    """Commands on the wire, switches, statuses; those that are asked for."""
    return [finding for part in (_commands, _installs, _statuses) for finding in part(case)]


def _published(case: Case, device: str, to: str, kind: str) -> int:
    seen = case.of("tap", "publish", device)
    if not seen and not case.of("tap", "connected", device) and not case.of("tap", "connect", device):
        raise Missing("the tap has seen nothing of the device")
    since = case.method_began
    told = (e for e in seen if not e.data.get("ours"))  # What a fault has put on the wire is nobody's word.
    return sum(e.t >= since and e.data.get("to") == to and e.data.get("kind") == kind for e in told)


def _at_least(what: str) -> Callable[[Case], str]:
    def words(case: Case) -> str:
        wanted = getattr(case.scenario.expect.delivery, what)
        return "" if wanted is None else f"at least {wanted} {what} on the wire"

    return words


@each_device("delivery", _at_least("commands"))
def _commands(case: Case, device: str) -> Told | None:
    if not asked_for(case, device) and any(asked_for(case, other) for other in case.devices):
        return None
    count = _published(case, device, "device", "command")
    return held(count >= (case.scenario.expect.delivery.commands or 0), f"{count}")


@each_device("delivery", _at_least("statuses"))
def _statuses(case: Case, device: str) -> Told | None:
    if not asked_for(case, device) and any(asked_for(case, other) for other in case.devices):
        return None
    count = _published(case, device, "broker", "status")
    return held(count >= (case.scenario.expect.delivery.statuses or 0), f"{count}")


def _wanted_installs(case: Case) -> str:
    wanted = case.scenario.expect.delivery.installs
    return "" if wanted is None else f"{wanted} {'switch' if wanted == 1 else 'switches'} in the journal"


@each_device("delivery", _wanted_installs)
def _installs(case: Case, device: str) -> Told | None:
    if not asked_for(case, device) and any(asked_for(case, other) for other in case.devices):
        return None
    before, last = own_entries(case, device)
    count = len(switches(before)) + len(switches(last))
    return held(count == case.scenario.expect.delivery.installs, f"{count}")


@once(
    "converges-in", lambda case: f"at rest at most {case.scenario.expect.converges} ms after the last fault"
)
def converges_in(case: Case) -> Told:
    """From the last fault's end until everything is at rest."""
    found, never = case.last("run", "converged"), case.last("run", "not-converged")
    if never is not None:
        return Told(Verdict.FAIL, f"not at rest: {never.data.get('what')}")
    if found is None:
        raise Missing("nobody waited for it to come to rest")
    took = found.data.get("ms")
    if not isinstance(took, int | float):
        raise Missing("how long it took was not measured")
    return held(took <= case.scenario.expect.converges, f"{round(took)} ms")
