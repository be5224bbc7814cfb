"""HTTPS: a certificate from files or from the development authority, read again when its files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from reference.core.errors import InputError
from reference.pki.authority import DevelopmentCA

LOOK_S = 10.0
"""How often the files are looked at."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """PEM files: a certificate, with what leads to its authority after it, and its key."""

    cert: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, HTTP/1.1. Raises InputError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self.load(context)
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Put what the files hold now into a context: connections from now on use it. Raises InputError."""
        try:
            context.load_cert_chain(self.cert, self.key, password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"the certificate and its key cannot be used: {error}",
                where=f"{self.cert}, {self.key}",
                todo="Give two readable PEM files that belong together; the key without a password.",
            ) from None

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """What changes with the files. Raises OSError."""
        found = [path.stat() for path in (self.cert, self.key)]
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)


def development_files(ca_dir: Path, host: str) -> ServerFiles:
    """A certificate of the development authority in `ca_dir` for `host` and loopback. Raises InputError."""
    unspecified = host in ("0.0.0.0", "::")  # noqa: S104 (a comparison, no listening)
    issued = DevelopmentCA.open_or_create(ca_dir).issue_server("service", () if unspecified else (host,))
    return ServerFiles(issued.cert, issued.key)


async def keep_fresh(files: ServerFiles, context: ssl.SSLContext, look_s: float = LOOK_S) -> None:
    """Load the files again whenever they change, until cancelled. What cannot be used is logged and left."""
    seen = await asyncio.to_thread(files.stamp)
    while True:
        await asyncio.sleep(look_s)
        try:
            now = await asyncio.to_thread(files.stamp)
            if now == seen:
                continue
            seen = now
            # Tried on a context of its own first: half of a pair must not spoil the one in use.
            await asyncio.to_thread(files.context)
            files.load(context)
            log.info("the certificate was read again", extra={"file": str(files.cert)})
        except (InputError, OSError) as error:
            log.error("the certificate cannot be read again; the old one stays in use: %s", error)
