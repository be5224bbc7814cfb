"""A service that enrols, with an authority behind it, for the tests of enrolment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from reference.pki import DevelopmentCA
from reference.pki.issuer import Revoked
from reference.pki.proof import prove
from reference.pki.requests import make_request
from reference.service.conversation import wall_ms
from reference.service.enrolment import Enrolment, Handout
from tests.service.harness import Service
from tests.service.harness import running as running

Key = ec.EllipticCurvePrivateKey
JSON = {"Content-Type": "application/json"}


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def csr_of(key: Key, name: str = "") -> str:
    return make_request(key, name).decode()


@dataclass
class Authority:
    """The development authority behind the port, with what can go wrong there."""

    ca: DevelopmentCA
    fails: Exception | None = None
    signed: list[x509.Certificate] = field(default_factory=list)
    hold: Callable[[], None] | None = None

    @property
    def authority(self) -> x509.Certificate:
        return self.ca.authority

    def issue(
        self, tenant_id: str, client_id: str, request: x509.CertificateSigningRequest
    ) -> x509.Certificate:
        cert = self.ca.issue(tenant_id, client_id, request)
        self.signed.append(cert)
        if self.hold is not None:
            self.hold()
        if self.fails is not None:
            raise self.fails
        return cert

    def issued_elsewhere(self, tenant_id: str, client_id: str) -> Iterable[x509.Certificate]:
        return self.ca.issued_elsewhere(tenant_id, client_id)

    def publish_revoked(self, revoked: Iterable[Revoked]) -> bool:
        if self.fails is not None:
            raise self.fails
        return self.ca.publish_revoked(revoked)


@dataclass
class Desk:
    """A service that enrols, its authority and its clock."""

    service: Service
    authority: Authority
    ahead_ms: int = 0

    def now_ms(self) -> int:
        return wall_ms() + self.ahead_ms

    async def register(self, client: str = "press-1", tenant: str = "acme") -> str:
        answer = await self.service.post("/api/v1/clients", {"clientId": client}, tenant=tenant)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["registrationToken"])

    async def enrol(self, token: str, csr: str, **more: object) -> httpx.Response:
        body = {"token": token, "csr": csr, **more}
        return await self.service.http.post("/api/v1/enrol", json=body)

    async def enrolled(self, key: Key, client: str = "press-1", tenant: str = "acme") -> x509.Certificate:
        return cert_of(await self.enrol(await self.register(client, tenant), csr_of(key)))

    async def renew(self, proof: str) -> httpx.Response:
        return await self.service.http.post("/api/v1/enrol/renew", json={"proof": proof})

    def proof(self, key: Key, cert: x509.Certificate, next_key: Key | None = None) -> str:
        return prove(key, cert, csr_of(next_key or new_key()), self.now_ms() / 1000)

    def revoked(self) -> set[int]:
        """On the list that brokers see."""
        found = x509.load_pem_x509_crl(self.authority.ca.revoked.read_bytes())
        key = self.authority.authority.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert found.is_signature_valid(key)
        return {entry.serial_number for entry in found}


def cert_of(answer: httpx.Response) -> x509.Certificate:
    assert answer.status_code == 200, answer.text
    return x509.load_pem_x509_certificate(answer.json()["certificate"].encode())


@asynccontextmanager
async def desk_at(folder: Path, desk: Desk | None = None) -> AsyncIterator[Desk]:
    ca = desk.authority if desk else Authority(DevelopmentCA.open_or_create(folder / "ca"))
    made = desk or Desk(None, ca)  # type: ignore[arg-type]
    handout = Handout("broker.example", 8883, "3.1.1", ca.ca.certificate.read_text(), ("a key",))
    async with running(folder, now_ms=made.now_ms, enrolment=Enrolment(ca, handout)) as service:
        made.service = service
        yield made


@pytest.fixture
async def desk(tmp_path: Path, database_url: str | None) -> AsyncIterator[Desk]:
    async with desk_at(tmp_path) as made:
        yield made


def pem(request: x509.CertificateSigningRequest) -> str:
    return request.public_bytes(serialization.Encoding.PEM).decode()


def request_of(key: Any, name: str = "", algorithm: Any = hashes.SHA256()) -> str:  # noqa: B008
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    return pem(x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names)).sign(key, algorithm))
