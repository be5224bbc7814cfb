"""HTTPS: from the development authority or from files, renewed without a restart; plain HTTP on loopback only."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import sys
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from reference.core.errors import InputError
from reference.pki.authority import DevelopmentCA
from reference.protocol.envelope import generate_key, write_private_key
from reference.service.auth import issue_token
from reference.service.tls import ServerFiles, development_files, keep_fresh

PATIENCE_S = 5.0
ROOT = Path(__file__).resolve().parents[2]


async def _serial(port: int, trusted: Path, **options: object) -> int:
    """The serial number of what the server shows; the handshake is a real one."""
    context = ssl.create_default_context(cafile=str(trusted))
    for name, value in options.items():
        setattr(context, name, value)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown).serial_number


async def _listen(context: ssl.SSLContext) -> tuple[asyncio.Server, int]:
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0, ssl=context)
    return server, server.sockets[0].getsockname()[1]


async def test_the_development_authority_and_no_old_tls(tmp_path: Path) -> None:
    files = development_files(tmp_path / "ca", "plant.example")
    names = x509.load_pem_x509_certificate(files.cert.read_bytes()).extensions
    alternatives = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "plant.example" in alternatives.get_values_for_type(x509.DNSName)
    ca = DevelopmentCA.open_or_create(tmp_path / "ca").certificate
    server, port = await _listen(files.context())
    async with server:
        assert await _serial(port, ca)
        assert await _serial(port, ca, maximum_version=ssl.TLSVersion.TLSv1_2)
        with pytest.warns(DeprecationWarning), pytest.raises((ssl.SSLError, OSError)):
            await _serial(
                port, ca, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1
            )


def _replace(source: Path, target: Path) -> None:
    temporary = target.with_suffix(".new")
    shutil.copy(source, temporary)
    os.replace(temporary, target)  # noqa: PTH105


async def test_changed_files_are_read_again_and_bad_ones_are_not(tmp_path: Path) -> None:
    authority = DevelopmentCA.open_or_create(tmp_path / "ca")
    one, two = authority.issue_server("one"), authority.issue_server("two")
    files = ServerFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    _replace(one.cert, files.cert)
    _replace(one.key, files.key)
    context = files.context()
    server, port = await _listen(context)
    fresh = asyncio.create_task(keep_fresh(files, context, look_s=0.02))
    try:
        async with server, asyncio.timeout(PATIENCE_S):
            first = await _serial(port, authority.certificate)
            _replace(two.cert, files.cert)  # half of the change: certificate and key do not fit
            for _ in range(10):
                assert await _serial(port, authority.certificate) == first
                await asyncio.sleep(0.01)
            _replace(two.key, files.key)
            while await _serial(port, authority.certificate) == first:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            files.cert.unlink()
            assert await _serial(port, authority.certificate) != first
    finally:
        fresh.cancel()


@pytest.mark.parametrize("content", [b"", b"noise", None])
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes | None) -> None:
    issued = DevelopmentCA.open_or_create(tmp_path / "ca").issue_server("one")
    bad = tmp_path / "bad.pem"
    if content is not None:
        bad.write_bytes(content)
    for files in (ServerFiles(bad, issued.key), ServerFiles(issued.cert, bad)):
        with pytest.raises(InputError) as caught:
            files.context()
        assert str(bad) in caught.value.where


async def test_the_service_as_a_process_over_https(tmp_path: Path) -> None:
    """Started by environment and file; its log follows a request by the caller's id, and holds no token."""
    authority = DevelopmentCA.open_or_create(tmp_path / "ca")
    files = authority.issue_service()
    write_private_key(generate_key(), tmp_path / "signing.pem")
    config = tmp_path / "service.toml"
    config.write_text(
        f'data = "data"\nport = 0\nhost = "0.0.0.0"\ntls-dev = true\nca-dir = "ca"\nbroker-host = "127.0.0.1"\n'
        f'broker-port = 1\nca = "{files.ca}"\ncert = "{files.cert}"\nkey = "{files.key}"\n'
    )
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "BLACKSTART_SERVICE_CONFIG": str(config),
        "BLACKSTART_SERVICE_SIGNING_KEY": str(tmp_path / "signing.pem"),
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reference.service", env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            ready = json.loads(await process.stdout.readline())
            assert ready["scheme"] == "https"
            token = issue_token(tmp_path / "data", "acme", "Viewer")
            headers = {"Authorization": f"Bearer {token}", "X-Correlation-ID": "order-4711"}
            trusted = ssl.create_default_context(cafile=str(authority.certificate))
            async with httpx.AsyncClient(
                base_url=f"https://localhost:{ready['port']}", verify=trusted
            ) as http:
                assert (await http.get("/api/v1/jobs", headers=headers)).status_code == 200
            reader, writer = await asyncio.open_connection("127.0.0.1", ready["port"])
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" not in await reader.read(), "no plain HTTP on the same port"
            writer.close()
            process.terminate()
            _, log = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0
    lines = [json.loads(line) for line in log.decode().splitlines()]
    (request,) = [line for line in lines if line["message"] == "request"]
    assert (request["correlation"], request["route"], request["status"]) == (
        "order-4711",
        "/api/v1/jobs",
        200,
    )
    assert any("development issuer" in line["message"] for line in lines), (
        "said aloud where it is not loopback"
    )
    assert token not in log.decode()
