"""Who is asking, and whether they may: JWT bearer tokens (RFC 6750, RFC 7519) and one table of roles.

Keys come through the `KeySource` port. Here it is a development issuer with a key of its own in the data folder; an
identity provider's published keys fit behind the same port.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
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
    ("POST", "/api/v1/clients/{client_id}/update"): _ADMINISTRATOR,
    ("GET", "/api/v1/versions"): _ALL,
    ("POST", "/api/v1/versions"): frozenset({Role.ADMINISTRATOR, Role.ENGINEER}),
    ("GET", "/api/v1/jobs"): _ALL,
    ("GET", "/api/v1/jobs/{job_id}"): _ALL,
    ("POST", "/api/v1/jobs/{job_id}/cancel"): _ADMINISTRATOR,
}
"""Who may do what. A route that is not in here is nobody's."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller, as the token says. Everything it sees is its tenant's."""

    subject: str
    tenant: str
    role: Role


class AuthError(ServiceError):
    """The caller is not known (UNAUTHENTICATED) or not allowed (FORBIDDEN)."""

    default = Reason.UNAUTHENTICATED


class KeySource(Protocol):
    """Where the keys come from that tokens are checked with."""

    @property
    def issuer(self) -> str:
        """What the `iss` claim must say."""

    def key(self, key_id: str | None) -> EllipticCurvePublicKey | None:
        """The key of that id, None when it is not known."""


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

    def key(self, key_id: str | None) -> EllipticCurvePublicKey | None:
        """The only key, if it is the one asked for."""
        return self._key.public_key() if key_id == self.key_id else None

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


def authenticate(authorization: str | None, keys: KeySource) -> Principal:
    """The caller named by an Authorization header. Raises AuthError(UNAUTHENTICATED)."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise AuthError("no bearer token was sent", todo="Send 'Authorization: Bearer <token>'.")
    try:
        token = token.strip()
        key = keys.key(jwt.get_unverified_header(token).get("kid"))
        if key is None:
            raise AuthError("the token was signed with a key that is not known", todo="Get a new token.")
        claims = jwt.decode(
            token, key, algorithms=[ALGORITHM], audience=AUDIENCE, issuer=keys.issuer,
            options={"require": ["exp", "iat", "iss", "aud", "sub", "tenant", "role"]},
        )  # fmt: skip
        return Principal(str(claims["sub"]), check_tenant(claims["tenant"]), Role(claims["role"]))
    except jwt.InvalidTokenError as error:
        raise AuthError(f"the token is not good: {error}", todo="Get a new token.") from None
    except (ValueError, TypeError, InputError):
        raise AuthError("the token's claims are not good", todo="Get a new token.") from None


def authorize(principal: Principal, method: str, route: str) -> None:
    """Raises AuthError(FORBIDDEN) when the caller's role may not use the route."""
    allowed = ROLES.get((method, route), frozenset())
    if principal.role not in allowed:
        raise AuthError(
            f"the role {principal.role.value} may not do this",
            reason=Reason.FORBIDDEN,
            todo=f"Allowed: {', '.join(sorted(allowed)) or 'nobody'}.",
        )


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
