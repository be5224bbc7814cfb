"""The next certificate for the one before, and the end of all of them; and all who are not let in."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from reference.pki.issuer import IssuerUnavailableError
from reference.pki.proof import AUDIENCE, TYPE
from reference.service.auth import Role
from tests.service.answers import problem
from tests.service.enrolment_desk import (
    Desk,
    Key,
    cert_of,
    csr_of,
    desk_at,
    new_key,
    request_of,
)
from tests.service.enrolment_desk import desk as desk
from tests.service.harness import running as running

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
    for bad in ("garbage", request_of(new_key(), "acme.press-2")):
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
