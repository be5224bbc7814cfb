"""The keys that an identity provider publishes (RFC 7517), fetched, checked, kept, and fetched again.

Answers come from memory. A key that is not known, or keys that have grown old, cause one fetch at a time and not
more than one in COOLDOWN_S, whatever tokens callers make up. A provider that is down does no harm while the last keys
are young enough; before there were any, or when a key is asked for that could have been added since, nobody can tell
who is asking: `KeysUnavailableError`, 503, not the caller's fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from reference.core.errors import InputError
from reference.service.auth import KeysUnavailableError, VerificationKey
from reference.support.addresses import is_loopback

COOLDOWN_S = 10.0
"""Least time between two fetches."""
REFRESH_S = 600.0
"""Keys older than this are fetched again, while the old ones still answer."""
STALE_S = 24 * 3600.0
"""Keys older than this answer no more: their withdrawal may have been missed."""
TIMEOUT_S = 5.0
"""For the whole of a fetch."""
MAX_BYTES = 256 * 1024
MAX_KEYS = 64
MIN_RSA_BITS = 2048
log = logging.getLogger(__name__)


class JwksKeys:
    """A `KeySource` over a JWKS URL."""

    def __init__(
        self, url: str, issuer: str, ca: Path | None = None, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`ca`: whom to trust with TLS, instead of the system's authorities. Raises InputError."""
        self._url, self._issuer = check_url(url), issuer
        self._now_s = now_s
        self._verify: ssl.SSLContext | bool = True
        if ca is not None:
            try:
                self._verify = ssl.create_default_context(cafile=str(ca))
            except (OSError, ssl.SSLError) as error:
                raise InputError(f"no certificates in PEM: {error}", where=str(ca)) from None
        self._keys: Mapping[str, VerificationKey] = {}
        self._loaded_s: float | None = None
        self._tried_s: float | None = None
        self._trouble = ""
        self._fetch: asyncio.Task[None] | None = None

    @property
    def issuer(self) -> str:
        """What the `iss` claim must say."""
        return self._issuer

    async def key(self, key_id: str) -> VerificationKey | None:
        """The key of that id, None when the provider has none. Raises KeysUnavailableError."""
        key = self._usable(key_id)
        if key is None:
            await self._refresh()
            key = self._usable(key_id)
            if key is None and self._trouble:
                raise KeysUnavailableError(
                    f"the identity provider's keys cannot be had: {self._trouble}", todo="Try again."
                )
        elif self._age_s() > REFRESH_S:
            self._begin()
        return key

    async def stop(self) -> None:
        """End a fetch that is under way."""
        if (fetch := self._fetch) is not None:
            fetch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await fetch

    def _age_s(self) -> float:
        return float("inf") if self._loaded_s is None else self._now_s() - self._loaded_s

    def _usable(self, key_id: str) -> VerificationKey | None:
        return self._keys.get(key_id) if self._age_s() <= STALE_S else None

    def _begin(self) -> asyncio.Task[None] | None:
        """The fetch under way, a new one, or None: it is too early for the next."""
        if self._fetch is not None and not self._fetch.done():
            return self._fetch
        if self._tried_s is not None and self._now_s() - self._tried_s < COOLDOWN_S:
            return None
        self._tried_s = self._now_s()
        self._fetch = asyncio.create_task(self._load())
        return self._fetch

    async def _refresh(self) -> None:
        if (fetch := self._begin()) is not None:
            # Shielded: many may wait for it, and one of them may give up. wait() does not raise what it raised.
            await asyncio.wait({fetch})

    async def _load(self) -> None:
        """Never raises: what went wrong is kept as words that a caller may read."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                keys = parse_jwks(await self._get())
        except (TimeoutError, httpx.TimeoutException):
            self._trouble = f"no answer within {TIMEOUT_S:g} s"
        except httpx.HTTPError as error:
            self._trouble = f"no connection ({type(error).__name__})"
        except KeysUnavailableError as error:
            self._trouble = error.what
        else:
            if self._trouble or keys.keys() != self._keys.keys():
                log.info("the identity provider's keys were fetched", extra={"key_ids": sorted(keys)})
            self._keys, self._loaded_s, self._trouble = keys, self._now_s(), ""
            return
        log.error(
            "the identity provider's keys cannot be fetched",
            extra={"url": self._url, "why": self._trouble, "kept": len(self._keys)},
        )

    async def _get(self) -> bytes:
        # No redirects, no proxies: what is believed comes from the configured place and nowhere else.
        async with (
            httpx.AsyncClient(verify=self._verify, timeout=TIMEOUT_S, trust_env=False) as http,
            http.stream("GET", self._url, headers={"Accept": "application/json"}) as answer,
        ):
            if answer.status_code != 200:
                raise KeysUnavailableError(f"it answers {answer.status_code}")
            content = bytearray()
            async for part in answer.aiter_bytes():
                content += part
                if len(content) > MAX_BYTES:
                    raise KeysUnavailableError(f"it answers with more than {MAX_BYTES} bytes")
            return bytes(content)


def check_url(url: str) -> str:
    """The URL itself: https, or http on loopback. Raises InputError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    if safe and host and not parts.username and not parts.fragment:
        return url
    raise InputError(
        f"{url[:200]!r} is no address for keys", where="--jwks-url", todo="https, or http on loopback."
    )


def parse_jwks(content: bytes) -> dict[str, VerificationKey]:
    """The keys that can be used here, by their ids. Others are left out: a provider may publish more than ours.

    Raises KeysUnavailableError when there is not one.
    """
    try:
        document: object = json.loads(content)
    except (ValueError, RecursionError):
        raise KeysUnavailableError("it answers with something that is not JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise KeysUnavailableError("it answers with something that is no key set (RFC 7517)")
    keys: dict[str, VerificationKey] = {}
    for entry in listed[:MAX_KEYS]:
        if isinstance(entry, dict) and (key := _parse_key(entry)) is not None:
            # The first of a name stays: an addition must not replace what was there.
            keys.setdefault(str(entry["kid"]), key)
    if not keys:
        raise KeysUnavailableError("its key set has no key for RS256 or ES256 with an id (kid)")
    return keys


def _parse_key(entry: Mapping[str, object]) -> VerificationKey | None:
    """A key with its algorithm, from `alg` or, without one, from its kind; they have to agree."""
    algorithm = {("RSA", None): "RS256", ("EC", "P-256"): "ES256"}.get(
        (str(entry.get("kty")), str(entry["crv"]) if "crv" in entry else None)
    )
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return None
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    key_id = entry.get("kid")
    if not isinstance(key_id, str) or not 1 <= len(key_id) <= 256:
        return None
    public = {name: entry[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in entry}
    try:
        key = jwt.PyJWK(public, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(key, RSAPublicKey):
        return VerificationKey(key, algorithm) if key.key_size >= MIN_RSA_BITS else None
    return VerificationKey(key, algorithm) if isinstance(key, EllipticCurvePublicKey) else None
