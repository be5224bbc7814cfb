"""What an update does with each field that `docker inspect` shows: the table of docs/docker.md.

A field that is not listed is carried, so that what an engine learns later is not lost by an update.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """What becomes of a field in an update."""

    CARRIED = "carried"
    """The new container gets what the old one has."""
    LESS_IMAGE = "carried, less the old image's own"
    """What was asked for stays; what the old image brought goes with it, and the new image brings its own."""
    OURS = "the updater's"
    """Set at each create, or while the client is exchanged."""
    ENGINE = "the engine's"
    """Made anew for each container."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of `Config`, `HostConfig`, or a network."""

    name: str
    fate: Fate
    note: str = ""


def _all(part: str, fate: Fate, names: str) -> tuple[Field, ...]:
    return tuple(Field(f"{part}.{name}", fate) for name in names.split())


CONFIG = (
    Field("Config.Env", Fate.LESS_IMAGE, "`BLACKSTART_STANDBY` is the updater's"),
    Field("Config.Cmd", Fate.LESS_IMAGE, "goes with an entry point that was asked for, even if it is empty"),
    Field("Config.Entrypoint", Fate.LESS_IMAGE),
    Field("Config.Labels", Fate.LESS_IMAGE, "`blackstart.*` are the updater's"),
    Field("Config.User", Fate.LESS_IMAGE),
    Field("Config.WorkingDir", Fate.LESS_IMAGE),
    Field("Config.ExposedPorts", Fate.LESS_IMAGE, "and every port that is published"),
    Field("Config.Volumes", Fate.LESS_IMAGE, "the volumes themselves are carried by name, nameless ones too"),
    Field("Config.Healthcheck", Fate.LESS_IMAGE, "part by part: an interval that was asked for, the image's test"),
    Field("Config.StopSignal", Fate.LESS_IMAGE),
    Field("Config.Shell", Fate.LESS_IMAGE),
    Field("Config.Image", Fate.OURS, "by digest"),
    Field("Config.Hostname", Fate.CARRIED, "where one was asked for"),
    Field("Config.MacAddress", Fate.CARRIED, "where one was asked for"),
    *_all(
        "Config", Fate.CARRIED,
        "Domainname Tty OpenStdin StdinOnce StopTimeout NetworkDisabled AttachStdin AttachStdout AttachStderr",
    ),
    Field("Config.OnBuild", Fate.ENGINE, "of the image"),
    Field("Config.ArgsEscaped", Fate.ENGINE, "of the image"),
)  # fmt: skip

HOST = (
    Field("HostConfig.RestartPolicy", Fate.OURS, "`no` while the client is exchanged, then as it was"),
    Field("HostConfig.AutoRemove", Fate.OURS, "always off: what removes itself cannot come back"),
    Field("HostConfig.ContainerIDFile", Fate.ENGINE, "of the program that made the container"),
    Field("HostConfig.ConsoleSize", Fate.ENGINE, "of the program that made the container"),
    Field("HostConfig.Mounts", Fate.CARRIED, "with every volume that has no name of its own"),
    Field("HostConfig.Binds", Fate.CARRIED, "a path alone, which is a volume without a name, as a mount"),
    Field("HostConfig.NetworkMode", Fate.CARRIED),
    Field("HostConfig.Links", Fate.CARRIED, "as they were asked for"),
    *_all(
        "HostConfig", Fate.CARRIED,
        "Tmpfs VolumeDriver VolumesFrom PortBindings PublishAllPorts Dns DnsOptions DnsSearch ExtraHosts "
        "CapAdd CapDrop Privileged SecurityOpt MaskedPaths ReadonlyPaths ReadonlyRootfs GroupAdd UsernsMode "
        "CgroupnsMode IpcMode PidMode UTSMode Cgroup CgroupParent OomScoreAdj OomKillDisable ShmSize Sysctls "
        "Ulimits Init Runtime Isolation LogConfig Devices DeviceCgroupRules DeviceRequests StorageOpt Annotations "
        "Memory MemoryReservation MemorySwap MemorySwappiness KernelMemory KernelMemoryTCP NanoCpus CpuShares "
        "CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime CpusetCpus CpusetMems CpuCount CpuPercent "
        "PidsLimit BlkioWeight BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps "
        "BlkioDeviceWriteIOps IOMaximumIOps IOMaximumBandwidth",
    ),
)  # fmt: skip

NETWORKS = (
    Field("Networks", Fate.CARRIED, "all that the container is connected to"),
    Field("Networks.Aliases", Fate.CARRIED, "and the name of an adopted container, which others may use"),
    Field("Networks.IPAMConfig", Fate.CARRIED, "addresses that were asked for"),
    *_all("Networks", Fate.CARRIED, "Links DriverOpts"),
    *_all(
        "Networks", Fate.ENGINE,
        "NetworkID EndpointID Gateway IPAddress IPPrefixLen IPv6Gateway GlobalIPv6Address GlobalIPv6PrefixLen "
        "MacAddress DNSNames GwPriority",
    ),
)  # fmt: skip

FIELDS = CONFIG + HOST + NETWORKS
FATES = {field.name: field.fate for field in FIELDS}


_HEAD = """# What an update keeps of a container

Made from `reference/edge/runtimes/docker/fields.py` by `python -m tools.documents`. What is under Docker beside it:
[docker.md](docker.md).

The new container gets what the one that runs has, as `docker inspect` shows it, and the new image. A field that is not
listed is carried. *Less the old image's own*: what an image brings (its environment, its labels, its command) cannot be
told from what somebody asked for by looking at a container, so it is compared with the image; containers that the
updater made carry a label that says what was asked for (`blackstart.asked`: names only, no values).

"""


def document() -> str:
    """docs/docker-fields.md."""
    lines = ["| field of `docker inspect` | in an update | |", "|---|---|---|"]
    lines += [f"| `{field.name}` | {field.fate} | {field.note} |".replace("|  |", "| |") for field in FIELDS]
    return _HEAD + "\n".join(lines) + "\n"
