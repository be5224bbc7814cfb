"""What somebody sends who means no good, or whose machine is broken: refused in words, and nobody else notices."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from reference.protocol import topics
from reference.protocol.models import MAX_INT
from reference.service.auth import Role
from tests.service.enrolment_desk import Desk, csr_of, new_key
from tests.service.enrolment_desk import desk as desk
from tests.service.harness import Device, Service
from tests.service.harness import running as running

ONE_DATABASE = (
    "test_a_token_s_header_may_be_anything",
    "test_a_proof_may_be_anything",
    "test_the_ends_of_the_calendar_are_instants_like_others",
)


async def _well(service: Service) -> None:
    """Nobody else notices."""
    answer = await service.http.get("/readyz")
    assert answer.status_code == 200, answer.text
    assert (await service.get("/api/v1/clients")).status_code == 200


# ---- callers


@pytest.mark.parametrize("edge", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
async def test_the_ends_of_the_calendar_are_instants_like_others(service: Service, edge: str) -> None:
    for name in ("createdFrom", "createdTo"):
        answer = await service.http.get("/api/v1/jobs", params={name: edge}, headers=service.headers())
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("header", ["[" * 5_900, '{"a":' + "[" * 5_000, '{"kid":"\\u0000","alg":"none"}'])
async def test_a_token_s_header_may_be_anything(service: Service, header: str) -> None:
    encoded = base64.urlsafe_b64encode(header.encode()).decode().rstrip("=")
    for token in (f"{encoded}.e30.AAAA", encoded, f"{encoded}..", "..", "e30.e30.e30"):
        answer = await service.http.get("/api/v1/clients", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401
    await _well(service)


@pytest.mark.parametrize("subject", ["a\0b", "a\ud800b", "a\nb"])
async def test_a_subject_that_cannot_be_written_down_is_nobody(service: Service, subject: str) -> None:
    await service.prepare()
    token = service.issuer.issue("acme", Role.ADMINISTRATOR, subject)
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "k"}
    body = {"targetVersion": "2.0"}
    answer = await service.http.post("/api/v1/clients/press-1/update", json=body, headers=headers)
    assert answer.status_code == 401, answer.text
    token = service.issuer.issue("acme", Role.ADMINISTRATOR, "Jörg Ö. <joerg@example.org>")
    headers["Authorization"] = f"Bearer {token}"
    answer = await service.http.post("/api/v1/clients/press-1/update", json=body, headers=headers)
    assert answer.status_code == 202
    await _well(service)


# ---- devices


@pytest.mark.parametrize(
    "said", [{"agentVersion": "a\0b"}, {"agentVersion": "\ud800"}, {"reason": {"code": "a", "message": "\0"}}]
)
async def test_no_text_of_a_device_s_is_an_outage_of_the_database(
    service: Service, device: Device, said: dict[str, Any]
) -> None:
    await service.prepare()
    body = json.dumps({"schemaVersion": 1, "nonce": "n", "journalEpoch": "epoch-1", **said})
    await service.link.bring(topics.birth("acme", "press-1"), body.encode())
    await _well(service)
    await device.birth()
    assert (await device.replies(1))[-1].birth is not None, "the next one is answered"
    metrics = (await service.http.get("/metrics")).text
    assert "not_stored" not in metrics


async def test_a_device_that_counted_to_the_end_is_refused_in_words(service: Service, device: Device) -> None:
    await service.prepare()
    await device.birth(floor=MAX_INT)
    body = {"targetVersion": "2.0"}
    answer = await service.post("/api/v1/clients/press-1/update", body)
    assert (answer.status_code, answer.json()["reason"]) == (409, "conflict"), answer.text
    await _well(service)


# ---- enrolment


@pytest.mark.parametrize(
    "token",
    ["bsr.\0aaaaaaaaaaaaaaa.x", "bsr." + "\0" * 16 + ".x", "bsr." + "é" * 16 + ".x", "bsr..", "\0" * 9],
)
async def test_no_token_that_a_stranger_makes_up_is_an_outage(desk: Desk, token: str) -> None:
    answer = await desk.enrol(token, csr_of(new_key()))
    assert (answer.status_code, answer.json()["reason"]) == (401, "registration_token_invalid")
    await _well(desk.service)


def _csr_with_name(value: bytes) -> str:
    """A request, signed with its key, whose common name is these bytes, called UTF-8."""
    key = new_key()
    mark = b"N" * len(value)
    request = x509.load_pem_x509_csr(csr_of(key, mark.decode()).encode())
    info = request.tbs_certrequest_bytes.replace(mark, value)
    signature = key.sign(info, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    bits = b"\x03" + bytes([len(signature) + 1]) + b"\x00" + signature
    inner = info + algorithm + bits
    assert 0x80 <= len(inner) < 0x10000
    size = len(inner).to_bytes(2, "big")
    der = b"\x30\x82" + size + inner
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize(
    "name", [b"\xff" * 20, b"\xed\xa0\x80" * 7, b"\x00" * 20, b"press-1\x00" + b"x" * 12]
)
async def test_a_csr_may_call_itself_what_it_likes(desk: Desk, name: bytes) -> None:
    token = await desk.register()
    answer = await desk.enrol(token, _csr_with_name(name))
    assert answer.status_code == 422, answer.text
    answer = await desk.enrol(token, csr_of(new_key()))
    assert answer.status_code == 200, "the token is not used up"


@pytest.mark.parametrize("header", ["[" * 9_000, '{"x5c":' + "[" * 9_000, '{"typ":"x","x5c":["AAAA"]}'])
async def test_a_proof_may_be_anything(desk: Desk, header: str) -> None:
    encoded = base64.urlsafe_b64encode(header.encode()).decode().rstrip("=")
    answer = await desk.renew(f"{encoded}.e30.AAAA")
    assert (answer.status_code, answer.json()["reason"]) == (401, "certificate_refused")


async def test_many_at_once_with_one_token_get_one_certificate(desk: Desk) -> None:
    token, key = await desk.register(), new_key()
    answers = await asyncio.gather(*(desk.enrol(token, csr_of(key)) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["certificate"] for answer in answers}) == 1
    thief = await desk.enrol(token, csr_of(new_key()))
    assert thief.status_code == 409
