"""Image references: `host[:port]/name[:tag][@digest]`.

Grammar of names and tags: OCI distribution specification 1.1, "Pulling manifests". The host is always written out:
unlike Docker, nothing is ever looked up at a host that nobody named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from reference.core.errors import InputError
from reference.oci.digests import check_digest

MAX_REFERENCE_CHARS = 1024
MAX_NAME_CHARS = 255
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(
    rf"(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\])(?::(?P<port>[0-9]{{1,5}}))?"
)


def is_name(text: str) -> bool:
    """Whether `text` is a repository name. Such a name has no empty, `.` or `..` part: safe as a path."""
    return len(text) <= MAX_NAME_CHARS and _NAME.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether `text` is a tag. Never `.` or `..`, no slash: safe as a file name."""
    return _TAG.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """Whether `text` is `host[:port]` of a registry: a dot, a port or `localhost` tells it from a name."""
    match = _HOST.fullmatch(text)
    if match is None:
        return False
    port = match["port"]
    if port is not None and not 1 <= int(port) <= 65535:
        return False
    return "." in text or ":" in text or text == "localhost"


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image is. `host` includes the port; at least one of `tag` and `digest` is given for a pull."""

    host: str
    name: str
    tag: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        """Raises InputError: a Reference that exists is valid."""
        where = "image reference"
        if not is_host(self.host):
            raise InputError(
                f"{self.host!r} is not a registry host",
                where=where,
                todo="Write host[:port]/name, for example localhost:5000/opc-core-client:2.1.0.",
            )
        if not is_name(self.name):
            raise InputError(
                f"{self.name!r} is not a repository name",
                where=where,
                todo="Use lower-case letters, digits, and . _ - / between them, 255 characters at most.",
            )
        if self.tag is not None and not is_tag(self.tag):
            raise InputError(
                f"{self.tag!r} is not a tag",
                where=where,
                todo="Use up to 128 letters, digits, _ . -, not starting with . or -.",
            )
        if self.digest is not None:
            check_digest(self.digest, where=where)

    @property
    def repository(self) -> str:
        """`host[:port]/name`, as `reference.core.model.Image.repository` holds it."""
        return f"{self.host}/{self.name}"

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest if there is one, else the tag. Raises InputError."""
        target = self.digest or self.tag
        if target is None:
            raise InputError(
                f"{self} names no version", where="image reference", todo="Add :tag or @sha256:..."
            )
        return target

    def with_digest(self, digest: str) -> Reference:
        """The same, pinned to content. Raises InputError."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.host}/{self.name}{tag}{digest}"


def parse_reference(text: str) -> Reference:
    """Read `host[:port]/name[:tag][@digest]`. Raises InputError that says which part is wrong."""
    if len(text) > MAX_REFERENCE_CHARS:
        raise InputError(
            f"longer than {MAX_REFERENCE_CHARS} characters", where="image reference", todo="Shorten it."
        )
    rest, at, digest = text.partition("@")
    host, slash, rest = rest.partition("/")
    if not slash or not is_host(host):
        raise InputError(
            f"{text!r} does not start with a registry host",
            where="image reference",
            todo="Write host[:port]/name[:tag][@digest], for example localhost:5000/opc-core-client:2.1.0.",
        )
    name, colon, tag = rest.partition(":")
    return Reference(host, name, tag if colon else None, digest if at else None)
