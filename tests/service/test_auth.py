"""Who is asking: what a token must say and be signed with, and that checking it again is cheap."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from reference.core.errors import InputError
from reference.service import auth
from reference.service.auth import Authenticator, AuthError, DevelopmentIssuer, Role, TokenRules
from tests.service.tokens import EC, RSA, Keys, Signer, keys_of, unsigned

SIGNERS = (Signer("r", RSA), Signer("e", EC))


async def accepted(token: str, keys: Keys, rules: TokenRules | None = None) -> auth.Principal:
    return await Authenticator(keys, rules).authenticate(f"Bearer {token}")


async def refused(token: str, keys: Keys, rules: TokenRules | None = None) -> str:
    with pytest.raises(AuthError) as caught:
        await accepted(token, keys, rules)
    assert caught.value.reason.value == "unauthenticated"
    return str(caught.value)


@pytest.mark.parametrize("signer", SIGNERS, ids=lambda s: s.algorithm)
async def test_both_algorithms(signer: Signer) -> None:
    caller = await accepted(signer.token(), keys_of(*SIGNERS))
    assert (caller.subject, caller.tenant, caller.role) == ("somebody", "acme", Role.ADMINISTRATOR)


@pytest.mark.parametrize("signer", SIGNERS, ids=lambda s: s.algorithm)
async def test_the_header_never_chooses_the_algorithm(signer: Signer) -> None:
    keys, claims = keys_of(*SIGNERS), signer.claims()
    other = next(s for s in SIGNERS if s is not signer)
    for algorithm in ("none", "None", "HS256", "HS512", "RS512", "ES384", "PS256", other.algorithm):
        head: dict[str, object] = {"alg": algorithm, "typ": "JWT", "kid": signer.key_id}
        await refused(unsigned(claims, head), keys)
        body = unsigned(claims, head)[:-1]
        for secret in (signer.pem(), signer.pem().strip(), b""):
            mac = hmac.new(secret, body.encode(), hashlib.sha256).digest()
            await refused(unsigned(claims, head, mac), keys)
    # Signed by a good key, under the name of another.
    await refused(jwt.encode(claims, other.key, other.algorithm, {"kid": signer.key_id}), keys)


@pytest.mark.parametrize(
    "change",
    [{"exp": 1}, {"aud": "another-api"}, {"aud": []}, {"iss": "another"}, {"tenant": "a/b"}, {"tenant": 5},
     {"tenant": ["acme"]}, {"role": "Root"}, {"role": []}, {"role": ["Root"]}, {"role": {"Administrator": 1}},
     {"role": "administrator"}, {"exp": "soon"}, {"iat": 9_999_999_999}, {"nbf": 9_999_999_999}, {"sub": ""},
     {"sub": "x" * 257}, *({name: None} for name in ("exp", "iat", "iss", "aud", "sub", "tenant", "role"))],
    ids=str,
)  # fmt: skip
async def test_claims_that_are_not_good(change: dict[str, Any]) -> None:
    assert "Get a new token" in await refused(SIGNERS[1].token(**change), keys_of(*SIGNERS))


@pytest.mark.parametrize("head", [{"kid": None}, {"kid": "another"}, {"kid": ""}, {"kid": "x" * 300}, {"crit": ["x"], "x": 1}],
                         ids=str)  # fmt: skip
async def test_headers_that_are_not_good(head: dict[str, object]) -> None:
    await refused(SIGNERS[1].token(head), keys_of(*SIGNERS))


async def test_what_is_no_token() -> None:
    keys = keys_of(*SIGNERS)
    good = SIGNERS[1].token()
    header, body, signature = good.split(".")
    for token in ("x", "a.b.c", "..", f"{header}.{body}.", f"{header}.{body}", f"{header}..{signature}", good + "x",
                  good + ".x", "é.é.é", "x" * 9000, unsigned([], {"alg": "ES256", "kid": "e"}),  # type: ignore[arg-type]
                  unsigned({}, {"alg": "ES256", "kid": 5}), unsigned({}, {"kid": "e"})):  # fmt: skip
        await refused(token, keys)
    for header in ("", "Bearer", "Bearer ", "Basic YTpi", f"Token {good}", good):
        with pytest.raises(AuthError):
            await Authenticator(keys).authenticate(header)
    assert (await Authenticator(keys).authenticate(f"bearer  {good} ")).tenant == "acme"


async def test_claims_under_other_names() -> None:
    signer, keys = SIGNERS[0], keys_of(*SIGNERS)
    rules = TokenRules("our-api", "https://example.org/tenant", "realm_access.roles")
    roles = {"roles": ["offline", "Viewer", "Engineer"]}
    elsewhere: dict[str, Any] = {"https://example.org/tenant": "acme"}
    token = signer.token(
        aud=["x", "our-api"], tenant=None, role=None, realm_access=roles, **elsewhere
    )  # fmt: skip
    assert (await accepted(token, keys, rules)).role is Role.ENGINEER, (
        "of several the one with the most rights"
    )
    await refused(signer.token(), keys, rules)
    await refused(token, keys)


async def test_a_token_is_checked_once_and_again_later() -> None:
    now, keys = [1_000_000_000.0], keys_of(*SIGNERS)
    authenticator = Authenticator(keys, now_s=lambda: now[0])
    token = f"Bearer {SIGNERS[1].token()}"
    for _ in range(5):
        await authenticator.authenticate(token)
    assert keys.asked == 1
    keys.found.clear()
    await authenticator.authenticate(token)
    now[0] += auth.REMEMBERED_S + 1
    with pytest.raises(AuthError):
        await authenticator.authenticate(token)


async def test_what_is_remembered_ends_with_the_token_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = SIGNERS[1]
    keys, claims = keys_of(signer), signer.claims()
    expires = float(str(claims["exp"])) + auth.LEEWAY_S
    now = [expires - 5]
    authenticator = Authenticator(keys, now_s=lambda: now[0])
    token = f"Bearer {jwt.encode(claims, EC, 'ES256', {'kid': 'e'})}"
    await authenticator.authenticate(token)
    now[0] = expires + 0.1
    await authenticator.authenticate(token)
    assert keys.asked == 2, "not from memory once it has expired"
    monkeypatch.setattr(auth, "REMEMBERED_TOKENS", 3)
    for number in range(10):
        await authenticator.authenticate(f"Bearer {signer.token(sub=f's{number}')}")
    assert len(authenticator._known) <= 3


async def test_tokens_from_the_data_folder(tmp_path: Path) -> None:
    token = auth.issue_token(tmp_path, "acme", "Viewer", subject="me")
    caller = await Authenticator(DevelopmentIssuer.open(tmp_path)).authenticate(f"Bearer {token}")
    assert (caller.subject, caller.tenant, caller.role) == ("me", "acme", Role.VIEWER)
    assert (tmp_path / auth.KEY_FILE).stat().st_mode & 0o777 == 0o600
    for tenant, role, subject in (("a.b", "Viewer", "me"), ("acme", "Root", "me"), ("acme", "Viewer", "")):
        with pytest.raises(InputError):
            auth.issue_token(tmp_path, tenant, role, subject)
    foreign = Signer(DevelopmentIssuer.open(tmp_path).key_id, generate_private_key(SECP256R1()))
    with pytest.raises(AuthError):
        await Authenticator(DevelopmentIssuer.open(tmp_path)).authenticate(
            f"Bearer {foreign.token(iss=auth.DEVELOPMENT_ISSUER)}"
        )
    (tmp_path / auth.KEY_FILE).write_text("noise")
    with pytest.raises(InputError, match="P-256"):
        auth.issue_token(tmp_path, "acme", "Viewer")
