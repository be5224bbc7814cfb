"""Bearer tokens: Docker's token authentication, of which the registry here is also the token server.

A token is a JWT (RFC 7519) that names an account and, per repository, what its bearer may do. It is signed with a key
that lives and dies with the process: a registry that starts again knows no token of before, and its clients, which
ask for a new one at every 401, do not notice.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import jwt

from reference.oci.references import is_name
from reference.registry.users import ACTIONS, User

SERVICE = "blackstart-registry"
"""The `service` of the challenge, and a token's audience."""
LIFETIME_S = 300
MAX_SCOPES = 100
_SCOPE = re.compile(r"repository(?:\(plugin\))?:(?P<name>[^:]{1,255}):(?P<actions>[a-z*,]{0,64})")
_ALGORITHM = "HS256"
Grants = Mapping[str, frozenset[str]]
"""Repository to actions."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """What a valid token says. `account` is empty for nobody in particular."""

    account: str
    grants: Grants


def parse_scopes(texts: Iterable[str]) -> dict[str, frozenset[str]]:
    """Scopes as clients ask for them, `repository:NAME:pull,push`. What is not understood is left out, as Docker does."""
    found: dict[str, frozenset[str]] = {}
    for scope in [scope for text in texts for scope in text.split()][:MAX_SCOPES]:
        match = _SCOPE.fullmatch(scope)
        if match is None or not is_name(match["name"]):
            continue
        asked = match["actions"].split(",")
        actions = frozenset(ACTIONS if "*" in asked else [action for action in asked if action in ACTIONS])
        found[match["name"]] = found.get(match["name"], frozenset()) | actions
    return found


def granted(user: User | None, scopes: Grants) -> dict[str, frozenset[str]]:
    """Of what is asked for, what an account may do; `user` None: nobody in particular, who may pull."""
    if user is None:
        return {name: actions & {"pull"} for name, actions in scopes.items()}
    return {
        name: frozenset(action for action in actions if user.may(action, name))
        for name, actions in scopes.items()
    }


@dataclass(frozen=True, slots=True)
class Tokens:
    """Makes and reads tokens. `clock` answers seconds since 1970."""

    clock: Callable[[], float] = time.time
    lifetime_s: int = LIFETIME_S
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def make(self, account: str, grants: Grants) -> str:
        """A token that begins now."""
        now = int(self.clock())
        claims: dict[str, object] = {
            "iss": SERVICE,
            "aud": SERVICE,
            "sub": account,
            "iat": now,
            "nbf": now,
            "exp": now + self.lifetime_s,
            "jti": secrets.token_hex(8),
            "access": [
                {"type": "repository", "name": name, "actions": sorted(actions)}
                for name, actions in sorted(grants.items())
                if actions
            ],
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM)

    def read(self, token: str) -> Bearer | None:
        """What a token says; None when it is not ours, changed, or over."""
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                audience=SERVICE,
                issuer=SERVICE,
                options={
                    "require": ["exp", "sub", "aud"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidTokenError:
            return None
        # The library reads the machine's clock; ours is given.
        if not claims["nbf"] <= self.clock() < claims["exp"]:
            return None
        grants = {entry["name"]: frozenset(entry["actions"]) for entry in claims["access"]}
        return Bearer(claims["sub"], grants)
