"""`blackstart edge enrol`: a registration token becomes this device's certificate and configuration.

What decides whether the device is enrolled is one file, `edge.json`, written last. Cut before it, the same command
with the same token goes on where it was; cut after it, the device is enrolled.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from reference.core.errors import BlackstartError, DeviceError, InputError, Reason
from reference.edge import enrolment
from reference.edge.enrolment import Enrolled, EnrolmentError, Service, check_url
from reference.edge.identity import CA, CERT, KEY, Identities, check, device_of
from reference.edge.settings import EdgeSettings
from reference.pki.requests import make_request
from reference.support.files import fsync_dir, write_durably

CONFIG = "edge.json"
TOKEN_VARIABLE = "BLACKSTART_REGISTRATION_TOKEN"  # noqa: S105 (a name)
DEFAULT_CLIENT_PORT = 8080
Json = dict[str, object]
"""A configuration before it is checked."""


def enrol(options: argparse.Namespace) -> Enrolled:
    """Enrol this device. Raises BlackstartError; nothing that was there is changed then."""
    state: Path = options.state.absolute()
    url, token = check_url(options.url), _token(options.token)
    given = _settings_of(options.settings)
    _check(_config(state, given, None, url, options.run_dir))  # before the token is used
    identities = Identities(state)
    with _locked(state):
        config, before = state / CONFIG, state / f"{CONFIG}.before"
        if config.exists() and not options.force:
            raise InputError(
                "this device is enrolled already",
                where=str(config),
                todo="Give --force to enrol it anew.",
            )
        if config.exists():
            identities.drop_used()
        service = enrolment.trusted(url, options.ca, options.ca_fingerprint)
        key, answer = _traded(identities, service, token)
        _expect(answer, check(answer.certified, key))
        identity = identities.keep(key, answer.certified)
        _write_keys(state, service, answer)
        # What an enrolled device has set up by hand stays; while two halves differ it counts as not enrolled.
        if config.exists():
            config.replace(before)
            fsync_dir(state)
        kept = _settings_of(before if before.exists() else None)
        body = _config(state, {**kept, **given}, answer, url, options.run_dir)
        _check(body)
        identities.use(identity)
        write_durably(config, json.dumps(body, indent=1).encode() + b"\n")
        before.unlink(missing_ok=True)
        identities.tidy()
    return answer


def _traded(
    identities: Identities, service: Service, token: str
) -> tuple[ec.EllipticCurvePrivateKey, Enrolled]:
    key = identities.pending_key()
    try:
        return key, service.enrol(token, make_request(key).decode())
    except EnrolmentError as error:
        if error.reason is not Reason.CERTIFICATE_REFUSED:
            raise
    # The key of a try that was cut, whose certificate was revoked since.
    identities.drop_pending()
    key = identities.pending_key()
    return key, service.enrol(token, make_request(key).decode())


def _token(given: str | None) -> str:
    if given == "-":
        given = sys.stdin.readline(400)
    token = (given or os.environ.get(TOKEN_VARIABLE, "")).strip()
    if not token:
        raise InputError(
            "no registration token",
            where="--token",
            todo=f"Give it, or - to read it from standard input, or set {TOKEN_VARIABLE}.",
        )
    return token


def _settings_of(path: Path | None) -> Json:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", where=str(path)) from None
    if not isinstance(found, dict):
        raise InputError("not a JSON object", where=str(path))
    return found


def _config(state: Path, given: Json, answer: Enrolled | None, url: str, run_dir: Path | None) -> Json:
    """The agent's configuration: what the device's owner gave, and over it what the service answered."""
    identity = state / "identity"
    broker: Json = {"host": "localhost", "port": 1, "mqtt_version": "3.1.1"}
    keys = ["unknown"]
    if answer is not None:
        told = answer.broker
        broker = {"host": told.host, "port": told.port, "mqtt_version": told.mqtt_version}
        keys = [str(_key_path(state, pem)) for pem in answer.command_keys]
    extra = given.get("broker")
    files = {"ca": str(identity / CA), "cert": str(identity / CERT), "key": str(identity / KEY)}
    own = _service_ca(state)
    return {
        "registries": [],
        "client": {"port": DEFAULT_CLIENT_PORT},
        "run_dir": str(_run_dir(state)),
        **given,
        **({} if run_dir is None else {"run_dir": str(run_dir.absolute())}),
        "tenant_id": "unknown" if answer is None else answer.tenant_id,
        "client_id": "unknown" if answer is None else answer.client_id,
        "state_dir": str(state / "state"),
        "broker": {**(extra if isinstance(extra, dict) else {}), **broker, **files},
        "command_keys": keys,
        "renewal": {"url": url, **({"ca": str(own)} if own.exists() else {})},
    }


def _run_dir(state: Path) -> Path:
    """A place that a boot forgets, if this user may write to one."""
    for parent in (Path("/run"), Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"))):
        if parent.is_dir() and os.access(parent, os.W_OK):
            return parent / "blackstart"
    return state / "run"


def _check(body: Json) -> None:
    try:
        EdgeSettings.model_validate_json(json.dumps(body))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{field}: {first['msg']}", where="--settings") from None


def _expect(answer: Enrolled, cert: x509.Certificate) -> None:
    device = device_of(cert)
    if (device.tenant_id, device.client_id) != (answer.tenant_id, answer.client_id):
        raise DeviceError("the certificate that came names another device", where="certificate")


def _service_ca(state: Path) -> Path:
    return state / "service-ca.pem"


def _key_path(state: Path, pem: str) -> Path:
    return state / "command-keys" / f"{hashlib.sha256(pem.encode()).hexdigest()[:16]}.pub"


def _write_keys(state: Path, service: Service, answer: Enrolled) -> None:
    """What is trusted: the service's authority, and the keys whose commands are obeyed."""
    try:
        if service.ca is not None:
            write_durably(_service_ca(state), service.ca.encode(), 0o644)
        for pem in answer.command_keys:
            path = _key_path(state, pem)
            path.parent.mkdir(exist_ok=True, mode=0o700)
            write_durably(path, pem.encode(), 0o644)
        fsync_dir(state)
    except OSError as error:
        raise DeviceError(
            f"cannot be written: {error.strerror}", where=str(error.filename or state)
        ) from None


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[None]:
    """One enrolment at a time."""
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(state / ".enrol.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DeviceError(f"cannot be used: {error.strerror}", where=str(state)) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise DeviceError("another enrolment is under way here", where=str(state)) from None
    try:
        yield
    except OSError as error:
        raise DeviceError(
            f"cannot be written: {error.strerror}", where=str(error.filename or state)
        ) from None
    finally:
        os.close(lock)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blackstart edge enrol",
        description="Trade a registration token for this device's certificate and configuration.",
    )
    parser.add_argument("--url", required=True, help="the service, https://HOST[:PORT]")
    parser.add_argument(
        "--token", help=f"the registration token; -: from standard input; or {TOKEN_VARIABLE}"
    )
    parser.add_argument("--state", type=Path, required=True, help="folder of all that this device keeps")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--ca", type=Path, help="certificates that the service's must come from, PEM")
    trust.add_argument("--ca-fingerprint", help="SHA-256 of the authority that the service's must come from")
    parser.add_argument("--settings", type=Path, help="the device's own part of the configuration, JSON")
    parser.add_argument("--run-dir", type=Path, help="a folder that a boot forgets")
    parser.add_argument("--force", action="store_true", help="also when it is enrolled already")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 enrolled, 1 it failed (the same command again is safe), 2 what was given is wrong."""
    options = _parser().parse_args(arguments)
    try:
        answer = enrol(options)
    except BlackstartError as error:
        print(f"blackstart edge enrol: {error}", file=sys.stderr)  # noqa: T201
        return 2 if error.reason is Reason.INVALID_INPUT else 1
    config = options.state.absolute() / CONFIG
    print(json.dumps({"tenantId": answer.tenant_id, "clientId": answer.client_id, "config": str(config)}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
