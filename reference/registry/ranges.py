"""Byte ranges: `Range` of a download (RFC 9110, 14), `Content-Range` of an upload's chunk (distribution 1.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from reference.registry.errors import Code, Refusal

_DOWNLOAD = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")
_CHUNK = re.compile(r"([0-9]{1,19})-([0-9]{1,19})")


def wanted(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and count of a single range; None for the whole content.

    A header that is malformed or asks for several ranges is ignored, as the RFC allows. Raises Refusal (416) for a
    range outside the content, or one that ends before it begins.
    """
    match = _DOWNLOAD.fullmatch(header.strip()) if header is not None else None
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if first == "":
        start, end = max(0, size - int(last)), size - 1
    else:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
    if start >= size or end < start or (first == "" and int(last) == 0):
        raise Refusal(Code.RANGE_INVALID, f"there are {size} bytes", {"Content-Range": f"bytes */{size}"})
    return start, end - start + 1


def check_chunk(header: str | None, offset: int, length: str | None, state: Mapping[str, str]) -> int | None:
    """How many bytes a chunk has to bring that continues an upload of `offset` bytes; None: it does not say.

    `state` are the headers that tell where the upload is. Raises Refusal (416 with them, 400).
    """
    if header is None:
        return None
    match = _CHUNK.fullmatch(header.strip().removeprefix("bytes "))
    if match is None:
        raise Refusal(Code.RANGE_INVALID, "Content-Range has to be FIRST-LAST", state)
    first, last = int(match[1]), int(match[2])
    if first != offset:
        raise Refusal(Code.RANGE_INVALID, f"the upload has {offset} bytes: go on there", state)
    count = last - first + 1
    if count < 1 or (length is not None and length.isdigit() and int(length) != count):
        raise Refusal(Code.SIZE_INVALID, "Content-Range and Content-Length do not agree")
    return count
