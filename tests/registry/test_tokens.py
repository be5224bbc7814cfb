"""Bearer tokens: Docker's flow against the registry itself, and what each account may do where."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest

from reference.oci.digests import sha256_of
from reference.registry.tokens import SERVICE, Tokens, parse_scopes
from reference.registry.users import RegistryUsers, make_user
from tests.registry.processes import Running, refused, registry

ACCOUNTS = {
    "builder": {"push": True},
    "device": {},
    "archivist": {"push": True, "delete": False},
    "tenant": {"push": True, "repositories": ("opc/*", "shared")},
}
BLOB = b"blob"
DIGEST = sha256_of(BLOB)


@pytest.fixture(scope="module")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "users.json"
    users = {name: make_user(name, name, **rights) for name, rights in ACCOUNTS.items()}  # type: ignore[arg-type]
    RegistryUsers(users).save(path)
    return path


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, users_file: Path) -> Iterator[Running]:
    """A registry that offers tokens."""
    with registry(tmp_path_factory.mktemp("r"), "--users", str(users_file), "--auth", "token") as running:
        yield running


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory, users_file: Path) -> Iterator[Running]:
    """A registry that lets everyone pull."""
    more = ("--users", str(users_file), "--auth", "token", "--anonymous-pull")
    with registry(tmp_path_factory.mktemp("r"), *more) as running:
        with httpx.Client(base_url=running.base, trust_env=False, auth=("builder", "builder")) as http:
            push(http, "app")
        yield running


def push(http: httpx.Client, name: str) -> httpx.Response:
    return http.post(f"/v2/{name}/blobs/uploads/", params={"digest": DIGEST}, content=BLOB)


def challenge(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 401, answer.text
    assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"
    header = answer.headers["www-authenticate"]
    assert header.startswith("Bearer ")
    return dict(re.findall(r'(\w+)="([^"]*)"', header))


def fetch(http: httpx.Client, asked: dict[str, str], account: str | None) -> dict[str, object]:
    """What a client does with a challenge."""
    query: dict[str, str | int] = {key: asked[key] for key in ("service", "scope") if key in asked}
    auth = (account, account) if account is not None else None
    answer = http.get(asked["realm"], params=query, auth=auth)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["token"] == found["access_token"]
    assert isinstance(found, dict)
    return found


def bearer(token: object) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_the_flow_of_docker(tokens: Running) -> None:
    with httpx.Client(base_url=tokens.base, trust_env=False, timeout=10) as http:
        asked = challenge(http.get("/v2/"))
        assert asked == {"realm": f"{tokens.base}/token", "service": SERVICE}
        asked = challenge(push(http, "app"))
        assert asked["scope"] == "repository:app:pull,push"
        given = fetch(http, asked, "builder")
        assert given["scope"] == "repository:app:pull,push"
        assert given["expires_in"] == 300
        token = bearer(given["token"])
        assert http.get("/v2/", headers=token).status_code == 200
        http.headers.update(token)
        assert push(http, "app").status_code == 201
        assert http.get(f"/v2/app/blobs/{DIGEST}").content == BLOB
        # Another action and another repository need another token, and the answer says which.
        lacking = challenge(http.delete(f"/v2/app/blobs/{DIGEST}"))
        assert (lacking["error"], lacking["scope"]) == ("insufficient_scope", "repository:app:delete")
        assert challenge(push(http, "other"))["scope"] == "repository:other:pull,push"
        more = bearer(fetch(http, lacking, "builder")["token"])
        assert http.delete(f"/v2/app/blobs/{DIGEST}", headers=more).status_code == 202


def test_the_oauth_form_of_it(tokens: Running) -> None:
    form = {
        "grant_type": "password",
        "username": "device",
        "password": "device",
        "scope": "repository:app:pull,push",
    }
    with httpx.Client(base_url=tokens.base, trust_env=False, timeout=10) as http:
        answer = http.post("/token", data=form)
        assert answer.json()["scope"] == "repository:app:pull"
        assert http.post("/token", data={**form, "password": "x"}).status_code == 401
        for bad in ({**form, "grant_type": "refresh_token"}, {}, {"x" * 70000: "y"}):
            assert http.post("/token", data=bad).status_code in (400, 413)
        assert http.post("/token", content=b"\xff=\xff").status_code == 400


def test_tokens_that_are_not_ours(tokens: Running) -> None:
    claims = {"iss": SERVICE, "aud": SERVICE, "sub": "builder", "nbf": 0, "exp": 2**40, "access": []}
    key = b"k" * 32
    forged = [
        jwt.encode(claims, key, algorithm="HS256"),
        jwt.encode(claims, "", algorithm="none"),
        "x",
        "a.b.c",
    ]
    with httpx.Client(base_url=tokens.base, trust_env=False, timeout=10) as http:
        good = str(fetch(http, challenge(http.get("/v2/app/tags/list")), "device")["token"])
        head, body, signature = good.split(".")
        rights = json.loads(base64.urlsafe_b64decode(body + "=="))
        rights["access"] = [{"type": "repository", "name": "app", "actions": ["push"]}]
        changed = base64.urlsafe_b64encode(json.dumps(rights).encode()).decode().rstrip("=")
        forged.append(f"{head}.{changed}.{signature}")
        for token in forged:
            assert http.get("/v2/", headers=bearer(token)).status_code == 401, token
        assert http.get("/v2/", headers=bearer(good)).status_code == 200


def test_a_token_ends() -> None:
    now = [1000.0]
    tokens = Tokens(clock=lambda: now[0], lifetime_s=60)
    token = tokens.make("a", {"app": frozenset({"pull"})})
    found = tokens.read(token)
    assert found is not None
    assert (found.account, found.grants) == ("a", {"app": frozenset({"pull"})})
    assert Tokens(clock=lambda: now[0]).read(token) is None, "signed by another process"
    now[0] = 1059
    assert tokens.read(token) is not None
    for over in (1060.0, 999.0):
        now[0] = over
        assert tokens.read(token) is None


def test_scopes_that_are_not_understood_are_left_out() -> None:
    assert parse_scopes(["repository:a/b:pull,push repository:a/b:delete", "repository:c:*"]) == {
        "a/b": frozenset({"pull", "push", "delete"}),
        "c": frozenset({"pull", "push", "delete"}),
    }
    for odd in (
        "",
        "registry:catalog:*",
        "repository:A:pull",
        "repository:a",
        "repository:a:PULL",
        "repository:../a:pull",
    ):
        assert parse_scopes([odd]) == {}


@pytest.mark.parametrize("scheme", ["basic", "token"])
@pytest.mark.parametrize(
    ("account", "name", "may"),
    [
        ("builder", "app", {"pull", "push", "delete"}),
        ("device", "app", {"pull"}),
        ("archivist", "app", {"pull", "push"}),
        ("tenant", "opc/client", {"pull", "push", "delete"}),
        ("tenant", "shared", {"pull", "push", "delete"}),
        ("tenant", "app", set()),
    ],
)
def test_who_may_do_what(tokens: Running, scheme: str, account: str, name: str, may: set[str]) -> None:
    actions = {
        "pull": ("GET", f"/v2/{name}/blobs/{'sha256:' + '0' * 64}", 404),
        "push": ("PATCH", f"/v2/{name}/blobs/uploads/none", 404),
        "delete": ("DELETE", f"/v2/{name}/manifests/none", 404),
    }
    with httpx.Client(base_url=tokens.base, trust_env=False, timeout=10) as http:
        auth: dict[str, object] = {"auth": (account, account)}
        if scheme == "token":
            asked = {"realm": f"{tokens.base}/token", "scope": f"repository:{name}:*"}
            auth = {"headers": bearer(fetch(http, asked, account)["token"])}
        for action, (method, path, found) in actions.items():
            answer = http.request(method, path, **auth)  # type: ignore[arg-type]
            if action in may:
                assert answer.status_code == found, (action, answer.text)
            else:
                assert answer.status_code == 403, (action, answer.text)
                assert answer.json()["errors"][0]["code"] == "DENIED"


def test_a_mount_needs_the_right_to_read_its_source(tokens: Running) -> None:
    with httpx.Client(base_url=tokens.base, trust_env=False, timeout=10) as http:
        assert (
            push(
                httpx.Client(base_url=tokens.base, trust_env=False, auth=("builder", "builder")), "secret"
            ).status_code
            == 201
        )
        for source in ({"from": "secret"}, {}):
            answer = http.post(
                "/v2/opc/x/blobs/uploads/", params={"mount": DIGEST, **source}, auth=("tenant", "tenant")
            )
            assert answer.status_code == 202, "an upload, as if it were not there"
            answer = http.post(
                "/v2/mounted/blobs/uploads/", params={"mount": DIGEST, **source}, auth=("builder", "builder")
            )
            assert answer.status_code == 201
        narrow = bearer(
            fetch(http, {"realm": "/token", "scope": "repository:mounted:pull,push"}, "builder")["token"]
        )
        answer = http.post(
            "/v2/mounted/blobs/uploads/", params={"mount": DIGEST, "from": "secret"}, headers=narrow
        )
        assert challenge(answer)["scope"] == "repository:mounted:pull,push repository:secret:pull"


def test_anonymous_pull(public: Running) -> None:
    with httpx.Client(base_url=public.base, trust_env=False, timeout=10) as http:
        assert http.get(f"/v2/app/blobs/{DIGEST}").content == BLOB
        challenge(http.get("/v2/"))
        asked = challenge(push(http, "app"))
        token = bearer(fetch(http, asked, None)["token"])
        assert http.get(f"/v2/app/blobs/{DIGEST}", headers=token).content == BLOB
        challenge(http.post("/v2/app/blobs/uploads/", headers=token))
        assert http.get("/v2/app/tags/list", auth=("builder", "wrong")).status_code == 401


def test_nobody_gets_a_token_without_an_account(tokens: Running, running: Running) -> None:
    with httpx.Client(base_url=tokens.base, trust_env=False, timeout=10) as http:
        for auth in (None, ("builder", "wrong"), ("nobody", "nobody")):
            answer = http.get("/token", params={"scope": "repository:app:pull"}, auth=auth)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Basic ")
    assert httpx.get(f"{running.base}/token", trust_env=False).status_code == 405


def test_a_challenge_holds_nothing_that_a_stranger_wrote(tokens: Running) -> None:
    with httpx.Client(base_url=tokens.base, trust_env=False, timeout=10) as http:
        for path, status in (("/v2/a%22,evil=%22/tags/list", 401), ("/v2/a%0d%0aX-Evil:%201/tags/list", 404)):
            answer = http.get(path, headers={"Host": 'evil"/x'})
            assert answer.status_code == status
            assert "evil" not in str(answer.headers).lower()


def test_settings_of_access_that_contradict(tmp_path: Path, users_file: Path) -> None:
    data = tmp_path / "data"
    assert "nobody has an account" in refused(data, "--port", "0", "--no-auth", "--auth", "token")
    assert "nobody has an account" in refused(data, "--port", "0", "--no-auth", "--anonymous-pull")
    users = ("--users", str(users_file), "--port", "0")
    assert "is not an address" in refused(data, *users, "--token-realm", 'https://x/"')
    assert "less than no time" in refused(data, *users, "--gc-every=-1")
