"""The key with which the service signs its commands (Ed25519), and the half of it that devices are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from reference.core.errors import InputError
from reference.pki import store


@dataclass(frozen=True, slots=True)
class SigningKeyFiles:
    """Paths of PEM files: the private key (PKCS 8, mode 0600) and the public key (SubjectPublicKeyInfo)."""

    private: Path
    public: Path


def command_signing_key(directory: Path) -> SigningKeyFiles:
    """The signing key in `directory`, made durably when there is none yet.

    Raises `InputError` when the folder cannot be used or the file there is no Ed25519 key.
    """
    files = SigningKeyFiles(
        store.make_dir(directory) / "command-signing.key", directory / "command-signing.pub"
    )
    with store.locked(directory):
        if not files.private.exists():
            store.write_private(files.private, ed25519.Ed25519PrivateKey.generate())
        key = store.read_private(files.private)
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise InputError(
                "not an Ed25519 key", where=str(files.private), todo="Move it away; a new one is made."
            )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        # Derived, so a lost or stale one is simply written again.
        if not files.public.exists() or files.public.read_bytes() != public:
            store.write(files.public, public, 0o644)
    return files
