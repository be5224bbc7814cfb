"""Bearer tokens: fetched where it is safe, renewed when they are refused, and credentials seen by nobody else."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from reference.core.errors import BlackstartError, Reason
from reference.core.model import Image
from reference.edge.credentials import Keyring, Login
from reference.edge.runtimes.bearer import Access, Challenge, Doorman, challenge_of
from reference.edge.runtimes.process import ProcessRuntime
from tests.edge.runtimes.conftest import ProcessBench
from tests.edge.runtimes.contract import SLEEPER, ignore
from tests.edge.runtimes.registry import Registry, running_registry

BASIC = "Basic " + base64.b64encode(b"device:secret").decode()


def streamed(body: dict[str, object]) -> httpx.Response:
    """As a body comes from a connection: httpx's own fake has read it already."""

    async def chunks() -> AsyncIterator[bytes]:
        yield json.dumps(body).encode()

    return httpx.Response(200, content=chunks())


@pytest.fixture
async def issuer() -> AsyncIterator[Registry]:
    """Another server on loopback that issues tokens."""
    async with running_registry() as other:
        yield other


def guarded(bench: ProcessBench, issuer: Registry, token: str = "t1", **more: object) -> Image:
    image = bench.publish(SLEEPER)
    bench.registry.challenge = f'Bearer realm="http://{issuer.address}/token",service="registry.example"'
    bench.registry.tokens = {token}
    issuer.token_answer = json.dumps({"token": token, "expires_in": 300, **more}).encode()
    bench.login[bench.registry.address] = ("device", "secret")
    return image


async def refused(bench: ProcessBench, image: Image) -> BlackstartError:
    with pytest.raises(BlackstartError) as caught:
        await bench.runtime.pull(image, ignore)
    assert "secret" not in str(caught.value)
    return caught.value


async def test_a_token_is_fetched_once_and_used_for_the_whole_pull(
    bench: ProcessBench, issuer: Registry
) -> None:
    await bench.runtime.pull(guarded(bench, issuer), ignore)
    assert len(issuer.token_requests) == 1
    target, authorization = issuer.token_requests[0]
    asked = httpx.URL(f"http://x{target}").params
    assert asked["service"] == "registry.example"
    assert asked["scope"] == "repository:opc:pull"
    assert authorization == BASIC
    assert set(bench.registry.authorizations[1:]) == {"Bearer t1"}


async def test_the_registrys_own_scope_is_repeated(bench: ProcessBench, issuer: Registry) -> None:
    image = guarded(bench, issuer)
    bench.registry.challenge += ',scope="repository:a/b:pull,push repository:c:pull"'
    await bench.runtime.pull(image, ignore)
    asked = httpx.URL(f"http://x{issuer.token_requests[0][0]}").params
    assert asked["scope"] == "repository:a/b:pull,push repository:c:pull"


async def test_nobody_in_particular_gets_a_token_too(bench: ProcessBench, issuer: Registry) -> None:
    image = guarded(bench, issuer)
    bench.login.clear()
    await bench.runtime.pull(image, ignore)
    assert issuer.token_requests[0][1] == ""


async def test_access_token_is_the_same_by_another_name(bench: ProcessBench, issuer: Registry) -> None:
    image = guarded(bench, issuer)
    issuer.token_answer = b'{"access_token": "t1"}'
    await bench.runtime.pull(image, ignore)


async def test_a_token_that_is_refused_in_mid_pull_is_fetched_anew(
    bench: ProcessBench, issuer: Registry
) -> None:
    image = guarded(bench, issuer)

    def expire(_: object) -> None:
        if bench.registry.tokens == {"t1"}:
            bench.registry.tokens = {"t2"}
            issuer.token_answer = b'{"token": "t2"}'

    await bench.runtime.pull(image, expire)
    assert len(issuer.token_requests) == 2
    assert "Bearer t2" in bench.registry.authorizations


async def test_a_token_that_never_opens_ends_it(bench: ProcessBench, issuer: Registry) -> None:
    image = guarded(bench, issuer)
    bench.registry.tokens = set()
    assert (await refused(bench, image)).reason is Reason.REGISTRY_UNAUTHORIZED
    assert len(issuer.token_requests) <= 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("400", Reason.REGISTRY_UNAUTHORIZED),
        ("401", Reason.REGISTRY_UNAUTHORIZED),
        ("403", Reason.REGISTRY_DENIED),
        ("429", Reason.REGISTRY_THROTTLED),
        ("500", Reason.REGISTRY_ERROR),
        ("302", Reason.REGISTRY_ERROR),
        (b"", Reason.REGISTRY_ERROR),
        (b"[]", Reason.REGISTRY_ERROR),
        (b"[" * 60_000, Reason.REGISTRY_ERROR),
        (b'{"token": ""}', Reason.REGISTRY_ERROR),
        (b'{"token": 7}', Reason.REGISTRY_ERROR),
        (b'{"token": "a\\r\\nX-Evil: 1"}', Reason.REGISTRY_ERROR),
        (b'{"token": "' + b"a" * 70_000 + b'"}', Reason.REGISTRY_ERROR),
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_a_token_endpoint_that_does_not_give_one(
    bench: ProcessBench, issuer: Registry, answer: bytes | str, reason: Reason
) -> None:
    image = guarded(bench, issuer)
    issuer.token_answer = answer
    assert (await refused(bench, image)).reason is reason


@pytest.mark.parametrize("lasts", [0, -1, "soon", None, True, 1e300])
async def test_a_strange_lifetime_is_the_usual_one(
    bench: ProcessBench, issuer: Registry, lasts: object
) -> None:
    await bench.runtime.pull(guarded(bench, issuer, expires_in=lasts), ignore)
    assert len(issuer.token_requests) == 1


@pytest.mark.parametrize(
    "realm",
    [
        "http://token.example/token",
        "https://token.example/token",
        "ftp://127.0.0.1/token",
        "//127.0.0.1/token",
        "http://u:p@127.0.0.1/token",
        "http://[::1/token",
        "",
    ],
)
async def test_credentials_go_to_no_stranger(realm: str) -> None:
    def never(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"{request.url} was asked")

    async with httpx.AsyncClient(transport=httpx.MockTransport(never)) as client:
        access = Access({"registry.example": ("device", "secret")})
        doorman = Doorman(client, access, "registry.example", "opc")
        await doorman.header()
        said = httpx.Response(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})
        assert await doorman.refused(said, 0)
        with pytest.raises(BlackstartError) as caught:
            await doorman.header()
        assert caught.value.reason in (Reason.REGISTRY_UNAUTHORIZED, Reason.REGISTRY_ERROR)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("realm", "named"),
    [("https://registry.example/token", ()), ("https://token.example/token", ("token.example",))],
)
async def test_they_go_to_the_registry_itself_and_to_whom_the_configuration_names(
    realm: str, named: tuple[str, ...]
) -> None:
    seen: list[httpx.Request] = []

    def issue(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return streamed({"token": "t1"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(issue)) as client:
        access = Access(
            {"registry.example": ("device", "secret")},
            token_hosts={"registry.example": frozenset(named)},
        )
        doorman = Doorman(client, access, "registry.example", "opc")
        await doorman.header()
        said = httpx.Response(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})
        await doorman.refused(said, 0)
        assert await doorman.header() == {"Authorization": "Bearer t1"}
    assert [request.headers["Authorization"] for request in seen] == [BASIC]


async def test_a_token_is_renewed_before_it_runs_out() -> None:
    now: list[float] = [0.0]
    issued: list[str] = []

    def issue(_: httpx.Request) -> httpx.Response:
        issued.append(f"t{len(issued)}")
        return streamed({"token": issued[-1], "expires_in": 100})

    async with httpx.AsyncClient(transport=httpx.MockTransport(issue)) as client:
        doorman = Doorman(client, Access(), "registry.example", "opc", lambda: now[0])
        said = httpx.Response(
            401, headers={"WWW-Authenticate": 'Bearer realm="https://registry.example/token"'}
        )
        await doorman.refused(said, 0)
        for at, token in ((0.0, "t0"), (89.0, "t0"), (91.0, "t1")):
            now[0] = at
            assert await doorman.header() == {"Authorization": f"Bearer {token}"}


class Rotating:
    """A source whose answer is another one after it was refused."""

    def __init__(self) -> None:
        self.logins = [Login("device", "old"), Login("device", "secret")]

    async def get(self, host: str) -> Login | None:
        return self.logins[0]

    def forget(self) -> None:
        del self.logins[:-1]


async def test_credentials_that_ran_out_are_asked_for_anew(bench: ProcessBench) -> None:
    image = bench.publish(SLEEPER)
    bench.registry.login = ("device", "secret")
    host = bench.registry.address
    access = Access(Keyring({host: Rotating()}), frozenset({host}))
    await ProcessRuntime(bench.state_dir, bench.run_dir, access).pull(image, ignore)
    assert bench.registry.authorizations[1] == BASIC


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (['Bearer realm="https://a/t",service="s",scope="x:y:pull,push"'], Challenge("https://a/t", "s", "x:y:pull,push")),
        (['Basic realm="b"', 'bearer  realm = "https://a/t"'], Challenge("https://a/t")),
        (['Basic realm="b", Bearer realm="https://a/t", error="invalid_token"'], Challenge("https://a/t", error="invalid_token")),
        (["Bearer realm=https://a/t"], Challenge("https://a/t")),
        (['Bearer realm="a\\"b"'], Challenge('a"b')),
        (["Bearer"], None), (['Bearer service="s"'], None), (['Basic realm="Bearer x"'], None), ([], None),
    ],
)  # fmt: skip
def test_challenges(headers: list[str], found: Challenge | None) -> None:
    assert challenge_of(httpx.Headers([("WWW-Authenticate", value) for value in headers])) == found


@pytest.mark.parametrize(
    "filler", ["a" * 60_000, "a=" * 30_000, 'a="' * 20_000, 'a="\\"' * 12_000, ", " * 30_000]
)
def test_a_hostile_challenge_takes_no_time(filler: str) -> None:
    begun = time.monotonic()
    challenge_of(httpx.Headers([("WWW-Authenticate", f"Bearer {filler}")] * 3))
    challenge_of(httpx.Headers([("WWW-Authenticate", filler)] * 3))
    assert time.monotonic() - begun < 0.5


async def test_a_token_endpoint_at_no_port_is_unusable(bench: ProcessBench, issuer: Registry) -> None:
    image = guarded(bench, issuer)
    bench.registry.challenge = 'Bearer realm="http://127.0.0.1:99999/token"'
    assert (await refused(bench, image)).reason is Reason.REGISTRY_ERROR
