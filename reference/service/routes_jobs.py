"""Routes of jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from sqlalchemy import Connection

from reference.core.job import JobStatus
from reference.protocol.models import ClientId, Version
from reference.service import correlation, listing, orders
from reference.service.api import Api, Cursor, Instant, Limit, link_next, problems, sorting, to_ms
from reference.service.guard import caller
from reference.service.listing import JobFilter
from reference.service.paging import Asked
from reference.service.records import JobRecord
from reference.service.views import Jobs, JobView


def add(app: FastAPI, api: Api) -> None:
    """Add them to the application."""
    desk = orders.Desk(api.key, api.limits)

    @app.get("/api/v1/jobs", responses=problems(422))
    async def list_jobs(
        request: Request,
        response: Response,
        client: ClientId | None = None,
        status: Annotated[list[JobStatus], Query(max_length=7)] = [],  # noqa: B006
        version: Version | None = None,
        created_from: Annotated[Instant | None, Query(alias="createdFrom")] = None,
        created_to: Annotated[Instant | None, Query(alias="createdTo")] = None,
        sort: Annotated[str, sorting("createdAt", "updatedAt")] = "-createdAt",
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Jobs:
        """Jobs, the newest first or in another order. `createdFrom` is inclusive, `createdTo` is not."""
        tenant = caller(request).tenant
        wanted = JobFilter(client, status, version, to_ms(created_from), to_ms(created_to))
        filters = (client, version, wanted.from_ms, wanted.to_ms, *sorted(status))
        asked = Asked(sort, limit, cursor, filters)
        found = await api.store.read(lambda c: listing.list_jobs(c, tenant, wanted, asked))
        link_next(request, response, found.cursor)
        return Jobs(items=[JobView.of(one) for one in found.items], next_cursor=found.cursor)

    @app.get("/api/v1/jobs/{job_id}", responses=problems(404))
    async def get_job(request: Request, job_id: str) -> JobView:
        """One job."""
        tenant = caller(request).tenant
        return JobView.of(await api.store.read(lambda c: orders.get_job(c, tenant, job_id)))

    @app.post("/api/v1/jobs/{job_id}/cancel", status_code=202, responses=problems(404, 409))
    async def cancel_job(request: Request, job_id: str) -> JobView:
        """Ask for the end of a job. A device that has begun to switch finishes and reports all the same."""
        who, now_ms, word = caller(request), api.now_ms(), correlation.current()

        def cancel(connection: Connection) -> tuple[JobRecord, JobRecord]:
            before = orders.get_job(connection, who.tenant, job_id)
            return before, orders.order_cancel(connection, desk, who, job_id, now_ms, word)

        before, after = await api.store.write(cancel)
        api.conversation.count(before, after)
        api.conversation.wake()
        return JobView.of(after)
