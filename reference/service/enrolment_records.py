"""Registration tokens and devices' certificates in the database: each function runs inside one transaction.

A token is bound to the key of the first CSR that comes with it, before anything is signed, and to its certificate
after. Whoever comes again with the same key gets the same certificate; another key gets nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection, Row, delete, insert, select, update

from reference.core.errors import Reason, ServiceError
from reference.pki.issuer import Revoked
from reference.pki.proof import CertificateRefusedError, Renewal
from reference.pki.requests import key_id
from reference.service import schema
from reference.service.auth import Principal
from reference.service.problems import ConflictError, NotFoundError

PREFIX = "bsr"
_TOKEN = re.compile(rf"{PREFIX}\.([0-9a-f]{{16}})\.[^.]*", re.ASCII)
_NONE = hashlib.sha256(b"").hexdigest()
_tokens, _certificates, _revocations = schema.registration_tokens, schema.certificates, schema.revocations


class TokenError(ServiceError):
    """The registration token opens nothing. Whether it ever was one is not said to those who do not know it all."""

    default = Reason.REGISTRATION_TOKEN_INVALID


@dataclass(frozen=True, slots=True)
class NewToken:
    """A registration token, this once in clear."""

    token: str = field(repr=False)
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A device that may have a certificate for the key `key`; `pem` when it has it already."""

    tenant: str
    client: str
    key: str
    pem: str | None
    token: str | None = field(default=None, repr=False)
    """The id of the token that this rests on; None for a renewal."""
    serial: int = 0
    """Of the certificate that a renewal rests on."""


def token_id(token: str) -> str:
    """The part of a token that is no secret; empty for what is no token."""
    # What cannot be an id is not asked for: not every database takes every text.
    parts = _TOKEN.fullmatch(token)
    return parts[1] if parts else ""


def _hash(token: str) -> str:
    # 32 random bytes need no slow hash: there is nothing to guess.
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def add_token(
    connection: Connection, caller: Principal, client_id: str, now_ms: int, lifetime_ms: int
) -> NewToken:
    """A token for a client that exists. The one before it is worth nothing from now on."""
    token = f"{PREFIX}.{secrets.token_hex(8)}.{secrets.token_urlsafe(32)}"
    drop_token(connection, caller.tenant, client_id)
    connection.execute(
        insert(_tokens).values(
            tenant=caller.tenant,
            client=client_id,
            id=token_id(token),
            hash=_hash(token),
            created_by=caller.subject,
            created_ms=now_ms,
            expires_ms=now_ms + lifetime_ms,
        )
    )
    return NewToken(token, now_ms + lifetime_ms)


def drop_token(connection: Connection, tenant: str, client_id: str) -> None:
    """A client's token is worth nothing any more."""
    connection.execute(delete(_tokens).where(_tokens.c.tenant == tenant, _tokens.c.client == client_id))


def check_token(
    connection: Connection, token: str, client_id: str | None, now_ms: int
) -> Row[tuple[object, ...]]:
    """The token's row. Raises TokenError: not one of ours, of another client than was said, or too old."""
    row = connection.execute(select(_tokens).where(_tokens.c.id == token_id(token))).one_or_none()
    # The same work for an id that exists and one that does not.
    good = hmac.compare_digest(_hash(token), _NONE if row is None else str(row.hash))
    if row is None or not good or client_id not in (None, row.client):
        raise TokenError("the registration token is not good", todo="Ask an Administrator for a new one.")
    if now_ms >= row.expires_ms:
        raise TokenError(
            "the registration token has expired",
            reason=Reason.REGISTRATION_TOKEN_EXPIRED,
            todo="Ask an Administrator for a new one.",
        )
    return row


def claim(connection: Connection, token: str, client_id: str | None, key: str, now_ms: int) -> Claim:
    """Bind the token to the key, for ever.

    Raises TokenError, ConflictError (it is bound to another key), CertificateRefusedError (the key was revoked).
    """
    row = check_token(connection, token, client_id, now_ms)
    if row.key not in (None, key):
        raise ConflictError(
            "the registration token was used by another key",
            reason=Reason.REGISTRATION_TOKEN_USED,
            todo="Was that not this device, revoke the client. Then ask for a new token.",
        )
    _refuse_revoked_key(connection, row.tenant, row.client, key)
    pem = None
    if row.serial is not None:
        pem = connection.scalar(select(_certificates.c.pem).where(_certificates.c.serial == row.serial))
    elif row.key is None:
        connection.execute(update(_tokens).where(_tokens.c.id == row.id).values(key=key))
    return Claim(row.tenant, row.client, key, pem, row.id)


def claim_renewal(connection: Connection, proof: Renewal, key: str, now_ms: int) -> Claim:
    """Raises CertificateRefusedError when the certificate that it rests on is revoked or its client is gone."""
    tenant, client = proof.device.tenant_id, proof.device.client_id
    _refuse_revoked(connection, tenant, client, proof.serial)
    _refuse_revoked_key(connection, tenant, client, key)
    pem = connection.scalar(
        select(_certificates.c.pem).where(
            _certificates.c.tenant == tenant,
            _certificates.c.client == client,
            _certificates.c.key == key,
            _certificates.c.expires_ms > now_ms,
        )
    )
    return Claim(tenant, client, key, pem, serial=proof.serial)


def keep(connection: Connection, claim: Claim, cert: x509.Certificate, now_ms: int) -> str:
    """Keep a certificate for a claim, and answer the one to hand out: another one, if one was kept meanwhile.

    Raises TokenError, CertificateRefusedError when the right to it was withdrawn meanwhile: nothing is kept then.
    """
    if claim.token is None:
        _refuse_revoked(connection, claim.tenant, claim.client, claim.serial)
    else:
        row = connection.execute(select(_tokens).where(_tokens.c.id == claim.token)).one_or_none()
        if row is None or row.key != claim.key:
            raise TokenError("the registration token is not good any more", todo="Ask for a new one.")
    kept = connection.scalar(
        select(_certificates.c.pem).where(
            _certificates.c.tenant == claim.tenant,
            _certificates.c.client == claim.client,
            _certificates.c.key == claim.key,
            _certificates.c.revoked_ms.is_(None),
            _certificates.c.expires_ms > now_ms,
        )
    )
    pem = kept or cert.public_bytes(Encoding.PEM).decode()
    if kept is None:
        _add(connection, claim.tenant, claim.client, cert, pem=pem)
    if claim.token is not None:
        serial = _serial(x509.load_pem_x509_certificate(pem.encode()))
        connection.execute(update(_tokens).where(_tokens.c.id == claim.token).values(serial=serial))
    return pem


def revoke(
    connection: Connection,
    caller: Principal,
    client_id: str,
    elsewhere: Iterable[x509.Certificate],
    now_ms: int,
) -> int:
    """Take back all certificates of a client that exists, and its token; how many of them were good till now."""
    tenant = caller.tenant
    drop_token(connection, tenant, client_id)
    own = (_certificates.c.tenant == tenant, _certificates.c.client == client_id)
    known = set(connection.scalars(select(_certificates.c.serial).where(*own)))
    for cert in elsewhere:
        if _serial(cert) not in known:
            _add(connection, tenant, client_id, cert, pem=None)
    good = (*own, _certificates.c.revoked_ms.is_(None))
    count = connection.execute(update(_certificates).where(*good).values(revoked_ms=now_ms)).rowcount
    at = (_revocations.c.tenant == tenant, _revocations.c.client == client_id)
    connection.execute(delete(_revocations).where(*at))
    connection.execute(
        insert(_revocations).values(tenant=tenant, client=client_id, at_ms=now_ms, by=caller.subject)
    )
    return int(count)


def list_revoked(connection: Connection, now_ms: int) -> list[Revoked]:
    """What the authority's list has to say: one that has expired needs no place on it (RFC 5280, section 5)."""
    query = select(_certificates.c.serial, _certificates.c.revoked_ms).where(
        _certificates.c.revoked_ms.is_not(None), _certificates.c.expires_ms > now_ms
    )
    return [Revoked(int(serial, 16), at_ms) for serial, at_ms in connection.execute(query)]


def forget(connection: Connection, now_ms: int) -> None:
    """Let go of certificates that are out of their time."""
    connection.execute(delete(_certificates).where(_certificates.c.expires_ms <= now_ms))


def require_client(connection: Connection, tenant: str, client_id: str) -> None:
    """Raises NotFoundError, in the words that a missing client always gets."""
    table = schema.clients
    found = None
    if "\0" not in client_id:
        query = select(table.c.id).where(table.c.tenant == tenant, table.c.id == client_id)
        found = connection.scalar(query)
    if found is None:
        raise NotFoundError(f"there is no client {client_id[:80]!r}")


def _serial(cert: x509.Certificate) -> str:
    return f"{cert.serial_number:x}"


def _add(connection: Connection, tenant: str, client: str, cert: x509.Certificate, pem: str | None) -> None:
    connection.execute(
        insert(_certificates).values(
            serial=_serial(cert),
            tenant=tenant,
            client=client,
            key=key_id(cert),
            pem=pem,
            issued_ms=int(cert.not_valid_before_utc.timestamp() * 1000),
            expires_ms=int(cert.not_valid_after_utc.timestamp() * 1000),
        )
    )


def _refuse_revoked(connection: Connection, tenant: str, client: str, serial: int) -> None:
    table = schema.clients
    there = connection.scalar(select(table.c.id).where(table.c.tenant == tenant, table.c.id == client))
    row = connection.execute(
        select(_certificates.c.revoked_ms).where(_certificates.c.serial == f"{serial:x}")
    ).one_or_none()
    if row is None:
        query = select(_revocations.c.at_ms).where(
            _revocations.c.tenant == tenant, _revocations.c.client == client
        )
        revoked = connection.scalar(query) is not None
    else:
        revoked = row.revoked_ms is not None
    if there is None or revoked:
        raise CertificateRefusedError(
            "the certificate is refused: it is revoked, or its client is not known",
            todo="Enrol the device again with a new registration token.",
        )


def _refuse_revoked_key(connection: Connection, tenant: str, client: str, key: str) -> None:
    """A key whose certificate was taken back gets no other one: whoever stole it has it still."""
    query = select(_certificates.c.serial).where(
        _certificates.c.tenant == tenant,
        _certificates.c.client == client,
        _certificates.c.key == key,
        _certificates.c.revoked_ms.is_not(None),
    )
    if connection.execute(query.limit(1)).first() is not None:
        raise CertificateRefusedError("a certificate of this key was revoked", todo="Make a new key.")
