"""What a client's container is beside its image: taken from the one that runs, given to the one that follows.

Pure: documents of the engine in, documents out. `fields.py` says what becomes of each field.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reference.core.errors import EngineError
from reference.edge.runtimes.base import ContainerSpec
from reference.edge.runtimes.docker.engine import Document
from reference.edge.runtimes.docker.fields import FATES, Fate

if TYPE_CHECKING:
    from reference.edge.settings import ClientSettings

OURS = "blackstart."
"""How our labels begin."""
CLIENT, GENERATION, IMAGE, VERSION, ASKED, NETWORKS = (
    f"{OURS}{name}" for name in ("client", "generation", "image", "version", "asked", "networks")
)
HANDOVER = f"{OURS}handover"
STANDBY = "BLACKSTART_STANDBY"
_SHORT = 12
_MERGED = (
    "Env",
    "Cmd",
    "Entrypoint",
    "Labels",
    "User",
    "WorkingDir",
    "ExposedPorts",
    "Volumes",
    "Healthcheck",
)
_MERGED_TOO = (*_MERGED, "StopSignal", "Shell")
_MAPS = ("Labels", "ExposedPorts", "Volumes", "Healthcheck")
"""What the engine merges entry by entry."""
_NO_ENDPOINT = ("host", "none")
_PREDEFINED = ("bridge", *_NO_ENDPOINT)
_UNORDERED = ("Env", "Binds", "Mounts", "Aliases", "CapAdd", "CapDrop", "SecurityOpt")


@dataclass(frozen=True, slots=True)
class Carried:
    """What stays the same over the updates of a client, in the words of the engine's create call."""

    config: Document
    host: Document
    networks: Document = field(default_factory=dict)
    """Network -> how it is connected to it."""

    @property
    def asked(self) -> list[str]:
        """What was asked for of that which an image may bring too: by name only, values may be secrets."""
        names = [f"Env.{entry.partition('=')[0]}" for entry in self.config.get("Env", [])]
        for key in _MERGED_TOO[1:]:
            if key in self.config:
                names += [f"{key}.{name}" for name in self.config[key]] if key in _MAPS else [key]
        return names + (["Hostname"] if "Hostname" in self.config else [])

    @property
    def digest(self) -> str:
        """Names it, whatever the order in which it was said."""
        text = json.dumps(_canonical(self.as_json()), sort_keys=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    @property
    def environment(self) -> dict[str, str]:
        """What was asked for, without what the image brings."""
        pairs = (entry.partition("=") for entry in self.config.get("Env", []))
        return {name: value for name, _, value in pairs}

    def as_json(self) -> Document:
        """For a file."""
        return {"config": self.config, "host": self.host, "networks": self.networks}

    @property
    def primary(self) -> str | None:
        """The network that it is made in; the others are connected afterwards."""
        mode = str(self.host.get("NetworkMode") or "default")
        name = "bridge" if mode == "default" else mode
        return name if name in self.networks else min(self.networks, default=None)


def carried_from(body: Document) -> Carried:
    """What `as_json` gave. Raises ValueError when it is not that."""
    parts = [body.get(name) for name in ("config", "host", "networks")]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError("not a container's configuration")
    return Carried(*parts)  # type: ignore[arg-type]


def carry_over(container: Document, image: Document, host_name: str = "") -> Carried:
    """What `container` (as inspected) has beside what `image` (its own, as inspected) brings.

    `host_name` is the device's, which a container on its network has without having asked for it.
    """
    config, defaults = container["Config"], image.get("Config") or {}
    labels = config.get("Labels") or {}
    kept = {k: v for k, v in config.items() if FATES.get(f"Config.{k}", Fate.CARRIED) is Fate.CARRIED}
    if not _asked_for_hostname(container, host_name):
        kept.pop("Hostname", None)
    kept |= _told(config, labels[ASKED]) if ASKED in labels else _subtracted(config, defaults)
    host = _host(container)
    ports = {**kept.get("ExposedPorts", {}), **{port: {} for port in host.get("PortBindings") or {}}}
    kept["ExposedPorts"] = ports
    return Carried(_filled(kept), host, _networks(container, host))


def _asked_for_hostname(container: Document, host_name: str) -> bool:
    name, host = container["Config"].get("Hostname"), container["HostConfig"]
    labels, mode = container["Config"].get("Labels") or {}, str(host.get("NetworkMode"))
    if mode.startswith("container:") or host.get("UTSMode") == "host":
        return False  # The engine refuses one that is asked for.
    if ASKED in labels:  # The device may have been renamed since.
        return "Hostname" in _names(labels[ASKED])
    return name != container["Id"][:_SHORT] and not (mode == "host" and name == host_name)


def _names(label: str) -> set[str]:
    try:
        return {str(name) for name in json.loads(label)}
    except (ValueError, TypeError):
        return set()


def _told(config: Document, label: str) -> Document:
    """What our own label says was asked for: exact, where a comparison with the image is a guess."""
    names = _names(label)
    found: Document = {}
    env = [e for e in config.get("Env") or [] if f"Env.{e.partition('=')[0]}" in names]
    found["Env"] = _environment(env)
    for key in _MERGED_TOO[1:]:
        if key in _MAPS:
            found[key] = {k: v for k, v in (config.get(key) or {}).items() if f"{key}.{k}" in names}
        elif key in names:
            # An entry point that was asked to be none is shown as none, and asked for as this.
            found[key] = config.get(key) or ([""] if key == "Entrypoint" else [])
    return found


def _subtracted(config: Document, defaults: Document) -> Document:
    found: Document = {
        "Env": _environment(_own_environment(config.get("Env") or [], defaults.get("Env") or []))
    }
    for key in _MAPS:
        old = defaults.get(key) or {}
        mine = {k: v for k, v in (config.get(key) or {}).items() if k not in old or old[k] != v}
        found[key] = {k: v for k, v in mine.items() if not (key == "Labels" and k.startswith(OURS))}
    for key in ("User", "WorkingDir", "StopSignal", "Shell"):
        if config.get(key) and config.get(key) != defaults.get(key):
            found[key] = config[key]
    command, entry = config.get("Cmd") or [], config.get("Entrypoint") or []
    if entry != (defaults.get("Entrypoint") or []):
        # An entry point that was asked for takes the image's command away with it.
        found["Entrypoint"] = entry or [""]
        found["Cmd"] = command
    elif command != (defaults.get("Cmd") or []):
        found["Cmd"] = command
    return found


def _own_environment(given: list[str], image: list[str]) -> list[str]:
    """What was asked for stands first; the engine appends what the image has and nobody gave, in the image's order.

    So a value that is said twice, by the image and for the container, is known as the container's by its place.
    """
    at, end = len(image), len(given)
    while end > 0 and given[end - 1] in image[:at]:
        at = image.index(given[end - 1])
        end -= 1
    return given[:end]


def _environment(entries: Iterable[str]) -> list[str]:
    return [entry for entry in entries if not entry.startswith(f"{STANDBY}=")]


def _host(container: Document) -> Document:
    host = {
        k: v
        for k, v in container["HostConfig"].items()
        if FATES.get(f"HostConfig.{k}", Fate.CARRIED) is Fate.CARRIED and v is not None
    }
    if host.get("Links"):
        host["Links"] = [_link(link) for link in host["Links"]]
    if host.get("Binds"):  # A path alone is a volume without a name.
        host["Binds"] = [bind for bind in host["Binds"] if ":" in bind]
    host["Mounts"] = _volumes(container, host)
    connected = [
        n for n in container.get("NetworkSettings", {}).get("Networks") or {} if n not in _NO_ENDPOINT
    ]
    mode = str(host.get("NetworkMode") or "default")
    if connected and mode not in ("default", *_NO_ENDPOINT, *connected) and not mode.startswith("container:"):
        host["NetworkMode"] = _by_id(container, mode) or sorted(connected)[0]  # Somebody has disconnected it.
    return host


def _by_id(container: Document, mode: str) -> str | None:
    found = (container["NetworkSettings"]["Networks"] or {}).items()
    return next((name for name, ep in found if str(ep.get("NetworkID", "")).startswith(mode)), None)


def _link(shown: str) -> str:
    """`/db:/client/db`, as it is shown, is `db:db`, as it is asked for."""
    other, _, alias = shown.partition(":")
    return f"{other.lstrip('/')}:{alias.rpartition('/')[2]}"


def _volumes(container: Document, host: Document) -> list[Document]:
    """What is mounted as it was asked for, and every volume that nobody named by the name that the engine gave it.

    They hold data like others, however they came: by `VOLUME` of the image, `-v /path`, or `--mount` without a source.
    Where a path is both asked for and made up, the engine refuses it, so it compares as the engine does.
    """
    there = {_clean(m["Destination"]): m for m in container.get("Mounts") or [] if m.get("Type") == "volume"}
    asked = [_with_source(mount, there) for mount in host.get("Mounts") or []]
    said = {_clean(str(mount.get("Target"))) for mount in asked}
    said |= {_clean(bind.split(":")[1]) for bind in host.get("Binds") or []}
    return asked + [
        {"Type": "volume", "Source": m["Name"], "Target": m["Destination"], "ReadOnly": not m.get("RW", True)}
        for path, m in there.items()
        if m.get("Name") and path not in said
    ]


def _with_source(mount: Document, there: Document) -> Document:
    made = there.get(_clean(str(mount.get("Target"))))
    if mount.get("Type") != "volume" or mount.get("Source") or made is None or not made.get("Name"):
        return mount
    return {**mount, "Source": made["Name"]}


def _clean(path: str) -> str:
    """As the engine compares paths: `/data/` is `/data`."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _networks(container: Document, host: Document) -> Document:
    labels, name = container["Config"].get("Labels") or {}, str(container.get("Name", "")).lstrip("/")
    if str(host.get("NetworkMode")).startswith("container:"):
        return {}
    found: Document = {}
    for network, endpoint in (container.get("NetworkSettings", {}).get("Networks") or {}).items():
        if network in _NO_ENDPOINT:
            continue
        aliases = [a for a in endpoint.get("Aliases") or [] if a not in (container["Id"][:_SHORT], name)]
        if CLIENT not in labels and network not in _PREDEFINED and name:
            aliases.append(name)  # Its neighbours may know it by that.
        settings = {key: endpoint.get(key) for key in ("IPAMConfig", "Links", "DriverOpts")}
        found[network] = _filled({**settings, "Aliases": sorted(set(aliases))})
    return found


def _filled(document: Document) -> Document:
    return {k: v for k, v in document.items() if v not in (None, "", [], {}) or k in ("Cmd",)}


def _canonical(value: object, key: str = "") -> object:
    if isinstance(value, dict):
        made = {k: _canonical(v, str(k)) for k, v in value.items()}
        return {k: v for k, v in made.items() if v not in (None, "", [], {}, False, 0)}
    if isinstance(value, list):
        made_list = [_canonical(one) for one in value]
        return (
            sorted(made_list, key=lambda v: json.dumps(v, sort_keys=True)) if key in _UNORDERED else made_list
        )
    return value


def first_install(spec: ContainerSpec, client: ClientSettings) -> Carried:
    """What the device's configuration says of a client that was never installed."""
    mode = client.network
    config: Document = {
        "Env": [f"{name}={value}" for name, value in spec.environment.items()],
        "User": client.user,
        "Hostname": client.hostname,
        "ExposedPorts": {_port(port): {} for port in client.publish},
    }
    host: Document = {
        "NetworkMode": mode,
        "Mounts": [_mount(target, source) for target, source in spec.mounts.items()],
        "PortBindings": {_port(port): [_binding(at)] for port, at in client.publish.items()},
        "Devices": [_device(words) for words in client.devices],
        "CapAdd": list(client.capabilities),
        "Memory": client.memory_bytes,
    }
    if client.log_options:
        host["LogConfig"] = {"Type": "", "Config": dict(client.log_options)}
    networks = {} if mode in _NO_ENDPOINT else {mode: _filled({"Aliases": sorted(client.aliases)})}
    return Carried(_filled(config), _filled(host), networks)


def _port(text: str) -> str:
    return text if "/" in text else f"{text}/tcp"


def _binding(at: str) -> Document:
    address, _, port = at.rpartition(":")
    return {"HostIp": address.strip("[]"), "HostPort": port}


def _device(words: str) -> Document:
    outside, _, rest = words.partition(":")
    inside, _, rights = rest.partition(":")
    return {"PathOnHost": outside, "PathInContainer": inside or outside, "CgroupPermissions": rights or "rwm"}


def _mount(target: str, source: str) -> Document:
    """A bind mount has to be there: an engine that made it would hide a disk that is missing."""
    return {"Type": "bind" if source.startswith("/") else "volume", "Source": source, "Target": target}


def create_body(
    carried: Carried, spec: ContainerSpec, client: str, name: str, reference: str, image: Document
) -> Document:
    """The engine's create call: what is carried, the image, and what is ours."""
    config = dict(carried.config)
    labels = {
        **config.get("Labels", {}),
        CLIENT: client,
        GENERATION: str(spec.generation),
        IMAGE: f"{spec.image.repository}@{spec.image.digest}",
        VERSION: spec.image.version,
        ASKED: json.dumps(carried.asked, separators=(",", ":")),
    }
    if len(carried.networks) > 1:
        labels[NETWORKS] = json.dumps(carried.networks, sort_keys=True, separators=(",", ":"))
    environment = list(config.get("Env", []))
    if overlapping((image.get("Config") or {}).get("Labels"), carried.host):
        environment.append(f"{STANDBY}={standby_name(name)}")
    primary = carried.primary
    return {
        **config,
        "Image": reference,
        "Env": environment,
        "Labels": labels,
        "HostConfig": {**carried.host, "RestartPolicy": restart_policy(spec.restart_policy)},
        "NetworkingConfig": {"EndpointsConfig": {primary: carried.networks[primary]} if primary else {}},
    }


def networks_of(container: Document) -> Document:
    """All networks that one of ours was to be connected to, where that is more than one call does."""
    try:
        found = json.loads((container["Config"].get("Labels") or {}).get(NETWORKS, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def standby_name(name: str) -> str:
    """The abstract unix socket of a container that stands by."""
    return f"blackstart-standby-{name}"


def overlapping(labels: dict[str, str] | None, host: Document) -> bool:
    """Whether it may stand by beside another one: its image says so, and it shares the device's network."""
    return (labels or {}).get(HANDOVER) == "overlap" and host.get("NetworkMode") == "host"


def restart_policy(policy: str) -> Document:
    """`no`, `always`, `unless-stopped`, `on-failure` or `on-failure:TIMES` as the engine wants it. Raises EngineError."""
    name, _, times = policy.partition(":")
    known = name in ("no", "always", "unless-stopped", "on-failure")
    if not known or (times and (name != "on-failure" or not times.isdecimal())):
        todo = "Use one of no, always, unless-stopped, on-failure."
        raise EngineError(f"{policy!r} is not a restart policy", todo=todo)
    return {"Name": name, "MaximumRetryCount": int(times or 0)}


def policy_word(host: Document) -> str:
    """A container's restart policy in one word."""
    found = host.get("RestartPolicy") or {}
    name, times = str(found.get("Name") or "no"), int(found.get("MaximumRetryCount") or 0)
    return f"{name}:{times}" if name == "on-failure" and times else name
