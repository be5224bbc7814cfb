"""The device's key and certificate on its disk: made new beside the old ones, and put in their place all at once.

    DIR/pending.key             a key that has no certificate yet; survives until it has one
    DIR/identities/SERIAL/      key.pem, cert.pem, ca.pem: whole, as it appears under its name
    DIR/identity                symbolic link to the one in use: renewing is one rename of this link

A private key is made here, mode 0600, and never leaves. Cut anywhere, what was in use is still whole, and whoever
comes again goes on with the same pending key, for which the service answers the same certificate.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from reference.core.errors import DeviceError, InputError
from reference.pki.names import Device, peer_of
from reference.support.files import fsync_dir, write_durably
from reference.support.mqtt import TlsFiles

T = TypeVar("T")
KEY, CERT, CA = "key.pem", "cert.pem", "ca.pem"


@dataclass(frozen=True, slots=True)
class Certified:
    """What the service made of a key. All in PEM."""

    certificate: str
    authority: str
    """Who signed it."""
    broker_ca: str
    """Whom to trust at the broker."""


class Identities:
    """The folder of a device. Everything raises DeviceError when the disk refuses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pending = folder / "pending.key"
        self._all = folder / "identities"
        self.link = folder / "identity"

    @classmethod
    def of(cls, tls: TlsFiles) -> Identities | None:
        """Of files that lie in one; None when somebody else keeps them."""
        found = cls(tls.cert.parent.parent)
        return found if tls.cert.parent == found.link and found.link.is_symlink() else None

    @property
    def files(self) -> TlsFiles:
        """What is in use, by way of the link."""
        return files_in(self.link)

    def pending_key(self) -> ec.EllipticCurvePrivateKey:
        """The key that has no certificate yet: the one of the last try, or a new one."""
        return self._guard(self._pending_key)

    def _pending_key(self) -> ec.EllipticCurvePrivateKey:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._pending.exists():
            try:
                return load_key(self._pending)
            except InputError:
                pass  # damaged: no certificate can rest on it, as it cannot be read
        key = ec.generate_private_key(ec.SECP256R1())
        write_durably(self._pending, _pem(key), 0o600)
        return key

    def drop_pending(self) -> None:
        """That key is of no use."""
        self._guard(lambda: self._pending.unlink(missing_ok=True))

    def drop_used(self) -> None:
        """A pending key that is in use already, because a cut came before `tidy`, gets no second certificate."""
        if self._pending.exists() and self.link.exists():
            pending = self._guard(self._pending_key)
            if load_certificate(self.files.cert).public_key() == pending.public_key():
                self.drop_pending()

    def keep(self, key: ec.EllipticCurvePrivateKey, certified: Certified) -> Path:
        """Put a new identity beside the one in use. Raises DeviceError for a certificate that is none for this key."""
        cert = check(certified, key)
        return self._guard(lambda: self._keep(key, cert, certified))

    def _keep(self, key: ec.EllipticCurvePrivateKey, cert: x509.Certificate, certified: Certified) -> Path:
        self._all.mkdir(exist_ok=True, mode=0o700)
        fsync_dir(self.folder)
        target = self._all / f"{cert.serial_number:x}"
        if target.exists():  # it got its name when it was whole
            return target
        making = self._all / ".new"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        write_durably(making / KEY, _pem(key), 0o600)
        write_durably(making / CERT, certified.certificate.encode(), 0o644)
        write_durably(making / CA, certified.broker_ca.encode(), 0o644)
        making.rename(target)
        fsync_dir(self._all)
        return target

    def kept_for(self, key: ec.EllipticCurvePrivateKey) -> Path | None:
        """An identity with that key that was kept before, whether it is in use or not."""
        for found in self._guard(lambda: sorted(self._all.glob("[0-9a-f]*"))):
            if load_certificate(found / CERT).public_key() == key.public_key():
                return found
        return None

    def use(self, identity: Path) -> None:
        """From now on this is the one in use, also after a cut."""
        self._guard(lambda: self._use(identity))

    def _use(self, identity: Path) -> None:
        new = self.folder / ".identity.new"
        new.unlink(missing_ok=True)
        new.symlink_to(Path(self._all.name) / identity.name)
        new.replace(self.link)
        fsync_dir(self.folder)

    def tidy(self) -> None:
        """Take away what is not in use: the pending key, and old identities with their keys."""
        self._guard(self._tidy)

    def _tidy(self) -> None:
        self._pending.unlink(missing_ok=True)
        used = self.link.readlink().name
        gone = self._all / ".gone"
        shutil.rmtree(gone, ignore_errors=True)
        for found in sorted(self._all.iterdir()):
            if found.name != used:
                # Under its own name an identity is whole, or not there.
                found.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)

    def _guard(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except OSError as error:
            raise DeviceError(
                f"the device's identity cannot be kept: {error.strerror}",
                where=str(error.filename or self.folder),
                todo="Check the disk and its rights.",
            ) from None


def files_in(identity: Path) -> TlsFiles:
    """The files of an identity."""
    return TlsFiles(identity / CA, identity / CERT, identity / KEY)


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Raises InputError."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"no key in PEM: {error}", where=str(path)) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError("not an EC key", where=str(path))
    return key


def load_certificate(path: Path) -> x509.Certificate:
    """Raises InputError."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"no certificate in PEM: {error}", where=str(path)) from None


def device_of(cert: x509.Certificate) -> Device:
    """Whose certificate it is. Raises DeviceError."""
    names = {attribute.rfc4514_attribute_name: str(attribute.value) for attribute in cert.subject}
    try:
        peer = peer_of(names.get("CN", ""), names.get("O", ""))
    except InputError:
        peer = None
    if not isinstance(peer, Device):
        raise DeviceError("the certificate that came is no device's", where="certificate")
    return peer


def check(certified: Certified, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """The certificate, when it is one for this key, by the authority that came with it. Raises DeviceError."""
    cert: x509.Certificate | None
    try:
        cert = x509.load_pem_x509_certificate(certified.certificate.encode())
        cert.verify_directly_issued_by(x509.load_pem_x509_certificate(certified.authority.encode()))
        x509.load_pem_x509_certificates(certified.broker_ca.encode())
    except (ValueError, TypeError, InvalidSignature):
        cert = None
    if cert is None or cert.public_key() != key.public_key():
        raise DeviceError(
            "what came is no certificate for this device's key",
            where="certificate",
            todo="Is the address the service's? Ask who runs it.",
        )
    device_of(cert)
    return cert


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
