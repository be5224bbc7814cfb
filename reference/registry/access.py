"""Who is asking, and whether they may: basic authentication (RFC 7617) and bearer tokens (RFC 6750, Docker's flow).

Both are accepted whenever there are accounts. What is offered to a stranger, in the challenge, is a setting: clients
take what they are offered.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reference.oci.references import is_host, is_name
from reference.registry.errors import Code, Refusal
from reference.registry.tokens import SERVICE, Bearer, Tokens, granted, parse_scopes
from reference.registry.users import RegistryUsers, User

TOKEN_PATH = "/token"  # noqa: S105 - an address, not a secret
MAX_FORM_BYTES = 64 << 10
_BASIC = 'Basic realm="blackstart registry", charset="UTF-8"'


class Scheme(StrEnum):
    """What a stranger is told to use."""

    BASIC = "basic"
    TOKEN = "token"  # noqa: S105 - a word


@dataclass(slots=True)
class Access:
    """The rules of one registry. `users` None: everyone may do everything. Used from one event loop."""

    users: RegistryUsers | None
    scheme: Scheme = Scheme.BASIC
    anonymous_pull: bool = False
    realm: str | None = None
    """Where tokens are, as clients reach it; None: under the name that they use for this registry."""
    tokens: Tokens = field(default_factory=Tokens)
    # Each hash takes 32 MiB: guessing must not take all memory.
    _hashing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))

    async def identify(self, request: Request) -> Caller:
        """Who asks. Raises Refusal (UNAUTHORIZED) for credentials that are wrong; none at all are nobody's."""
        if self.users is None:
            return Caller(self, everything=True)
        header = request.headers.get("authorization", "")
        scheme, _, value = header.partition(" ")
        if not header:
            return Caller(self)
        if scheme.lower() == "bearer":
            bearer = self.tokens.read(value.strip())
            if bearer is None:
                raise self.stranger(request, None, "the token is not valid, or not any more", "invalid_token")
            return Caller(self, user=self.users.users.get(bearer.account), bearer=bearer)
        user = await self._basic(header)
        if user is None:
            raise self.stranger(request, None, "user name and password are not right")
        return Caller(self, user=user)

    async def _basic(self, header: str) -> User | None:
        given = _credentials(header)
        return await self._verify(*given) if given is not None else None

    async def _verify(self, name: str, password: str) -> User | None:
        assert self.users is not None
        # Who is known waits for nobody: a flood of wrong passwords would hold up all the others here.
        if (known := self.users.known(name, password)) is not None:
            return known
        async with self._hashing:
            return await asyncio.to_thread(self.users.verify, name, password)

    def stranger(self, request: Request, scope: str | None, message: str, error: str = "") -> Refusal:
        """The refusal that says how to come back."""
        challenge = _BASIC
        if self.scheme is Scheme.TOKEN:
            parts = {"realm": self.realm or _own_realm(request), "service": SERVICE}
            if scope is not None:
                parts["scope"] = scope
            if error:
                parts["error"] = error
            challenge = "Bearer " + ",".join(f'{key}="{value}"' for key, value in parts.items())
        return Refusal(Code.UNAUTHORIZED, message, {"WWW-Authenticate": challenge})

    async def check(self, request: Request, action: str | None, name: str | None) -> Caller:
        """Who asks, if they may do `action` in the repository `name` (None: be known at all).

        Raises Refusal: UNAUTHORIZED when other credentials would help, DENIED when these are right and not enough.
        """
        caller = await self.identify(request)
        if caller.everything:
            return caller
        if action is None or name is None:
            if caller.user is None and caller.bearer is None:
                raise self.stranger(request, None, "a user name and a password are needed")
            return caller
        if caller.may(action, name):
            return caller
        # Only a checked name may go into a header.
        wanted = action if action != "push" else "pull,push"
        scope = f"repository:{name}:{wanted}" if is_name(name) else None
        if caller.user is None:
            raise self.stranger(request, scope, f"an account is needed to {action}")
        if caller.user.may(action, name):
            raise self.stranger(
                request, scope, f"the token does not let its bearer {action}", "insufficient_scope"
            )
        raise Refusal(Code.DENIED, f"{caller.user.name} may not {action} here")

    # ---- the token endpoint

    async def give_token(self, request: Request) -> Response:
        """`GET /token` (Docker's flow) and `POST /token` (its OAuth2 form, with grant_type=password)."""
        try:
            if self.users is None:
                raise Refusal(Code.UNSUPPORTED, "nobody needs a token here")
            user, scopes = await (self._form(request) if request.method == "POST" else self._query(request))
        except Refusal as refusal:
            return refusal.response()
        grants = granted(user, scopes)
        token = self.tokens.make(user.name if user is not None else "", grants)
        begun = datetime.datetime.fromtimestamp(int(self.tokens.clock()), datetime.UTC)
        answer = {
            "token": token,
            "access_token": token,
            "token_type": "bearer",
            "expires_in": self.tokens.lifetime_s,
            "issued_at": begun.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "scope": " ".join(
                f"repository:{name}:{','.join(sorted(actions))}"
                for name, actions in grants.items()
                if actions
            ),
        }
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    async def _query(self, request: Request) -> tuple[User | None, dict[str, frozenset[str]]]:
        scopes = parse_scopes(request.query_params.getlist("scope"))
        header = request.headers.get("authorization", "")
        if not header:
            if not self.anonymous_pull:
                raise _ask_basic("a user name and a password are needed")
            return None, scopes
        user = await self._basic(header)
        if user is None:
            raise _ask_basic("user name and password are not right")
        return user, scopes

    async def _form(self, request: Request) -> tuple[User | None, dict[str, frozenset[str]]]:
        data = bytearray()
        async for piece in request.stream():
            data += piece
            if len(data) > MAX_FORM_BYTES:
                raise Refusal(Code.TOO_LARGE, f"a form has at most {MAX_FORM_BYTES} bytes")
        try:
            form = parse_qs(data.decode("ascii"), max_num_fields=MAX_FORM_BYTES >> 9)
        except ValueError as error:
            raise Refusal(Code.UNSUPPORTED_GRANT, "not a form") from error
        if form.get("grant_type") != ["password"]:
            raise Refusal(Code.UNSUPPORTED_GRANT, "grant_type has to be password")
        user = await self._verify(form.get("username", [""])[0], form.get("password", [""])[0])
        if user is None:
            raise _ask_basic("user name and password are not right")
        return user, parse_scopes(form.get("scope", []))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: an account, the bearer of a token, or nobody in particular."""

    access: Access
    user: User | None = None
    bearer: Bearer | None = None
    everything: bool = False

    @property
    def account(self) -> str:
        """Its name; empty for nobody in particular."""
        return self.user.name if self.user is not None else ""

    def may(self, action: str, repository: str) -> bool:
        """Whether they may do it there. A token never gives more than its account has now."""
        if not self.account_may(action, repository):
            return False
        if self.bearer is None or self.user is None:
            return True
        return action in self.bearer.grants.get(repository, frozenset())

    def ask_for(self, request: Request, scopes: Mapping[str, str]) -> None:
        """Raises Refusal (UNAUTHORIZED) for a token that leaves out some of `scopes` that its account could have."""
        pairs = [(name, action) for name, actions in scopes.items() for action in actions.split(",")]
        lacking = [(name, action) for name, action in pairs if not self.may(action, name)]
        if lacking and all(self.account_may(action, name) for name, action in lacking):
            scope = " ".join(f"repository:{name}:{actions}" for name, actions in scopes.items())
            raise self.access.stranger(request, scope, "the token leaves something out", "insufficient_scope")

    def account_may(self, action: str, repository: str) -> bool:
        """The same, whatever a token leaves out."""
        if self.everything:
            return True
        if self.user is None:
            return action == "pull" and self.access.anonymous_pull
        return self.user.may(action, repository)


def _credentials(header: str) -> tuple[str, str] | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (name, password) if colon else None


def _own_realm(request: Request) -> str:
    host = request.headers.get("host", "")
    if not is_host(host):
        server = request.scope.get("server") or ("localhost", 0)
        host = f"{server[0]}:{server[1]}"
    return f"{request.scope['scheme']}://{host}{TOKEN_PATH}"


def _ask_basic(message: str) -> Refusal:
    return Refusal(Code.UNAUTHORIZED, message, {"WWW-Authenticate": _BASIC})
