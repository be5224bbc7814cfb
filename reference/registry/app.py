"""The registry's HTTP side: OCI distribution specification 1.1, pull and push (its end-1 to end-7, and end-8a).

Handlers check what came in, ask the storage, and answer; every refusal is an error of the specification.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from reference.core.errors import ImageError
from reference.oci.digests import is_digest, sha256_of
from reference.oci.manifests import INDEX_TYPES, MANIFEST_TYPES, MAX_MANIFEST_BYTES, Index, parse_document
from reference.oci.references import is_name, is_tag
from reference.registry.errors import Code, Refusal
from reference.registry.ranges import check_chunk, wanted
from reference.registry.storage import Storage
from reference.registry.uploads import Upload, Uploads
from reference.registry.users import RegistryUsers

READ_BYTES = 1 << 18
MAX_BLOB_BYTES = 16 << 30
API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="blackstart registry", charset="UTF-8"'}
_log = logging.getLogger("blackstart.registry")

Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    storage: Storage, users: RegistryUsers | None, *, max_blob_bytes: int = MAX_BLOB_BYTES
) -> Starlette:
    """The ASGI application over `storage`. `users` None: everyone may do everything."""
    registry = _Registry(storage, users, max_blob_bytes)
    return Starlette(
        routes=registry.routes(),
        exception_handlers={404: _not_found, 405: _not_found},
    )


async def _not_found(_: Request, error: Exception) -> Response:
    unsupported = isinstance(error, HTTPException) and error.status_code == 405
    if unsupported:
        return Refusal(Code.UNSUPPORTED, "this registry does not do that").response()
    return Refusal(Code.NOT_FOUND, "there is nothing here").response()


class _Registry:
    def __init__(self, storage: Storage, users: RegistryUsers | None, max_blob_bytes: int) -> None:
        self.storage, self.users = storage, users
        self.uploads = Uploads(storage, max_blob_bytes=max_blob_bytes)
        self.hashing = asyncio.Semaphore(2)

    def routes(self) -> list[Route]:
        base = "/v2/{name:path}"
        upload = base + "/blobs/uploads/{upload}"
        pull: list[tuple[str, Handler]] = [
            ("/v2/", self.version),
            ("/v2", self.version),
            (base + "/tags/list", self.tags),
            (base + "/blobs/{digest}", self.get_blob),
            (base + "/manifests/{reference}", self.get_manifest),
        ]
        push: list[tuple[str, str, Handler]] = [
            (base + "/blobs/uploads/", "POST", self.start_upload),
            (base + "/blobs/uploads", "POST", self.start_upload),
            (upload, "GET", self.upload_status),
            (upload, "PATCH", self.patch_upload),
            (upload, "PUT", self.finish_upload),
            (upload, "DELETE", self.cancel_upload),
            (base + "/manifests/{reference}", "PUT", self.put_manifest),
        ]
        return [
            Route("/healthz", _healthz),
            *(Route(path, self._guarded(handler, push=True), methods=[m]) for path, m, handler in push),
            *(Route(path, self._guarded(handler, push=False)) for path, handler in pull),
        ]

    # ---- who may, and how it is said that something went wrong

    def _guarded(self, handler: Handler, *, push: bool) -> Handler:
        async def guarded(request: Request) -> Response:
            try:
                await self._check_user(request, push)
                name = request.path_params.get("name")
                if name is not None and not is_name(name):
                    raise Refusal(Code.NAME_INVALID, "not a repository name")
                answer = await handler(request)
            except Refusal as refusal:
                answer = refusal.response()
            except ClientDisconnect:
                answer = Response(status_code=400)  # Nobody is there to read it.
            except OSError as error:
                _log.error("storage failed: %s", error)
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                code = Code.DISK_FULL if full else Code.UNKNOWN
                answer = Refusal(code, "the registry's disk is full" if full else "storage failed").response()
            answer.headers.update(API_VERSION)
            return answer

        return guarded

    async def _check_user(self, request: Request, push: bool) -> None:
        if self.users is None:
            return
        given = _credentials(request.headers.get("authorization", ""))
        user = None
        if given is not None:
            async with self.hashing:  # Each hash takes 32 MiB: guessing must not take all memory.
                user = await asyncio.to_thread(self.users.verify, *given)
        if user is None:
            raise Refusal(Code.UNAUTHORIZED, "a user name and a password are needed", _CHALLENGE)
        if push and not user.push:
            raise Refusal(Code.DENIED, f"{user.name} may pull only")

    # ---- pull

    async def version(self, _: Request) -> Response:
        return JSONResponse({})

    async def tags(self, request: Request) -> Response:
        name = request.path_params["name"]
        tags = await asyncio.to_thread(self.storage.tags, name)
        if tags is None:
            raise Refusal(Code.NAME_UNKNOWN, "no such repository")
        return JSONResponse({"name": name, "tags": tags})

    async def get_blob(self, request: Request) -> Response:
        name, digest = request.path_params["name"], _digest(request.path_params["digest"])
        path = await asyncio.to_thread(self.storage.find_blob, name, digest)
        if path is None:
            raise Refusal(Code.BLOB_UNKNOWN, "no such blob in this repository")
        size = path.stat().st_size
        part = wanted(request.headers.get("range"), size) if request.method == "GET" else None
        start, count = part if part is not None else (0, size)
        headers = {
            "Content-Length": str(count),
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
        }
        if request.method == "HEAD":
            return Response(headers=headers)
        if part is not None:
            headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size}"
        return StreamingResponse(_read(path, start, count), 200 if part is None else 206, headers)

    async def get_manifest(self, request: Request) -> Response:
        name, reference = request.path_params["name"], request.path_params["reference"]
        valid = is_digest(reference) or is_tag(reference)
        found = await asyncio.to_thread(self.storage.find_manifest, name, reference) if valid else None
        if found is None:
            raise Refusal(Code.MANIFEST_UNKNOWN, "no such manifest in this repository")
        digest, media_type, data = found
        headers = {
            "Content-Length": str(len(data)),
            "Content-Type": media_type,
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
        }
        return Response(b"" if request.method == "HEAD" else data, headers=headers)

    # ---- push: blobs

    async def start_upload(self, request: Request) -> Response:
        name, digest = request.path_params["name"], request.query_params.get("digest")
        if digest is not None:
            _digest(digest)
        upload = self.uploads.start(name)
        if digest is None:
            return _accepted(upload, 202)
        async with upload.lock:
            await self._whole(upload, request)
            await self.uploads.finish(upload, digest)
        return _created(name, "blobs", digest)

    async def upload_status(self, request: Request) -> Response:
        return _accepted(self._upload(request), 204)

    async def patch_upload(self, request: Request) -> Response:
        upload = self._upload(request)
        async with upload.lock:
            check_chunk(
                request.headers.get("content-range"), upload.offset, request.headers.get("content-length")
            )
            try:
                await self.uploads.append(upload, request.stream())
            except Refusal:
                self.uploads.drop(upload)
                raise
        return _accepted(upload, 202)

    async def finish_upload(self, request: Request) -> Response:
        upload = self._upload(request)
        digest = _digest(request.query_params.get("digest", ""))
        async with upload.lock:
            check_chunk(
                request.headers.get("content-range"), upload.offset, request.headers.get("content-length")
            )
            await self._whole(upload, request)
            await self.uploads.finish(upload, digest)
        return _created(upload.name, "blobs", digest)

    async def cancel_upload(self, request: Request) -> Response:
        self.uploads.drop(self._upload(request))
        return Response(status_code=204)

    async def _whole(self, upload: Upload, request: Request) -> None:
        """Take the last piece. A request that ends early ends its upload: nobody goes on in the middle of it."""
        try:
            await self.uploads.append(upload, request.stream())
        except BaseException:
            self.uploads.drop(upload)
            raise

    def _upload(self, request: Request) -> Upload:
        return self.uploads.find(request.path_params["name"], request.path_params["upload"])

    # ---- push: manifests

    async def put_manifest(self, request: Request) -> Response:
        name, reference = request.path_params["name"], request.path_params["reference"]
        if not is_digest(reference) and not is_tag(reference):
            raise Refusal(Code.MANIFEST_INVALID, "neither a tag nor a digest")
        data = await _body(request)
        media_type = _media_type(request, data)
        if is_digest(reference) and sha256_of(data) != reference:
            raise Refusal(Code.DIGEST_INVALID, f"the content is {sha256_of(data)}")
        tag = None if is_digest(reference) else reference
        digest = await asyncio.to_thread(self._add_manifest, name, data, media_type, tag)
        return _created(name, "manifests", digest)

    def _add_manifest(self, name: str, data: bytes, media_type: str, tag: str | None) -> str:
        try:
            document = parse_document(data, media_type)
        except ImageError as error:
            raise Refusal(Code.MANIFEST_INVALID, str(error)) from error
        if isinstance(document, Index):
            for child in document.manifests:
                if not self.storage.has_manifest(name, child.digest):
                    raise Refusal(Code.MANIFEST_BLOB_UNKNOWN, f"there is no manifest {child.digest}")
            return self.storage.add_manifest(name, data, media_type, tag)
        for blob in (document.config, *document.layers):
            path = self.storage.find_blob(name, blob.digest)
            if path is None:
                raise Refusal(Code.MANIFEST_BLOB_UNKNOWN, f"there is no blob {blob.digest}")
            if path.stat().st_size != blob.size:
                raise Refusal(Code.MANIFEST_INVALID, f"{blob.digest} does not have {blob.size} bytes")
        return self.storage.add_manifest(name, data, media_type, tag)


# ---- small words


async def _healthz(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _credentials(header: str) -> tuple[str, str] | None:
    """Name and password of basic authentication (RFC 7617)."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (name, password) if colon else None


def _digest(text: str) -> str:
    if not is_digest(text):
        raise Refusal(Code.DIGEST_INVALID, "a digest is sha256: and 64 lower-case hex digits")
    return text


def _media_type(request: Request, data: bytes) -> str:
    given = request.headers.get("content-type", "").partition(";")[0].strip()
    if given in MANIFEST_TYPES | INDEX_TYPES:
        return given
    if given and given not in ("application/json", "application/octet-stream"):
        raise Refusal(Code.MANIFEST_INVALID, f"the media type {given[:100]!r} is not known")
    try:
        return parse_document(data).media_type
    except ImageError as error:
        raise Refusal(Code.MANIFEST_INVALID, str(error)) from error


async def _body(request: Request) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_MANIFEST_BYTES:
            raise Refusal(Code.TOO_LARGE, f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
    return bytes(data)


async def _read(path: Path, start: int, count: int) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        file.seek(start)
        while count > 0:
            piece = await asyncio.to_thread(file.read, min(count, READ_BYTES))
            if not piece:
                return
            count -= len(piece)
            yield piece


def _accepted(upload: Upload, status: int) -> Response:
    headers = {
        "Location": f"/v2/{upload.name}/blobs/uploads/{upload.id}",
        "Range": f"0-{max(0, upload.offset - 1)}",
        "Docker-Upload-UUID": upload.id,
    }
    return Response(status_code=status, headers=headers)


def _created(name: str, kind: str, digest: str) -> Response:
    headers = {"Location": f"/v2/{name}/{kind}/{digest}", "Docker-Content-Digest": digest}
    return Response(status_code=201, headers=headers)
