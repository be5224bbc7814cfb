"""What the distribution specification 1.1 asks for beyond plain push and pull, and each of its error codes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from reference.oci import manifests as m
from reference.oci.digests import digest_of, sha256_of
from reference.registry.errors import Code
from reference.registry.main import settings_of
from reference.registry.uploads import MAX_UPLOADS
from reference.registry.users import RegistryUsers, make_user
from tests.registry.processes import Running, refused, registry
from tests.registry.test_pull_push import ABSENT, code, push_blob

OCI = {"Content-Type": m.OCI_MANIFEST}


def manifest(config: bytes = b"{}", subject: str | None = None, **more: object) -> bytes:
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": m.OCI_MANIFEST,
        "config": m.Descriptor("application/x-config", sha256_of(config), len(config)).as_json(),
        "layers": [],
        **more,
    }
    if subject is not None:
        document["subject"] = m.Descriptor(m.OCI_MANIFEST, subject, 1).as_json()
    return m.canonical(document)


def put(http: httpx.Client, name: str, data: bytes, reference: str | None = None) -> httpx.Response:
    return http.put(f"/v2/{name}/manifests/{reference or sha256_of(data)}", content=data, headers=OCI)


# ---- error codes


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("closed")
    RegistryUsers({"device": make_user("device", "device")}).save(folder / "users.json")
    with registry(folder / "data", "--users", str(folder / "users.json")) as running:
        yield running


def test_every_code_of_the_specification(http: httpx.Client, closed: Running, name: str) -> None:
    digest = push_blob(http, name, b"{}")
    upload = http.post(f"/v2/{name}/blobs/uploads/").headers["location"]
    uploads = f"/v2/{name}/blobs/uploads"
    device = ("device", "device")
    seen = {
        "BLOB_UNKNOWN": http.get(f"/v2/{name}/blobs/{ABSENT}"),
        "BLOB_UPLOAD_INVALID": http.patch(upload, content=b"x", headers={"Content-Range": "5-5"}),
        "BLOB_UPLOAD_UNKNOWN": http.get(f"{uploads}/none"),
        "DIGEST_INVALID": http.put(upload, params={"digest": "sha256:x"}),
        "MANIFEST_BLOB_UNKNOWN": put(http, name, manifest(b"absent")),
        "MANIFEST_INVALID": put(http, name, b"{}", "1"),
        "MANIFEST_UNKNOWN": http.get(f"/v2/{name}/manifests/{digest}"),
        "NAME_INVALID": http.get("/v2/A/tags/list"),
        "NAME_UNKNOWN": http.get(f"/v2/{name}x/tags/list"),
        "SIZE_INVALID": http.patch(upload, content=b"x", headers={"Content-Range": "0-5"}),
        "UNAUTHORIZED": httpx.get(f"{closed.base}/v2/", trust_env=False),
        "DENIED": httpx.post(f"{closed.base}{uploads}/", auth=device, trust_env=False),
        "UNSUPPORTED": http.put(f"/v2/{name}/tags/list"),
    }
    for word, answer in seen.items():
        assert code(answer) == word, (word, answer.text)
        assert 400 <= answer.status_code < 500
    assert http.delete(upload).status_code == 204
    assert set(seen) | {"TOOMANYREQUESTS"} <= {c.word for c in Code}


def test_too_many_uploads(tmp_path: Path) -> None:
    with (
        registry(tmp_path / "data", "--no-auth") as running,
        httpx.Client(base_url=running.base, trust_env=False, timeout=10) as http,
    ):
        for _ in range(MAX_UPLOADS):
            assert http.post("/v2/a/blobs/uploads/").status_code == 202
        answer = http.post("/v2/a/blobs/uploads/")
        assert (answer.status_code, code(answer)) == (429, "TOOMANYREQUESTS")
        assert answer.headers["retry-after"]


# ---- uploads


def test_a_chunk_out_of_order_says_where_to_go_on(http: httpx.Client, name: str) -> None:
    location = http.post(f"/v2/{name}/blobs/uploads/").headers["location"]
    assert http.patch(location, content=b"01234", headers={"Content-Range": "0-4"}).status_code == 202
    for method in (http.patch, http.put):
        answer = method(location, params={"digest": ABSENT}, content=b"89", headers={"Content-Range": "8-9"})
        assert (answer.status_code, answer.headers["range"]) == (416, "0-4")
        assert answer.headers["location"] == location
    # One that brings more or less than it says leaves the upload where it was.
    for body in (b"5", b"567"):
        chunked = iter([body])
        answer = http.patch(location, content=chunked, headers={"Content-Range": "5-6"})
        assert (answer.status_code, code(answer)) == (400, "SIZE_INVALID")
        assert http.get(location).headers["range"] == "0-4"
    assert http.patch(location, content=b"56", headers={"Content-Range": "5-6"}).headers["range"] == "0-6"
    done = http.put(location, params={"digest": sha256_of(b"0123456789")}, content=b"789")
    assert done.status_code == 201


def test_sha512(http: httpx.Client, running: Running, name: str) -> None:
    data = b"x" * 3_000_000
    digest = digest_of(data, "sha512")
    assert http.post(f"/v2/{name}/blobs/uploads/", params={"digest": digest}, content=data).status_code == 201
    location = http.post(f"/v2/{name}/other/blobs/uploads/").headers["location"]
    http.patch(location, content=data)
    assert http.put(location, params={"digest": digest}).status_code == 201
    assert digest_of(http.get(f"/v2/{name}/blobs/{digest}").content, "sha512") == digest
    wrong = http.post(f"/v2/{name}/blobs/uploads/", params={"digest": digest}, content=b"lie")
    assert (wrong.status_code, code(wrong)) == (400, "DIGEST_INVALID")
    assert http.head(f"/v2/{name}/blobs/{sha256_of(data)}").status_code == 404
    push_blob(http, name, b"{}")
    document = manifest()
    digest = digest_of(document, "sha512")
    answer = http.put(
        f"/v2/{name}/manifests/{digest}", params={"tag": ["1", "2"]}, content=document, headers=OCI
    )
    assert answer.status_code == 201
    assert answer.headers.get_list("oci-tag", split_commas=False) == ["1", "2"]
    assert http.get(f"/v2/{name}/manifests/2").headers["docker-content-digest"] == digest


def test_mounts(http: httpx.Client, name: str) -> None:
    digest = push_blob(http, name, b"mounted")
    uploads = f"/v2/{name}/to/blobs/uploads/"
    for query in ({"from": f"{name}/nothing"}, {"from": "../x"}):
        answer = http.post(uploads, params={"mount": digest, **query})
        assert answer.status_code == 202
        assert http.delete(answer.headers["location"]).status_code == 204
    assert http.post(uploads, params={"mount": ABSENT}).status_code == 202
    for query in ({"from": name}, {}):
        answer = http.post(uploads, params={"mount": digest, **query})
        assert (answer.status_code, answer.headers["docker-content-digest"]) == (201, digest)
        assert http.get(answer.headers["location"]).content == b"mounted"
        assert http.delete(answer.headers["location"]).status_code == 202
        assert http.head(answer.headers["location"]).status_code == 404
    assert http.head(f"/v2/{name}/blobs/{digest}").status_code == 200


# ---- manifests and tags


def test_removal(http: httpx.Client, name: str) -> None:
    push_blob(http, name, b"{}")
    document = manifest()
    digest = sha256_of(document)
    for tag in ("1", "2"):
        assert put(http, name, document, tag).status_code == 201
    base = f"/v2/{name}/manifests"
    assert http.delete(f"{base}/1").status_code == 202
    assert http.delete(f"{base}/1").status_code == 404
    assert http.get(f"{base}/{digest}").status_code == 200
    assert http.get(f"/v2/{name}/tags/list").json()["tags"] == ["2"]
    assert http.delete(f"{base}/{digest}").status_code == 202
    assert http.delete(f"{base}/{digest}").status_code == 404
    for gone in ("2", digest):
        assert code(http.get(f"{base}/{gone}")) == "MANIFEST_UNKNOWN"
    assert http.get(f"/v2/{name}/tags/list").json()["tags"] == []
    assert http.delete(f"/v2/{name}/blobs/{sha256_of(b'{}')}").status_code == 202
    assert code(http.delete(f"/v2/{name}/blobs/{sha256_of(b'{}')}")) == "BLOB_UNKNOWN"
    assert code(http.delete(f"{base}/sha256:x")) == "DIGEST_INVALID"


def test_tags_come_in_pages(http: httpx.Client, name: str) -> None:
    push_blob(http, name, b"{}")
    tags = sorted(f"{letter}{number}" for letter in "aBc" for number in range(3))
    for tag in tags:
        put(http, name, manifest(), tag)
    url, seen = f"/v2/{name}/tags/list?n=4", []
    for _ in range(3):
        answer = http.get(url)
        seen += answer.json()["tags"]
        link = re.fullmatch(r'<(\S+)>; rel="next"', answer.headers.get("link", ""))
        if link is None:
            break
        url = link[1]
    assert seen == tags
    assert http.get(f"/v2/{name}/tags/list?n=0").json()["tags"] == []
    assert http.get(f"/v2/{name}/tags/list?last={tags[5]}").json()["tags"] == tags[6:]
    for bad in ("-1", "x", "1" * 30):
        assert http.get(f"/v2/{name}/tags/list?n={bad}").status_code == 400


def test_referrers(http: httpx.Client, name: str) -> None:
    push_blob(http, name, b"{}")
    subject = sha256_of(manifest())
    url = f"/v2/{name}/referrers/{subject}"
    assert http.get(url).json()["manifests"] == []
    about = [
        manifest(subject=subject, artifactType="application/x-sbom", annotations={"a": "b"}),
        manifest(subject=subject),
    ]
    for document in about:
        answer = put(http, name, document)
        assert (answer.status_code, answer.headers["oci-subject"]) == (201, subject)
    assert "oci-subject" not in put(http, name, manifest()).headers
    for _ in ("with its subject", "without"):
        answer = http.get(url)
        assert answer.headers["content-type"] == m.OCI_INDEX
        assert "oci-filters-applied" not in answer.headers
        found = {entry["digest"]: entry for entry in answer.json()["manifests"]}
        assert set(found) == {sha256_of(document) for document in about}
        sbom = found[sha256_of(about[0])]
        assert (sbom["artifactType"], sbom["annotations"]) == ("application/x-sbom", {"a": "b"})
        assert sbom["size"] == len(about[0])
        assert found[sha256_of(about[1])]["artifactType"] == "application/x-config"
        filtered = http.get(url, params={"artifactType": "application/x-sbom"})
        assert filtered.headers["oci-filters-applied"] == "artifactType"
        assert [entry["digest"] for entry in filtered.json()["manifests"]] == [sha256_of(about[0])]
        http.delete(f"/v2/{name}/manifests/{subject}")
    assert http.delete(f"/v2/{name}/manifests/{sha256_of(about[0])}").status_code == 202
    assert len(http.get(url).json()["manifests"]) == 1
    assert code(http.get(f"/v2/{name}/referrers/x")) == "DIGEST_INVALID"


def test_referrers_come_in_pages_that_fit(http: httpx.Client, name: str) -> None:
    push_blob(http, name, b"{}")
    documents = [
        manifest(subject=ABSENT, annotations={"n": str(n), "big": "x" * 1_500_000}) for n in range(5)
    ]
    for document in documents:
        assert put(http, name, document).status_code == 201
    url, seen = f"/v2/{name}/referrers/{ABSENT}", []
    for _ in range(5):
        answer = http.get(url)
        assert len(answer.content) <= m.MAX_MANIFEST_BYTES
        seen += [entry["digest"] for entry in answer.json()["manifests"]]
        link = re.fullmatch(r'<(\S+)>; rel="next"', answer.headers.get("link", ""))
        if link is None:
            break
        url = link[1]
    assert seen == sorted(sha256_of(document) for document in documents)


def test_docker_documents_keep_their_type_and_accept_decides(http: httpx.Client, name: str) -> None:
    push_blob(http, name, b"{}")
    docker = manifest(mediaType=m.DOCKER_MANIFEST)
    many = m.Index(
        (m.Descriptor(m.DOCKER_MANIFEST, sha256_of(docker), len(docker), m.Platform("amd64")),), m.DOCKER_LIST
    ).to_bytes()
    for data, kind, tag in ((docker, m.DOCKER_MANIFEST, "1"), (many, m.DOCKER_LIST, "2")):
        url = f"/v2/{name}/manifests/{tag}"
        assert http.put(url, content=data, headers={"Content-Type": kind}).status_code == 201
        for accept in (kind, "*/*", "application/*", f"text/plain, {kind};q=0.5", ""):
            answer = http.get(url, headers={"Accept": accept})
            assert (answer.status_code, answer.headers["content-type"]) == (200, kind), accept
        for accept in (m.OCI_MANIFEST, f"{kind};q=0", "text/*"):
            answer = http.get(url, headers={"Accept": accept})
            assert (answer.status_code, code(answer)) == (404, "MANIFEST_UNKNOWN"), accept
        etag = http.get(url).headers["etag"]
        assert http.get(url, headers={"If-None-Match": etag}).status_code == 304


def test_layers_that_may_not_be_distributed_need_not_be_here(http: httpx.Client, name: str) -> None:
    push_blob(http, name, b"{}")
    for kind, status in (
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", 201),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 201),
        (m.OCI_LAYER_GZIP, 400),
    ):
        layers = [m.Descriptor(kind, ABSENT, 5).as_json()]
        assert put(http, name, manifest(layers=layers)).status_code == status


def test_a_manifest_of_almost_4_mib_is_kept(http: httpx.Client, name: str) -> None:
    push_blob(http, name, b"{}")
    big = manifest(annotations={"x": "y" * (m.MAX_MANIFEST_BYTES - 1000)})
    assert put(http, name, big).status_code == 201
    assert sha256_of(http.get(f"/v2/{name}/manifests/{sha256_of(big)}").content) == sha256_of(big)
    too_big = put(http, name, big + b" " * 1000)
    assert (too_big.status_code, code(too_big)) == (413, "MANIFEST_INVALID")


def test_if_range(http: httpx.Client, name: str) -> None:
    url = f"/v2/{name}/blobs/{push_blob(http, name, b'0123456789')}"
    etag = http.head(url).headers["etag"]
    part = {"Range": "bytes=3-"}
    assert http.get(url, headers={**part, "If-Range": etag}).content == b"3456789"
    assert http.get(url, headers={**part, "If-Range": '"other"'}).content == b"0123456789"


# ---- settings


def test_settings_come_from_three_places(tmp_path: Path) -> None:
    config = tmp_path / "registry.yaml"
    config.write_text("port: 1\ndata: from-file\nno-auth: yes\ngc-every: 60\n")
    environment = {"BLACKSTART_REGISTRY_PORT": "2", "BLACKSTART_REGISTRY_HOST": "::1"}
    found = settings_of(["--config", str(config)], environment)
    assert (found.port, found.data, found.host) == (2, Path("from-file"), "::1")
    assert found.no_auth
    assert found.gc_every_s == 60
    assert settings_of(["--config", str(config), "--port", "3"], environment).port == 3
    by_name = {"BLACKSTART_REGISTRY_CONFIG": str(config), "BLACKSTART_REGISTRY_NO_AUTH": "no"}
    assert settings_of([], by_name).port == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot: 1", "is not an option"),
        ("port: [1]", "neither text nor a number"),
        ("- port", "not a list of"),
        ("{", "is not YAML"),
        ("no-auth: maybe", "Say yes or no"),
    ],
)
def test_a_bad_configuration_says_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    config = tmp_path / "registry.yaml"
    config.write_text(text)
    assert says in refused(tmp_path / "data", "--port", "0", "--config", str(config))
