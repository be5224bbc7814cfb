"""Who may pull and push: a file of names and salted scrypt hashes (RFC 7914), readable by its owner alone."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reference.core.errors import InputError
from reference.oci.durable import write_durably
from reference.oci.fields import Fields, load_object
from reference.oci.manifests import canonical

MAX_USERS = 10_000
MAX_FILE_BYTES = 4 << 20
MAX_PASSWORD_BYTES = 1024
# OWASP, Password Storage Cheat Sheet: scrypt with N=2^15, r=8, p=3 (32 MiB, about 0.2 s); cached once verified.
_N, _R, _P, _MEMORY = 1 << 15, 8, 3, 64 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
_KNOWN = frozenset({"name", "salt", "scrypt", "push", "delete", "repositories"})
MAX_PATTERNS = 100
_PATTERN = re.compile(r"[a-z0-9._*/-]{1,255}")
ACTIONS = ("pull", "push", "delete")
"""What can be done to a repository; the words of Docker's token scopes."""


@dataclass(frozen=True, slots=True)
class User:
    """One account. It may pull; `push` is the right to add, `delete` (if not said: as `push`) the right to remove.

    All that in the repositories that one of `repositories` matches, where `*` stands for anything, `/` included.
    """

    name: str
    salt: bytes
    hash: bytes
    push: bool
    delete: bool | None = None
    repositories: tuple[str, ...] = ("*",)

    def may(self, action: str, repository: str) -> bool:
        """Whether the account may do one of ACTIONS in a repository."""
        if not any(fnmatch.fnmatchcase(repository, pattern) for pattern in self.repositories):
            return False
        if action == "delete":
            return self.push if self.delete is None else self.delete
        return action == "pull" or (action == "push" and self.push)

    def as_json(self) -> dict[str, object]:
        """The entry in the file."""
        entry: dict[str, object] = {
            "name": self.name,
            "salt": base64.b64encode(self.salt).decode(),
            "scrypt": base64.b64encode(self.hash).decode(),
            "push": "yes" if self.push else "no",
        }
        if self.delete is not None:
            entry["delete"] = "yes" if self.delete else "no"
        if self.repositories != ("*",):
            entry["repositories"] = list(self.repositories)
        return entry


def _hash(password: str, salt: bytes) -> bytes:
    secret = password.encode(errors="surrogateescape")
    return hashlib.scrypt(secret, salt=salt, n=_N, r=_R, p=_P, maxmem=_MEMORY, dklen=32)


def make_user(
    name: str,
    password: str,
    *,
    push: bool = False,
    delete: bool | None = None,
    repositories: tuple[str, ...] = ("*",),
) -> User:
    """A new account with a fresh salt. Raises InputError."""
    if _NAME.fullmatch(name) is None:
        raise InputError(f"{name!r} cannot be a user name", todo="Use letters, digits and . _ @ -.")
    if not password or len(password.encode(errors="surrogateescape")) > MAX_PASSWORD_BYTES:
        raise InputError(f"the password is empty or longer than {MAX_PASSWORD_BYTES} bytes", where=name)
    for pattern in repositories:
        if _PATTERN.fullmatch(pattern) is None:
            raise InputError(f"{pattern!r} is no pattern of repository names", where=name)
    salt = secrets.token_bytes(16)
    return User(name, salt, _hash(password, salt), push, delete, repositories)


@dataclass(slots=True)
class RegistryUsers:
    """All accounts, read once. `verify` takes 0.2 s the first time for each account, then microseconds."""

    users: Mapping[str, User]
    _verified: dict[str, bytes] = field(default_factory=dict)
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    @classmethod
    def load(cls, path: Path) -> RegistryUsers:
        """Read the file. Raises InputError when it is missing, malformed, or others may read it."""
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from error
        if status.st_mode & 0o077:
            raise InputError(
                "others may read or change the registry's users",
                where=str(path),
                todo=f"Run: chmod 600 {path}",
            )
        fields = load_object(data, str(path), limit_bytes=MAX_FILE_BYTES, error=InputError)
        fields.only(frozenset({"users"}))
        users: dict[str, User] = {}
        for entry in fields.children("users", at_most=MAX_USERS):
            user = _user(entry)
            if user.name in users:
                entry.refuse("name", f"{user.name!r} is given twice")
            users[user.name] = user
        return cls(users)

    def save(self, path: Path) -> None:
        """Write the file, mode 0600, at once or not at all. Raises InputError."""
        entries = [self.users[name].as_json() for name in sorted(self.users)]
        try:
            write_durably(path, canonical({"users": entries}) + b"\n", mode=0o600)
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", where=str(path)) from error

    def known(self, name: str, password: str) -> User | None:
        """The account when the password was verified before. At once; None says nothing."""
        user, mark = self.users.get(name), self._verified.get(name)
        if user is None or mark is None or not hmac.compare_digest(mark, self._mark(password)):
            return None
        return user

    def _mark(self, password: str) -> bytes:
        return hmac.digest(self._key, password.encode(errors="surrogateescape"), "sha256")

    def verify(self, name: str, password: str) -> User | None:
        """The account when the password is right. Blocks while it hashes: call it from a thread.

        An unknown name costs the same time as a wrong password.
        """
        user = self.users.get(name)
        if len(password.encode(errors="surrogateescape")) > MAX_PASSWORD_BYTES:
            return None
        if (known := self.known(name, password)) is not None:
            return known
        found = _hash(password, user.salt if user is not None else bytes(16))
        if user is None or not hmac.compare_digest(found, user.hash):
            return None
        self._verified[name] = self._mark(password)
        return user


def _user(fields: Fields) -> User:
    fields.only(_KNOWN)
    name = fields.text("name")
    if _NAME.fullmatch(name) is None:
        fields.refuse("name", "is not a user name")
    patterns: tuple[str, ...] = ("*",)
    if fields.has("repositories"):
        patterns = fields.texts("repositories")
        if len(patterns) > MAX_PATTERNS or not all(_PATTERN.fullmatch(pattern) for pattern in patterns):
            fields.refuse("repositories", "is no list of patterns of repository names")
    delete = _yes(fields, "delete") if fields.has("delete") else None
    salt, digest = _base64(fields, "salt", 16), _base64(fields, "scrypt", 32)
    return User(name, salt, digest, _yes(fields, "push"), delete, patterns)


def _yes(fields: Fields, key: str) -> bool:
    word = fields.text(key, "no")
    if word not in ("yes", "no"):
        fields.refuse(key, "is neither yes nor no")
    return word == "yes"


def _base64(fields: Fields, key: str, length: int) -> bytes:
    try:
        found = base64.b64decode(fields.text(key), validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != length:
        fields.refuse(key, f"is not {length} bytes in base64")
    return found
