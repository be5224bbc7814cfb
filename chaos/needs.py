"""Which real parts a scenario needs, and which of them this machine does not have: each in one sentence with its cure.

Nothing is started or changed to find out, and the answers are quick.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from chaos.faults import fault_named
from chaos.faults.base import Need, Wants
from chaos.scenario import Scenario
from reference.core.errors import InputError

_SEARCHED = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"))
_MOUNTS = Path("/proc/self/mountinfo")
_THROTTLE = "blkio.throttle.write_bps_device"


def needs_of(scenario: Scenario) -> list[Need]:
    """What has to be here for it, in the order of `Need`. Raises InputError for a fault that does not exist."""
    bench = scenario.bench
    asked = {
        Need.DOCKER: bench.runtime == "docker",
        Need.MOSQUITTO: bench.broker == "mosquitto",
        Need.POSTGRESQL: bench.database == "postgresql",
        Need.DISTRIBUTION: bench.registry == "distribution",
    }
    needed = {need for need, wanted in asked.items() if wanted}
    wants = Wants()
    for use in scenario.faults:
        fault = fault_named(use.fault)
        needed.update(fault.needs_for(use))
        fault.wants(use, wants)
    needed |= {Need.TOXIPROXY} if wants.toxic else set()
    needed |= {Need.LOOP} if wants.disk_bytes else set()
    needed |= {Need.FAKETIME} if wants.faketime else set()
    return [need for need in Need if need in needed]


def missing(need: Need) -> str:
    """Why this is not to be had here, and what to install, in one sentence; empty when it is here."""
    return _LOOKS[need]()


def why_skipped(scenario: Scenario) -> str:
    """All that is missing for it, in one line; empty when it can be played."""
    return "; ".join(said for need in needs_of(scenario) if (said := missing(need)))


def blkio_folder() -> Path | None:
    """The folder of a cgroup hierarchy that throttles disks and can be written: of version 1 (blkio), else of 2 (io)."""
    for kind, folder, options in _cgroups():
        if kind == "cgroup" and "blkio" in options and (folder / _THROTTLE).exists():
            return folder if os.access(folder, os.W_OK) else None
    for kind, folder, _ in _cgroups():
        if kind == "cgroup2" and "io" in _words(folder / "cgroup.controllers"):
            return folder if os.access(folder / "cgroup.subtree_control", os.W_OK) else None
    return None


def _cgroups() -> list[tuple[str, Path, list[str]]]:
    """Kind, folder and options of every cgroup hierarchy that is mounted here."""
    found = []
    for line in _text(_MOUNTS).splitlines():
        before, dash, after = line.partition(" - ")
        if dash and after.startswith("cgroup"):
            kind, _, options = after.split(" ", 2)
            found.append((kind, Path(before.split()[4]), options.replace(" ", ",").split(",")))
    return found


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _root() -> str:
    return "" if os.geteuid() == 0 else "it needs root: run it as root, on a machine of your own"


def _docker() -> str:
    from reference.engine import why_not

    reason = why_not()
    cure = "install docker.io and iptables" if reason.endswith("installed") else "run it as root, on Linux"
    return f"no Docker engine can run here: {reason} ({cure})" if reason else ""


def _toxiproxy() -> str:
    from chaos.proxies.fetch import toxiproxy_missing

    return toxiproxy_missing()


def _loop() -> str:
    from reference.power.disk import require

    try:
        require()
    except InputError as error:
        return str(error)
    return ""


def _blkio() -> str:
    if blkio_folder() is not None:
        return ""
    rights = "" if os.geteuid() == 0 else ", and it needs root"
    return f"no control group that can be written throttles disks here (blkio, or io of version 2){rights}"


def _faketime() -> str:
    from chaos.clock import library

    return "" if library() is not None else "libfaketime is not installed: install the package libfaketime"


def _postgresql() -> str:
    from chaos.postgres import missing as postgres_missing

    reason = postgres_missing()
    return f"no PostgreSQL can run here: {reason}" if reason else ""


def _program(name: str) -> Callable[[], str]:
    def look() -> str:
        found = shutil.which(name, path=_SEARCHED)
        return "" if found else f"{name} is not installed: install the package {name}"

    return look


_LOOKS: Mapping[Need, Callable[[], str]] = {
    Need.TOXIPROXY: _toxiproxy,
    Need.DOCKER: _docker,
    Need.ROOT: _root,
    Need.LOOP: _loop,
    Need.BLKIO: _blkio,
    Need.FAKETIME: _faketime,
    Need.POSTGRESQL: _postgresql,
    Need.MOSQUITTO: _program("mosquitto"),
    Need.DISTRIBUTION: _program("docker-registry"),
}
