"""The route of events: a stream for those who ask for one, else one page, for which a reader may wait."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Header, Query, Request, Response

from reference.service import eventlog
from reference.service.api import Api, problems
from reference.service.events import MEDIA_TYPE, EventStream, event_number
from reference.service.guard import caller
from reference.service.views import Events, EventView

MAX_WAIT_MS = 25_000
_MAX_ID = 10**15 - 1
_STREAM = {"schema": {"type": "string"}, "example": "id: 7\nevent: job.updated\ndata: {}\n\n"}
_TWO = {"description": "Events, as the `Accept` header asks for them.", "content": {MEDIA_TYPE: _STREAM}}


def add(app: FastAPI, api: Api) -> None:
    """Add it to the application."""

    @app.get("/api/v1/events", response_model=Events, responses={200: _TWO, **problems(422, 429)})
    async def list_events(
        request: Request,
        after: Annotated[
            int | None, Query(ge=0, le=_MAX_ID, description="The last id that was seen.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        wait_ms: Annotated[int, Query(alias="waitMs", ge=0, le=MAX_WAIT_MS)] = 0,
        last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", pattern="^[0-9]{1,15}$")] = None,
    ) -> Events | Response:
        """What has happened in the tenant since, in order.

        `Accept: text/event-stream` gives a stream (Server-Sent Events), anything else one page, for which `waitMs`
        waits while it is empty. Without `after` or `Last-Event-ID`: from now on. An event `reset` says that older ones
        are no longer kept: read the lists, then go on from its id.
        """
        tenant = caller(request).tenant
        # A reader that comes back repeats its first address: what it has seen since counts.
        known = event_number(last_event_id)
        since = known if known is not None else after
        if MEDIA_TYPE in request.headers.get("accept", ""):
            begin = await api.hub.last(tenant) if since is None else since
            authorization = request.headers.get("authorization")
            return EventStream(api.hub, api.authenticator, authorization, tenant, begin)
        if since is None:
            since = await api.hub.last(tenant)
        found = await _page(api, tenant, since, limit, wait_ms)
        return Events(items=[EventView.of(one) for one in found], next=found[-1].id if found else since)


async def _page(api: Api, tenant: str, after: int, limit: int, wait_ms: int) -> list[eventlog.Event]:
    found = await api.hub.read(tenant, after, limit)
    if found or not wait_ms:
        return found
    async with api.hub.reading(tenant):
        await api.hub.wait(tenant, after, wait_ms / 1000)
    return await api.hub.read(tenant, after, limit)
