"""Errors over HTTP: RFC 9457 problem details, with the reason code that machines read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from reference.core.errors import BlackstartError, Reason, ServiceError
from reference.service.correlation import current as correlation_id

MEDIA_TYPE = "application/problem+json"
log = logging.getLogger(__name__)

_STATUS = {
    Reason.UNAUTHENTICATED: 401,
    Reason.FORBIDDEN: 403,
    Reason.NOT_FOUND: 404,
    Reason.CONFLICT: 409,
    Reason.VERSION_WITHDRAWN: 409,
    Reason.NO_PREVIOUS_VERSION: 409,
    Reason.TOO_MANY_STREAMS: 429,
    Reason.REGISTRATION_TOKEN_INVALID: 401,
    Reason.REGISTRATION_TOKEN_EXPIRED: 401,
    Reason.REGISTRATION_TOKEN_USED: 409,
    Reason.CERTIFICATE_REFUSED: 401,
    Reason.UNAVAILABLE: 503,
}
_REASON = {
    401: Reason.UNAUTHENTICATED,
    403: Reason.FORBIDDEN,
    404: Reason.NOT_FOUND,
    409: Reason.CONFLICT,
}


def problem(
    status: int,
    reason: Reason,
    detail: str,
    instance: str,
    extra: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem as a response. `extra` are further members (RFC 9457, section 3.2)."""
    body: dict[str, object] = {
        "type": f"urn:blackstart:problem:{reason.value}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "reason": reason.value,
        "detail": detail,
        "instance": instance,
    }
    if (correlation := correlation_id()) is not None:
        body["correlationId"] = correlation
    body.update(extra or {})
    sent = dict(headers or {})
    if status == 401:
        sent.setdefault("WWW-Authenticate", 'Bearer realm="blackstart", error="invalid_token"')
    if status == 503:
        sent.setdefault("Retry-After", "1")
    return JSONResponse(body, status, sent, MEDIA_TYPE)


class ConflictError(ServiceError):
    """What was asked for does not fit what is. `job_id` names the job that it is about, if there is one; `opened`
    says that it is in the way because it is open."""

    default = Reason.CONFLICT

    def __init__(
        self,
        what: str,
        *,
        reason: Reason | None = None,
        todo: str = "",
        job_id: str | None = None,
        opened: bool = False,
    ) -> None:
        super().__init__(what, reason=reason, todo=todo)
        self.job_id = job_id
        self.opened = opened


class NotFoundError(ServiceError):
    """There is no such thing in the caller's tenant; whether it is in another one is not said."""

    default = Reason.NOT_FOUND


def install(app: FastAPI) -> None:
    """Make problems of all that the framework and the routes raise."""
    app.add_exception_handler(BlackstartError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_framework)


def _of_ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BlackstartError)
    status = _STATUS.get(error.reason, 422)
    if status == 503:
        log.error("request failed: %s", error)
        detail = (
            str(error) if getattr(error, "public", False) else "The service cannot answer now. Try again."
        )
        return problem(503, error.reason, detail, request.url.path)
    extra: dict[str, object] = {"where": error.where, "todo": error.todo}
    extra = {name: _plain(str(value)) for name, value in extra.items() if value}
    if isinstance(error, ConflictError) and error.job_id is not None:
        extra["jobId"] = error.job_id
        if error.opened:
            extra["openJobId"] = error.job_id
    return problem(status, error.reason, str(error), request.url.path, extra)


def _of_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [
        {"where": _plain(".".join(str(part) for part in one["loc"])), "what": _plain(str(one["msg"]))}
        for one in error.errors()[:20]
    ]
    detail = "; ".join(f"{one['where']}: {one['what']}" for one in found[:3])
    return problem(422, Reason.INVALID_INPUT, detail, request.url.path, {"errors": found})


def _of_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    # The framework says 400 for some bodies that it cannot parse and 422 for others: here they are one.
    status = 422 if error.status_code == 400 else error.status_code
    reason = _REASON.get(status, Reason.INVALID_INPUT)
    detail = {
        404: f"There is nothing at {request.url.path[:200]}.",
        405: f"{request.method} is not possible here.",
    }.get(error.status_code, str(error.detail))
    return problem(status, reason, detail, request.url.path, headers=error.headers)


def _plain(text: str) -> str:
    """A caller's words, short, and without what JSON lets through and UTF-8 does not (lone surrogates)."""
    return text[:200].encode(errors="replace").decode()
