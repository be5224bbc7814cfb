"""What an agent is told about its device: one JSON file, checked as a whole before anything starts."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from reference.core.errors import InputError
from reference.core.limits import Limits
from reference.protocol.models import ClientId, TenantId


def _no_nul(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a NUL character in a path")
    return path


_Path = Annotated[Path, AfterValidator(_no_nul)]
_Host = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\s/]+$")]
_Word = Annotated[str, Field(pattern=r"^[^\x00]*$")]
_Name = Annotated[str, Field(pattern=r"^[^\x00=]+$")]
_Port = Annotated[int, Field(ge=1, le=65535)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class BrokerSettings(_Part):
    """Where the broker is, and the certificate that opens it."""

    host: _Host
    port: _Port
    ca: _Path
    cert: _Path
    key: _Path


class RegistrySettings(_Part):
    """A registry that this device may pull from: its `host[:port]` is the allow-list's entry."""

    host: _Host
    plain_http: bool = False
    username: str | None = None
    password: str | None = None


class ClientSettings(_Part):
    """The client as it is set up on this device: the same for all its versions."""

    address: _Host = "127.0.0.1"
    """Where its health is asked."""
    port: _Port
    mounts: dict[_Word, _Word] = {}
    """Path in the container -> path on the device."""
    environment: dict[_Name, _Word] = {}
    stop_grace_ms: Annotated[int, Field(ge=0, le=600_000)] = 10_000


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
    command_keys: Annotated[list[_Path], Field(min_length=1)]
    """Public keys whose commands are obeyed."""
    clock_trusted: bool = True
    """Whether wall time may be believed; if not, generations alone decide what is old."""
    pull_watchdog_ms: Annotated[int, Field(ge=100)] = 30_000
    limits: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Bounds of `reference.core.limits.Limits` that differ on this device, by name."""
    seed: int | None = None
    """Seeds the jitter, for runs that are to be repeated."""

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


def load_settings(path: Path) -> EdgeSettings:
    """Read the file. Raises InputError that names the file, the field and what is wrong with it."""
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
        json.loads(
            text
        )  # It says the line of a mistake; pydantic reads JSON's types more strictly than Python's.
        return EdgeSettings.model_validate_json(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", where=f"{path}:{error.lineno}") from None
    except RecursionError:
        raise InputError("not a configuration: it is nested too deeply", where=str(path)) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{field or 'the file'}: {first['msg']}", where=str(path)) from None
    except ValueError as error:  # a number of more digits than Python reads
        raise InputError(f"not JSON: {error}", where=str(path)) from None
