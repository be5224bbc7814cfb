"""Answers to those who read: blobs, manifests, tags and referrers (distribution specification 1.1, end-2, 3, 8, 12)."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from reference.oci.digests import is_content_digest
from reference.oci.manifests import OCI_INDEX
from reference.oci.references import is_tag
from reference.registry import referrers
from reference.registry.access import Caller
from reference.registry.errors import Code, Refusal
from reference.registry.ranges import wanted
from reference.registry.storage import Storage, Stored

READ_BYTES = 1 << 20
_YEAR = "max-age=31536000"


def digest_given(text: str) -> str:
    """`text` if it is a digest. Raises Refusal (DIGEST_INVALID)."""
    if not is_content_digest(text):
        raise Refusal(
            Code.DIGEST_INVALID, "a digest is sha256: and 64, or sha512: and 128 lower-case hex digits"
        )
    return text


class Reading:
    """The handlers."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    async def version(self, _: Request, __: Caller) -> Response:
        """end-1: yes, this is such a registry, and you may be here."""
        return JSONResponse({})

    async def tags(self, request: Request, _: Caller) -> Response:
        """All tags, or `n` of them behind `last`; a Link leads to the rest."""
        name = request.path_params["name"]
        found = await asyncio.to_thread(self.storage.tags, name)
        if found is None:
            raise Refusal(Code.NAME_UNKNOWN, "no such repository")
        last, count = request.query_params.get("last", ""), _count(request.query_params.get("n"))
        rest = [tag for tag in found if tag > last]
        headers: dict[str, str] = {}
        if count is not None and count < len(rest):
            rest = rest[:count]
            if rest:
                query = urlencode({"n": count, "last": rest[-1]})
                headers["Link"] = f'</v2/{name}/tags/list?{query}>; rel="next"'
        return JSONResponse({"name": name, "tags": rest}, headers=headers)

    async def referrers(self, request: Request, _: Caller) -> Response:
        """What refers to a digest, which need not exist; filtered by `artifactType`, in pages that fit an index."""
        name, subject = request.path_params["name"], digest_given(request.path_params["digest"])
        found = await asyncio.to_thread(self.storage.referrers, name, subject)
        kind, after = request.query_params.get("artifactType"), request.query_params.get("last")
        headers: dict[str, str] = {}
        if kind is not None:
            found = [entry for entry in found if entry.artifact_type == kind]
            headers["OCI-Filters-Applied"] = "artifactType"
        body, last = referrers.page(found, after)
        if last is not None:
            query = urlencode({"last": last, **({"artifactType": kind} if kind is not None else {})})
            headers["Link"] = f'</v2/{name}/referrers/{subject}?{query}>; rel="next"'
        return Response(body, headers=headers, media_type=OCI_INDEX)

    async def manifest(self, request: Request, _: Caller) -> Response:
        """A manifest as it was pushed, if its media type is one that the client takes."""
        name, reference = request.path_params["name"], request.path_params["reference"]
        valid = is_content_digest(reference) or is_tag(reference)
        found = await asyncio.to_thread(self.storage.find_manifest, name, reference) if valid else None
        if found is None:
            raise Refusal(Code.MANIFEST_UNKNOWN, "no such manifest in this repository")
        if not _accepts(request.headers.getlist("accept"), found.media_type):
            raise Refusal(Code.MANIFEST_UNKNOWN, f"it is {found.media_type}, which Accept leaves out")
        headers = _content_headers(found.digest, len(found.data)) | {"Vary": "Accept"}
        if _has_it(request, found.digest):
            return Response(status_code=304, headers={"ETag": headers["ETag"]})
        return _manifest_answer(request, found, headers)

    async def blob(self, request: Request, _: Caller) -> Response:
        """A blob or a range of it; never more than a piece of it in memory."""
        name, digest = request.path_params["name"], digest_given(request.path_params["digest"])
        path = await asyncio.to_thread(self.storage.find_blob, name, digest)
        if path is None:
            raise Refusal(Code.BLOB_UNKNOWN, "no such blob in this repository")
        size = (await asyncio.to_thread(path.stat)).st_size
        part = wanted(_range(request, digest), size)
        start, count = part if part is not None else (0, size)
        headers = _content_headers(digest, count) | {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "Cache-Control": _YEAR,
        }
        if request.method == "HEAD":
            return Response(headers=headers)
        if _has_it(request, digest):
            return Response(status_code=304, headers={"ETag": headers["ETag"]})
        if part is not None:
            headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size}"
        return StreamingResponse(read_pieces(path, start, count), 200 if part is None else 206, headers)


def _manifest_answer(request: Request, found: Stored, headers: dict[str, str]) -> Response:
    body = b"" if request.method == "HEAD" else found.data
    return Response(body, headers=headers | {"Content-Type": found.media_type})


def _content_headers(digest: str, count: int) -> dict[str, str]:
    return {"Content-Length": str(count), "Docker-Content-Digest": digest, "ETag": f'"{digest}"'}


def _has_it(request: Request, digest: str) -> bool:
    """If-None-Match (RFC 9110, 13.1.2): a digest is as good as content gets."""
    given = request.headers.get("if-none-match", "")
    return any(tag.strip().removeprefix("W/").strip('"') == digest for tag in given.split(","))


def _range(request: Request, digest: str) -> str | None:
    """The Range, unless If-Range (RFC 9110, 13.1.5) says that it is a range of something else."""
    if request.method != "GET":
        return None
    condition = request.headers.get("if-range")
    if condition is not None and condition.strip() != f'"{digest}"':
        return None
    return request.headers.get("range")


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Refusal(Code.PAGINATION_INVALID, "n has to be a number")
    return int(text)


def _accepts(headers: list[str], media_type: str) -> bool:
    """Whether an Accept (RFC 9110, 12.5.1) takes a media type; a client that says nothing takes all."""
    offers = [offer.strip() for header in headers for offer in header.split(",") if offer.strip()]
    if not offers:
        return True
    group = media_type.partition("/")[0]
    for offer in offers:
        kind, *parameters = [part.strip().lower() for part in offer.split(";")]
        refused = any(p.startswith("q=") and not p[2:].strip("0.") for p in parameters)
        if kind in (media_type, f"{group}/*", "*/*") and not refused:
            return True
    return False


async def read_pieces(path: Path, start: int, count: int) -> AsyncIterator[bytes]:
    """`count` bytes of a file from `start`. The next piece is read while this one is being sent."""
    loop = asyncio.get_running_loop()
    file = await asyncio.to_thread(io.FileIO, path, "rb")
    ahead: asyncio.Future[bytes] | None = None
    try:
        if start:
            file.seek(start)
        ahead = loop.run_in_executor(None, _read, file, min(count, READ_BYTES))
        while count > 0:
            piece = await ahead
            if not piece:
                return
            count -= len(piece)
            ahead = loop.run_in_executor(None, _read, file, min(count, READ_BYTES))
            yield piece
    finally:
        # A closed number may be given to another file at once: never under the hands of a thread.
        if ahead is not None and not ahead.done():
            await asyncio.shield(asyncio.wait([ahead]))
        file.close()


def _read(file: io.FileIO, count: int) -> bytes:
    return file.read(count) or b"" if count > 0 else b""
