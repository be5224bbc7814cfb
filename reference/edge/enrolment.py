"""The way to the service's enrolment: what is asked there, and what comes back, over HTTPS. Blocks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from reference.core.errors import BlackstartError, InputError, Reason
from reference.edge.identity import Certified
from reference.protocol.models import ClientId, TenantId
from reference.support.addresses import is_loopback

TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 256 * 1024


class EnrolmentError(BlackstartError):
    """The service could not be reached, or refused. `service_s`: what time it is there, seconds since 1970."""

    default = Reason.UNAVAILABLE

    def __init__(self, what: str, *, reason: Reason | None = None, where: str = "", todo: str = "") -> None:
        super().__init__(what, reason=reason, where=where, todo=todo)
        self.service_s: float | None = None


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class Broker(_Answer):
    """Where the broker is."""

    host: str
    port: int
    mqtt_version: Literal["3.1.1", "5"]
    ca: str


class Enrolled(_Answer):
    """What the service answers."""

    tenant_id: TenantId
    client_id: ClientId
    certificate: str
    authority: str
    broker: Broker
    command_keys: list[str] = Field(min_length=1, max_length=16)

    @property
    def certified(self) -> Certified:
        """What goes onto the disk."""
        return Certified(self.certificate, self.authority, self.broker.ca)


class _Authority(_Answer):
    authority: str


@dataclass(frozen=True, slots=True)
class Service:
    """An address, and what its certificate is checked against: `ca` in PEM, or the system's."""

    url: str
    ca: str | None = None

    def enrol(self, token: str, csr: str) -> Enrolled:
        """Trade a registration token. Raises EnrolmentError."""
        return self._enrolled("/api/v1/enrol", {"token": token, "csr": csr})

    def renew(self, proof: str) -> Enrolled:
        """Trade the proof of a certificate. Raises EnrolmentError."""
        return self._enrolled("/api/v1/enrol/renew", {"proof": proof})

    def _enrolled(self, path: str, body: Mapping[str, str]) -> Enrolled:
        answer = exchange(self, path, body)
        try:
            return Enrolled.model_validate_json(answer)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise EnrolmentError(f"an answer that is none: {place}: {first['msg']}", where=self.url) from None


def exchange(service: Service, path: str, body: Mapping[str, str] | None, trust: bool = True) -> bytes:
    """One request; None asks without a body. `trust`: whether the certificate is checked. Raises EnrolmentError."""
    url = service.url.rstrip("/") + path
    verify: ssl.SSLContext | bool = False
    try:
        if trust:
            verify = ssl.create_default_context(cadata=service.ca)
        with (
            httpx.Client(verify=verify, timeout=TIMEOUT_S, trust_env=False) as client,
            client.stream("GET" if body is None else "POST", url, json=body) as answer,
        ):
            content = b""
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise EnrolmentError(f"more than {MAX_ANSWER_BYTES} bytes for an answer", where=url)
    except ssl.SSLError as error:
        raise EnrolmentError(f"the trusted certificates cannot be used: {error}", where=url) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EnrolmentError(
            f"the service was not reached: {str(error) or type(error).__name__}",
            where=url,
            todo="Check address, network and --ca, then do the same again.",
        ) from None
    if answer.status_code != 200:
        raise _refusal(url, answer, content)
    return content


def _refusal(url: str, answer: httpx.Response, content: bytes) -> EnrolmentError:
    """What a problem (RFC 9457) says, or whatever else came."""
    what, reason = f"the service answered {answer.status_code}", Reason.UNAVAILABLE
    try:
        body = json.loads(content)
        what, reason = str(body["detail"])[:500], Reason(body["reason"])
    except (ValueError, KeyError, TypeError):
        pass
    error = EnrolmentError(what, reason=reason, where=url)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        error.service_s = parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    return error


def check_url(url: str) -> str:
    """The address. Raises InputError when it is none, or without TLS and not on this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise InputError(
            f"{url[:200]!r} is no address of a service", where="--url", todo="https://HOST[:PORT]"
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise InputError(
            "without TLS whoever listens could use the token",
            where="--url",
            todo="Give an https:// address.",
        )
    return url.rstrip("/")


def trusted(url: str, ca: Path | None, fingerprint: str | None) -> Service:
    """The service, and whom to trust there: a file's certificates, or an authority known by its SHA-256.

    With a fingerprint the authority's certificate is fetched unchecked, and then checked by it.
    Raises InputError, EnrolmentError.
    """
    if ca is not None:
        try:
            pem = ca.read_text(encoding="ascii")
            x509.load_pem_x509_certificates(pem.encode())
        except (OSError, ValueError) as error:
            raise InputError(f"no certificates in PEM: {error}", where=str(ca)) from None
        return Service(url, pem)
    if fingerprint is None:
        return Service(url)
    wanted = fingerprint.replace(":", "").lower().removeprefix("sha256")
    if len(wanted) != 64 or set(wanted) - set("0123456789abcdef"):
        raise InputError("a SHA-256 has 64 hexadecimal digits", where="--ca-fingerprint")
    answer = exchange(Service(url), "/api/v1/enrol/ca", None, trust=False)
    try:
        pem = _Authority.model_validate_json(answer).authority
        der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
    except ValueError:  # pydantic's, too
        raise EnrolmentError("an answer that is no certificate", where=url) from None
    if hashlib.sha256(der).hexdigest() != wanted:
        raise EnrolmentError(
            "the authority there has another fingerprint",
            reason=Reason.CERTIFICATE_REFUSED,
            where=url,
            todo="Compare both; somebody may stand between.",
        )
    return Service(url, pem)
