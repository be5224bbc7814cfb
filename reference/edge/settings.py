"""What an agent is told about its device: one JSON file, checked as a whole before anything starts.

Each field can be set from the environment too, which goes before the file: `BLACKSTART_EDGE_` and the field's name in
capitals, two underscores for each step into a part (`BLACKSTART_EDGE_BROKER__HOST`). A value is JSON where the field
is not text.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from reference.core.errors import InputError
from reference.core.limits import Limits
from reference.protocol.models import ClientId, TenantId


def _no_nul(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a NUL character in a path")
    if path == Path():
        raise ValueError("a path is needed")
    return path


_Path = Annotated[Path, AfterValidator(_no_nul)]
_Host = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\s/\x00]+$")]
_Word = Annotated[str, Field(pattern=r"^[^\x00]*$")]
_Name = Annotated[str, Field(pattern=r"^[^\x00=]+$")]
_Argument = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
_Port = Annotated[int, Field(ge=1, le=65535)]
_Published = Annotated[str, Field(pattern=r"^(([0-9.]+|\[[0-9a-fA-F:]+\]):)?[0-9]{1,5}$")]
_HostName = Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class BrokerSettings(_Part):
    """Where the broker is, and the certificate that opens it."""

    host: _Host
    port: _Port
    ca: _Path
    cert: _Path
    key: _Path
    mqtt_version: Literal["3.1.1", "5"] = "3.1.1"
    """What the broker speaks: it has to be said, a broker of the older one may not answer the newer at all."""
    session_expiry_s: Annotated[int, Field(ge=0, le=2**32 - 2)] = 172_800
    """How long the broker keeps what comes while the device is away (MQTT 5 only): two lives of a command."""


class RegistrySettings(_Part):
    """A registry that this device may pull from: its `host[:port]` is the allow-list's entry."""

    host: _Host
    plain_http: bool = False
    username: str | None = None
    password: str | None = Field(default=None, repr=False)
    credentials_file: _Path | None = None
    """A JSON object of `host[:port]` -> `{"username": ..., "password": ...}`, mode 0600, read at each pull."""
    credential_helper: Annotated[list[_Argument], Field(min_length=1, max_length=32)] | None = None
    """A program that speaks Docker's credential helper protocol, and its arguments; `get` is added."""
    credential_helper_timeout_ms: Annotated[int, Field(ge=100, le=120_000)] = 10_000
    credential_helper_ttl_ms: Annotated[int, Field(ge=0, le=43_200_000)] = 300_000
    """How long an answer without `ExpiresAt` is used."""
    token_hosts: list[_Host] = []
    """Further hosts (`host[:port]`) whose token endpoints may see these credentials."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        ways = (self.username, self.credentials_file, self.credential_helper)
        if sum(way is not None for way in ways) > 1:
            raise ValueError("give one of username and password, credentials_file and credential_helper")
        return self


class ClientSettings(_Part):
    """The client as it is set up on this device: the same for all its versions."""

    address: _Host = "127.0.0.1"
    """Where its health is asked; `container`: at its address in the engine's network."""
    port: _Port
    mounts: dict[_Word, _Word] = {}
    """Path in the container -> path on the device."""
    """Under Docker a name without a slash is a volume of the engine's."""
    environment: dict[_Name, _Word] = {}
    stop_grace_ms: Annotated[int, Field(ge=0, le=600_000)] = 10_000
    network: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = "host"
    """From here on under Docker alone, and for a first install: every update takes over what the container has.

    `host`, `bridge`, or the name of a network of the engine's.
    """
    publish: dict[Annotated[str, Field(pattern=r"^[0-9]{1,5}(/(tcp|udp|sctp))?$")], _Published] = {}
    """Port in the container -> `port` or `address:port` on the device."""
    aliases: list[_HostName] = []
    """Names under which others in its network find it, whatever its version is."""
    hostname: Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9][A-Za-z0-9-]*)?$")] = ""
    user: Annotated[str, Field(pattern=r"^[^\x00]*$")] = ""
    devices: list[Annotated[str, Field(pattern=r"^/[^\x00:]+(:/[^\x00:]+(:[rwm]{1,3})?)?$")]] = []
    """As for `docker run --device`: path on the device, then, if they differ, path in the container and rights."""
    capabilities: list[Annotated[str, Field(pattern=r"^[A-Z_]+$")]] = []
    """What it may do beyond the engine's default."""
    memory_bytes: Annotated[int, Field(ge=0, le=2**53)] = 0
    """The most memory that it may take; 0: as much as there is."""
    log_options: dict[_Name, _Word] = {}
    """Of the engine's default log driver, such as `max-size`."""

    @model_validator(mode="after")
    def _fits_the_network(self) -> Self:
        if self.network == "host" and (self.publish or self.hostname):
            raise ValueError("on the network `host` there is nothing to publish, and no host name of its own")
        if self.network in ("host", "bridge") and self.aliases:
            raise ValueError(f"the network {self.network!r} knows no aliases: name one made for it")
        return self


class EngineSettings(_Part):
    """The Docker engine of this device."""

    socket: Annotated[str, Field(pattern=r"^unix:///[^\x00]+$")] = "unix:///var/run/docker.sock"
    restart: Annotated[list[_Argument], Field(min_length=1, max_length=32)] | None = None
    """A program that restarts the engine, and its arguments; None: `systemctl restart docker` where systemd runs."""
    restart_timeout_ms: Annotated[int, Field(ge=1_000, le=3_600_000)] = 120_000
    """How long it may take until the engine answers again."""
    timeout_ms: Annotated[int, Field(ge=100, le=3_600_000)] = 60_000
    """How long an answer of the engine may take, but for a pull's and a stop's."""
    patience_ms: Annotated[int, Field(ge=0, le=3_600_000)] = 60_000
    """How long an engine that is away is waited for before anything counts as failed: it restarts, or is not up yet."""


class RenewalSettings(_Part):
    """Where the device's certificate is renewed."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
    ca: _Path | None = None
    """Certificates that the service's is checked against; None: the system's."""


class EdgeSettings(_Part):
    """The whole file. `run_dir` must be forgotten by a boot (a tmpfs such as /run); `state_dir` must not."""

    tenant_id: TenantId
    client_id: ClientId
    state_dir: _Path
    run_dir: _Path
    broker: BrokerSettings
    registries: list[RegistrySettings]
    registry_ca: _Path | None = None
    """Certificates that registries are checked against; None: the system's."""
    client: ClientSettings
    runtime: Literal["process", "docker"] = "process"
    """What runs the client: plain processes without isolation, or the Docker engine."""
    engine: EngineSettings = EngineSettings()
    command_keys: Annotated[list[_Path], Field(min_length=1)]
    """Public keys whose commands are obeyed."""
    renewal: RenewalSettings | None = None
    """None: somebody else sees to the certificate."""
    clock_trusted: bool = True
    """Whether wall time may be believed; if not, generations alone decide what is old."""
    pull_watchdog_ms: Annotated[int, Field(ge=100, le=86_400_000)] = 30_000
    limits: dict[str, Annotated[int, Field(ge=0, le=2**53)]] = {}
    """Bounds of `reference.core.limits.Limits` that differ on this device, by name."""
    heartbeat_ms: Annotated[int, Field(ge=1_000, le=86_400_000)] = 60_000
    """How often the device says that it is there, give or take a fifth."""
    status_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port on loopback of `/healthz`, `/readyz` and `/metrics`; 0: any that is free; None: none is opened."""
    ballast_bytes: Annotated[int, Field(ge=0, le=1 << 30)] = 8 << 20
    """Size of the file that is let go when the disk is full; 0: none."""
    disk_margin_bytes: Annotated[int, Field(ge=0, le=1 << 40)] = 16 << 20
    """What a pull has to leave free."""
    lock_file: _Path | None = None
    """The update lock: no switch begins while this file is there; None: `lock` in `run_dir`."""
    seed: int | None = None
    """Seeds the jitter, for runs that are to be repeated."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        state, run = self.state_dir.resolve(), self.run_dir.resolve()
        if state == run or run in state.parents:
            raise ValueError("state_dir lies in run_dir, which a boot forgets")
        return self

    @field_validator("limits")
    @classmethod
    def _known(cls, given: dict[str, int]) -> dict[str, int]:
        known = {f.name for f in fields(Limits)}
        for name in given:
            if name not in known:
                raise ValueError(f"{name!r} is not a limit; known: {', '.join(sorted(known))}")
            if name in ("poll_ms", "watch_ms") and given[name] == 0:
                raise ValueError(f"{name} has to be at least 1: 0 would look without a pause")
        return given


ENVIRONMENT = "BLACKSTART_EDGE_"
"""How the names of our variables begin."""


def load_settings(
    path: Path,
    environment: Mapping[str, str] | None = None,
    data: Path | None = None,
    status_port: int | None = None,
) -> EdgeSettings:
    """Read the file, then what `environment` says, then what the caller does.

    `data` is the folder of `state`, and of `run` where nothing else names it.
    Raises InputError that names the file or the variable, the field, and what is wrong with it.
    """
    body = _read(path)
    said = _from_environment(body, environment or {})
    if data is not None:
        body["state_dir"] = str(data / "state")
        body.setdefault("run_dir", str(data / "run"))
    if status_port is not None:
        body["status_port"] = status_port
    try:
        # As JSON, whose types pydantic reads more strictly than Python's.
        return EdgeSettings.model_validate_json(json.dumps(body))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        where = said.get(_top(first)) or said.get(str(first["loc"][0]) if first["loc"] else "", str(path))
        raise InputError(f"{field or 'the file'}: {_complaint(first)}", where=where) from None
    except ValueError as error:  # text that is no Unicode
        raise InputError(f"not JSON: {error}", where=str(path)) from None


def _top(error: ErrorDetails) -> str:
    return ".".join(str(part) for part in error["loc"][:2])


def _complaint(error: ErrorDetails) -> str:
    """pydantic's words; for a name that is not known, the one that was probably meant."""
    if error["type"] != "extra_forbidden":
        return error["msg"]
    part: type[BaseModel] = EdgeSettings
    for step in error["loc"][:-1]:
        part = _PARTS.get(str(step), part)
    near = difflib.get_close_matches(str(error["loc"][-1]), part.model_fields, 1, 0.5)
    return "is not known here" + (f"; did you mean {near[0]}?" if near else "")


_PARTS: Mapping[str, type[BaseModel]] = {
    "renewal": RenewalSettings,
    "broker": BrokerSettings,
    "registries": RegistrySettings,
    "client": ClientSettings,
    "engine": EngineSettings,
}


def _read(path: Path) -> dict[str, object]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError("not UTF-8 text", where=str(path)) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read: {getattr(error, 'strerror', error)}",
            where=str(path),
            todo="Name the agent's configuration file.",
        ) from None
    try:
        found = json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", where=f"{path}:{error.lineno}") from None
    except RecursionError:
        raise InputError("not a configuration: it is nested too deeply", where=str(path)) from None
    except ValueError as error:  # a number of more digits than Python reads
        raise InputError(f"not JSON: {error}", where=str(path)) from None
    if not isinstance(found, dict):
        raise InputError("the file: not a JSON object", where=str(path))
    return found


def _no_number(word: str) -> object:
    raise ValueError(f"{word} is no JSON number")


def _from_environment(body: dict[str, object], environment: Mapping[str, str]) -> dict[str, str]:
    """Put what the environment says into `body`. Answers field -> variable, for complaints. Raises InputError."""
    said = {}
    for variable in sorted(name for name in environment if name.startswith(ENVIRONMENT)):
        *steps, last = variable.removeprefix(ENVIRONMENT).lower().split("__")
        part: type[BaseModel] = EdgeSettings
        at = body
        for step in steps:
            if step not in ("broker", "client", "engine"):
                raise InputError(f"there is no part {step!r} that can be set by itself", where=variable)
            part = _PARTS[step]
            inner = at.setdefault(step, {})
            if not isinstance(inner, dict):
                break  # the file is wrong there, and will be refused
            at = inner
        if last not in part.model_fields:
            near = difflib.get_close_matches(last, part.model_fields, 1, 0.5)
            advice = f"Did you mean {ENVIRONMENT}{'__'.join([*steps, near[0]]).upper()}?" if near else ""
            raise InputError("is not a setting", where=variable, todo=advice)
        at[last] = _value(environment[variable], part, last)
        said[".".join([*steps, last])] = variable
    return said


def _value(text: str, part: type[BaseModel], field: str) -> object:
    """Text where the field is text or a path; else what it says as JSON, if that is what it is."""
    sort = part.model_json_schema()["properties"][field]
    sorts = {sort.get("type"), *(one.get("type") for one in sort.get("anyOf", []))}
    if "string" in sorts:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # the checks will say what it should have been
