"""Who is asking, and whether they may: JWT bearer tokens (RFC 6750, RFC 7519) and one table of rights.

Keys come through the `KeySource` port: an identity provider's published ones (`reference.service.jwks`), or the
development issuer's here, with a key of its own in the data folder. Each key brings the one algorithm that it is good
for; what a token's header says of its algorithm never chooses (RFC 8725, section 3.1).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from reference.core.errors import InputError, Reason, ServiceError
from reference.protocol.topics import check_tenant

ALGORITHM = "ES256"
AUDIENCE = "blackstart-api"
DEVELOPMENT_ISSUER = "blackstart-development"
KEY_FILE = "issuer-key.pem"
DEFAULT_LIFETIME_S = 12 * 3600
MAX_TOKEN_CHARS = 8 * 1024
LEEWAY_S = 10
"""How far the issuer's clock and ours may be apart."""
REMEMBERED_TOKENS = 4096
REMEMBERED_S = 60.0
"""A token that was good is not checked again for this long: a key that its issuer withdraws lives that much longer."""


class Role(StrEnum):
    """The value is what the token's `role` claim says."""

    ADMINISTRATOR = "Administrator"
    ENGINEER = "Engineer"
    OPERATOR = "Operator"
    VIEWER = "Viewer"


_ALL = frozenset(Role)
_ADMINISTRATOR = frozenset({Role.ADMINISTRATOR})

ROLES: Mapping[tuple[str, str], frozenset[Role]] = {
    ("GET", "/api/v1/clients"): _ALL,
    ("POST", "/api/v1/clients"): _ADMINISTRATOR,
    ("GET", "/api/v1/clients/{client_id}"): _ALL,
    ("POST", "/api/v1/clients/{client_id}/registration-token"): _ADMINISTRATOR,
    ("POST", "/api/v1/clients/{client_id}/revoke"): _ADMINISTRATOR,
    ("POST", "/api/v1/clients/{client_id}/update"): _ADMINISTRATOR,
    ("POST", "/api/v1/clients/{client_id}/rollback"): _ADMINISTRATOR,
    ("GET", "/api/v1/versions"): _ALL,
    ("GET", "/api/v1/versions/{version}"): _ALL,
    ("POST", "/api/v1/versions/{version}/withdraw"): frozenset({Role.ADMINISTRATOR, Role.ENGINEER}),
    ("POST", "/api/v1/versions/{version}/restore"): frozenset({Role.ADMINISTRATOR, Role.ENGINEER}),
    ("POST", "/api/v1/versions"): frozenset({Role.ADMINISTRATOR, Role.ENGINEER}),
    ("GET", "/api/v1/jobs"): _ALL,
    ("GET", "/api/v1/jobs/{job_id}"): _ALL,
    ("POST", "/api/v1/jobs/{job_id}/cancel"): _ADMINISTRATOR,
    ("GET", "/api/v1/events"): _ALL,
}
"""Who may do what. A route that is neither in here nor in OPEN is nobody's, and the service does not start with it."""

OPEN: Mapping[tuple[str, str], str] = {
    ("GET", "/healthz"): "nothing: for the machines that watch over the service",
    ("GET", "/readyz"): "nothing: for the machines that watch over the service",
    ("POST", "/api/v1/enrol"): "a client's registration token",
    ("POST", "/api/v1/enrol/renew"): "a signature with the key of the device's certificate",
    ("GET", "/api/v1/enrol/ca"): "nothing: a certificate is no secret",
    ("GET", "/metrics"): "nothing: for the machines that watch over the service",
    ("GET", "/api/v1/openapi.json"): "nothing: what the API is like is no secret",
}
"""Routes that ask for no token, and what they ask for instead."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller, as the token says. Everything it sees is its tenant's."""

    subject: str
    tenant: str
    role: Role


class AuthError(ServiceError):
    """The caller is not known (UNAUTHENTICATED) or not allowed (FORBIDDEN)."""

    default = Reason.UNAUTHENTICATED


class KeysUnavailableError(ServiceError):
    """Who is asking cannot be told now, because the issuer's keys cannot be had. That is not the caller's fault."""

    public = True
    """The message says nothing that a caller may not read."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key and the only algorithm that it may be used with."""

    key: EllipticCurvePublicKey | RSAPublicKey
    algorithm: str


class KeySource(Protocol):
    """Where the keys come from that tokens are checked with."""

    @property
    def issuer(self) -> str:
        """What the `iss` claim must say."""

    async def key(self, key_id: str) -> VerificationKey | None:
        """The key of that id, None when it is not known. Raises KeysUnavailableError when that cannot be told."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must say, and where. A claim is a name, or names with dots between for one inside another
    (`realm_access.roles`); a claim that really has the dots in its name (`https://example.org/role`) wins."""

    audience: str = AUDIENCE
    tenant_claim: str = "tenant"
    role_claim: str = "role"


class DevelopmentIssuer:
    """Issues tokens and checks them: for demonstrations and tests on one machine, not for the internet."""

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        self._key = key
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key_id = hashlib.sha256(public).hexdigest()[:16]

    @classmethod
    def open(cls, data_dir: Path) -> DevelopmentIssuer:
        """The issuer of a data folder; its key is made at first use. Raises InputError."""
        path = data_dir / KEY_FILE
        try:
            if not path.exists():
                data_dir.mkdir(parents=True, exist_ok=True)
                _write_new(path)
            key = load_pem_private_key(path.read_bytes(), None)
        except OSError as error:
            raise InputError(f"cannot be used: {error.strerror}", where=str(path)) from None
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise InputError(
                "not a P-256 key in PEM", where=str(path), todo="Remove it to have a new one made."
            )
        return cls(key)

    @property
    def issuer(self) -> str:
        """What the `iss` claim says."""
        return DEVELOPMENT_ISSUER

    async def key(self, key_id: str) -> VerificationKey | None:
        """The only key, if it is the one asked for."""
        return VerificationKey(self._key.public_key(), ALGORITHM) if key_id == self.key_id else None

    def issue(
        self, tenant: str, role: Role, subject: str = "developer", lifetime_s: int = DEFAULT_LIFETIME_S
    ) -> str:
        """A token for the API. Raises InputError."""
        if not subject or len(subject) > 256:
            raise InputError("a subject has 1 to 256 characters", where="subject")
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": AUDIENCE, "iat": now, "exp": now + lifetime_s, "sub": subject,
            "tenant": check_tenant(tenant), "role": role.value,
        }  # fmt: skip
        return jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": self.key_id})


def issue_token(
    data_dir: Path, tenant: str, role: str, subject: str = "developer", lifetime_s: int = DEFAULT_LIFETIME_S
) -> str:
    """A token of the data folder's development issuer. Raises InputError, for an unknown role too."""
    try:
        known = Role(role)
    except ValueError:
        raise InputError(
            f"{role[:40]!r} is not a role", where="role", todo=f"One of {', '.join(Role)}."
        ) from None
    return DevelopmentIssuer.open(data_dir).issue(tenant, known, subject, lifetime_s)


class Authenticator:
    """Tells callers by their tokens, and remembers for a short while which ones were good."""

    def __init__(
        self, keys: KeySource, rules: TokenRules | None = None, now_s: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._rules = rules or TokenRules()
        self._now_s = now_s
        self._known: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    async def authenticate(self, authorization: str | None) -> Principal:
        """The caller named by an Authorization header. Raises AuthError(UNAUTHENTICATED), KeysUnavailableError."""
        token = _bearer(authorization)
        # The digest, not the token: nothing in memory is of use to a thief.
        digest = hashlib.sha256(token.encode()).digest()
        if (known := self._known.get(digest)) is not None and known[1] > self._now_s():
            self._known.move_to_end(digest)
            return known[0]
        try:
            principal, expires = await self._check(token)
        except jwt.InvalidTokenError as error:
            raise AuthError(f"the token is not good: {error}", todo="Get a new token.") from None
        except (ValueError, TypeError, InputError):
            raise AuthError("the token's claims are not good", todo="Get a new token.") from None
        self._known[digest] = (principal, min(expires, self._now_s() + REMEMBERED_S))
        self._known.move_to_end(digest)
        if len(self._known) > REMEMBERED_TOKENS:
            self._known.popitem(last=False)
        return principal

    async def _check(self, token: str) -> tuple[Principal, float]:
        key_id = jwt.get_unverified_header(token).get("kid")
        if not isinstance(key_id, str) or not 1 <= len(key_id) <= 256:
            raise AuthError("the token does not say which key signed it (kid)", todo="Get a new token.")
        key = await self._keys.key(key_id)
        if key is None:
            raise AuthError("the token was signed with a key that is not known", todo="Get a new token.")
        claims = jwt.decode(
            token, key.key, algorithms=[key.algorithm], audience=self._rules.audience, issuer=self._keys.issuer,
            leeway=LEEWAY_S, options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )  # fmt: skip
        tenant = claim(claims, self._rules.tenant_claim)
        if not isinstance(tenant, str):
            raise TypeError("no tenant")
        role = _role(claim(claims, self._rules.role_claim))
        subject = str(claims["sub"])
        # What cannot be written down (a NUL, half a surrogate pair) cannot be kept with an order either.
        if not 1 <= len(subject) <= 256 or not subject.isprintable():
            raise ValueError("no subject")
        return Principal(subject, check_tenant(tenant), role), float(claims["exp"]) + LEEWAY_S


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise AuthError("no bearer token was sent", todo="Send 'Authorization: Bearer <token>'.")
    if len(token) > MAX_TOKEN_CHARS:
        raise AuthError(f"the token is longer than {MAX_TOKEN_CHARS} characters", todo="Get a smaller one.")
    return token


def claim(claims: Mapping[str, object], path: str) -> object:
    """A claim by its name, or by the way to it; None when there is none."""
    if path in claims:
        return claims[path]
    found: object = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _role(said: object) -> Role:
    """Of several roles the one with the most rights; words that are no roles of ours are somebody else's business."""
    words = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    for role in Role:
        if role.value in words:
            return role
    raise ValueError("no role")


def authorize(principal: Principal, method: str, route: str) -> None:
    """Raises AuthError(FORBIDDEN) when the caller's role may not use the route."""
    allowed = ROLES.get((method, route), frozenset())
    if principal.role not in allowed:
        raise AuthError(
            f"the role {principal.role.value} may not do this",
            reason=Reason.FORBIDDEN,
            todo=f"Allowed: {', '.join(sorted(allowed)) or 'nobody'}.",
        )


def rights_document() -> str:
    """docs/rights.md: the table, for people."""
    lines = [
        "# Who may do what", "",
        "Made from `ROLES` and `OPEN` in `reference/service/auth.py` (`python -m tools.documents`); a test keeps it so. ",
        "A token names its tenant: whatever is another tenant's is answered with 404, like what does not exist. A route ",
        "that is in neither table would keep the service from starting.", "",
        "| route | " + " | ".join(Role) + " |", "|---|" + "---|" * len(Role),
    ]  # fmt: skip
    for (method, path), roles in sorted(ROLES.items(), key=lambda item: (item[0][1], item[0][0])):
        marks = " | ".join("yes" if role in roles else "-" for role in Role)
        lines.append(f"| `{method} {path}` | {marks} |")
    lines += ["", "Without a token:", "", "| route | what is asked for instead |", "|---|---|"]
    lines += [f"| `{method} {path}` | {why} |" for (method, path), why in sorted(OPEN.items())]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _write_new(path: Path) -> None:
    """Make the key file all at once; when another process was first, its key stays."""
    pem = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
