"""The few bytes of MQTT 3.1.1 that the tests send by hand."""

from __future__ import annotations

import socket
import ssl
import struct

from reference.pki import CertificateFiles

ACCEPTED = b"\x20\x02\x00\x00"
NOT_AUTHORIZED = b"\x20\x02\x00\x05"


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("!H", len(raw)) + raw


def connect(
    client_id: str, *, clean: bool = True, will: tuple[str, str] | None = None, keepalive_s: int = 30
) -> bytes:
    flags = (2 if clean else 0) | (4 if will else 0)
    body = text("MQTT") + bytes([4, flags]) + struct.pack("!H", keepalive_s) + text(client_id)
    if will:
        body += text(will[0]) + text(will[1])
    assert len(body) < 128
    return bytes([0x10, len(body)]) + body


def publish(topic: str, payload: bytes, *, retain: bool = False) -> bytes:
    body = text(topic) + payload
    assert len(body) < 128
    return bytes([0x30 | retain, len(body)]) + body


def context(ca: CertificateFiles, mine: CertificateFiles | None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(ca.ca))
    if mine is not None:
        made.load_cert_chain(mine.cert, mine.key)
    return made


def open_tls(port: int, tls: ssl.SSLContext, timeout_s: float = 5.0) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), timeout_s)
    return tls.wrap_socket(raw, server_hostname="127.0.0.1")


def receive(peer: socket.socket) -> bytes:
    """All that comes until the other side closes; a reset is a close."""
    got = b""
    try:
        while chunk := peer.recv(4096):
            got += chunk
    except (ConnectionError, ssl.SSLError):
        pass
    return got


def answer(port: int, tls: ssl.SSLContext, packet: bytes) -> bytes:
    """What the broker says to `packet` until it closes the connection. Fails (TimeoutError) if it keeps it open."""
    try:
        with open_tls(port, tls) as peer:
            peer.sendall(packet)
            return receive(peer)
    except (ConnectionError, ssl.SSLError):
        return b""
