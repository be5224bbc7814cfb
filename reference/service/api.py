"""What the routes share: the parts they work with, the parameters they take, and how they answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Header, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import AwareDatetime, BaseModel, BeforeValidator
from sqlalchemy import Connection

from reference.core.errors import InputError
from reference.core.limits import ServiceLimits
from reference.core.model import Health
from reference.protocol.envelope import SigningKey
from reference.service import idempotency
from reference.service.auth import Authenticator
from reference.service.conversation import Conversation
from reference.service.events import Hub
from reference.service.guard import caller
from reference.service.idempotency import Made, Ticket
from reference.service.metrics import Metrics
from reference.service.paging import MAX_CURSOR_CHARS
from reference.service.problems import MEDIA_TYPE
from reference.service.store import Store

Responses = dict[int | str, dict[str, Any]]
"""Part of an OpenAPI document."""
PROBLEM: Mapping[str, object] = {"description": "A problem (RFC 9457)", "content": {MEDIA_TYPE: {}}}


def problems(*statuses: int) -> Responses:
    """The refusals of a route that needs a token, for its description."""
    return {status: dict(PROBLEM) for status in (401, 403, *statuses)}


@dataclass(frozen=True, slots=True)
class Api:
    """What the routes work with."""

    store: Store
    conversation: Conversation
    hub: Hub
    metrics: Metrics
    authenticator: Authenticator
    key: SigningKey
    limits: ServiceLimits
    health: Health
    now_ms: Callable[[], int]


# ---- parameters

_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)


def _instant(given: object) -> object:
    # A bare number would be taken for seconds or milliseconds, by its size.
    if not isinstance(given, str) or not _INSTANT.fullmatch(given):
        raise ValueError("an instant is like 2026-03-01T12:00:00Z")
    return given


Limit = Annotated[int, Query(ge=1, le=1000, description="The most items of one page.")]
Cursor = Annotated[
    str | None,
    Query(max_length=MAX_CURSOR_CHARS, description="`nextCursor` of the page before; sort and filters stay."),
]
Instant = Annotated[AwareDatetime, BeforeValidator(_instant)]
Key = Annotated[
    str | None,
    Header(
        alias=idempotency.HEADER,
        pattern=idempotency.PATTERN,
        description="A word of the caller's for this request. Sent again with it, the request is answered as before "
        "and not done twice; kept for 24 h.",
    ),
]
Supersede = Annotated[bool, Query(description="Put an open job aside for this one.")]


def sorting(*names: str) -> Any:
    """The parameter `sort` of a list."""
    return Query(
        pattern=f"^[-+]?({'|'.join(names)})$", description=f"By {' or '.join(names)}; `-` for descending."
    )


def to_ms(moment: datetime | None) -> int | None:
    """Ms since 1970."""
    if moment is None:
        return None
    # The difference, not `astimezone`: the first and the last hours of the calendar are in no year elsewhere.
    passed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return passed.days * 86_400_000 + passed.seconds * 1000 + passed.microseconds // 1000


async def known_query(request: Request) -> None:
    """Every route takes the parameters that it names and no other. Raises InputError."""
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute):
        return
    known = [parameter.alias for parameter in route.dependant.query_params]
    for name in request.query_params:
        if name not in known:
            raise InputError(
                "is not a parameter here",
                where=f"query.{name[:80]}",
                todo=f"Known: {', '.join(known)}." if known else "There is none.",
            )


# ---- answers


async def make(
    api: Api, request: Request, key: str | None, meaning: BaseModel | None, work: Callable[[Connection], Made]
) -> Response:
    """Do what makes something, once for each key. Raises what the work raises."""
    now_ms = api.now_ms()
    given: Ticket | None = None
    if key is not None:
        route = f"{request.method} {request.scope['route'].path}"
        body = "" if meaning is None else meaning.model_dump_json()
        query = urlencode(sorted(request.query_params.multi_items()))
        given = idempotency.ticket(caller(request), route, key, request.url.path, query, body)
    made = await api.store.write(
        lambda c: idempotency.once(c, given, now_ms, api.limits.idempotency_ms, work)
    )
    headers = {"Location": made.location} if made.location else {}
    if made.replayed:
        headers[idempotency.REPLAYED] = "true"
    return Response(made.body, made.status, headers, "application/json")


def made(status: int, view: BaseModel, location: str | None = None, kept: BaseModel | None = None) -> Made:
    """What was made, as it is answered and kept; `kept` where that is not the same."""
    other = None if kept is None else kept.model_dump_json(by_alias=True)
    return Made(status, view.model_dump_json(by_alias=True), location, kept=other)


def link_next(request: Request, response: Response, cursor: str | None) -> None:
    """Tell of the next page in a header, too (RFC 8288)."""
    if cursor is not None:
        others = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
        query = urlencode([*others, ("cursor", cursor)])
        response.headers["Link"] = f'<{request.url.path}?{query}>; rel="next"'
