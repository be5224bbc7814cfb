"""An identity provider's keys: fetched once, kept, renewed, and what happens while it is down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa

from reference.core.errors import InputError
from reference.pki.authority import DevelopmentCA
from reference.service import jwks
from reference.service.app import Parts, create_app
from reference.service.auth import Authenticator, AuthError, KeysUnavailableError
from reference.service.jwks import JwksKeys, parse_jwks
from reference.service.store import Store
from reference.service.tls import development_files
from tests.service.answers import problem
from tests.service.harness import KEY, FakeLink
from tests.service.tokens import EC, ISSUER, RSA, Signer

RSA_SIGNER, EC_SIGNER = Signer("r", RSA), Signer("e", EC)


def key_set(*signers: Signer) -> bytes:
    return json.dumps({"keys": [signer.jwk() for signer in signers]}).encode()


@dataclass
class Provider:
    """An HTTP server that answers every request in one way."""

    body: bytes = b""
    status: str = "200 OK"
    headers: str = ""
    asked: int = 0
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            await self.answering.wait()
            head = f"HTTP/1.1 {self.status}\r\nContent-Length: {len(self.body)}\r\nConnection: close\r\n"
            writer.write((head + self.headers + "\r\n").encode() + self.body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with _listening(Provider(key_set(RSA_SIGNER, EC_SIGNER))) as found:
        yield found


@asynccontextmanager
async def _listening(found: Provider, files: Path | None = None) -> AsyncIterator[Provider]:
    tls = None if files is None else development_files(files, "127.0.0.1").context()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=tls)
    found.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    found.answering.set()
    try:
        yield found
    finally:
        server.close()


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def test_both_kinds_of_keys_from_one_fetch(provider: Provider) -> None:
    keys = JwksKeys(provider.url, ISSUER)
    authenticator = Authenticator(keys)
    for signer in (RSA_SIGNER, EC_SIGNER):
        assert (await authenticator.authenticate(f"Bearer {signer.token()}")).tenant == "acme"
    assert provider.asked == 1
    # The same key under the other's name: the algorithm is the key's, so it cannot be.
    with pytest.raises(AuthError):
        await authenticator.authenticate(f"Bearer {replace(EC_SIGNER, key_id='r').token()}")
    await keys.stop()


async def test_many_callers_cause_one_fetch(provider: Provider) -> None:
    provider.answering.clear()
    keys = JwksKeys(provider.url, ISSUER)
    asking = [asyncio.create_task(keys.key("e")) for _ in range(50)]
    async with asyncio.timeout(5):
        while not provider.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        asking[0].cancel()  # one gives up: the others get their answer all the same
        provider.answering.set()
        found = await asyncio.gather(*asking[1:])
    assert all(found)
    assert provider.asked == 1


async def test_an_unknown_key_is_fetched_for_but_not_too_often(provider: Provider) -> None:
    clock = Clock()
    keys = JwksKeys(provider.url, ISSUER, now_s=clock)
    assert await keys.key("e")
    provider.body = key_set(RSA_SIGNER, EC_SIGNER, Signer("new", EC))
    for number in range(20):
        assert await keys.key(f"made-up-{number}") is None
    assert provider.asked == 1, "it was just fetched"
    clock.now_s += jwks.COOLDOWN_S + 1
    assert await keys.key("new"), "rotation is noticed when a token comes with the new key"
    for number in range(20):
        assert await keys.key(f"made-up-{number}") is None
    assert provider.asked == 2


async def test_old_keys_answer_while_new_ones_are_fetched(provider: Provider) -> None:
    clock = Clock()
    keys = JwksKeys(provider.url, ISSUER, now_s=clock)
    await keys.key("e")
    provider.body = key_set(RSA_SIGNER)
    clock.now_s += jwks.REFRESH_S + 1
    assert await keys.key("e"), "at once, from memory"
    async with asyncio.timeout(5):
        while await keys.key("e"):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert provider.asked == 2, "withdrawn"


async def test_a_provider_that_is_down_does_no_harm_for_a_while(provider: Provider) -> None:
    clock = Clock()
    keys = JwksKeys(provider.url, ISSUER, now_s=clock)
    await keys.key("e")
    provider.status = "503 Service Unavailable"
    clock.now_s += jwks.REFRESH_S + 1
    assert await keys.key("e")
    with pytest.raises(KeysUnavailableError, match="it answers 503"):
        clock.now_s += jwks.COOLDOWN_S + 1
        await keys.key("perhaps-new")
    assert await keys.key("e"), "stale, while the provider errs"
    clock.now_s += jwks.STALE_S
    with pytest.raises(KeysUnavailableError):
        await keys.key("e")
    provider.status = "200 OK"
    clock.now_s += jwks.COOLDOWN_S + 1
    assert await keys.key("e")


@pytest.mark.parametrize(
    ("status", "headers", "body", "why"),
    [
        ("500 Oops", "", b"", "it answers 500"),
        ("302 Found", "Location: http://127.0.0.1:1/\r\n", b"", "it answers 302"),
        ("200 OK", "", b"<html>", "not JSON"),
        ("200 OK", "", b"[" * 100_000, "not JSON"),
        ("200 OK", "", b"[]", "no key set"),
        ("200 OK", "", b'{"keys": 5}', "no key set"),
        ("200 OK", "", b'{"keys": []}', "no key for RS256 or ES256"),
        ("200 OK", "", b" " * (jwks.MAX_BYTES + 1), "more than"),
    ],
)
async def test_answers_that_are_none(
    provider: Provider, status: str, headers: str, body: bytes, why: str
) -> None:
    provider.status, provider.headers, provider.body = status, headers, body
    keys = JwksKeys(provider.url, ISSUER)
    for _ in range(3):
        with pytest.raises(KeysUnavailableError, match=why):
            await keys.key("e")
    assert provider.asked == 1, "failures are not asked for again at once, either"


async def test_a_provider_that_says_nothing(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "TIMEOUT_S", 0.1)
    provider.answering.clear()
    with pytest.raises(KeysUnavailableError, match="no answer within"):
        await JwksKeys(provider.url, ISSUER).key("e")


async def test_over_http_it_is_the_services_trouble_and_not_the_callers(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "service.db")
    # Nobody listens on port 1.
    parts = Parts(store, FakeLink(), KEY, JwksKeys("http://127.0.0.1:1/keys?secret", ISSUER))
    transport = httpx.ASGITransport(create_app(parts))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        answer = await http.get("/api/v1/jobs", headers={"Authorization": f"Bearer {EC_SIGNER.token()}"})
        detail = problem(answer, 503, "unavailable")["detail"]
        assert (
            detail == "the identity provider's keys cannot be had: no connection (ConnectError). Try again."
        )
        problem(await http.get("/api/v1/jobs"), 401, "unauthenticated")
        problem(await http.get("/api/v1/jobs", headers={"Authorization": "Bearer x"}), 401, "unauthenticated")
    await store.close()


async def test_over_https_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    async with _listening(Provider(key_set(EC_SIGNER)), tmp_path / "ca") as provider:
        ca = DevelopmentCA.open_or_create(tmp_path / "ca").certificate
        assert await JwksKeys(provider.url, ISSUER, ca).key("e")
        other = DevelopmentCA.open_or_create(tmp_path / "other").certificate
        with pytest.raises(KeysUnavailableError, match="no connection"):
            await JwksKeys(provider.url, ISSUER, other).key("e")


@pytest.mark.parametrize(
    "url",
    ["http://id.example/keys", "ftp://id.example/keys", "id.example", "", "https://", "https://a:b@id.example/k",
     "https://id.example:x/", "http://127.0.0.1.evil.example/", "file:///etc/passwd", "https://[::1/k"],
)  # fmt: skip
def test_addresses_that_cannot_be(url: str) -> None:
    with pytest.raises(InputError) as caught:
        JwksKeys(url, ISSUER)
    assert caught.value.where == "--jwks-url"


def test_only_keys_that_are_for_this_are_taken() -> None:
    good = EC_SIGNER.jwk()
    small, other_curve = Signer("x", generate_rsa(65537, 1024)), generate_ec(SECP384R1())
    bad: list[object] = [
        EC_SIGNER.jwk(alg="HS256"), EC_SIGNER.jwk(alg="RS256"), EC_SIGNER.jwk(alg="none"), EC_SIGNER.jwk(use="enc"),
        EC_SIGNER.jwk(key_ops=["sign"]), EC_SIGNER.jwk(key_ops="verify"), EC_SIGNER.jwk(kid=5), EC_SIGNER.jwk(kid=""),
        EC_SIGNER.jwk(x="AA"), EC_SIGNER.jwk(x=5), EC_SIGNER.jwk(crv="P-384"), EC_SIGNER.jwk(crv=None),
        {k: v for k, v in good.items() if k != "kid"}, {k: v for k, v in good.items() if k != "y"},
        RSA_SIGNER.jwk(alg="PS256"), RSA_SIGNER.jwk(alg="RS512"), RSA_SIGNER.jwk(n="!!"), RSA_SIGNER.jwk(crv="P-256"),
        small.jwk(), Signer("x", other_curve).jwk(), {"kty": "oct", "k": "c2VjcmV0", "kid": "o", "alg": "HS256"},
        {}, None, 5, "key",
    ]  # fmt: skip
    for entry in bad:
        with pytest.raises(KeysUnavailableError, match="no key"):
            parse_jwks(json.dumps({"keys": [entry]}).encode())
    entries = [*bad, good, RSA_SIGNER.jwk(alg="RS256", use="sig", key_ops=["verify"])]
    found = parse_jwks(json.dumps({"keys": entries}).encode())
    assert {name: key.algorithm for name, key in found.items()} == {"e": "ES256", "r": "RS256"}
    replaced = [good, Signer("e", generate_ec(EC.curve)).jwk()]
    first = parse_jwks(json.dumps({"keys": replaced}).encode())["e"]
    assert first.key.public_numbers() == EC.public_key().public_numbers(), "the first of a name stays"
