"""What somebody sends who means no good: refused in the protocol's words, and the others do not notice."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from reference.registry import uploads as module
from reference.registry.errors import Refusal
from reference.registry.storage import Storage
from reference.registry.uploads import MAX_UPLOADS_EACH, Uploads
from reference.registry.users import RegistryUsers, make_user
from tests.registry.processes import Running, registry

ACCOUNTS = {"one": "first", "two": "second"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registry that two accounts may push to."""
    folder = tmp_path_factory.mktemp("attacks")
    users = folder / "users.json"
    RegistryUsers({name: make_user(name, word, push=True) for name, word in ACCOUNTS.items()}).save(users)
    with registry(folder / "data", "--users", str(users)) as found:
        yield found


def as_one(running: Running, name: str) -> httpx.Client:
    auth = (name, ACCOUNTS[name])
    return httpx.Client(base_url=running.base, auth=auth, trust_env=False, timeout=20)


def test_an_upload_is_its_account_s_alone(shared: Running) -> None:
    with as_one(shared, "one") as one, as_one(shared, "two") as two:
        where = one.post("/v2/app/blobs/uploads/").headers["Location"]
        assert one.patch(where, content=b"abc").status_code == 202
        digest = "sha256:" + hashlib.sha256(b"abcx").hexdigest()
        for answer in (
            two.get(where),
            two.patch(where, content=b"x"),
            two.put(where, params={"digest": digest}, content=b"x"),
            two.delete(where),
            one.get(where.replace("/app/", "/other/")),
        ):
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, "BLOB_UPLOAD_UNKNOWN")
        assert one.get(where).headers["Range"] == "0-2"
        assert one.put(where, params={"digest": digest}, content=b"x").status_code == 201


def test_one_account_s_uploads_leave_room_for_others(shared: Running) -> None:
    with as_one(shared, "one") as one, as_one(shared, "two") as two:
        begun = [one.post("/v2/many/blobs/uploads/") for _ in range(MAX_UPLOADS_EACH + 1)]
        assert {answer.status_code for answer in begun[:100]} == {202}
        assert begun[-1].status_code == 429
        assert two.post("/v2/many/blobs/uploads/").status_code == 202
        for answer in begun:
            if answer.status_code == 202:
                one.delete(answer.headers["Location"])
        assert one.post("/v2/many/blobs/uploads/").status_code == 202


def test_an_upload_that_was_left_behind_takes_no_room_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(tmp_path)
    uploads = Uploads(storage, max_blob_bytes=100)
    left = uploads.start("app")
    monkeypatch.setattr(module, "IDLE_S", 0.0)
    uploads.start("app")
    assert not left.path.exists()
    with pytest.raises(Refusal):
        uploads.find("app", left.id)
    uploads.close()
    storage.close()


async def test_a_flood_of_wrong_passwords_holds_up_nobody_who_is_known(shared: Running) -> None:
    async with httpx.AsyncClient(base_url=shared.base, trust_env=False, timeout=60) as http:
        assert (await http.get("/v2/", auth=("two", "second"))).status_code == 200
        flood = [asyncio.create_task(http.get("/v2/", auth=("two", f"wrong {n}"))) for n in range(40)]
        await asyncio.sleep(0.3)  # they are waiting for their hashes by now
        began = time.monotonic()
        async with httpx.AsyncClient(base_url=shared.base, trust_env=False, timeout=60) as other:
            assert (await other.get("/v2/", auth=("two", "second"))).status_code == 200
        took = time.monotonic() - began
        assert any(not task.done() for task in flood), "the flood is over: this says nothing"
        assert took < 5
        assert {answer.status_code for answer in await asyncio.gather(*flood)} == {401}


BOMBS = {
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "twice": b'{"schemaVersion":2,"schemaVersion":2}',
    "huge number": b'{"schemaVersion":' + b"9" * 10_000 + b"}",
    "infinite": b'{"schemaVersion":1e999}',
    "surrogate": json.dumps({"schemaVersion": 2, "annotations": {"\ud800": 7}}).encode(),
    "surrogate value": json.dumps({"schemaVersion": 2, "mediaType": "\ud800"}).encode(),
    "surrogate type": json.dumps(
        {"schemaVersion": 2, "manifests": [], "artifactType": "\ud800", "annotations": {"a": "\ud800"}}
    ).encode(),
    "both": b'{"schemaVersion":2,"manifests":[],"layers":[]}',
    "not utf-8": b"\xff\xfe{}",
    "many": json.dumps(
        {
            "schemaVersion": 2,
            "config": {"digest": "sha256:" + "0" * 64, "size": 1, "mediaType": "a/b"},
            "layers": [{"digest": f"sha256:{n:064x}", "size": 1, "mediaType": "a/b"} for n in range(20_000)],
        }
    ).encode(),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_manifest_is_too_strange_to_be_refused(http: httpx.Client, name: str, bomb: str) -> None:
    began = time.monotonic()
    for kind in ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"):
        answer = http.put(f"/v2/{name}/manifests/x", content=BOMBS[bomb], headers={"Content-Type": kind})
        assert answer.status_code in (400, 404, 413), (kind, answer.text)
        assert answer.json()["errors"][0]["code"]
    assert time.monotonic() - began < 10
    assert http.get(f"/v2/{name}/tags/list").status_code == 404


PATHS = (
    "/v2/../../etc/manifests/x", "/v2/%2e%2e/%2e%2e/etc/manifests/x", "/v2/a/%2e%2e%2f%2e%2e/manifests/x",
    "/v2/a%00b/manifests/x", "/v2/_blobs/manifests/x", "/v2/a/_manifests/manifests/x", "/v2/a%0ab/tags/list",
    "/v2/a/manifests/..%2f..%2f..%2flock", "/v2/a/manifests/%2e%2e", "/v2/a/manifests/.", "/v2/a/manifests/x%00",
    "/v2/a/blobs/sha256:..%2f..%2flock", "/v2/a/blobs/..", "/v2/a/blobs/sha256:%00", "/v2//manifests/x",
    "/v2/" + "a/" * 120 + "a/manifests/x", "/v2/" + "a" * 300 + "/manifests/x", "/v2/a/manifests/" + "b" * 300,
    "/v2/a/referrers/..%2f..", "/v2/a/blobs/sha512:" + "A" * 128, "/v2/%c3%a9/tags/list",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_address_leads_out_of_the_folder(running: Running, path: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        with httpx.Client(trust_env=False, timeout=10) as http:
            # Not as a URL of the library's, which would put it in order first.
            url = httpx.URL(running.base).copy_with(raw_path=path.encode())
            answer = http.request(method, url, content=b"{}" if method == "PUT" else None)
        assert 400 <= answer.status_code < 500, (method, answer.text)
    assert not (running.data.parent / "etc").exists()
    assert (running.data / "lock").is_file()


def test_a_token_gives_no_more_than_was_asked_for(shared: Running) -> None:
    with as_one(shared, "one") as one:
        token = one.get("/token", params={"scope": "repository:app:pull"}).json()["token"]
    head, body, mark = token.split(".")
    pad = "=" * (-len(body) % 4)
    claims = json.loads(base64.urlsafe_b64decode(body + pad))
    claims["access"] = [{"type": "repository", "name": "app", "actions": ["push", "pull", "delete"]}]
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    deep = base64.urlsafe_b64encode(b'{"alg":' + b"[" * 5_000).decode().rstrip("=")
    with httpx.Client(base_url=shared.base, trust_env=False) as http:

        def push(bearer: str) -> int:
            answer = http.post("/v2/app/blobs/uploads/", headers={"Authorization": f"Bearer {bearer}"})
            return answer.status_code

        tried = (token, f"{head}.{forged}.{mark}", f"{none}.{forged}.", f"{none}.{forged}.{mark}")
        assert [push(bearer) for bearer in (*tried, f"{deep}.{body}.{mark}", "x", "..")] == [401] * 7
