"""The errors of the distribution specification ("Error Codes"), which are the registry's way to say no."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from starlette.responses import JSONResponse, Response


class Code(Enum):
    """The specification's code and the HTTP status that it travels with here."""

    BLOB_UNKNOWN = ("BLOB_UNKNOWN", 404)
    BLOB_UPLOAD_INVALID = ("BLOB_UPLOAD_INVALID", 400)
    BLOB_UPLOAD_BUSY = ("BLOB_UPLOAD_INVALID", 409)
    BLOB_UPLOAD_UNKNOWN = ("BLOB_UPLOAD_UNKNOWN", 404)
    RANGE_INVALID = ("BLOB_UPLOAD_INVALID", 416)
    DIGEST_INVALID = ("DIGEST_INVALID", 400)
    MANIFEST_BLOB_UNKNOWN = ("MANIFEST_BLOB_UNKNOWN", 400)
    MANIFEST_INVALID = ("MANIFEST_INVALID", 400)
    MANIFEST_UNKNOWN = ("MANIFEST_UNKNOWN", 404)
    NAME_INVALID = ("NAME_INVALID", 400)
    NAME_UNKNOWN = ("NAME_UNKNOWN", 404)
    SIZE_INVALID = ("SIZE_INVALID", 400)
    TOO_LARGE = ("SIZE_INVALID", 413)
    MANIFEST_TOO_LARGE = ("MANIFEST_INVALID", 413)
    UNAUTHORIZED = ("UNAUTHORIZED", 401)
    DENIED = ("DENIED", 403)
    UNSUPPORTED = ("UNSUPPORTED", 405)
    UNSUPPORTED_GRANT = ("UNSUPPORTED", 400)
    NOT_FOUND = ("UNSUPPORTED", 404)
    PAGINATION_INVALID = ("PAGINATION_NUMBER_INVALID", 400)
    TOOMANYREQUESTS = ("TOOMANYREQUESTS", 429)
    DISK_FULL = ("UNKNOWN", 507)
    UNKNOWN = ("UNKNOWN", 500)

    @property
    def word(self) -> str:
        """The code on the wire."""
        return self.value[0]

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value[1]


@dataclass
class Refusal(Exception):  # noqa: N818 - it is an answer of the protocol, not a fault of ours
    """A request that is answered with an error. Never leaves the registry as an exception."""

    code: Code
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """The answer: `{"errors": [{"code", "message", "detail"}]}`."""
        error = {"code": self.code.word, "message": self.message, "detail": None}
        return JSONResponse({"errors": [error]}, self.code.status, dict(self.headers))
