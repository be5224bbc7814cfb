"""The HTTP side of a pull: one repository on one registry (OCI distribution specification 1.1, "Pull").

Credentials go to their own host only, whatever it redirects to. Silence is ended by a watchdog: any byte of an answer
feeds it.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import httpx

from reference.core.errors import DeviceError, ImageError, Reason, RegistryError
from reference.edge.runtimes.bearer import Access, Doorman, shown
from reference.oci import manifests
from reference.oci.digests import sha256_of

_MAX_REDIRECTS = 3
_MAX_REFUSALS = 3
"""Answers of 401 to one request before it is given up."""
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a registry may take, in ms."""

    connect_ms: int
    stall_ms: int
    slow_bytes: int = 16 * 1024
    """What has to come in `slow_ms` at least: a byte now and then is no silence, and would never end."""
    slow_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class Content:
    """A blob on its way: where in it the first byte of `chunks` lies."""

    start: int
    chunks: AsyncIterator[bytes]


class RangeError(Exception):
    """The registry does not continue where it was asked to: begin again at the first byte."""


@asynccontextmanager
async def opened(access: Access, patience: Patience) -> AsyncIterator[httpx.AsyncClient]:
    """A client for one pull. Raises DeviceError when the certificates to check registries with cannot be read."""
    try:
        ca_file = access.ca_file
        trust = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except OSError as error:
        what = f"the certificates of registries cannot be read: {error}"
        raise DeviceError(what, where=str(access.ca_file), todo="Correct registry_ca.") from error
    # Neither proxies nor .netrc from the environment: credentials go where the configuration says.
    async with httpx.AsyncClient(
        verify=trust,
        timeout=httpx.Timeout(None, connect=patience.connect_ms / 1000),
        trust_env=False,
        follow_redirects=False,
    ) as client:
        yield client


class Repository:
    """One repository on one registry, over one pull."""

    def __init__(
        self, client: httpx.AsyncClient, access: Access, patience: Patience, host: str, name: str
    ) -> None:
        self._client = client
        self._access = access
        self._patience = patience
        self._stall_ms = patience.stall_ms
        scheme = "http" if host in access.plain_http_hosts else "https"
        self._home = f"{scheme}://{host}/"
        self._base = f"{self._home}v2/{name}"
        self._doorman = Doorman(client, access, host, name)

    async def manifest(self, digest: str, size: int | None = None) -> tuple[bytes, str | None]:
        """The manifest or index of this digest, checked, and what the registry says it is."""
        data = bytearray()
        url = f"{self._base}/manifests/{digest}"
        async with self._get(url, {"Accept": manifests.ACCEPT}) as response:
            kind = response.headers.get("Content-Type")
            async for chunk in response.chunks:
                data += chunk
                if len(data) > manifests.MAX_MANIFEST_BYTES:
                    what = f"the manifest is larger than {manifests.MAX_MANIFEST_BYTES} bytes"
                    raise ImageError(what, reason=Reason.IMAGE_TOO_LARGE, where=url)
        if sha256_of(bytes(data)) != digest or size not in (None, len(data)):
            raise corrupt(url, f"the manifest is not the one that was asked for ({len(data)} bytes)")
        return bytes(data), kind

    def blob_url(self, digest: str) -> str:
        """Where a blob is."""
        return f"{self._base}/blobs/{digest}"

    @asynccontextmanager
    async def blob(self, digest: str, start: int, size: int) -> AsyncIterator[Content]:
        """A blob's bytes from `start` on, or from 0 on when the registry does not do ranges: `Content.start` tells.

        Raises RangeError when it answers with another part than it was asked for, RegistryError for all else.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self._get(self.blob_url(digest), headers) as response:
            if response.status == 416:
                raise RangeError
            if response.status == 206 and not _continues(response.headers, start, size):
                raise RangeError
            yield Content(start if response.status == 206 else 0, response.chunks)

    @asynccontextmanager
    async def _get(self, url: str, headers: dict[str, str]) -> AsyncIterator[_Answer]:
        """Stream a body; every failure of the way comes out as a RegistryError."""
        watchdog = asyncio.timeout(self._stall_ms / 1000)
        try:
            async with watchdog, self._open(url, headers) as response:
                self._feed(watchdog)
                yield _Answer(response.status_code, response.headers, self._fed(response, watchdog))
        except TimeoutError as error:
            what = f"no byte came for {self._stall_ms} ms"
            raise RegistryError(what, reason=Reason.PULL_STALLED, where=url) from error
        except httpx.HTTPError as error:
            what = f"the registry cannot be reached or broke off: {str(error) or type(error).__name__}"
            raise RegistryError(what, reason=Reason.REGISTRY_UNREACHABLE, where=url) from error
        except (httpx.InvalidURL, httpx.StreamError) as error:
            raise RegistryError(f"the registry's answer is unusable: {error}", where=url) from error

    def _feed(self, watchdog: asyncio.Timeout) -> None:
        watchdog.reschedule(asyncio.get_running_loop().time() + self._stall_ms / 1000)

    async def _fed(self, response: httpx.Response, watchdog: asyncio.Timeout) -> AsyncIterator[bytes]:
        now = asyncio.get_running_loop().time
        began, came = now(), 0
        async for chunk in response.aiter_raw():
            self._feed(watchdog)
            came += len(chunk)
            if (now() - began) * 1000 >= self._patience.slow_ms:
                if came < self._patience.slow_bytes:
                    what = f"only {came} bytes came in {self._patience.slow_ms} ms"
                    raise RegistryError(what, reason=Reason.PULL_STALLED, where=shown(str(response.url)))
                began, came = now(), 0
            yield chunk

    @asynccontextmanager
    async def _open(self, url: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """The answer, after redirects: followed to TLS only, and without credentials once the host is another."""
        redirects = refusals = 0
        while redirects <= _MAX_REDIRECTS and refusals < _MAX_REFUSALS:
            parts = _parts(url)
            if parts.username or parts.password:
                raise RegistryError(
                    "a redirect that carries credentials was not followed", where=parts.hostname or ""
                )
            if parts.scheme != "https" and parts.netloc not in self._access.plain_http_hosts:
                raise RegistryError("a redirect to a host without TLS was not followed", where=shown(url))
            home = url.startswith(self._home)
            said = {
                **headers,
                "Accept-Encoding": "identity",
                **(await self._doorman.header() if home else {}),
            }
            async with self._client.stream("GET", url, headers=said) as response:
                if response.has_redirect_location:
                    url = str(httpx.URL(url).join(response.headers["Location"]))
                    redirects += 1
                elif response.status_code == 401 and home and await self._doorman.refused(response, refusals):
                    refusals += 1
                else:
                    _check_status(response, shown(url), ranged="Range" in headers)
                    yield response
                    return
        if refusals >= _MAX_REFUSALS:
            raise RegistryError(
                _STATUS[401][1], reason=_STATUS[401][0], where=shown(url), todo=_STATUS[401][2]
            )
        raise RegistryError(f"more than {_MAX_REDIRECTS} redirects", where=shown(url))


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: httpx.Headers
    chunks: AsyncIterator[bytes]


def _parts(url: str) -> SplitResult:
    """The address taken apart. Raises RegistryError for one that no connection can be made to."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise RegistryError("the registry redirects to an unusable address", where=shown(url)) from None
    return parts


def _continues(headers: httpx.Headers, start: int, size: int) -> bool:
    """Whether a 206 is the rest that was asked for (RFC 9110, section 14.4)."""
    found = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if found is None or start == 0:
        return False
    first, last, whole = int(found[1]), int(found[2]), found[3]
    return first == start and first <= last < size and whole in ("*", str(size))


_STATUS = {
    401: (Reason.REGISTRY_UNAUTHORIZED, "the registry wants other credentials", "Correct the device's credentials."),
    403: (Reason.REGISTRY_DENIED, "the registry refuses this image to this device", "Give the device's user the right."),
    404: (Reason.IMAGE_UNKNOWN, "the registry does not have it", "Push the image, or correct the version's digest."),
    429: (Reason.REGISTRY_THROTTLED, "the registry is asked too often", ""),
}  # fmt: skip


def _check_status(response: httpx.Response, url: str, *, ranged: bool) -> None:
    status = response.status_code
    if status == 200 or (ranged and status in (206, 416)):
        return
    default = (Reason.REGISTRY_ERROR, f"the registry answers {status}", "")
    reason, what, todo = _STATUS.get(status, default)
    raise RegistryError(what, reason=reason, where=url, todo=todo)


def corrupt(url: str, what: str) -> RegistryError:
    """What came is not what was named."""
    return RegistryError(f"what came is damaged: {what}", reason=Reason.PULL_CORRUPT, where=url)
