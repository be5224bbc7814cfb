"""What an agent is told about its device: one JSON file, checked as a whole before anything starts."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from reference.core.errors import InputError
from reference.core.limits import Limits

_Id = Annotated[str, Field(min_length=1, max_length=64)]
_Port = Annotated[int, Field(ge=1, le=65535)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class BrokerSettings(_Part):
    """Where the broker is, and the certificate that opens it."""

    host: str
    port: _Port
    ca: Path
    cert: Path
    key: Path


class RegistrySettings(_Part):
    """A registry that this device may pull from: its `host[:port]` is the allow-list's entry."""

    host: str
    plain_http: bool = False
    username: str | None = None
    password: str | None = None


class ClientSettings(_Part):
    """The client as it is set up on this device: the same for all its versions."""

    address: str = "127.0.0.1"
    """Where its health is asked."""
    port: _Port
    mounts: dict[str, str] = {}
    """Path in the container -> path on the device."""
    environment: dict[str, str] = {}
    stop_grace_ms: Annotated[int, Field(ge=0, le=600_000)] = 10_000


class EdgeSettings(_Part):
    """The whole file. `run_dir` must be forgotten by a boot (a tmpfs such as /run); `state_dir` must not."""

    tenant_id: _Id
    client_id: _Id
    state_dir: Path
    run_dir: Path
    broker: BrokerSettings
    registries: list[RegistrySettings]
    registry_ca: Path | None = None
    """Certificates that registries are checked against; None: the system's."""
    client: ClientSettings
    command_keys: Annotated[list[Path], Field(min_length=1)]
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
        return given


def load_settings(path: Path) -> EdgeSettings:
    """Read the file. Raises InputError that names the file, the field and what is wrong with it."""
    try:
        text = path.read_text()
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}", where=str(path), todo="Name the agent's configuration file."
        ) from None
    try:
        return EdgeSettings.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", where=f"{path}:{error.lineno}") from None
    except UnicodeDecodeError:
        raise InputError("not UTF-8 text", where=str(path)) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{field or 'the file'}: {first['msg']}", where=str(path)) from None
