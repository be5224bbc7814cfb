"""A device's certificate from the token to the revocation, over the API; and all who are not let in."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from reference.pki import DevelopmentCA
from reference.pki.issuer import IssuerUnavailableError, Revoked
from reference.pki.proof import AUDIENCE, TYPE, prove
from reference.pki.requests import make_request
from reference.service.auth import Role
from reference.service.conversation import wall_ms
from reference.service.enrolment import ATTEMPTS, Enrolment, Handout
from tests.service.answers import problem
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


# ---- the good way


async def test_a_token_and_a_csr_become_a_certificate(desk: Desk) -> None:
    token, key = await desk.register(), new_key()
    answer = await desk.enrol(token, csr_of(key))
    cert = cert_of(answer)
    body = answer.json()
    assert (body["tenantId"], body["clientId"]) == ("acme", "press-1")
    assert body["broker"]["host"] == "broker.example"
    assert body["commandKeys"] == ["a key"]
    assert cert.public_key() == key.public_key()
    assert [a.value for a in cert.subject] == ["acme", "acme.press-1"]
    assert list(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert timedelta(days=89) < cert.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=90)
    cert.verify_directly_issued_by(x509.load_pem_x509_certificate(body["authority"].encode()))


async def test_the_token_may_come_as_a_bearer_token(desk: Desk) -> None:
    headers = {"Authorization": f"Bearer {await desk.register()}"}
    body = {"csr": csr_of(new_key()), "clientId": "press-1"}
    cert_of(await desk.service.http.post("/api/v1/enrol", json=body, headers=headers))


async def test_the_same_key_gets_the_same_certificate_again(desk: Desk) -> None:
    token, key = await desk.register(), new_key()
    first, again = await desk.enrol(token, csr_of(key)), await desk.enrol(token, csr_of(key))
    assert first.json() == again.json()
    assert len(desk.authority.signed) == 1


async def test_what_a_csr_wants_to_be_is_not_asked_for(desk: Desk) -> None:
    key = new_key()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "blackstart")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=9), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("broker.example")]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert = cert_of(await desk.enrol(await desk.register(), pem(request)))
    assert cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "acme.press-1"
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    with pytest.raises(x509.ExtensionNotFound):
        cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)


async def test_a_client_that_is_known_gets_no_token_by_registering(desk: Desk) -> None:
    await desk.register()
    again = await desk.service.post("/api/v1/clients", {"clientId": "press-1"})
    assert (again.status_code, again.json()["registrationToken"]) == (200, None)


async def test_an_idempotency_key_does_not_keep_the_token(desk: Desk) -> None:
    headers = {**desk.service.headers(), "Idempotency-Key": "once"}
    answers = [
        await desk.service.http.post("/api/v1/clients", json={"clientId": "press-2"}, headers=headers)
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["registrationToken"]
    assert answers[1].json()["registrationToken"] is None


async def test_the_database_holds_no_token(desk: Desk, tmp_path: Path) -> None:
    token = await desk.register()
    secret = token.rpartition(".")[2].encode()
    files = list(tmp_path.glob("service.db*"))  # noqa: ASYNC240
    assert not any(secret in path.read_bytes() for path in files)


# ---- tokens that are no good


async def test_another_key_does_not_get_a_used_token_s_certificate(desk: Desk) -> None:
    token = await desk.register()
    cert_of(await desk.enrol(token, csr_of(new_key())))
    problem(await desk.enrol(token, csr_of(new_key())), 409, "registration_token_used")


async def test_of_two_keys_at_once_one_is_enrolled(desk: Desk) -> None:
    token = await desk.register()
    answers = await asyncio.gather(*(desk.enrol(token, csr_of(new_key())) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7


async def test_of_the_same_key_at_once_all_get_one_certificate(desk: Desk) -> None:
    token, csr = await desk.register(), csr_of(new_key())
    answers = await asyncio.gather(*(desk.enrol(token, csr) for _ in range(8)))
    assert len({cert_of(answer).serial_number for answer in answers}) == 1


async def test_a_token_expires(desk: Desk) -> None:
    token, csr = await desk.register(), csr_of(new_key())
    cert_of(await desk.enrol(token, csr))
    desk.ahead_ms = 24 * 3_600_000 + 1
    problem(await desk.enrol(token, csr), 401, "registration_token_expired")


async def test_a_newer_token_takes_the_place_of_the_older(desk: Desk) -> None:
    old = await desk.register()
    answer = await desk.service.post("/api/v1/clients/press-1/registration-token")
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    csr = csr_of(new_key())
    problem(await desk.enrol(old, csr), 401, "registration_token_invalid")
    cert_of(await desk.enrol(answer.json()["registrationToken"], csr))


async def test_a_bad_token_is_told_nothing(desk: Desk) -> None:
    """Unknown, half right, of another client, of another tenant: one answer."""
    token, foreign = await desk.register(), await desk.register("press-1", tenant="globex")
    prefix, name, secret = token.split(".")
    bad = {
        "empty parts": "..",
        "garbage": "garbage",
        "unknown": f"{prefix}.{'0' * 16}.{secret}",
        "another's secret": f"{prefix}.{name}.{foreign.split('.')[2]}",
        "changed": token[:-1] + ("A" if token[-1] != "A" else "B"),
        "no secret": f"{prefix}.{name}.",
        "a lone surrogate": f"{prefix}.{name}.\ud800",
    }
    details = set()
    for why, wrong in bad.items():
        body = json.dumps({"token": wrong, "csr": csr_of(new_key())})
        answer = await desk.service.http.post("/api/v1/enrol", content=body, headers=JSON)
        if why == "a lone surrogate":
            assert answer.status_code in (401, 422), answer.text
            continue
        details.add(problem(answer, 401, "registration_token_invalid")["detail"])
    for wrong in ("press-2", "press-9"):
        answer = await desk.enrol(token, csr_of(new_key()), clientId=wrong)
        details.add(problem(answer, 401, "registration_token_invalid")["detail"])
    assert len(details) == 1
    assert not desk.authority.signed
    cert = cert_of(await desk.enrol(foreign, csr_of(new_key())))
    assert cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "globex.press-1"


async def test_guessing_is_held_back_and_its_victim_is_not(desk: Desk) -> None:
    token = await desk.register()
    csr = csr_of(new_key())
    wrong = [f"bsr.{number:016x}.{'A' * 43}" for number in range(ATTEMPTS + 5)]
    answers = [await desk.enrol(one, csr) for one in wrong]
    assert [answer.status_code for answer in answers] == [401] * ATTEMPTS + [429] * 5
    held = problem(answers[-1], 429, "too_many_attempts")
    assert held["status"] == 429
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 61
    # From elsewhere the real one gets in.
    transport = httpx.ASGITransport(desk.service.http._transport.app, client=("10.0.0.9", 1))  # type: ignore[attr-defined]
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as other:
        cert_of(await other.post("/api/v1/enrol", json={"token": token, "csr": csr}))


async def test_good_ones_are_never_held_back(desk: Desk) -> None:
    token, csr = await desk.register(), csr_of(new_key())
    for _ in range(ATTEMPTS * 2):
        cert_of(await desk.enrol(token, csr))


# ---- requests that are no good


def pem(request: x509.CertificateSigningRequest) -> str:
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _signed_by_another() -> str:
    good = x509.load_pem_x509_csr(csr_of(new_key()).encode())
    der = bytearray(good.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der)).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


def _of(key: Any, name: str = "", algorithm: Any = hashes.SHA256()) -> str:  # noqa: B008
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    return pem(x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names)).sign(key, algorithm))


BAD_REQUESTS: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "garbage": lambda: "garbage",
    "garbage in PEM": lambda: (
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
    ),
    "signature changed": _signed_by_another,
    "RSA 1024": lambda: _of(rsa.generate_private_key(65537, 1024)),
    "RSA 2048": lambda: _of(rsa.generate_private_key(65537, 2048)),
    "P-192": lambda: _of(ec.generate_private_key(ec.SECP192R1())),
    "Ed25519": lambda: _of(ed25519.Ed25519PrivateKey.generate(), algorithm=None),
    "another client's name": lambda: _of(new_key(), "acme.press-2"),
    "the service's name": lambda: _of(new_key(), "blackstart-service"),
    "another tenant's name": lambda: _of(new_key(), "globex.press-1"),
}


@pytest.mark.parametrize("why", BAD_REQUESTS)
async def test_a_bad_csr_is_refused_and_uses_nothing_up(desk: Desk, why: str) -> None:
    token = await desk.register()
    problem(await desk.enrol(token, BAD_REQUESTS[why]()), 422, "invalid_input")
    assert not desk.authority.signed
    cert_of(await desk.enrol(token, csr_of(new_key())))


# ---- without an authority, and cut in between


async def test_without_an_authority_enrolment_is_not_to_be_had(service: Service) -> None:
    made = await service.post("/api/v1/clients", {"clientId": "press-1"})
    body = {"token": made.json()["registrationToken"], "csr": csr_of(new_key())}
    for answer in (
        await service.http.post("/api/v1/enrol", json=body),
        await service.http.post("/api/v1/enrol/renew", json={"proof": "x"}),
        await service.http.get("/api/v1/enrol/ca"),
    ):
        assert "no certificate authority" in problem(answer, 503, "unavailable")["detail"]
    revoked = await service.post("/api/v1/clients/press-1/revoke")
    assert revoked.json() == {"clientId": "press-1", "revokedCertificates": 0, "published": False}


async def test_an_authority_that_fails_uses_nothing_up(desk: Desk) -> None:
    token, csr = await desk.register(), csr_of(new_key())
    desk.authority.fails = IssuerUnavailableError("the authority is away")
    assert "away" in problem(await desk.enrol(token, csr), 503, "unavailable")["detail"]
    desk.authority.fails = None
    cert_of(await desk.enrol(token, csr))


@pytest.mark.parametrize(
    "when", ["after the token was bound", "after the certificate was signed", "unread answer"]
)
async def test_a_service_that_dies_while_enrolling_is_asked_again(
    tmp_path: Path, database_url: str | None, when: str
) -> None:
    class PowerCut(BaseException):
        pass

    key, other = new_key(), new_key()
    async with desk_at(tmp_path) as desk:
        token = await desk.register()
        if when == "after the token was bound":
            desk.authority.fails = IssuerUnavailableError("cut")
            await desk.enrol(token, csr_of(key))
        elif when == "after the certificate was signed":
            write, writes = desk.service.store.write, 0

            async def cut(work: Any) -> Any:
                nonlocal writes
                writes += 1
                if writes == 2:
                    raise PowerCut
                return await write(work)

            desk.service.store.write = cut  # type: ignore[method-assign]
            with pytest.raises(PowerCut):
                await desk.enrol(token, csr_of(key))
        else:
            cert_of(await desk.enrol(token, csr_of(key)))
    desk.authority.fails = None
    async with desk_at(tmp_path, desk):
        problem(await desk.enrol(token, csr_of(other)), 409, "registration_token_used")
        first = cert_of(await desk.enrol(token, csr_of(key)))
        assert first.public_key() == key.public_key()
        assert cert_of(await desk.enrol(token, csr_of(key))) == first


async def test_a_client_revoked_while_its_certificate_is_signed_gets_none(desk: Desk) -> None:
    token, loop = await desk.register(), asyncio.get_running_loop()
    desk.authority.hold = lambda: asyncio.run_coroutine_threadsafe(
        desk.service.post("/api/v1/clients/press-1/revoke"), loop
    ).result(5)  # type: ignore[assignment]
    problem(await desk.enrol(token, csr_of(new_key())), 401, "registration_token_invalid")


# ---- renewal


async def test_a_good_certificate_gets_the_next_one(desk: Desk) -> None:
    key, next_key = new_key(), new_key()
    cert = await desk.enrolled(key)
    renewed = cert_of(await desk.renew(desk.proof(key, cert, next_key)))
    assert renewed.public_key() == next_key.public_key()
    assert renewed.subject == cert.subject
    # The old one is good until its end, and the answer that was lost comes again.
    assert cert_of(await desk.renew(desk.proof(key, cert, next_key))) == renewed
    cert_of(await desk.renew(desk.proof(next_key, renewed)))


async def test_a_certificate_that_was_brought_along_is_renewed_too(desk: Desk) -> None:
    await desk.register()
    files = desk.authority.ca.issue_device("acme", "press-1")
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    cert = x509.load_pem_x509_certificate(files.cert.read_bytes())
    cert_of(await desk.renew(desk.proof(key, cert)))
    revoked = await desk.service.post("/api/v1/clients/press-1/revoke")
    assert revoked.json() == {"clientId": "press-1", "revokedCertificates": 2, "published": True}
    assert cert.serial_number in desk.revoked()
    problem(await desk.renew(desk.proof(key, cert)), 401, "certificate_refused")


def _named(
    ca_key: Key, issuer: x509.Name, key: Key, name: str, organization: str, purpose: x509.ObjectIdentifier,
    days: tuple[int, int] = (-1, 1),
) -> x509.Certificate:  # fmt: skip
    now = datetime.now(UTC)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


@dataclass
class Thief:
    """Who asks for a renewal without the right to it: `key` and a certificate that is good, to begin with."""

    desk: Desk
    key: Key
    cert: x509.Certificate

    def made(self, **changed: Any) -> str:
        """A certificate of the right authority, with something wrong, and a proof with its key."""
        what: dict[str, Any] = {
            "ca_key": self.desk.authority.ca._key, "issuer": self.desk.authority.authority.subject, "key": self.key,
            "name": "acme.press-1", "organization": "acme", "purpose": ExtendedKeyUsageOID.CLIENT_AUTH,
        }  # fmt: skip
        return self.desk.proof(self.key, _named(**{**what, **changed}))

    def jws(self, key: Any = None, algorithm: str = "ES256", header: Any = None, **claims: Any) -> str:
        now = int(self.desk.now_ms() / 1000)
        der = base64.b64encode(self.cert.public_bytes(serialization.Encoding.DER)).decode()
        body = {"aud": AUDIENCE, "iat": now, "exp": now + 60, "jti": "1", "csr": csr_of(new_key()), **claims}
        body = {name: value for name, value in body.items() if value is not None}
        return jwt.encode(
            body, key or self.key, algorithm, headers={"typ": TYPE, "x5c": [der], **(header or {})}
        )

    def none(self) -> str:
        good = self.jws().split(".")
        head = json.loads(base64.urlsafe_b64decode(good[0] + "=="))
        head["alg"] = "none"
        encoded = base64.urlsafe_b64encode(json.dumps(head).encode()).rstrip(b"=").decode()
        return f"{encoded}.{good[1]}."


def _self_signed(thief: Thief) -> str:
    name = thief.cert.subject
    return thief.made(ca_key=thief.key, issuer=name)


THIEVES: dict[str, Callable[[Thief], str]] = {
    "the certificate without its key": lambda t: t.desk.proof(new_key(), t.cert),
    "self-signed": _self_signed,
    "of an authority of the same name": lambda t: t.made(ca_key=new_key()),
    "expired": lambda t: t.made(days=(-9, -1)),
    "of tomorrow": lambda t: t.made(days=(1, 9)),
    "a server's": lambda t: t.made(purpose=ExtendedKeyUsageOID.SERVER_AUTH),
    "the service's": lambda t: t.made(name="blackstart-service", organization="blackstart"),
    "tenant and organisation differ": lambda t: t.made(organization="globex"),
    "no device's name": lambda t: t.made(name="acme"),
    "of a client that is not known": lambda t: t.made(name="acme.press-9"),
    "of a tenant that is not known": lambda t: t.made(name="globex.press-1", organization="globex"),
    "no proof": lambda t: "garbage",
    "three parts of garbage": lambda t: "a.b.c",
    "alg=none": lambda t: t.none(),
    "HS256 with the certificate": lambda t: t.jws("a secret that everybody knows, and long enough", "HS256"),
    "another typ": lambda t: t.jws(header={"typ": "JWT"}),
    "no certificate in it": lambda t: t.jws(header={"x5c": []}),
    "garbage for a certificate": lambda t: t.jws(header={"x5c": ["AAAA"]}),
    "x5c of another type": lambda t: t.jws(header={"x5c": [7]}),
    "another audience": lambda t: t.jws(aud="blackstart-api"),
    "an hour old": lambda t: t.jws(iat=int(time.time()) - 3600, exp=int(time.time()) + 3600),
    "of tomorrow, signed today": lambda t: t.jws(
        iat=int(time.time()) + 86_400, exp=int(time.time()) + 90_000
    ),
    "no end": lambda t: t.jws(exp=None),
    "no CSR": lambda t: t.jws(csr=None),
    "a CSR of another type": lambda t: t.jws(csr=7),
    "times of another type": lambda t: t.jws(exp="soon"),
}


@pytest.mark.parametrize("who", THIEVES)
async def test_nobody_else_is_renewed(desk: Desk, who: str) -> None:
    key = new_key()
    thief = Thief(desk, key, await desk.enrolled(key))
    before = len(desk.authority.signed)
    problem(await desk.renew(THIEVES[who](thief)), 401, "certificate_refused")
    assert len(desk.authority.signed) == before
    cert_of(await desk.renew(thief.jws()))  # the same, when all is as it should be


async def test_a_renewal_s_bad_csr_is_refused(desk: Desk) -> None:
    key = new_key()
    thief = Thief(desk, key, await desk.enrolled(key))
    for bad in ("garbage", _of(new_key(), "acme.press-2")):
        problem(await desk.renew(thief.jws(csr=bad)), 422, "invalid_input")


# ---- revocation


async def test_a_revoked_client_is_out_until_it_enrols_again(desk: Desk) -> None:
    key, later = new_key(), new_key()
    cert = await desk.enrolled(key)
    renewed = cert_of(await desk.renew(desk.proof(key, cert, later)))
    other_key = new_key()
    other = await desk.enrolled(other_key, "press-2")
    spare = (await desk.service.post("/api/v1/clients/press-1/registration-token")).json()[
        "registrationToken"
    ]

    answer = await desk.service.post("/api/v1/clients/press-1/revoke")
    assert answer.json() == {"clientId": "press-1", "revokedCertificates": 2, "published": True}
    assert desk.revoked() == {cert.serial_number, renewed.serial_number}
    for held, its in ((key, cert), (later, renewed)):
        problem(await desk.renew(desk.proof(held, its)), 401, "certificate_refused")
    problem(await desk.enrol(spare, csr_of(new_key())), 401, "registration_token_invalid")
    cert_of(await desk.renew(desk.proof(other_key, other)))

    token = (await desk.service.post("/api/v1/clients/press-1/registration-token")).json()[
        "registrationToken"
    ]
    problem(await desk.enrol(token, csr_of(key)), 401, "certificate_refused")  # the thief has that key still
    fresh = new_key()
    again = cert_of(await desk.enrol(token, csr_of(fresh)))
    assert again.serial_number not in desk.revoked()
    cert_of(await desk.renew(desk.proof(fresh, again)))
    problem(await desk.renew(desk.proof(key, cert)), 401, "certificate_refused")


async def test_revoking_twice_is_harmless(desk: Desk) -> None:
    await desk.enrolled(new_key())
    counts = [
        (await desk.service.post("/api/v1/clients/press-1/revoke")).json()["revokedCertificates"]
        for _ in range(2)
    ]
    assert counts == [1, 0]


async def test_a_certificate_nobody_remembers_is_refused_once_its_client_was_revoked(desk: Desk) -> None:
    key = new_key()
    thief = Thief(desk, key, await desk.enrolled(key))
    cert_of(await desk.renew(thief.made()))
    await desk.service.post("/api/v1/clients/press-1/revoke")
    problem(await desk.renew(thief.made()), 401, "certificate_refused")


async def test_a_list_that_cannot_be_written_is_said_and_written_later(
    tmp_path: Path, database_url: str | None
) -> None:
    async with desk_at(tmp_path) as desk:
        cert = await desk.enrolled(new_key())
        desk.authority.fails = IssuerUnavailableError("disk full")
        answer = await desk.service.post("/api/v1/clients/press-1/revoke")
        assert answer.json()["published"] is False
        assert desk.revoked() == set()
    desk.authority.fails = None
    async with desk_at(tmp_path, desk):
        async with asyncio.timeout(5):
            while desk.revoked() != {cert.serial_number}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_another_tenant_s_client_is_not_revoked(desk: Desk) -> None:
    key = new_key()
    cert = await desk.enrolled(key)
    for path in ("revoke", "registration-token"):
        problem(await desk.service.post(f"/api/v1/clients/press-1/{path}", tenant="globex"), 404, "not_found")
        for role in (Role.ENGINEER, Role.OPERATOR, Role.VIEWER):
            answer = await desk.service.post(f"/api/v1/clients/press-1/{path}", role=role)
            problem(answer, 403, "forbidden")
    cert_of(await desk.renew(desk.proof(key, cert)))
