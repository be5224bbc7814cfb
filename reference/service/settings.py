"""What the service is started with: command-line arguments, checked before anything is begun."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from reference.core.errors import InputError
from reference.core.model import Health
from reference.protocol.envelope import SigningKey, load_private_key
from reference.protocol.models import HealthSpec
from reference.support.mqtt import TlsFiles

DATABASE = "service.db"


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings. The files they name were there and usable."""

    data: Path
    host: str
    port: int
    broker_host: str
    broker_port: int
    tls: TlsFiles
    client_id: str
    """The MQTT client id: the common name of the service's certificate."""
    signing_key: SigningKey
    health: Health


def read_settings(arguments: Sequence[str]) -> Settings:
    """Raises InputError for values that cannot be; SystemExit(2), as argparse does, for arguments that are none."""
    given = _parser().parse_args(arguments)
    if not _is_loopback(given.host):
        raise InputError(
            f"{given.host!r} is not a loopback address",
            where="--host",
            todo="The service speaks plain HTTP: put a gateway with TLS before it, on this machine.",
        )
    for name in ("port", "broker_port"):
        if not 0 <= getattr(given, name) <= 65_535:
            raise InputError("a port is between 0 and 65535", where=f"--{name.replace('_', '-')}")
    tls = TlsFiles(given.ca, given.cert, given.key)
    tls.context()
    try:
        given.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be used as a folder: {error.strerror}", where=str(given.data)) from None
    try:
        health = HealthSpec(
            probe=given.health_probe,
            start_period_ms=given.health_start_period_ms,
            window_ms=given.health_window_ms,
            stable_for_ms=given.health_stable_for_ms,
        ).to_core()
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(first["msg"], where=f"--health-* ({first['loc'][0]})") from None
    return Settings(
        data=given.data,
        host=given.host,
        port=given.port,
        broker_host=given.broker_host,
        broker_port=given.broker_port,
        tls=tls,
        client_id=_common_name(given.cert),
        signing_key=load_private_key(given.signing_key),
        health=health,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reference.service", description="The Device Management Service.", allow_abbrev=False
    )
    usual = Health()
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder for the database and the development issuer's key")
    add("--host", default="127.0.0.1", help="loopback address to listen on")
    add("--port", type=int, required=True, help="port to listen on, 0 for any free one")
    add("--broker-host", required=True)
    add("--broker-port", type=int, required=True)
    add("--ca", type=Path, required=True, help="certificates that the broker's must come from (PEM)")
    add("--cert", type=Path, required=True, help="the service's certificate (PEM)")
    add("--key", type=Path, required=True, help="its key (PEM)")
    add("--signing-key", type=Path, required=True, help="Ed25519 key that commands are signed with (PEM)")
    add("--health-probe", default=usual.probe, help="for versions that do not name one")
    add("--health-start-period-ms", type=int, default=usual.start_period_ms)
    add("--health-window-ms", type=int, default=usual.window_ms)
    add("--health-stable-for-ms", type=int, default=usual.stable_for_ms)
    return parser


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _common_name(path: Path) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (OSError, ValueError) as error:
        raise InputError(f"not a certificate in PEM: {error}", where=str(path)) from None
    if len(names) != 1:
        raise InputError("the certificate has no single common name", where=str(path))
    return str(names[0].value)
