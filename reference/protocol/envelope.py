"""Signed messages: DSSE v1 envelopes with Ed25519 (https://github.com/secure-systems-lab/dsse, protocol.md).

The receiver verifies the bytes that it received and only then reads them. What was signed names tenant, client and
message type, so that no message works on another device or as another message.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SecuresystemslibError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey  # type: ignore[attr-defined]

from reference.core.errors import CommandError, InputError, Reason
from reference.protocol.models import (
    MAX_MESSAGE_BYTES,
    CancelCommand,
    Reply,
    UpdateCommand,
    parse,
    read_object,
)

PAYLOAD_TYPE = "application/vnd.blackstart.command+json"

SigningKey = CryptoSigner
PublicKey = SSlibKey
Signed = UpdateCommand | CancelCommand | Reply
_S = TypeVar("_S", bound=Signed)


class CommandRefusedError(CommandError):
    """Signed for this device, and must not be obeyed all the same: the sender is told, by job and generation."""

    def __init__(self, error: CommandError, job_id: str, generation: int) -> None:
        super().__init__(error.what, reason=error.reason, where=error.where, todo=error.todo)
        self.job_id = job_id
        self.generation = generation


class _WireSignature(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)
    keyid: str = Field(max_length=128)
    sig: str = Field(max_length=256)


class _WireEnvelope(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)
    payload: str
    payload_type: str = Field(alias="payloadType", max_length=128)
    signatures: list[_WireSignature] = Field(min_length=1, max_length=4)


# ---- keys


def generate_key() -> SigningKey:
    """A new Ed25519 key."""
    return CryptoSigner.generate_ed25519()


def public_key(key: SigningKey) -> PublicKey:
    """The half that devices get; its `keyid` is derived from it."""
    return key.public_key


def write_private_key(key: SigningKey, path: Path) -> None:
    """PKCS#8 PEM, readable by its owner only, never over an existing file. Raises InputError."""
    _write(path, key.private_bytes, 0o600)


def write_public_key(key: SigningKey | PublicKey, path: Path) -> None:
    """SubjectPublicKeyInfo PEM, never over an existing file. Raises InputError."""
    _write(path, public_pem(key), 0o644)


def public_pem(key: SigningKey | PublicKey) -> bytes:
    """The public half as SubjectPublicKeyInfo in PEM."""
    public = key if isinstance(key, SSlibKey) else public_key(key)
    crypto = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public.keyval["public"]))
    return crypto.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_private_key(path: Path) -> SigningKey:
    """An Ed25519 key from an unencrypted PEM file. Raises InputError."""
    try:
        key = load_pem_private_key(_read(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(
            "not an unencrypted Ed25519 private key in PEM",
            where=str(path),
            todo="Make one and name its file.",
        )
    return CryptoSigner(key)


def load_public_key(path: Path) -> PublicKey:
    """An Ed25519 key from a PEM file. Raises InputError."""
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(
            "not an Ed25519 public key in PEM",
            where=str(path),
            todo="It is the public half of the service's key.",
        )
    return SSlibKey.from_crypto(key)


def key_ring(*keys: PublicKey) -> dict[str, PublicKey]:
    """Keys by key id, as `open_envelope` takes them."""
    return {key.keyid: key for key in keys}


# ---- envelopes


def sign(message: Signed, key: SigningKey) -> bytes:
    """The message in a signed envelope. Raises InputError when it is too large for the wire."""
    envelope = Envelope(message.to_bytes(), PAYLOAD_TYPE, {})
    envelope.sign(key)
    data = _WireEnvelope.model_validate(envelope.to_dict()).model_dump_json(by_alias=True).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise InputError(f"a message of {len(data)} bytes is too large", todo=f"At most {MAX_MESSAGE_BYTES}.")
    return data


def open_envelope(
    data: bytes, keys: Mapping[str, PublicKey], tenant_id: str, client_id: str, expected: type[_S]
) -> _S:
    """The message that was signed for this device.

    Raises CommandError: MALFORMED (no envelope), BAD_SIGNATURE, WRONG_DEVICE, MALFORMED (another type, or unreadable),
    UNSUPPORTED_SCHEMA. From WRONG_DEVICE on the signature was good. Raises CommandRefusedError, a CommandError, where the
    message names this device, a job and a generation: then the sender can be told.
    """
    payload = _verified(data, keys)
    name = expected.__name__
    head = read_object(payload, name)
    named = (head.get("tenantId"), head.get("clientId"))
    if named != (tenant_id, client_id) and None not in named:
        raise CommandError(
            "it was signed for another device", reason=Reason.WRONG_DEVICE, where=f"{name}.tenantId/clientId"
        )
    try:
        wanted = expected.model_fields["type"].default
        if head.get("type") != wanted:
            raise CommandError(f"the message's type is not {wanted!r}", where=f"{name}.type")
        return parse(expected, payload)
    except CommandError as error:
        job_id, generation = head.get("jobId"), head.get("generation")
        sane = isinstance(job_id, str) and 0 < len(job_id) <= 64 and job_id.isprintable()
        counted = isinstance(generation, int) and not isinstance(generation, bool) and 0 < generation < 2**53
        if None not in named and sane and counted and expected is UpdateCommand:
            raise CommandRefusedError(error, str(job_id), int(str(generation))) from None
        raise


def _verified(data: bytes, keys: Mapping[str, PublicKey]) -> bytes:
    if len(data) > MAX_MESSAGE_BYTES:
        raise CommandError(f"{len(data)} bytes are too many", where="envelope")
    try:
        wire = _WireEnvelope.model_validate_json(data)
        envelope = Envelope.from_dict(wire.model_dump(by_alias=True))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(["envelope", *(str(part) for part in first["loc"])])
        raise CommandError(first["msg"], where=place) from None
    except (ValueError, KeyError, SecuresystemslibError) as error:
        raise CommandError(f"not a DSSE envelope: {error}", where="envelope") from None
    if envelope.payload_type != PAYLOAD_TYPE:
        raise CommandError("the payload is of another type", where="envelope.payloadType", todo=PAYLOAD_TYPE)
    trusted: list[Key] = [keys[s] for s in envelope.signatures if s in keys]
    try:
        if trusted:
            envelope.verify(trusted, 1)
            return envelope.payload
    except (SecuresystemslibError, ValueError):
        pass
    raise CommandError(
        "no signature of a key that is trusted here",
        reason=Reason.BAD_SIGNATURE,
        where="envelope.signatures",
        todo="Give the device the public key that the service signs with.",
    )


# ---- files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}", where=str(path), todo="Name the key's file."
        ) from None


def _write(path: Path, data: bytes, mode: int) -> None:
    """All or nothing, durable, and never over what is there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        finally:
            temporary.unlink()
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path)) from None


__all__ = [
    "PAYLOAD_TYPE",
    "CommandRefusedError",
    "PublicKey",
    "SigningKey",
    "generate_key",
    "key_ring",
    "load_private_key",
    "load_public_key",
    "open_envelope",
    "public_key",
    "sign",
    "write_private_key",
    "write_public_key",
]  # fmt: skip
