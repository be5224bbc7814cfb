"""What an engine says, and what it means; engines that cannot be used, each in one sentence that says what to do."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from reference.core.errors import BlackstartError, EngineError, Reason, retry_of
from reference.edge.runtimes.docker import DockerRuntime
from reference.edge.runtimes.docker.engine import check_storage, usable_version
from reference.edge.runtimes.docker.words import (
    classify,
    classify_start,
    create_error,
    pull_error,
    start_error,
)
from reference.edge.settings import ClientSettings, EngineSettings

SAID = [
    ("Get \"https://r.test/v2/x/manifests/sha256:1\": no basic auth credentials", Reason.REGISTRY_UNAUTHORIZED),
    ("unauthorized: authentication required", Reason.REGISTRY_UNAUTHORIZED),
    ("pull access denied for r.test/x, repository does not exist or may require 'docker login'", Reason.REGISTRY_DENIED),
    ("denied: requested access to the resource is denied", Reason.REGISTRY_DENIED),
    ("manifest for r.test/x@sha256:12 not found: manifest unknown: manifest unknown", Reason.IMAGE_UNKNOWN),
    ("toomanyrequests: You have reached your pull rate limit", Reason.REGISTRY_THROTTLED),
    ("received unexpected HTTP status: 503 Service Unavailable", Reason.REGISTRY_ERROR),
    ("Get \"http://127.0.0.1:9/v2/\": dial tcp 127.0.0.1:9: connect: connection refused", Reason.REGISTRY_UNREACHABLE),
    ("dial tcp: lookup r.test on 9.9.9.9:53: no such host", Reason.REGISTRY_UNREACHABLE),
    ("dial tcp 1.2.3.4:443: connect: network is unreachable", Reason.REGISTRY_UNREACHABLE),
    ("Get \"http://r.test/v2/\": EOF", Reason.REGISTRY_UNREACHABLE),
    ("unexpected EOF", Reason.REGISTRY_UNREACHABLE),
    ("net/http: request canceled while waiting for connection", Reason.REGISTRY_UNREACHABLE),
    ("manifest verification failed for digest sha256:4017", Reason.PULL_CORRUPT),
    ("filesystem layer verification failed for digest sha256:429b", Reason.PULL_CORRUPT),
    ("download failed after attempts=6: received unexpected HTTP status: 500", Reason.REGISTRY_ERROR),
    ("download failed after attempts=6: unexpected EOF", Reason.REGISTRY_UNREACHABLE),
    ("write /var/lib/docker/tmp/GetImageBlob1: no space left on device", Reason.DISK_FULL),
    ("failed to register layer: Error processing tar file(exit status 1): no space left on device", Reason.DISK_FULL),
    ("no matching manifest for linux/arm64/v8 in the manifest list entries", Reason.WRONG_ARCHITECTURE),
    ("x509: certificate signed by unknown authority", Reason.REGISTRY_UNREACHABLE),
    ("tls: failed to verify certificate: x509: certificate signed by unknown authority", Reason.REGISTRY_UNREACHABLE),
    ("http: server gave HTTP response to HTTPS client", Reason.REGISTRY_UNREACHABLE),
    ("failed to register layer: too many levels of symbolic links", Reason.ENGINE_ERROR),
    ("unsupported media type application/x-tar", Reason.IMAGE_INVALID),
    ("the moon is in the wrong house", Reason.ENGINE_ERROR),
    ("", Reason.ENGINE_ERROR),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), SAID)
def test_a_failed_pull_has_the_reason_that_its_words_say(text: str, reason: Reason) -> None:
    assert classify(text) is reason
    assert pull_error(text, "r.test").reason is reason


def test_a_digest_is_never_taken_for_words() -> None:
    """Digits of a digest may look like a status code, or like the end of a file."""
    for digits in ("401", "403", "404", "429", "500", "503", "e0f"):
        assert classify(f"sha256:{digits * 21}a") is Reason.ENGINE_ERROR


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("x509: certificate signed by unknown authority", "/etc/docker/certs.d/r.test:5000/ca.crt"),
        ("http: server gave HTTP response to HTTPS client", "insecure-registries"),
        ("no basic auth credentials", "credentials"),
        ("pull access denied for x", "right to pull"),
        ("manifest unknown", "digest"),
        ("no matching manifest for linux/amd64", "architecture"),
    ],
)
def test_a_failed_pull_says_what_to_do(text: str, word: str) -> None:
    assert word in str(pull_error(text, "r.test:5000"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("driver failed programming external connectivity: Bind for 0.0.0.0:80 failed: port is already allocated",
         Reason.START_REFUSED),
        ("listen tcp4 0.0.0.0:80: bind: address already in use", Reason.START_REFUSED),
        ('OCI runtime create failed: exec: "/x": stat /x: no such file or directory: unknown', Reason.IMAGE_INVALID),
        ('starting container process caused: exec: "x": executable file not found in $PATH', Reason.IMAGE_INVALID),
        ("standard_init_linux.go:228: exec user process caused: exec format error", Reason.WRONG_ARCHITECTURE),
        ("unable to find user nobody2: no matching entries in passwd file", Reason.IMAGE_INVALID),
        ("error gathering device information while adding custom device \"/dev/x\"", Reason.CONFIGURATION_INVALID),
        ("network plant not found", Reason.CONFIGURATION_INVALID),
        ("No such container: abc", Reason.ENGINE_ERROR),
        ("mkdir /var/lib/docker/x: no space left on device", Reason.DISK_FULL),
        ("failed to create shim task: something new", Reason.START_REFUSED),
        ("failed to update store for object type *libnetwork.endpoint: Key not found in store", Reason.ENGINE_ERROR),
        ("rpc error: code = Unavailable desc = transport is closing", Reason.ENGINE_ERROR),
    ],
)  # fmt: skip
def test_a_refused_start_has_the_reason_that_its_words_say(text: str, reason: Reason) -> None:
    assert classify_start(text) is reason
    assert start_error(text, "0123456789abcdef").reason is reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            'invalid mount config for type "bind": bind source path does not exist: /x',
            Reason.CONFIGURATION_INVALID,
        ),
        ("conflicting options: hostname and the network mode", Reason.CONFIGURATION_INVALID),
        ("no space left on device", Reason.DISK_FULL),
        ("something new", Reason.ENGINE_ERROR),
    ],
)
def test_a_refused_create_has_the_reason_that_its_words_say(text: str, reason: Reason) -> None:
    assert create_error(text, 1).reason is reason


def test_what_nobody_knows_is_tried_again_and_what_is_hopeless_is_not() -> None:
    assert retry_of(classify("the moon")) is retry_of(Reason.ENGINE_ERROR)
    assert retry_of(classify("manifest unknown")) is not retry_of(Reason.ENGINE_ERROR)


# ---- engines that cannot be used


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ({"ApiVersion": "1.41", "MinAPIVersion": "1.12"}, "1.41"),
        ({"ApiVersion": "1.47", "MinAPIVersion": "1.24"}, "1.41"),
        ({"ApiVersion": "1.52", "MinAPIVersion": "1.44"}, "1.44"),
    ],
)
def test_the_oldest_api_that_does_is_spoken(told: dict[str, str], version: str) -> None:
    assert usable_version(told, "here") == version


def test_an_engine_too_old_is_refused() -> None:
    with pytest.raises(EngineError) as caught:
        usable_version({"ApiVersion": "1.40", "MinAPIVersion": "1.12", "Version": "19.03.5"}, "here")
    assert "19.03.5" in str(caught.value)
    assert "20.10" in str(caught.value)


@pytest.mark.parametrize(
    ("info", "word"),
    [
        ({"Driver": "vfs"}, "overlay2"),
        ({"Driver": "devicemapper"}, "overlay2"),
        ({"Driver": "overlayfs", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]},
         "containerd-snapshotter"),
    ],
)  # fmt: skip
def test_a_storage_driver_that_cannot_be_used_is_refused(info: dict[str, Any], word: str) -> None:
    with pytest.raises(EngineError) as caught:
        check_storage(info, "here")
    assert word in str(caught.value)
    assert "daemon.json" in str(caught.value)


@contextmanager
def fake_engine(folder: Path, answers: Mapping[str, object]) -> Iterator[Path]:
    """Something that answers on a socket as it is told, by the end of the path; what it is not told, never."""
    path, over = folder / "s", threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = next((answer for end, answer in answers.items() if self.path.endswith(end)), None)
            if found is None:
                over.wait(20)
                return
            body = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "socket"

        def log_message(self, *_: object) -> None:
            pass

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True
        block_on_close = False

    with Server(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
        try:
            yield path
        finally:
            over.set()
            server.shutdown()


async def complaint(folder: Path, path: Path, timeout_ms: int = 5_000) -> str:
    """What `observe` says of the engine at this socket."""
    engine = EngineSettings(socket=f"unix://{path}", timeout_ms=timeout_ms, patience_ms=0)
    runtime = DockerRuntime(folder / "state", folder / "run", "t.c", ClientSettings(port=1), engine)
    try:
        with pytest.raises(EngineError) as caught:
            await runtime.observe()
        assert caught.value.reason is Reason.ENGINE_ERROR
        assert "\n" not in str(caught.value)
        return str(caught.value)
    finally:
        await runtime.close()


async def test_no_engine_at_all(tmp_path: Path) -> None:
    said = await complaint(tmp_path, tmp_path / "nothing")
    assert str(tmp_path / "nothing") in said
    assert "systemctl start docker" in said
    assert "install Docker" in said


async def test_an_engine_that_is_down(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "s"))
    said = await complaint(tmp_path, tmp_path / "s")
    assert "does not answer" in said
    assert "systemctl start docker" in said


async def test_no_permission_on_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:  # root is refused nothing: the kernel's answer to others is played
        real = socket.socket.connect

        def connect(self: socket.socket, address: Any) -> None:
            if self.family == socket.AF_UNIX:
                raise PermissionError(13, "Permission denied")
            real(self, address)

        monkeypatch.setattr(socket.socket, "connect", connect)
    with fake_engine(tmp_path, {}) as path:
        path.chmod(0)
        said = await complaint(tmp_path, path)
    assert "no permission" in said
    assert "group `docker`" in said


async def test_an_engine_that_hangs(tmp_path: Path) -> None:
    with fake_engine(tmp_path, {}) as path:
        said = await complaint(tmp_path, path, timeout_ms=200)
    assert "did not answer in time" in said


async def test_something_else_on_the_socket(tmp_path: Path) -> None:
    with fake_engine(tmp_path, {"/version": b"hello", "/info": b"hello"}) as path:
        assert "could not" in await complaint(tmp_path, path)


async def test_an_old_engine_on_the_socket(tmp_path: Path) -> None:
    version = {"ApiVersion": "1.39", "MinAPIVersion": "1.12", "Version": "18.09"}
    with fake_engine(tmp_path, {"/version": version}) as path:
        assert "too old" in await complaint(tmp_path, path)


async def test_an_engine_with_an_unusable_storage_driver_on_the_socket(tmp_path: Path) -> None:
    version = {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10"}
    with fake_engine(
        tmp_path, {"/version": version, "/info": {"Driver": "vfs", "DockerRootDir": "/x"}}
    ) as path:
        assert "storage driver" in await complaint(tmp_path, path)


async def test_folders_that_cannot_be_used_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BlackstartError):
        DockerRuntime(tmp_path / "file", tmp_path / "run", "t.c", ClientSettings(port=1), EngineSettings())
