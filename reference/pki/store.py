"""Key and certificate files: written so that a power cut leaves the old file or the new one, read with clear errors."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from reference.core.errors import InputError

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def make_dir(directory: Path) -> Path:
    """Make a folder that only its owner may read. Raises `InputError` when that cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(
            f"the folder cannot be made: {error.strerror}",
            where=str(directory),
            todo="Choose another folder.",
        ) from error
    return directory


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes from making the same keys at the same time."""
    fd = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write(path: Path, content: bytes, mode: int) -> None:
    """Durable: temp, fsync, rename, fsync of the folder. Raises `InputError` when the disk refuses."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(content)
            file.flush()
            os.fsync(fd)
        temp.rename(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise InputError(
            f"the file cannot be written: {error.strerror}",
            where=str(path),
            todo="Check the disk and its rights.",
        ) from error


def write_private(path: Path, key: PrivateKey) -> None:
    """A private key, PKCS 8 in PEM, readable by its owner only."""
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write(path, pem, 0o600)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the file cannot be read: {error.strerror}", where=str(path), todo="Check that it exists."
        ) from error


def read_private(path: Path) -> PrivateKey:
    """The private key in a PEM file. Raises `InputError` when there is none of ours in it."""
    content = _read(path)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(
            "no private key in PEM", where=str(path), todo="Move the folder away; a new one is made."
        ) from error
    if isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        return key
    raise InputError(
        f"a key of an unexpected kind ({type(key).__name__})",
        where=str(path),
        todo="Move the folder away; a new one is made.",
    )


def read_certificate(path: Path) -> x509.Certificate:
    """The certificate in a PEM file. Raises `InputError` when there is none in it."""
    content = _read(path)
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise InputError(
            "no certificate in PEM", where=str(path), todo="Move the folder away; a new one is made."
        ) from error
