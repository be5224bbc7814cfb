"""What the service is started with, checked as a whole before anything is begun.

A setting comes from the first of: the argument (`--broker-port 8883`), the environment
(`BLACKSTART_SERVICE_BROKER_PORT`), the configuration file (`broker-port = 8883`, TOML), its default. A name that is
none is an error, wherever it stands: a misspelt setting would otherwise be a default in silence.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal, NoReturn

from cryptography import x509
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from reference.core.errors import InputError
from reference.core.model import Health
from reference.pki.authority import ENROLLED_DAYS, DevelopmentCA
from reference.pki.issuer import IssuerUnavailableError
from reference.protocol.envelope import SigningKey, load_private_key, public_pem
from reference.protocol.models import HealthSpec
from reference.service.auth import AUDIENCE, DevelopmentIssuer, KeySource, TokenRules
from reference.service.enrolment import Enrolment, Handout
from reference.service.jwks import JwksKeys
from reference.service.tls import ServerFiles, development_files
from reference.support.addresses import is_loopback
from reference.support.mqtt import Protocol, TlsFiles

DATABASE = "service.db"
PROGRAM = "python -m reference.service"
ENVIRONMENT = "BLACKSTART_SERVICE_"
CONFIG = "config"
MAX_CONFIG_BYTES = 1024 * 1024
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. Its kind is that of `kind`: str, int, bool or Path."""

    name: str
    kind: type
    help: str
    default: object = None
    required: bool = False
    choices: tuple[str, ...] = ()
    secret: bool = False
    """Never shown, in no message."""

    @property
    def flag(self) -> str:
        """As an argument."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """As a variable of the environment."""
        return ENVIRONMENT + self.name.upper().replace("-", "_")


_USUAL = Health()
_VERSIONS = tuple(version.value for version in Protocol)
_LEVELS = ("debug", "info", "warning", "error")
OPTIONS = (
    Option("data", Path, "folder for the database and the development issuer's key", required=True),
    Option("database", str, f"URL of the database; {DATABASE} in the data folder if not given", secret=True),
    Option("host", str, "address to listen on; without TLS a loopback address", "127.0.0.1"),
    Option("port", int, "port to listen on, 0 for any free one", 8080),
    Option("tls-cert", Path, "certificate for HTTPS, with what leads to its authority (PEM)"),
    Option("tls-key", Path, "its key (PEM)"),
    Option("tls-dev", bool, "HTTPS with a certificate of the development authority in --ca-dir", False),
    Option("ca-dir", Path, "folder of the development authority; without it no device can enrol"),
    Option("certificate-days", int, "how long a certificate lives that a device enrols for", ENROLLED_DAYS),
    Option("device-broker-host", str, "the broker as enrolled devices reach it; as the service if not given"),
    Option("device-broker-port", int, "its port", None),
    Option("broker-host", str, "name or address of the MQTT broker", required=True),
    Option("broker-port", int, "its port, for MQTT over TLS", 8883),
    Option("mqtt-version", str, "what the broker speaks", Protocol.V311.value, choices=_VERSIONS),
    Option("ca", Path, "certificates that the broker's must come from (PEM)", required=True),
    Option("cert", Path, "the service's certificate for the broker (PEM)", required=True),
    Option("key", Path, "its key (PEM)", required=True),
    Option("signing-key", Path, "Ed25519 key that commands are signed with (PEM)", required=True),
    Option("jwks-url", str, "where the identity provider publishes its keys; without it: development issuer"),
    Option("jwks-ca", Path, "certificates that the identity provider's must come from (PEM)"),
    Option("issuer", str, "what a token's `iss` must say"),
    Option("audience", str, "what a token's `aud` must say", AUDIENCE),
    Option("tenant-claim", str, "the claim with the caller's tenant; dots lead into it", "tenant"),
    Option("role-claim", str, "the claim with the role or roles, such as realm_access.roles", "role"),
    Option("health-probe", str, "for versions that do not name one", _USUAL.probe),
    Option("health-start-period-ms", int, "", _USUAL.start_period_ms),
    Option("health-window-ms", int, "", _USUAL.window_ms),
    Option("health-stable-for-ms", int, "", _USUAL.stable_for_ms),
    Option("log-level", str, "how much is logged", "info", choices=_LEVELS),
)
_BY_NAME = {option.name: option for option in OPTIONS}


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings. The files they name were there and usable."""

    data: Path
    database: str | None = field(repr=False)
    """A URL, which may hold a password; None for SQLite in the data folder."""
    host: str
    port: int
    https: ServerFiles | None
    ca_dir: Path | None
    broker_host: str
    broker_port: int
    mqtt_version: Protocol
    tls: TlsFiles
    client_id: str
    """The MQTT client id: the common name of the service's certificate."""
    signing_key: SigningKey = field(repr=False)
    keys: KeySource = field(repr=False)
    rules: TokenRules
    health: Health
    enrolment: Enrolment
    log_level: str


class _Given:
    """Raw values by name, each with the place it came from."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[object, str]] = {}

    def add(self, name: str, value: object, where: str) -> None:
        self._found[name] = (value, where)

    def where(self, name: str) -> str:
        """Where a setting was given; its flag if nowhere."""
        return self._found[name][1] if name in self._found else _BY_NAME[name].flag

    def raw(self, name: str) -> object:
        return self._found[name][0] if name in self._found else _BY_NAME[name].default

    def text(self, name: str) -> str | None:
        value = self.raw(name)
        return None if value is None else str(value)

    def word(self, name: str) -> str:
        value = self.text(name)
        assert value is not None
        return value

    def number(self, name: str) -> int:
        value = self.raw(name)
        assert isinstance(value, int)
        return value

    def path(self, name: str) -> Path | None:
        value = self.raw(name)
        return value if isinstance(value, Path) else None

    def file(self, name: str) -> Path:
        value = self.path(name)
        assert value is not None
        return value


def read_settings(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, program: str = PROGRAM
) -> Settings:
    """Raises InputError for values that cannot be; SystemExit, as argparse does, for `--help` and its like."""
    given = _gather(arguments, os.environ if environment is None else environment, program)
    for option in OPTIONS:
        if option.required and given.raw(option.name) is None:
            raise InputError("is needed", where=option.flag, todo=f"Or {option.variable}, or in the file.")
    for name in ("port", "broker-port"):
        if not 0 <= given.number(name) <= 65_535:
            raise InputError("a port is between 0 and 65535", where=given.where(name))
    tls = TlsFiles(given.file("ca"), given.file("cert"), given.file("key"))
    tls.context()
    signing_key = load_private_key(given.file("signing-key"))
    data = given.file("data")
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be used as a folder: {error.strerror}", where=str(data)) from None
    return Settings(
        data=data,
        database=given.text("database"),
        host=given.word("host"),
        port=given.number("port"),
        https=_https(given),
        ca_dir=given.path("ca-dir"),
        broker_host=given.word("broker-host"),
        broker_port=given.number("broker-port"),
        mqtt_version=Protocol(given.word("mqtt-version")),
        tls=tls,
        client_id=_common_name(tls.cert),
        signing_key=signing_key,
        keys=_keys(given, data),
        rules=TokenRules(given.word("audience"), given.word("tenant-claim"), given.word("role-claim")),
        health=_health(given),
        enrolment=_enrolment(given, tls.ca, signing_key),
        log_level=given.word("log-level").upper(),
    )


def _gather(arguments: Sequence[str], environment: Mapping[str, str], program: str) -> _Given:
    """From the last resort to the first word. Raises InputError for names and values that cannot be."""
    flags = _arguments(arguments, program)
    variables = {}
    for name, value in environment.items():
        if name.startswith(ENVIRONMENT):
            key = name.removeprefix(ENVIRONMENT).lower().replace("_", "-")
            if key not in _BY_NAME and key != CONFIG:
                known = [option.variable for option in OPTIONS]
                _unknown(name, name, known)
            variables[key] = value
    given = _Given()
    config = flags.pop(CONFIG, None) or variables.pop(CONFIG, None)
    if config:
        _add_file(given, Path(str(config)))
    for key, value in variables.items():
        option = _BY_NAME[key]
        given.add(key, _parse(option, value, option.variable), option.variable)
    for key, flag in flags.items():
        option = _BY_NAME[key]
        given.add(key, flag if option.kind is bool else _parse(option, str(flag), option.flag), option.flag)
    return given


def _arguments(arguments: Sequence[str], program: str) -> dict[str, object]:
    parser = argparse.ArgumentParser(
        prog=program, description="The Device Management Service.", allow_abbrev=False,
        epilog=f"Each also as {ENVIRONMENT}NAME in the environment, and as `name = value` in the file (TOML).",
    )  # fmt: skip
    parser.add_argument(f"--{CONFIG}", metavar="FILE", help="configuration file (TOML)")
    for option in OPTIONS:
        words = option.help + (f" (usually {option.default})" if option.default not in (None, False) else "")
        if option.kind is bool:
            parser.add_argument(option.flag, action="store_true", default=None, help=words)
        else:
            name = "|".join(option.choices) or {int: "N", Path: "PATH"}.get(option.kind, "TEXT")
            parser.add_argument(option.flag, metavar=name, help=words)
    found, rest = parser.parse_known_args(arguments)
    if rest:
        _unknown(rest[0].partition("=")[0][:80], "arguments", [f"--{CONFIG}", *(o.flag for o in OPTIONS)])
    return {key.replace("_", "-"): value for key, value in vars(found).items() if value is not None}


def _add_file(given: _Given, path: Path) -> None:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise InputError(f"more than {MAX_CONFIG_BYTES} bytes", where=str(path))
        found = tomllib.loads(content.decode())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except ValueError as error:  # tomllib's and the decoder's
        raise InputError(f"not TOML: {error}", where=str(path)) from None
    for key, value in found.items():
        if key not in _BY_NAME:
            _unknown(key, str(path), list(_BY_NAME))
        option, where = _BY_NAME[key], f"{path}: {key}"
        wanted = str if option.kind is Path else option.kind
        if type(value) is not wanted:
            raise InputError(f"is not a {_WORD[wanted]}", where=where)
        parsed = _parse(option, value, where) if isinstance(value, str) else value
        # A path in the file is meant from where the file is, wherever the service is started.
        given.add(key, path.parent / parsed if isinstance(parsed, Path) else parsed, where)


_WORD = {str: "text in quotes", int: "whole number", bool: "true or false"}


def _parse(option: Option, value: str, where: str) -> object:
    shown = "what is given" if option.secret else f"{value[:80]!r}"
    if "\0" in value:
        raise InputError("has a NUL in it", where=where)
    if option.kind is int:
        try:
            return int(value)
        except ValueError:
            raise InputError(f"{shown} is no whole number", where=where) from None
    if option.kind is bool:
        if value.lower() not in ("1", "true", "yes", "0", "false", "no"):
            raise InputError(f"{shown} is neither true nor false", where=where)
        return value.lower() in ("1", "true", "yes")
    if option.choices and value not in option.choices:
        raise InputError(f"{shown} is not possible", where=where, todo=f"One of {', '.join(option.choices)}.")
    if not value:
        raise InputError("is empty", where=where)
    return Path(value) if option.kind is Path else value


def _unknown(name: str, where: str, known: list[str]) -> NoReturn:
    close = difflib.get_close_matches(name, known, 1, 0.6)
    advice = f"Did you mean {close[0]}?" if close else "--help lists them all."
    raise InputError(f"{name} is not a setting", where=where, todo=advice)


def _https(given: _Given) -> ServerFiles | None:
    cert, key, host = given.path("tls-cert"), given.path("tls-key"), given.word("host")
    if given.raw("tls-dev"):
        ca_dir = given.path("ca-dir")
        if cert or key:
            raise InputError(
                "does not go with --tls-cert and --tls-key", where=given.where("tls-dev"), todo="Choose."
            )
        if ca_dir is None:
            raise InputError("is needed with --tls-dev", where="--ca-dir")
        return development_files(ca_dir, host)
    if cert and key:
        files = ServerFiles(cert, key)
        files.context()
        return files
    if cert or key:
        raise InputError("is needed, too", where="--tls-key" if cert else "--tls-cert")
    if not is_loopback(host):
        raise InputError(
            f"{host[:80]!r} is not a loopback address, and without TLS the service listens on no other",
            where=given.where("host"),
            todo="Give --tls-cert and --tls-key, or --tls-dev with --ca-dir.",
        )
    return None


def _keys(given: _Given, data: Path) -> KeySource:
    url, issuer = given.text("jwks-url"), given.text("issuer")
    if url is None:
        for name in ("issuer", "jwks-ca"):
            if given.raw(name) is not None:
                raise InputError("means nothing without --jwks-url", where=given.where(name))
        return DevelopmentIssuer.open(data)
    if issuer is None:
        raise InputError("is needed with --jwks-url", where="--issuer")
    return JwksKeys(url, issuer, given.path("jwks-ca"))


def _health(given: _Given) -> Health:
    try:
        return HealthSpec(
            probe=given.word("health-probe"),
            start_period_ms=given.number("health-start-period-ms"),
            window_ms=given.number("health-window-ms"),
            stable_for_ms=given.number("health-stable-for-ms"),
        ).to_core()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise InputError(first["msg"], where=f"--health-* ({name})") from None


def _enrolment(given: _Given, broker_ca: Path, key: SigningKey) -> Enrolment:
    """What devices enrol with; without an authority's key they cannot, and are told so. Raises InputError."""
    ca_dir = given.path("ca-dir")
    days = given.number("certificate-days")
    if not 1 <= days <= 3650:
        raise InputError("is between 1 and 3650", where=given.where("certificate-days"))
    port = given.raw("device-broker-port") or given.number("broker-port")
    assert isinstance(port, int)
    if not 0 < port <= 65_535:
        raise InputError("a port is between 1 and 65535", where=given.where("device-broker-port"))
    if ca_dir is None:
        return Enrolment()
    try:
        issuer = DevelopmentCA.open(ca_dir, timedelta(days=days))
    except IssuerUnavailableError as error:
        log.error("no device can enrol: %s", error)
        return Enrolment()
    host = given.text("device-broker-host") or given.word("broker-host")
    version: Literal["3.1.1", "5"] = "5" if given.word("mqtt-version") == Protocol.V5.value else "3.1.1"
    handout = Handout(host, port, version, broker_ca.read_text(), (public_pem(key).decode(),))
    return Enrolment(issuer, handout)


def _common_name(path: Path) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (OSError, ValueError) as error:
        raise InputError(f"not a certificate in PEM: {error}", where=str(path)) from None
    if len(names) != 1:
        raise InputError("the certificate has no single common name", where=str(path))
    return str(names[0].value)
