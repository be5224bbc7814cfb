"""The service as a process: ready line, clean end, and clear words for settings that cannot be."""

from __future__ import annotations

import asyncio
import datetime
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from reference.core.errors import InputError
from reference.protocol.envelope import generate_key, write_private_key
from reference.service.auth import issue_token
from reference.service.settings import read_settings

PATIENCE_S = 15


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, str]:
    """Arguments that are good; nobody listens where the broker should be."""
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "service")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now).not_valid_after(now + datetime.timedelta(hours=1)).sign(key, SHA256())
    )  # fmt: skip
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_private_key(generate_key(), tmp_path / "signing.pem")
    return {
        "--data": str(tmp_path / "data"), "--port": "0", "--broker-host": "127.0.0.1", "--broker-port": "1",
        "--ca": str(tmp_path / "cert.pem"), "--cert": str(tmp_path / "cert.pem"), "--key": str(tmp_path / "key.pem"),
        "--signing-key": str(tmp_path / "signing.pem"),
    }  # fmt: skip


@asynccontextmanager
async def _process(arguments: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    flat = [part for pair in arguments.items() for part in pair]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reference.service", *flat, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _answers(arguments: dict[str, str]) -> tuple[int, str, str]:
    async with _process(arguments) as process, asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_starts_answers_and_ends(arguments: dict[str, str], number: signal.Signals) -> None:
    async with _process(arguments) as process, asyncio.timeout(PATIENCE_S):
        assert process.stdout is not None
        ready = json.loads(await process.stdout.readline())
        assert ready["ready"] is True
        token = issue_token(Path(arguments["--data"]), "acme", "Administrator")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ready['port']}") as http:
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.get("/readyz")).json()["checks"]["broker"] == "not connected"
            headers = {"Authorization": f"Bearer {token}"}
            assert (await http.get("/api/v1/clients", headers=headers)).json() == {
                "items": [],
                "nextCursor": None,
            }
        process.send_signal(number)
        assert await process.stdout.read() == b"", "nothing but the ready line"
        assert await process.wait() == 0


async def _post(port: int, body: bytes, headers: bytes) -> bytes:
    """The answer, read only once everything is sent, as simple clients do."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"POST /api/v1/clients HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n" + body)
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()


async def test_the_sender_of_a_large_body_gets_to_read_that_it_is_too_large(
    arguments: dict[str, str],
) -> None:
    large = 5_000_000
    async with _process(arguments) as process, asyncio.timeout(PATIENCE_S):
        assert process.stdout is not None
        port = json.loads(await process.stdout.readline())["port"]
        told = b"Content-Length: %d\r\n" % large
        for _ in range(10):
            assert (await _post(port, b" " * large, told)).startswith(b"HTTP/1.1 413 ")
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (large, b" " * large)
        assert (await _post(port, chunks, b"Transfer-Encoding: chunked\r\n")).startswith(b"HTTP/1.1 413 ")
        one_part = b"%x\r\n%s\r\n0\r\n\r\n" % (65_537, b" " * 65_537)
        assert (await _post(port, one_part, b"Transfer-Encoding: chunked\r\n")).startswith(b"HTTP/1.1 413 ")
        waits = await _post(port, b"", told + b"Expect: 100-continue\r\n")
        assert waits.startswith(b"HTTP/1.1 413 "), "nobody asked for the body"


BAD = {
    "--host": ["0.0.0.0", "example.org"],
    "--port": ["x", "70000"],
    "--broker-port": ["-1"],
    "--data": ["FILE"],
    "--ca": ["ABSENT"],
    "--cert": ["FILE"],
    "--signing-key": ["ABSENT", "FILE", "OTHER"],
    "--health-window-ms": ["-1", "480001"],
    "--health-start-period-ms": ["480001"],
    "--health-stable-for-ms": ["480001"],
    "--health-probe": ["no-path"],
    "--novelty": ["1"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_settings_that_cannot_be(
    arguments: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    (tmp_path / "file").write_text("noise")
    files = {"FILE": str(tmp_path / "file"), "ABSENT": str(tmp_path / "absent"), "OTHER": arguments["--key"]}
    given = arguments | {name: files.get(value, value)}
    with pytest.raises((InputError, SystemExit)) as caught:  # argparse ends the process itself
        read_settings([part for pair in given.items() for part in pair])
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 2
        assert name in capsys.readouterr().err
    else:
        assert isinstance(caught.value, InputError)
        assert caught.value.where


async def test_a_port_that_is_taken(arguments: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, out, err = await _answers(arguments | {"--port": str(taken.getsockname()[1])})
    assert (code, out) == (2, "")
    assert "cannot listen" in err
    assert "Traceback" not in err


async def test_a_database_from_another_time(arguments: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "service.db").write_bytes(b"this is no database" * 500)
    code, out, err = await _answers(arguments)
    assert (code, out) == (1, "")
    assert "service.db" in err
    assert "Traceback" not in err
