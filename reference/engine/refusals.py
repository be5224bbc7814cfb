"""Why a dockerd did not come up, in one sentence that says what to do."""

from __future__ import annotations

import re

from reference.core.errors import EngineError
from reference.engine.places import Places

_KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"driver not supported|error initializing graphdriver|'overlay' is not supported|backing file system is unsupported",
        "the storage driver cannot be used on this folder's filesystem",
        "Name a folder on ext4 or xfs, or on a tmpfs: overlay2 does not stack on overlayfs, as inside a container.",
    ),
    (r"no space left on device", "the disk is full", "Make room, or name a folder on another disk."),
    (
        r"[Dd]evices cgroup isn't mounted|cgroup mountpoint does not exist|cgroups: cannot find",
        "this system has no control groups mounted",
        "Mount /sys/fs/cgroup, as systemd or cgroupfs-mount does.",
    ),
    (
        r"iptables.*(not found|failed|Permission denied)|failed to create NAT chain",
        "iptables cannot be used",
        "Install iptables and run this as root with CAP_NET_ADMIN.",
    ),
    (
        r"operation not permitted|permission denied",
        "dockerd may not do what it has to",
        "Run this as root with all capabilities; in a container: privileged.",
    ),
    (
        r"unable to configure the Docker daemon",
        "dockerd does not take its configuration",
        "Install Docker 20.10 (API 1.41) or newer, and look at the keys that were added.",
    ),
)


def explain(said: str, places: Places, what: str) -> EngineError:
    """The error for what a dockerd said before it `ended`, or while it `was not ready`."""
    for pattern, meaning, todo in _KNOWN:
        if re.search(pattern, said):
            return EngineError(f"dockerd {what}: {meaning}", where=str(places.log), todo=todo)
    last = said.splitlines()[-3:]
    return EngineError(
        f"dockerd {what}; the end of its log:\n" + "\n".join(last)
        if last
        else f"dockerd {what} and said nothing",
        where=str(places.log),
    )
