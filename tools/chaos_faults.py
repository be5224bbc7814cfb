"""docs/chaos-faults.md: every fault, made from the registry and from the scenarios that use it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from chaos.faults.base import Family
from chaos.listing import FaultEntry, Parameter, faults
from chaos.load import SHIPPED, load_all, name_of
from chaos.scenario.model import Link

_HEAD = """# The faults

Made from `chaos/faults/` and `scenarios/` by `python -m tools.documents`; `blackstart chaos list --faults` shows the same, and
what of it is missing on your machine. How scenarios are written: [chaos.md](chaos.md).

`for` says how long a fault lasts; one that is done at once takes none. *Needs* are the real parts and rights without which a
scenario with this fault is skipped, with the reason: `root`; `loop`, a loop device and ext4; `docker`, an engine that can be
started here; `toxiproxy`, which is fetched; `faketime`, Debian's libfaketime; `blkio`, a control group that throttles disks.
"""
_FAMILIES: Mapping[Family, str] = {
    Family.NETWORK: "On a `link`, through Toxiproxy: bytes and connections. Each is on every way of the link, or on the way of"
    " its `device`; on `service-database` the bench needs `database: postgresql`.",
    Family.MQTT: "On a device's way to the broker, through our own proxy: whole packets.",
    Family.REGISTRY: "Between the devices and the registry, in the front that stands there. All devices get the same, whatever"
    " `device` says: the front cannot tell them apart.",
    Family.POWER: "Of a device, with all that runs on it.",
    Family.PARTS: "Of a device, or of what all share.",
    Family.HOSTILE: "From somebody who means harm.",
}
_COLUMNS = (
    "fault",
    "what happens",
    "takes, under `with`",
    "`for`",
    "needs",
    "is shown to have fired by",
    "scenarios",
)


def document() -> str:
    """The page."""
    used, known = _used(), faults()
    parts = [_HEAD]
    for family, words in _FAMILIES.items():
        parts += [f"## {family.value}\n", f"{words}\n", *_links(known, family)]
        rows = [_row(fault, used[fault.name]) for fault in known if fault.family == family]
        parts.append("\n".join([_line(_COLUMNS), _line(["---"] * len(_COLUMNS)), *rows]) + "\n")
    return "\n".join(parts)


def _used() -> Mapping[str, list[str]]:
    """Names of the scenarios with a fault, by the fault."""
    found: dict[str, list[str]] = defaultdict(list)
    for path, scenario in load_all([SHIPPED]):
        for name in dict.fromkeys(use.fault for use in scenario.faults):
            found[name].append(name_of(path))
    return found


def _links(known: Iterable[FaultEntry], family: Family) -> list[str]:
    links = {link for fault in known if fault.family == family for link in fault.links}
    return [f"Links: {', '.join(f'`{link}`' for link in Link if link in links)}.\n"] if links else []


def _row(fault: FaultEntry, scenarios: Iterable[str]) -> str:
    return _line([
        f"`{fault.name}`", fault.about, "<br>".join(map(_parameter, fault.takes)) or "-", "yes" if fault.lasts else "no",
        ", ".join(f"`{need}`" for need in fault.needs) or "-", fault.shown_by,
        ", ".join(f"[{name}](../scenarios/{name}.yaml)" for name in scenarios) or "-",
    ])  # fmt: skip


def _parameter(one: Parameter) -> str:
    usual = "required" if one.required else f"usually {one.default}" if one.default else "usually none"
    kind = one.takes.replace(" | ", " / ")
    return f"`{one.name}`: {kind}, {usual}{f'. {one.about}' if one.about else ''}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
