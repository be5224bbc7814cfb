"""What the broker is started with: arguments, else `BLACKSTART_BROKER_NAME` in the environment, else a file (TOML)."""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reference.broker.capabilities import Kind
from reference.broker.mosquitto_files import TlsServerFiles
from reference.core.errors import InputError

PROGRAM = "python -m reference.broker"
ENVIRONMENT = "BLACKSTART_BROKER_"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

_HELP = {
    "kind": "which broker: amqtt (embedded, loopback) or mosquitto (MQTT 5, keeps sessions)",
    "host": "address to listen on (usually 127.0.0.1)",
    "port": "port to listen on; 0 picks a free one",
    "data": "folder for what Mosquitto keeps (with --kind mosquitto)",
    "ca": "certificate of the authority, PEM",
    "cert": "the broker's certificate, PEM",
    "key": "the broker's private key, PEM",
    "crl": "the authority's list of revoked certificates, PEM; watched while it runs",
    "log-level": "how much is logged (usually INFO)",
}
_DEFAULTS = {"kind": Kind.AMQTT.value, "host": "127.0.0.1", "log-level": "INFO"}
_CHOICES = {"kind": tuple(kind.value for kind in Kind), "log-level": LEVELS}


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """All of it, checked."""

    kind: Kind
    host: str
    port: int
    files: TlsServerFiles
    data: Path | None = None
    log_level: str = "INFO"

    def arguments(self) -> tuple[str, ...]:
        """The same as command-line arguments."""
        given = {
            "kind": self.kind.value,
            "host": self.host,
            "port": str(self.port),
            "ca": str(self.files.ca),
            "cert": str(self.files.cert),
            "key": str(self.files.key),
            "crl": str(self.files.crl) if self.files.crl else "",
            "data": str(self.data) if self.data else "",
            "log-level": self.log_level,
        }
        return tuple(word for name, value in given.items() if value for word in (f"--{name}", value))


def read_settings(
    arguments: Sequence[str] | None, environment: Mapping[str, str], program: str = PROGRAM
) -> BrokerSettings:
    """Raises `InputError` for values that cannot be; SystemExit, as argparse does, for bad usage and `--help`."""
    parser = argparse.ArgumentParser(
        prog=program, description="The MQTT broker.", allow_abbrev=False,
        epilog=f"Each also as {ENVIRONMENT}NAME in the environment, and as `name = value` in the file (TOML).",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration file (TOML)")
    for name, words in _HELP.items():
        parser.add_argument(f"--{name}", help=words, metavar="|".join(_CHOICES.get(name, ())) or None)
    flags: dict[str, object] = vars(parser.parse_args(arguments))
    config = flags.pop("config")
    found = dict(_DEFAULTS)
    if isinstance(config, Path):
        found |= _from_file(config)
    found |= _from_environment(environment)
    found |= {key.replace("_", "-"): str(value) for key, value in flags.items() if value is not None}
    return _checked(found)


def _from_file(path: Path) -> dict[str, str]:
    try:
        said = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except ValueError as error:
        raise InputError(f"not TOML: {error}", where=str(path)) from None
    for key, value in said.items():
        _known(key, str(path))
        if type(value) not in (str, int):
            raise InputError("is not a text or a number", where=f"{path}: {key}")
    return {key: str(value) for key, value in said.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for variable, value in environment.items():
        if variable.startswith(ENVIRONMENT):
            name = variable.removeprefix(ENVIRONMENT).lower().replace("_", "-")
            _known(name, variable)
            found[name] = value
    return found


def _known(name: str, where: str) -> None:
    if name not in _HELP:
        raise InputError(f"{name[:80]!r} is no setting", where=where, todo=f"Known: {', '.join(_HELP)}.")


def _checked(found: Mapping[str, str]) -> BrokerSettings:
    for name in ("port", "ca", "cert", "key"):
        if not found.get(name):
            variable = ENVIRONMENT + name.upper()
            raise InputError("is needed", where=f"--{name}", todo=f"Or {variable}, or in the file.")
    for name, choices in _CHOICES.items():
        if found[name] not in choices:
            todo = f"One of: {', '.join(choices)}."
            raise InputError(f"{found[name][:80]!r} is none", where=f"--{name}", todo=todo)
    try:
        port = int(found["port"])
    except ValueError:
        port = -1
    if not 0 <= port <= 65_535:
        raise InputError("a port is a number between 0 and 65535", where="--port")
    kind, data, crl = Kind(found["kind"]), found.get("data"), found.get("crl")
    if kind is Kind.MOSQUITTO and not data:
        raise InputError("is needed with --kind mosquitto", where="--data", todo="Name a folder; it is made.")
    ca, cert, key = (Path(found[name]) for name in ("ca", "cert", "key"))
    files = TlsServerFiles(ca, cert, key, Path(crl) if crl else None)
    return BrokerSettings(kind, found["host"], port, files, Path(data) if data else None, found["log-level"])


def from_process(arguments: Sequence[str] | None, program: str = PROGRAM) -> BrokerSettings:
    """As this process was started. Raises what `read_settings` raises."""
    return read_settings(arguments, os.environ, program)
