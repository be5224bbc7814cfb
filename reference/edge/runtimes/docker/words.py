"""What the engine says when something fails, and what it means. Its status codes cannot tell: 404 covers half of it.

Every phrase was met on a real engine, or stands in its source; the first that fits decides, so the order counts.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

import requests
from docker.errors import APIError

from reference.core.errors import BlackstartError, DeviceError, EngineError, ImageError, Reason, RegistryError
from reference.edge.disk import disk_full

PULL: tuple[tuple[str, Reason], ...] = (
    ("no space left on device", Reason.DISK_FULL),
    ("disk quota exceeded", Reason.DISK_FULL),
    # The page of a proxy follows, with any words, and `invalid character`: only the code counts.
    ("error parsing http 401", Reason.REGISTRY_UNAUTHORIZED),
    ("error parsing http 403", Reason.REGISTRY_DENIED),
    ("error parsing http 404", Reason.IMAGE_UNKNOWN),
    ("error parsing http 429", Reason.REGISTRY_THROTTLED),
    ("error parsing http", Reason.REGISTRY_ERROR),
    ("no matching manifest for", Reason.WRONG_ARCHITECTURE),
    ("does not match the specified platform", Reason.WRONG_ARCHITECTURE),
    ("cannot be used on this platform", Reason.WRONG_ARCHITECTURE),
    ("toomanyrequests", Reason.REGISTRY_THROTTLED),
    ("too many requests", Reason.REGISTRY_THROTTLED),
    ("rate limit", Reason.REGISTRY_THROTTLED),
    ("pull access denied", Reason.REGISTRY_DENIED),
    ("requested access to the resource is denied", Reason.REGISTRY_DENIED),
    ("403 forbidden", Reason.REGISTRY_DENIED),
    ("no basic auth credentials", Reason.REGISTRY_UNAUTHORIZED),
    ("unauthorized", Reason.REGISTRY_UNAUTHORIZED),
    ("authentication required", Reason.REGISTRY_UNAUTHORIZED),
    ("manifest verification failed for digest", Reason.PULL_CORRUPT),
    ("layer verification failed for digest", Reason.PULL_CORRUPT),
    ("image config verification failed for digest", Reason.PULL_CORRUPT),
    ("unexpected commit digest", Reason.PULL_CORRUPT),
    ("invalid character", Reason.PULL_CORRUPT),
    ("manifest unknown", Reason.IMAGE_UNKNOWN),
    ("name unknown", Reason.IMAGE_UNKNOWN),
    ("repository name not known", Reason.IMAGE_UNKNOWN),
    ("blob unknown", Reason.IMAGE_UNKNOWN),
    ("manifest for", Reason.IMAGE_UNKNOWN),
    ("unknown blob", Reason.IMAGE_UNKNOWN),
    ("x509:", Reason.REGISTRY_UNREACHABLE),
    ("server gave http response to https client", Reason.REGISTRY_UNREACHABLE),
    ("tls:", Reason.REGISTRY_UNREACHABLE),
    ("tls handshake", Reason.REGISTRY_UNREACHABLE),
    ("connection refused", Reason.REGISTRY_UNREACHABLE),
    ("connection reset", Reason.REGISTRY_UNREACHABLE),
    ("network is unreachable", Reason.REGISTRY_UNREACHABLE),
    ("no route to host", Reason.REGISTRY_UNREACHABLE),
    ("no such host", Reason.REGISTRY_UNREACHABLE),
    ("server misbehaving", Reason.REGISTRY_UNREACHABLE),
    ("temporary failure in name resolution", Reason.REGISTRY_UNREACHABLE),
    ("i/o timeout", Reason.REGISTRY_UNREACHABLE),
    ("client.timeout exceeded", Reason.REGISTRY_UNREACHABLE),
    ("context deadline exceeded", Reason.REGISTRY_UNREACHABLE),
    ("request canceled while waiting", Reason.REGISTRY_UNREACHABLE),
    ("broken pipe", Reason.REGISTRY_UNREACHABLE),
    ("eof", Reason.REGISTRY_UNREACHABLE),
    ("received unexpected http status", Reason.REGISTRY_ERROR),
    ("download failed after attempts", Reason.REGISTRY_ERROR),
    ("unexpected http code", Reason.REGISTRY_ERROR),
    ("invalid tar header", Reason.IMAGE_INVALID),
    ("archive/tar", Reason.IMAGE_INVALID),
    ("unsupported media type", Reason.IMAGE_INVALID),
    ("unsupported manifest", Reason.IMAGE_INVALID),
    ("mediatype", Reason.IMAGE_INVALID),
    ("invalid reference format", Reason.IMAGE_INVALID),
    ("invalid rootfs in image configuration", Reason.IMAGE_INVALID),
    ("gzip: invalid", Reason.IMAGE_INVALID),
)  # fmt: skip
"""In a failed pull."""

START: tuple[tuple[str, Reason], ...] = (
    ("no space left on device", Reason.DISK_FULL),
    ("port is already allocated", Reason.START_REFUSED),
    ("address already in use", Reason.START_REFUSED),
    ("exec format error", Reason.WRONG_ARCHITECTURE),
    # Programs of the engine's own that are missing, or cannot be run, on this device.
    ('exec: "docker-', Reason.START_REFUSED),
    ('exec: "containerd-shim', Reason.START_REFUSED),
    ('exec: "runc', Reason.START_REFUSED),
    ('exec: "iptables', Reason.START_REFUSED),
    ("userland proxy", Reason.START_REFUSED),
    ("oci runtime error (", Reason.START_REFUSED),
    ("executable file not found", Reason.IMAGE_INVALID),
    ("no command specified", Reason.IMAGE_INVALID),
    ("exec: ", Reason.IMAGE_INVALID),
    ("unable to find user", Reason.IMAGE_INVALID),
    ("no matching entries in passwd file", Reason.IMAGE_INVALID),
    ("bind source path does not exist", Reason.CONFIGURATION_INVALID),
    ("error while creating mount source path", Reason.CONFIGURATION_INVALID),
    ("error gathering device information", Reason.CONFIGURATION_INVALID),
    ("not a directory: unknown: are you trying to mount", Reason.CONFIGURATION_INVALID),
    ("could not find network", Reason.CONFIGURATION_INVALID),
    ("removal of container", Reason.ENGINE_ERROR),
    ("is marked for removal", Reason.ENGINE_ERROR),
    ("no such container", Reason.ENGINE_ERROR),
    # An engine on its way down, or not up again yet.
    ("failed to update store for object type", Reason.ENGINE_ERROR),
    ("transport is closing", Reason.ENGINE_ERROR),
    ("client connection is closing", Reason.ENGINE_ERROR),
    ("error while dialing", Reason.ENGINE_ERROR),
    ("context canceled", Reason.ENGINE_ERROR),
)
"""In a refused start. What is not here is START_REFUSED: the engine is restarted once before anybody is blamed."""

CREATE = (
    "bind source path does not exist",
    "invalid ",
    "not found",
    "conflicting options",
    "unknown log opt",
    "no such container",
    "could not get container for",
    "duplicate mount point",
)
"""In a refused create: what the container is to have is wrong, not the engine."""

_KINDS: dict[Reason, type[BlackstartError]] = {
    Reason.DISK_FULL: DeviceError,
    Reason.WRONG_ARCHITECTURE: ImageError,
    Reason.IMAGE_INVALID: ImageError,
    Reason.ENGINE_ERROR: EngineError,
    Reason.START_REFUSED: EngineError,
    Reason.CONFIGURATION_INVALID: DeviceError,
}
"""Whose fault a reason is; all others are the registry's."""

_NO_NETWORK = re.compile(r"network \S+ not found")
HALF_THERE = "too many levels of symbolic links"
"""What the first pull after a cut may fail with; the second does not."""


def classify(text: str) -> Reason:
    """What a line of a failed pull means. Words that nobody knows are the engine's trouble, tried again."""
    return _first(text, PULL, Reason.ENGINE_ERROR)


def classify_start(text: str) -> Reason:
    """What the words of a refused start mean."""
    return _first(text, START, Reason.START_REFUSED)


def _first(text: str, table: tuple[tuple[str, Reason], ...], otherwise: Reason) -> Reason:
    words = text.lower()
    if table is START and _NO_NETWORK.search(words):
        return Reason.CONFIGURATION_INVALID
    return next((reason for phrase, reason in table if phrase in words), otherwise)


def pull_error(text: str, host: str) -> BlackstartError:
    """A failed pull as an error that says what to do."""
    reason = classify(text)
    if reason is Reason.DISK_FULL:
        return disk_full(text)
    return _KINDS.get(reason, RegistryError)(text, reason=reason, todo=_advice(text, reason, host))


def _advice(text: str, reason: Reason, host: str) -> str:
    words = text.lower()
    if "server gave http response to https client" in words:
        return f"Give the engine {host!r} in `insecure-registries` of its daemon.json: it has no other way to plain HTTP."
    if "x509:" in words or "certificate" in words:
        return f"Put the registry's CA certificate into /etc/docker/certs.d/{host}/ca.crt: the engine reads it at each pull."
    return {
        Reason.REGISTRY_UNAUTHORIZED: "Give the device credentials for this registry.",
        Reason.REGISTRY_DENIED: "Give the device's account the right to pull this repository.",
        Reason.IMAGE_UNKNOWN: "Look whether the registry has this digest in this repository.",
        Reason.WRONG_ARCHITECTURE: "Publish the version for this device's architecture.",
    }.get(reason, "")


def start_error(text: str, container_id: str) -> BlackstartError:
    """A refused start as an error."""
    reason = classify_start(text)
    what = f"{container_id[:12]} could not be started: {text}"
    if reason is Reason.DISK_FULL:
        return disk_full(what)
    return _KINDS[reason](what, reason=reason)


def create_error(text: str, generation: int) -> BlackstartError:
    """A container that could not be made as an error."""
    what, words = f"a container of generation {generation} could not be made: {text}", text.lower()
    if "no space left on device" in words:
        return disk_full(what)
    if any(phrase in words for phrase in CREATE):
        return DeviceError(what, todo="Correct what the client is set up with on this device.")
    return EngineError(what)


def engine_error(doing: str, error: Exception, socket: str) -> BlackstartError:
    """Whatever the SDK, or what it stands on, has raised while `doing` something."""
    if isinstance(error, BlackstartError):
        return error
    if isinstance(error, APIError):
        text = said(error)
        if "no space left on device" in text.lower():
            return disk_full(f"could not {doing}: {text}")
        return EngineError(f"could not {doing}: {text}")
    if isinstance(error, (requests.exceptions.ReadTimeout, TimeoutError)):
        todo = "See whether it hangs: docker info."
        return EngineError(f"could not {doing}: the engine did not answer in time", where=socket, todo=todo)
    if isinstance(error, (requests.exceptions.RequestException, OSError)):
        return _not_there(doing, error, socket)
    return EngineError(f"could not {doing}: {type(error).__name__}: {error}", where=socket)


def said(error: APIError) -> str:
    """The engine's own words."""
    return str(error.explanation or error.response.reason if error.response is not None else error)


class EngineAwayError(EngineError):
    """Nobody is at the other end of the socket: the engine restarts, is not up yet, or is not there at all."""


def _not_there(doing: str, error: Exception, socket: str) -> EngineError:
    number = next((e.errno for e in _chain(error) if isinstance(e, OSError) and e.errno), None)
    what, todo = f"could not {doing}: the engine does not answer", "Start it: systemctl start docker."
    if number in (errno.EACCES, errno.EPERM):
        what = f"could not {doing}: no permission on the engine's socket"
        return EngineError(
            what, where=socket, todo="Run the updater as root, or its user in the group `docker`."
        )
    if number == errno.ENOENT:
        what = f"could not {doing}: there is no engine's socket"
        todo = "Start it (systemctl start docker), install Docker, or name its socket in `engine.socket`."
    return EngineAwayError(what, where=socket, todo=todo)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it was raised from: the reason lies three libraries down."""
    seen: list[BaseException] = [error]
    for found in seen:
        yield found
        inner = [found.__cause__, found.__context__, *found.args]
        seen += [e for e in inner if isinstance(e, BaseException) and e not in seen]
        if len(seen) > 50:
            return
