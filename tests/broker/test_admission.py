"""Who gets in. Under TLS 1.3 a refused client's handshake seems to succeed, so what counts is the CONNACK."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from reference.pki import SERVICE_NAME, CertificateFiles, DevelopmentCA
from reference.support.mqtt import MqttLink
from tests.broker import raw
from tests.broker.conftest import Receive, Stand

COMMAND = "tenants/acme/clients/d1/commands/update"
FILTERS = ["tenants/acme/clients/d1/commands/#", "tenants/acme/clients/d1/replies"]


def _foreign(stand: Stand, tmp_path: Path) -> CertificateFiles:
    """The right names, signed by another authority; trusting the right one."""
    files = DevelopmentCA.open_or_create(tmp_path / "foreign").issue_device("acme", "d1")
    return CertificateFiles(files.cert, files.key, stand.ca.certificate)


def test_the_right_certificate_is_let_in(stand: Stand) -> None:
    mine = stand.device()
    with raw.open_tls(stand.port, raw.context(mine, mine)) as peer:
        peer.sendall(raw.connect("acme.d1"))
        assert peer.recv(4) == raw.ACCEPTED


@pytest.mark.parametrize(
    ("client_id", "tenant", "client"),
    [
        ("acme.d1", "acme", "d2"),
        ("acme.d1", "other", "d1"),
        ("acme.d2", "acme", "d1"),
        ("", "acme", "d1"),
        (SERVICE_NAME, "acme", "d1"),
        ("ACME.d1", "acme", "d1"),
    ],
)
def test_a_client_id_that_is_not_the_certificate_s_is_refused(
    stand: Stand, client_id: str, tenant: str, client: str
) -> None:
    mine = stand.device(tenant, client)
    assert raw.answer(stand.port, raw.context(mine, mine), raw.connect(client_id)) == raw.NOT_AUTHORIZED


def test_no_certificate_gets_no_answer(stand: Stand) -> None:
    assert raw.answer(stand.port, raw.context(stand.device(), None), raw.connect("acme.d1")) == b""


def test_another_authority_s_certificate_gets_no_answer(stand: Stand, tmp_path: Path) -> None:
    foreign = _foreign(stand, tmp_path)
    assert raw.answer(stand.port, raw.context(foreign, foreign), raw.connect("acme.d1")) == b""


def test_a_self_signed_certificate_gets_no_answer(stand: Stand, tmp_path: Path) -> None:
    DevelopmentCA.open_or_create(tmp_path)
    itself = CertificateFiles(tmp_path / "ca.crt", tmp_path / "ca.key", stand.ca.certificate)
    assert raw.answer(stand.port, raw.context(itself, itself), raw.connect("acme.d1")) == b""


def test_a_server_certificate_is_no_client_s(stand: Stand) -> None:
    server = stand.ca.issue_server("broker")
    assert raw.answer(stand.port, raw.context(server, server), raw.connect("broker")) == b""


def test_other_services_have_no_place_here(stand: Stand) -> None:
    other = stand.ca.issue_service("reporting")
    assert raw.answer(stand.port, raw.context(other, other), raw.connect("reporting")) == raw.NOT_AUTHORIZED


@pytest.mark.parametrize(
    "packet",
    [
        raw.connect("acme.d1", clean=False),
        raw.connect("acme.d1", will=("tenants/acme/clients/d2/commands/update", "x")),
    ],
    ids=["lasting session", "last will"],
)
def test_what_outlives_a_connection_is_refused(stand: Stand, packet: bytes) -> None:
    mine = stand.device()
    assert raw.answer(stand.port, raw.context(mine, mine), packet) == raw.NOT_AUTHORIZED


@pytest.mark.parametrize(
    "packet",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x10\x00",
        b"\x10\x04\x00\x04MQ",
        b"\x10\x08\x00\x04\xff\xff\xff\xff\x04\x02",
        b"\x00\x00",
    ],
)
def test_what_is_no_connect_is_never_accepted_and_harms_nobody(stand: Stand, packet: bytes) -> None:
    mine = stand.device()
    with raw.open_tls(stand.port, raw.context(mine, mine)) as peer:
        peer.sendall(packet)
        peer.settimeout(0.2)
        try:
            assert not raw.receive(peer).startswith(raw.ACCEPTED)
        except TimeoutError:  # it waits for the rest of the packet; its end is an end
            peer.shutdown(socket.SHUT_WR)
    test_the_right_certificate_is_let_in(stand)


def test_an_mqtt_5_client_is_refused_not_left_waiting(stand: Stand) -> None:
    mine = stand.device()
    body = raw.text("MQTT") + bytes([5, 2, 0, 30, 0]) + raw.text("acme.d1")
    got = raw.answer(stand.port, raw.context(mine, mine), bytes([0x10, len(body)]) + body)
    assert not got.startswith(raw.ACCEPTED)


async def test_a_refused_connect_does_not_touch_the_real_device(
    stand: Stand, service: MqttLink, receive: Receive
) -> None:
    mine, thief = stand.device(), stand.device("acme", "d2")
    async with stand.link("acme.d1", mine, FILTERS) as device:
        for clean in (True, False):
            packet = raw.connect("acme.d1", clean=clean)
            got = await asyncio.to_thread(raw.answer, stand.port, raw.context(thief, thief), packet)
            assert got == raw.NOT_AUTHORIZED
        await service.publish(COMMAND, b"go")
        assert (await receive(device)).payload == b"go"


async def test_a_new_connection_of_the_same_device_takes_over_at_once(
    stand: Stand, service: MqttLink, receive: Receive
) -> None:
    mine = stand.device()

    def older() -> ssl.SSLSocket:
        peer = raw.open_tls(stand.port, raw.context(mine, mine))
        peer.sendall(raw.connect("acme.d1"))
        assert peer.recv(4) == raw.ACCEPTED
        return peer

    with await asyncio.to_thread(older) as peer:
        async with stand.link("acme.d1", mine, FILTERS) as device:
            assert await asyncio.to_thread(raw.receive, peer) == b"", "the older connection is closed"
            await service.publish(COMMAND, b"go")
            assert (await receive(device)).payload == b"go"


def test_a_connection_that_falls_silent_is_closed(stand: Stand) -> None:
    mine = stand.device()
    assert (
        raw.answer(stand.port, raw.context(mine, mine), raw.connect("acme.d1", keepalive_s=1)) == raw.ACCEPTED
    )
