"""A device's certificate for a token and a CSR, over the API; and all who get none."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from reference.pki.issuer import IssuerUnavailableError
from reference.service.enrolment import ATTEMPTS
from tests.service.answers import problem
from tests.service.enrolment_desk import (
    JSON,
    Desk,
    cert_of,
    csr_of,
    desk_at,
    new_key,
    pem,
    request_of,
)
from tests.service.enrolment_desk import desk as desk
from tests.service.harness import Service
from tests.service.harness import running as running

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


def _signed_by_another() -> str:
    good = x509.load_pem_x509_csr(csr_of(new_key()).encode())
    der = bytearray(good.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der)).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


BAD_REQUESTS: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "garbage": lambda: "garbage",
    "garbage in PEM": lambda: (
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
    ),
    "signature changed": _signed_by_another,
    "RSA 1024": lambda: request_of(rsa.generate_private_key(65537, 1024)),
    "RSA 2048": lambda: request_of(rsa.generate_private_key(65537, 2048)),
    "P-192": lambda: request_of(ec.generate_private_key(ec.SECP192R1())),
    "Ed25519": lambda: request_of(ed25519.Ed25519PrivateKey.generate(), algorithm=None),
    "another client's name": lambda: request_of(new_key(), "acme.press-2"),
    "the service's name": lambda: request_of(new_key(), "blackstart-service"),
    "another tenant's name": lambda: request_of(new_key(), "globex.press-1"),
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
            write = desk.service.store.write

            async def cut(work: Any) -> Any:
                if desk.authority.signed:
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
