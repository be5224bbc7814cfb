"""Push and pull over real sockets, as the distribution specification describes them."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from reference.core.errors import ImageError, InputError, Reason, RegistryError
from reference.oci import manifests as m
from reference.oci.build import build_image
from reference.oci.digests import sha256_of
from reference.oci.layout import read_layout
from reference.oci.push import PushProgress, push_image
from reference.oci.references import Reference, parse_reference
from tests.oci.samples import app_folder
from tests.registry.processes import Running, registry

ABSENT = "sha256:" + "0" * 64


def code(answer: httpx.Response) -> str:
    return str(answer.json()["errors"][0]["code"])


def push_blob(http: httpx.Client, name: str, data: bytes) -> str:
    digest = sha256_of(data)
    answer = http.post(f"/v2/{name}/blobs/uploads/", params={"digest": digest}, content=data)
    assert answer.status_code == 201, answer.text
    return digest


def temporaries(running: Running) -> set[str]:
    return {path.name for path in (running.data / "temporary").iterdir()}


@pytest.fixture
def others(running: Running) -> set[str]:
    """Uploads that other tests have begun and left: the registry is shared by them all."""
    return temporaries(running)


def wait_until_gone(running: Running, others: set[str]) -> None:
    deadline = time.monotonic() + 5
    while left := temporaries(running) - others:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def test_an_image_goes_in_and_comes_out(
    tmp_path: Path, running: Running, http: httpx.Client, name: str, others: set[str]
) -> None:
    image = build_image(app_folder(tmp_path), tmp_path / "image", version="1.0.0")
    seen: list[PushProgress] = []
    reference = parse_reference(f"{running.host}/{name}:1.0.0")
    digest = push_image(image.layout, reference, plain_http=True, progress=seen.append)
    assert digest == image.manifest_digest
    assert seen[-1].done_bytes == seen[-1].total_bytes == read_layout(image.layout).manifest.size_bytes
    assert not any(step.skipped for step in seen)
    for asked in ("1.0.0", digest):
        answer = http.get(f"/v2/{name}/manifests/{asked}", headers={"Accept": m.ACCEPT})
        assert answer.headers["docker-content-digest"] == digest
        assert answer.headers["content-type"] == m.OCI_MANIFEST
        assert sha256_of(answer.content) == digest
        head = http.head(f"/v2/{name}/manifests/{asked}")
        assert head.headers["content-length"] == str(len(answer.content))
    for blob in read_layout(image.layout).blobs:
        got = http.get(f"/v2/{name}/blobs/{blob.digest}")
        assert sha256_of(got.content) == blob.digest
        head = http.head(f"/v2/{name}/blobs/{blob.digest}")
        assert (head.headers["content-length"], head.content) == (str(blob.size), b"")
    assert http.get(f"/v2/{name}/tags/list").json() == {"name": name, "tags": ["1.0.0"]}
    seen.clear()
    push_image(image.layout, Reference(running.host, name, "2"), plain_http=True, progress=seen.append)
    assert all(step.skipped for step in seen)
    assert http.get(f"/v2/{name}/tags/list").json()["tags"] == ["1.0.0", "2"]
    assert temporaries(running) <= others


def test_it_survives_a_restart_and_a_kill(tmp_path: Path) -> None:
    image = build_image(app_folder(tmp_path), tmp_path / "image", version="1")
    with registry(tmp_path / "data", "--no-auth") as first:
        push_image(image.layout, Reference(first.host, "app", "1"), plain_http=True)
        assert httpx.post(f"{first.base}/v2/app/blobs/uploads/", trust_env=False).status_code == 202
        assert len(temporaries(first)) == 1
        first.process.kill()
    with registry(tmp_path / "data", "--no-auth") as second:
        answer = httpx.get(f"{second.base}/v2/app/manifests/1", trust_env=False)
        assert sha256_of(answer.content) == image.manifest_digest
        assert temporaries(second) == set()
        before = time.monotonic()
        assert second.stop() == 0
        assert time.monotonic() - before < 2


def test_a_stop_does_not_wait_for_transfers(tmp_path: Path) -> None:
    with registry(tmp_path / "data", "--no-auth") as running:
        with socket.create_connection(("localhost", running.port)) as half:
            half.sendall(
                b"POST /v2/app/blobs/uploads/?digest=%b HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nabc"
                % ABSENT.encode()
            )
            deadline = time.monotonic() + 5
            while not temporaries(running):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            before = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - before < 2
        assert not (tmp_path / "data" / "blobs").exists()


def test_chunks(http: httpx.Client, running: Running, name: str, others: set[str]) -> None:
    data = b"0123456789" * 300_000
    digest, cut = sha256_of(data), 1_500_000
    started = http.post(f"/v2/{name}/blobs/uploads/")
    assert started.status_code == 202
    location = started.headers["location"]
    sent = http.patch(location, content=data[:cut], headers={"Content-Range": f"0-{cut - 1}"})
    assert (sent.status_code, sent.headers["range"]) == (202, f"0-{cut - 1}")
    status = http.get(location)
    assert (status.status_code, status.headers["range"]) == (204, f"0-{cut - 1}")
    for wrong in ("0-9", f"{cut + 1}-{cut + 9}", "a-b"):
        refused = http.patch(location, content=data[:9], headers={"Content-Range": wrong})
        assert refused.status_code == 416
    unequal = http.patch(location, content=data[:9], headers={"Content-Range": f"{cut}-{cut + 99}"})
    assert (unequal.status_code, code(unequal)) == (400, "SIZE_INVALID")
    assert http.head(f"/v2/{name}/blobs/{digest}").status_code == 404
    done = http.put(location, params={"digest": digest}, content=data[cut:])
    assert done.status_code == 201
    assert http.get(done.headers["location"]).content == data
    assert code(http.get(location)) == "BLOB_UPLOAD_UNKNOWN"
    assert temporaries(running) <= others


def test_an_upload_belongs_to_its_repository_and_can_be_cancelled(http: httpx.Client, name: str) -> None:
    location = http.post(f"/v2/{name}/blobs/uploads/").headers["location"]
    assert http.get(location.replace(name, name + "x")).status_code == 404
    assert http.delete(location).status_code == 204
    assert code(http.patch(location, content=b"x")) == "BLOB_UPLOAD_UNKNOWN"


def test_a_wrong_digest_leaves_nothing(
    http: httpx.Client, running: Running, name: str, others: set[str]
) -> None:
    for _ in ("monolithic", "in two steps"):
        answer = http.post(f"/v2/{name}/blobs/uploads/", params={"digest": ABSENT}, content=b"lie")
        assert (answer.status_code, code(answer)) == (400, "DIGEST_INVALID")
        location = http.post(f"/v2/{name}/blobs/uploads/").headers["location"]
        answer = http.put(location, params={"digest": ABSENT}, content=b"lie")
        assert (answer.status_code, code(answer)) == (400, "DIGEST_INVALID")
        assert http.get(location).status_code == 404
    for digest in (ABSENT, sha256_of(b"lie")):
        assert code(http.get(f"/v2/{name}/blobs/{digest}")) == "BLOB_UNKNOWN"
    assert temporaries(running) <= others


def test_half_an_upload_leaves_nothing(
    http: httpx.Client, running: Running, name: str, others: set[str]
) -> None:
    whole = b"x" * 3_000_000
    digest = sha256_of(whole)
    location = http.post(f"/v2/{name}/blobs/uploads/").headers["location"]
    for method, path in (("PUT", location), ("POST", f"/v2/{name}/blobs/uploads/")):
        with socket.create_connection(("localhost", running.port)) as client:
            head = (
                f"{method} {path}?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(whole)}\r\n\r\n"
            )
            client.sendall(head.encode() + whole[: len(whole) - 1])
        wait_until_gone(running, others)
        assert http.head(f"/v2/{name}/blobs/{digest}").status_code == 404


def test_a_blob_is_seen_in_its_own_repository_only(http: httpx.Client, name: str) -> None:
    digest = push_blob(http, name, b"mine")
    assert http.head(f"/v2/{name}/blobs/{digest}").status_code == 200
    assert http.head(f"/v2/{name}/other/blobs/{digest}").status_code == 404


def test_ranges(http: httpx.Client, name: str) -> None:
    data = b"0123456789"
    url = f"/v2/{name}/blobs/{push_blob(http, name, data)}"
    for header, want, said in (
        ("bytes=0-0", b"0", "bytes 0-0/10"),
        ("bytes=3-", b"3456789", "bytes 3-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-99", data, "bytes 0-9/10"),
    ):
        answer = http.get(url, headers={"Range": header})
        assert (answer.status_code, answer.content) == (206, want), header
        assert answer.headers["content-range"] == said
    for ignored in ("bytes=-", "bytes=0-1,4-5", "lines=1-2", "bytes=a-b"):
        answer = http.get(url, headers={"Range": ignored})
        assert (answer.status_code, answer.content) == (200, data), ignored
    for beyond in ("bytes=5-2", "bytes=10-", "bytes=99-100", "bytes=-0"):
        answer = http.get(url, headers={"Range": beyond})
        assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */10"), beyond
    empty = f"/v2/{name}/blobs/{push_blob(http, name, b'')}"
    assert http.get(empty).content == b""
    assert http.get(empty, headers={"Range": "bytes=0-"}).status_code == 416


def test_manifests_are_checked(http: httpx.Client, name: str) -> None:
    config, layer = push_blob(http, name, b"{}"), push_blob(http, name, b"layer")
    good = m.Manifest(m.Descriptor(m.OCI_CONFIG, config, 2), (m.Descriptor(m.OCI_LAYER_GZIP, layer, 5),))
    lies = m.Manifest(good.config, (m.Descriptor(m.OCI_LAYER_GZIP, layer, 6),))
    gaps = m.Manifest(good.config, (m.Descriptor(m.OCI_LAYER_GZIP, ABSENT, 5),))
    oci = {"Content-Type": m.OCI_MANIFEST}

    def put(reference: str, data: bytes, headers: dict[str, str] = oci) -> httpx.Response:
        return http.put(f"/v2/{name}/manifests/{reference}", content=data, headers=headers)

    for reference, data, headers, status, word in (
        ("1", b"{", oci, 400, "MANIFEST_INVALID"),
        ("1", b"{}", oci, 400, "MANIFEST_INVALID"),
        ("1", lies.to_bytes(), oci, 400, "MANIFEST_INVALID"),
        ("1", gaps.to_bytes(), oci, 400, "MANIFEST_BLOB_UNKNOWN"),
        ("1", good.to_bytes(), {"Content-Type": m.DOCKER_MANIFEST}, 400, "MANIFEST_INVALID"),
        ("1", good.to_bytes(), {"Content-Type": "text/plain"}, 400, "MANIFEST_INVALID"),
        (ABSENT, good.to_bytes(), oci, 400, "DIGEST_INVALID"),
        ("1", b" " * (m.MAX_MANIFEST_BYTES + 1), oci, 413, "MANIFEST_INVALID"),
        (".bad", good.to_bytes(), oci, 400, "MANIFEST_INVALID"),
    ):
        answer = put(reference, data, headers)
        assert (answer.status_code, code(answer)) == (status, word), answer.text
    assert code(http.get(f"/v2/{name}/manifests/1")) == "MANIFEST_UNKNOWN"
    assert code(http.get(f"/v2/{name}/tags/list")) == "NAME_UNKNOWN"
    digest = sha256_of(good.to_bytes())
    assert put(digest, good.to_bytes(), {}).status_code == 201
    assert http.get(f"/v2/{name}/tags/list").json()["tags"] == []
    child = m.Descriptor(m.OCI_MANIFEST, digest, len(good.to_bytes()), m.Platform("amd64"))
    index = {"Content-Type": m.OCI_INDEX}
    gap = m.Index((child, m.Descriptor(m.OCI_MANIFEST, ABSENT, 1)))
    assert code(put("1", gap.to_bytes(), index)) == "MANIFEST_BLOB_UNKNOWN"
    assert put("1", m.Index((child,)).to_bytes(), index).status_code == 201
    assert http.get(f"/v2/{name}/manifests/1").headers["content-type"] == m.OCI_INDEX


def test_nobody_climbs_out(running: Running, http: httpx.Client) -> None:
    (running.data / "secret").write_text("secret")
    digest = sha256_of(b"x")
    paths = [
        "/v2/../secret",
        "/v2/%2e%2e/%2e%2e/blobs/" + digest,
        "/v2/a/../../secret/manifests/1",
        "/v2/a/manifests/..%2f..%2f..%2f..%2fsecret",
        "/v2/a/manifests/..",
        "/v2/a/blobs/sha256:..%2f..%2fsecret",
        "/v2/a/blobs/sha256:" + "%2e" * 64,
        "/v2/a/blobs/uploads/..%2f..%2fsecret",
        "/v2/_blobs/manifests/1",
        "/v2/A/tags/list",
        "/v2//tags/list",
        "/v2/a%00b/tags/list",
        "/v2/" + "a" * 300 + "/tags/list",
    ]
    for path in paths:
        for method in ("GET", "PUT", "POST", "PATCH", "DELETE"):
            with socket.create_connection(("localhost", running.port)) as client:
                client.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda c=client: c.recv(65536), b""))  # type: ignore[misc]
            status = int(answer.split()[1])
            assert 400 <= status < 500, (method, path, answer)
            assert b"secret" not in answer.partition(b"\r\n\r\n")[2]
            assert b'"errors"' in answer
    (running.data / "secret").unlink()
    assert http.get("/v2/").status_code == 200
    assert http.get("/healthz").json() == {"status": "ok"}


def test_push_names_its_errors(tmp_path: Path, running: Running) -> None:
    image = build_image(app_folder(tmp_path), tmp_path / "image", version="1")
    with socket.create_server(("localhost", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(RegistryError) as down:
        push_image(image.layout, Reference(f"localhost:{port}", "app", "1"), plain_http=True)
    assert down.value.reason is Reason.REGISTRY_UNREACHABLE
    with pytest.raises(RegistryError) as not_tls:
        push_image(image.layout, Reference(running.host, "app", "1"))
    assert not_tls.value.reason is Reason.REGISTRY_UNREACHABLE
    with pytest.raises(InputError, match="names no version"):
        push_image(image.layout, Reference(running.host, "app"), plain_http=True)
    with pytest.raises(InputError, match="Push it by a tag"):
        push_image(image.layout, Reference(running.host, "app", None, ABSENT), plain_http=True)
    with pytest.raises(InputError, match="CA certificates"):
        push_image(image.layout, Reference(running.host, "app", "1"), ca_file=tmp_path / "absent")
    layer = read_layout(image.layout).blob(image.layer_digest)
    layer.write_bytes(layer.read_bytes()[:-1])
    with pytest.raises(ImageError, match="does not match its digest"):
        push_image(image.layout, Reference(running.host, "app", "1"), plain_http=True)


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow"}]}', Reason.REGISTRY_THROTTLED),
        (503, b"<html>", Reason.REGISTRY_ERROR),
        (403, b'{"errors":[]}', Reason.REGISTRY_DENIED),
        (200, b"", Reason.REGISTRY_ERROR),
    ],
)
def test_push_to_a_registry_that_misbehaves(tmp_path: Path, status: int, body: bytes, reason: Reason) -> None:
    image = build_image(app_folder(tmp_path), tmp_path / "image", version="1")
    with socket.create_server(("localhost", 0)) as server:
        thread = threading.Thread(target=_misbehave, args=(server, status, body), daemon=True)
        thread.start()
        with pytest.raises(RegistryError) as failed:
            reference = Reference(f"localhost:{server.getsockname()[1]}", "app", "1")
            push_image(image.layout, reference, plain_http=True)
        assert failed.value.reason is reason
    thread.join(5)


def _misbehave(server: socket.socket, status: int, body: bytes) -> None:
    """Every blob is there already, then the manifest is answered with `status`."""
    for _ in range(3):
        connection, _ = server.accept()
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            code, content = (200, b"") if request.startswith(b"HEAD") else (status, body)
            connection.sendall(
                b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
                % (code, len(content), content)
            )
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


def test_a_download_that_is_cut_troubles_nobody(http: httpx.Client, running: Running, name: str) -> None:
    digest = push_blob(http, name, b"\0" * (8 << 20))
    with http.stream("GET", f"/v2/{name}/blobs/{digest}") as download:
        assert next(download.iter_raw())
    assert http.head(f"/v2/{name}/blobs/{digest}").status_code == 200


def test_memory_stays_flat(http: httpx.Client, running: Running, name: str) -> None:
    status = Path(f"/proc/{running.process.pid}/status")
    peak = _peak_kib(status)
    piece, count = b"\0" * (1 << 20), 200
    hasher = hashlib.sha256()
    for _ in range(count):
        hasher.update(piece)
    digest = f"sha256:{hasher.hexdigest()}"
    answer = http.post(
        f"/v2/{name}/blobs/uploads/", params={"digest": digest}, content=(piece for _ in range(count))
    )
    assert answer.status_code == 201
    with http.stream("GET", f"/v2/{name}/blobs/{digest}") as download:
        assert sum(len(p) for p in download.iter_raw()) == count << 20
    assert _peak_kib(status) - peak < 40 << 10
    (running.data / "blobs" / "sha256" / digest[7:9] / digest[7:]).unlink()


def _peak_kib(status: Path) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def test_errors_have_the_shape_of_the_specification(http: httpx.Client, name: str) -> None:
    answer = http.get(f"/v2/{name}/blobs/{ABSENT}")
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    (error,) = json.loads(answer.content)["errors"]
    assert set(error) == {"code", "message", "detail"}
    assert code(http.get("/nowhere")) == "UNSUPPORTED"
    assert http.delete("/v2/").status_code == 405
