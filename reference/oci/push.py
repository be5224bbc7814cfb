"""Push an image layout to a registry (OCI distribution specification 1.1, "Pushing manifests")."""

from __future__ import annotations

import ipaddress
import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reference.core.errors import ImageError, InputError, Reason, RegistryError
from reference.oci.digests import READ_BYTES, sha256_of_file
from reference.oci.layout import Layout, read_layout
from reference.oci.manifests import Descriptor
from reference.oci.references import Reference

if TYPE_CHECKING:  # httpx costs 100 ms to import, which only a push should pay.
    import httpx

TIMEOUT_S = 30.0
"""Longest silence of the registry: each read, each write, the connection."""
MAX_ERROR_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class PushProgress:
    """How far a push is, in bytes of layers and configuration. `skipped`: this blob was there already."""

    digest: str
    done_bytes: int
    total_bytes: int
    skipped: bool = False


OnPush = Callable[[PushProgress], None]


def push_image(
    layout: Path,
    reference: Reference,
    *,
    credentials: tuple[str, str] | None = None,
    plain_http: bool = False,
    ca_file: Path | None = None,
    progress: OnPush | None = None,
) -> str:
    """Push the one image of `layout` under the tag (or digest) of `reference`; answers its digest.

    What the registry has already is not sent again. Raises InputError (no layout, no tag, a bad CA file), ImageError
    (content that does not match its digest), RegistryError with registry_unreachable, _unauthorized, _denied,
    _throttled or _error.
    """
    import httpx

    image = read_layout(layout)
    target = reference.target
    if reference.digest is not None and reference.digest != image.descriptor.digest:
        raise InputError(
            f"the image is {image.descriptor.digest}", where=str(reference), todo="Push it by a tag."
        )
    verify: ssl.SSLContext | bool = _tls(ca_file) if not plain_http else False
    base = f"{'http' if plain_http else 'https'}://{reference.host}"
    local = _is_loopback(reference.host)
    try:
        with httpx.Client(
            base_url=base, verify=verify, timeout=TIMEOUT_S, trust_env=not local, follow_redirects=False
        ) as client:
            push = _Push(client, image, reference, credentials, progress)
            return push.run(target)
    except httpx.InvalidURL as error:
        raise InputError(f"not an address: {error}", where=str(reference)) from error
    except httpx.HTTPError as error:
        raise RegistryError(
            f"did not answer: {str(error) or type(error).__name__}",
            reason=Reason.REGISTRY_UNREACHABLE,
            where=base,
            todo="Check that the registry runs there and that its certificate is trusted.",
        ) from error


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
    except (OSError, ssl.SSLError) as error:
        raise InputError("not a file of CA certificates", where=str(ca_file), todo="Give PEM.") from error


def _is_loopback(host: str) -> bool:
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


class _Push:
    """One push: the connection, the image and how far it is."""

    def __init__(
        self,
        client: httpx.Client,
        image: Layout,
        reference: Reference,
        credentials: tuple[str, str] | None,
        progress: OnPush | None,
    ) -> None:
        self.client, self.image, self.reference = client, image, reference
        self.credentials, self.progress = credentials, progress
        self.done_bytes = 0
        self.prefix = f"/v2/{reference.name}"

    def run(self, target: str) -> str:
        for blob in dict.fromkeys(b.digest for b in self.image.blobs):
            self._blob(next(b for b in self.image.blobs if b.digest == blob))
        descriptor = self.image.descriptor
        answer = self._ask(
            "PUT",
            f"{self.prefix}/manifests/{target}",
            content=self.image.manifest_bytes,
            headers={"Content-Type": descriptor.media_type},
        )
        self._expect(answer, 201)
        stored = answer.headers.get("docker-content-digest", descriptor.digest)
        if stored != descriptor.digest:
            raise RegistryError(f"stored {stored} instead of {descriptor.digest}", where=str(self.reference))
        return descriptor.digest

    def _blob(self, blob: Descriptor) -> None:
        path = self.image.blob(blob.digest)
        try:
            found = sha256_of_file(path)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}", where=str(path)) from error
        if found != (blob.digest, blob.size):
            raise ImageError("does not match its digest", where=str(path), todo="Build the image again.")
        known = self._ask("HEAD", f"{self.prefix}/blobs/{blob.digest}")
        if known.status_code == 200:
            self._advance(blob, blob.size, skipped=True)
            return
        self._expect(known, 404)
        started = self._ask("POST", f"{self.prefix}/blobs/uploads/", headers={"Content-Length": "0"})
        self._expect(started, 202)
        location = started.headers.get("location", "")
        if not location:
            raise RegistryError("named no place to upload to", where=str(self.reference))
        target = self.client.base_url.join(location).copy_merge_params({"digest": blob.digest})
        answer = self._ask(
            "PUT",
            str(target),
            content=self._pieces(path, blob),
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)},
        )
        self._expect(answer, 201)

    def _pieces(self, path: Path, blob: Descriptor) -> Iterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(READ_BYTES):
                yield piece
                self._advance(blob, len(piece))

    def _advance(self, blob: Descriptor, count: int, *, skipped: bool = False) -> None:
        self.done_bytes += count
        if self.progress is not None:
            total = self.image.manifest.size_bytes
            self.progress(PushProgress(blob.digest, self.done_bytes, total, skipped))

    def _ask(
        self,
        method: str,
        url: str,
        *,
        content: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        target = self.client.base_url.join(url)
        base = self.client.base_url
        # A registry may send uploads elsewhere; the credentials are for this registry alone.
        ours = (target.scheme, target.host, target.port) == (base.scheme, base.host, base.port)
        auth = self.credentials if ours else None
        return self.client.request(method, target, content=content, headers=headers, auth=auth)

    def _expect(self, answer: httpx.Response, status: int) -> None:
        if answer.status_code == status:
            return
        reason, todo = _REASONS.get(answer.status_code, (Reason.REGISTRY_ERROR, ""))
        if answer.status_code == 401 and self.credentials is not None:
            todo = "Check the user name and the password."
        what = f"answered {answer.status_code} to {answer.request.method} {answer.request.url.path}"
        raise RegistryError(what + _detail(answer), reason=reason, where=str(self.reference), todo=todo)


_REASONS = {
    401: (Reason.REGISTRY_UNAUTHORIZED, "Give the registry's user name and password."),
    403: (Reason.REGISTRY_DENIED, "Use an account that may push there."),
    429: (Reason.REGISTRY_THROTTLED, "Wait a while and push again."),
}


def _detail(answer: httpx.Response) -> str:
    """The registry's own words (distribution specification, "Error Codes"), when it has any."""
    try:
        errors = json.loads(answer.content[:MAX_ERROR_BYTES])["errors"]
        code, message = errors[0]["code"], errors[0].get("message", "")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    return f": {str(code)[:80]} {str(message)[:300]}".rstrip()
