"""Answers to those who change something: uploads, manifests, removals (specification 1.1, end-4 to 7, 9 to 11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from reference.core.errors import ImageError
from reference.oci.digests import digest_of, is_content_digest, split_digest
from reference.oci.manifests import INDEX_TYPES, MANIFEST_TYPES, MAX_MANIFEST_BYTES
from reference.oci.references import is_name, is_tag
from reference.registry.access import Caller
from reference.registry.documents import Document, read_document
from reference.registry.errors import Code, Refusal
from reference.registry.pull import digest_given
from reference.registry.ranges import check_chunk
from reference.registry.storage import Storage
from reference.registry.uploads import Upload, Uploads

MAX_TAGS_AT_ONCE = 100


class Changing:
    """The handlers."""

    def __init__(self, storage: Storage, uploads: Uploads) -> None:
        self.storage, self.uploads = storage, uploads

    # ---- blobs

    async def start_upload(self, request: Request, caller: Caller) -> Response:
        """A new upload; or all of a blob in one request (`digest`); or one that is here already (`mount`)."""
        name, digest = request.path_params["name"], request.query_params.get("digest")
        mount = request.query_params.get("mount")
        source = request.query_params.get("from")
        if mount is not None and source is not None and is_name(source):
            caller.ask_for(request, {name: "pull,push", source: "pull"})
        if mount is not None and await self._mount(name, mount, source, caller):
            return _created(name, "blobs", mount)
        if digest is not None:
            digest_given(digest)
        upload = self.uploads.start(name, caller.account)
        if digest is None or mount is not None:
            return Response(status_code=202, headers=_state(upload))
        upload.expect(split_digest(digest)[0])
        async with upload.lock:
            await self._rest(upload, request)
            await self.uploads.finish(upload, digest)
        return _created(name, "blobs", digest)

    async def _mount(self, name: str, digest: str, source: str | None, caller: Caller) -> bool:
        """Whether the blob is now here without being sent. Only from where the caller could have read it."""
        if not is_content_digest(digest) or (source is not None and not is_name(source)):
            return False
        if source is not None and not caller.may("pull", source):
            return False

        def anywhere() -> Iterator[str]:
            # Who names no source cannot have asked for a token that names it: the account decides.
            return (found for found in self.storage.repositories() if caller.account_may("pull", found))

        sources = iter([source]) if source is not None else anywhere()
        return await asyncio.to_thread(self.storage.mount_blob, name, digest, sources)

    async def upload_status(self, request: Request, caller: Caller) -> Response:
        """How far an upload is."""
        return Response(status_code=204, headers=_state(self._upload(request, caller)))

    async def patch_upload(self, request: Request, caller: Caller) -> Response:
        """The next chunk."""
        upload = self._upload(request, caller)
        async with upload.lock:
            exactly = _chunk(request, upload)
            try:
                await self.uploads.append(upload, request.stream(), exactly)
            except Refusal as refusal:
                if refusal.code is Code.TOO_LARGE:
                    self.uploads.drop(upload)
                raise
        return Response(status_code=202, headers=_state(upload))

    async def finish_upload(self, request: Request, caller: Caller) -> Response:
        """The last chunk, maybe empty, and the digest of everything."""
        upload = self._upload(request, caller)
        digest = digest_given(request.query_params.get("digest", ""))
        async with upload.lock:
            exactly = _chunk(request, upload)
            upload.expect(split_digest(digest)[0])
            await self._rest(upload, request, exactly)
            await self.uploads.finish(upload, digest)
        return _created(upload.name, "blobs", digest)

    async def cancel_upload(self, request: Request, caller: Caller) -> Response:
        """Forget an upload."""
        self.uploads.drop(self._upload(request, caller))
        return Response(status_code=204)

    async def _rest(self, upload: Upload, request: Request, exactly: int | None = None) -> None:
        """Take the last piece. A request that ends early ends its upload: nobody goes on in the middle of it."""
        try:
            await self.uploads.append(upload, request.stream(), exactly)
        except BaseException:
            self.uploads.drop(upload)
            raise

    def _upload(self, request: Request, caller: Caller) -> Upload:
        return self.uploads.find(request.path_params["name"], request.path_params["upload"], caller.account)

    async def delete_blob(self, request: Request, _: Caller) -> Response:
        """Take a blob out of this repository."""
        name, digest = request.path_params["name"], digest_given(request.path_params["digest"])
        if not await asyncio.to_thread(self.storage.delete_blob, name, digest):
            raise Refusal(Code.BLOB_UNKNOWN, "no such blob in this repository")
        return Response(status_code=202)

    # ---- manifests

    async def put_manifest(self, request: Request, _: Caller) -> Response:
        """A manifest whose parts are here, under a tag, or under its digest (then `tag` may name some)."""
        name, reference = request.path_params["name"], request.path_params["reference"]
        algorithm, tags = "sha256", tuple(request.query_params.getlist("tag"))
        if is_content_digest(reference):
            algorithm = split_digest(reference)[0]
        elif ":" in reference:
            raise Refusal(Code.DIGEST_INVALID, "not a digest that is known here")
        else:
            tags = (reference,)
        if not all(is_tag(tag) for tag in tags) or len(tags) > MAX_TAGS_AT_ONCE:
            raise Refusal(Code.MANIFEST_INVALID, "neither a tag nor a digest")
        data = await _body(request)
        document = await asyncio.to_thread(_read, data, _media_type(request))
        if is_content_digest(reference) and digest_of(data, algorithm) != reference:
            raise Refusal(Code.DIGEST_INVALID, f"the content is {digest_of(data, algorithm)}")
        digest = await asyncio.to_thread(self.storage.add_manifest, name, data, document, algorithm, tags)
        answer = _created(name, "manifests", digest)
        if document.subject is not None:
            answer.headers["OCI-Subject"] = document.subject
        if is_content_digest(reference):
            for tag in tags:
                answer.headers.append("OCI-Tag", tag)
        return answer

    async def delete_manifest(self, request: Request, _: Caller) -> Response:
        """Take away a manifest (by digest, with its tags), or a tag."""
        name, reference = request.path_params["name"], request.path_params["reference"]
        if is_content_digest(reference):
            found = await asyncio.to_thread(self.storage.delete_manifest, name, reference)
        elif is_tag(reference):
            found = await asyncio.to_thread(self.storage.delete_tag, name, reference)
        else:
            raise Refusal(Code.DIGEST_INVALID, "neither a tag nor a digest")
        if not found:
            raise Refusal(Code.MANIFEST_UNKNOWN, "no such manifest in this repository")
        return Response(status_code=202)


def _state(upload: Upload) -> dict[str, str]:
    return {
        "Location": f"/v2/{upload.name}/blobs/uploads/{upload.id}",
        "Range": f"0-{max(0, upload.offset - 1)}",
        "Docker-Upload-UUID": upload.id,
    }


def _chunk(request: Request, upload: Upload) -> int | None:
    given, length = request.headers.get("content-range"), request.headers.get("content-length")
    return check_chunk(given, upload.offset, length, _state(upload))


def _created(name: str, kind: str, digest: str) -> Response:
    headers = {"Location": f"/v2/{name}/{kind}/{quote(digest, safe=':')}", "Docker-Content-Digest": digest}
    return Response(status_code=201, headers=headers)


def _media_type(request: Request) -> str | None:
    given = request.headers.get("content-type", "").partition(";")[0].strip()
    if given in MANIFEST_TYPES | INDEX_TYPES:
        return given
    if given in ("", "application/json", "application/octet-stream"):
        return None
    raise Refusal(Code.MANIFEST_INVALID, f"the media type {given[:100]!r} is not known")


def _read(data: bytes, media_type: str | None) -> Document:
    try:
        return read_document(data, media_type)
    except ImageError as error:
        raise Refusal(Code.MANIFEST_INVALID, str(error)) from error


async def _body(request: Request) -> bytes:
    data = bytearray()
    pieces: AsyncIterator[bytes] = request.stream()
    async for piece in pieces:
        data += piece
        if len(data) > MAX_MANIFEST_BYTES:
            raise Refusal(Code.MANIFEST_TOO_LARGE, f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
    return bytes(data)
