"""The registry's HTTP side: all of the OCI distribution specification 1.1.

Here is which address leads to which handler, who may go there, and how it is said that something went wrong: every
refusal is an error of the specification. The handlers are in `pull.py` and `push.py`.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from reference.core.errors import ImageError
from reference.oci.references import is_name
from reference.registry.access import TOKEN_PATH, Access, Caller
from reference.registry.errors import Code, Refusal
from reference.registry.pull import Reading
from reference.registry.push import Changing
from reference.registry.storage import Storage
from reference.registry.uploads import Uploads

MAX_BLOB_BYTES = 16 << 30
API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
_log = logging.getLogger("blackstart.registry")

Handler = Callable[[Request, Caller], Awaitable[Response]]
Before = Callable[[Request], Awaitable[Response | None]]
"""Asked before every request of the specification: an answer of its own is given instead. For faults on purpose."""


def create_app(
    storage: Storage,
    access: Access,
    *,
    max_blob_bytes: int = MAX_BLOB_BYTES,
    before: Before | None = None,
) -> Starlette:
    """The ASGI application over `storage`, for those whom `access` lets in."""
    guard = _Guard(access, before)
    uploads = Uploads(storage, max_blob_bytes=max_blob_bytes)
    return Starlette(
        routes=[
            Route("/healthz", _healthz),
            Route(TOKEN_PATH, access.give_token, methods=["GET", "POST"]),
            *guard.routes(Reading(storage), Changing(storage, uploads)),
        ],
        exception_handlers={404: _not_found, 405: _not_found},
    )


async def _healthz(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _not_found(_: Request, error: Exception) -> Response:
    unsupported = isinstance(error, HTTPException) and error.status_code == 405
    if unsupported:
        return Refusal(Code.UNSUPPORTED, "this registry does not do that").response()
    return Refusal(Code.NOT_FOUND, "there is nothing here").response()


class _Guard:
    def __init__(self, access: Access, before: Before | None) -> None:
        self.access, self.before = access, before

    def routes(self, reading: Reading, changing: Changing) -> list[Route]:
        """Order matters: `{name:path}` takes as much as it can."""
        base = "/v2/{name:path}"
        uploads, upload = base + "/blobs/uploads", base + "/blobs/uploads/{upload}"
        blob, manifest = base + "/blobs/{digest}", base + "/manifests/{reference}"
        table: list[tuple[str, str, str | None, Handler]] = [
            (uploads + "/", "POST", "push", changing.start_upload),
            (uploads, "POST", "push", changing.start_upload),
            (upload, "GET", "push", changing.upload_status),
            (upload, "PATCH", "push", changing.patch_upload),
            (upload, "PUT", "push", changing.finish_upload),
            (upload, "DELETE", "push", changing.cancel_upload),
            (manifest, "PUT", "push", changing.put_manifest),
            (manifest, "DELETE", "delete", changing.delete_manifest),
            (manifest, "GET", "pull", reading.manifest),
            (blob, "DELETE", "delete", changing.delete_blob),
            (blob, "GET", "pull", reading.blob),
            (base + "/tags/list", "GET", "pull", reading.tags),
            (base + "/referrers/{digest}", "GET", "pull", reading.referrers),
            ("/v2/", "GET", None, reading.version),
            ("/v2", "GET", None, reading.version),
        ]
        return [
            Route(path, self._guarded(handler, action), methods=[method])
            for path, method, action, handler in table
        ]

    def _guarded(self, handler: Handler, action: str | None) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                answer = await self._answer(request, handler, action)
            except Refusal as refusal:
                answer = refusal.response()
            except ClientDisconnect:
                answer = Response(status_code=400)  # Nobody is there to read it.
            except (OSError, ImageError) as error:
                answer = _storage_failed(error).response()
            answer.headers.update(API_VERSION)
            return answer

        return guarded

    async def _answer(self, request: Request, handler: Handler, action: str | None) -> Response:
        if self.before is not None and (instead := await self.before(request)) is not None:
            return instead
        name = request.path_params.get("name")
        # A stranger learns who to be before learning what is wrong with the name.
        caller = await self.access.check(request, action, name)
        if name is not None and not is_name(name):
            raise Refusal(Code.NAME_INVALID, "not a repository name")
        return await handler(request, caller)


def _storage_failed(error: OSError | ImageError) -> Refusal:
    """For a disk that fails, and for one that gives back something else than was written."""
    _log.error("storage failed: %s", error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    code = Code.DISK_FULL if full else Code.UNKNOWN
    return Refusal(code, "the registry's disk is full" if full else "storage failed")
