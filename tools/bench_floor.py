"""The floor under `bench_api.py`: a bare FastAPI endpoint with one durable insert, on the same database.

    python -m tools.bench_floor DATABASE-URL

No identity, no message, no rules: what the framework and the disk cost alone. Its one insert is as durable as ours.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import make_url

Insert = Callable[[str, str], int]


class Order(BaseModel):
    """The body of the request that is compared."""

    targetVersion: str  # noqa: N815


class Made(BaseModel):
    """The answer."""

    jobId: str  # noqa: N815


def sqlite_insert(path: str) -> Insert:
    """One connection, WAL, synchronous=FULL, like the service's."""
    import sqlite3

    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    for statement in (
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, client TEXT, version TEXT)",
    ):
        database.execute(statement)

    def insert(client: str, version: str) -> int:
        done = database.execute("INSERT INTO orders (client, version) VALUES (?, ?)", (client, version))
        return int(done.lastrowid or 0)

    return insert


def postgresql_insert(url: str) -> Insert:
    """A connection per thread, each insert committed."""
    import psycopg

    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    kept = threading.local()
    with psycopg.connect(address, autocommit=True) as first:
        first.execute(
            "CREATE TABLE IF NOT EXISTS orders (id BIGSERIAL PRIMARY KEY, client TEXT, version TEXT)"
        )

    def insert(client: str, version: str) -> int:
        connection = getattr(kept, "connection", None)
        if connection is None:
            connection = kept.connection = psycopg.connect(address, autocommit=True)
        row = connection.execute(
            "INSERT INTO orders (client, version) VALUES (%s, %s) RETURNING id", (client, version)
        ).fetchone()
        return int(row[0])

    return insert


def make_app(url: str) -> FastAPI:
    """The application."""
    found = make_url(url)
    on_sqlite = found.get_backend_name() == "sqlite"
    insert = sqlite_insert(str(found.database)) if on_sqlite else postgresql_insert(url)
    threads = ThreadPoolExecutor(1 if on_sqlite else 8)
    app = FastAPI(docs_url=None, redoc_url=None)

    @app.post("/api/v1/clients/{client_id}/update", status_code=202)
    async def order(client_id: str, body: Order) -> Made:
        loop = asyncio.get_running_loop()
        number = await loop.run_in_executor(threads, insert, client_id, body.targetVersion)
        return Made(jobId=str(number))

    return app


async def main(url: str) -> None:
    """Serve until SIGTERM, and say where."""
    server = uvicorn.Server(uvicorn.Config(make_app(url), port=0, log_level="warning", access_log=False))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it says so in no other way
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(json.dumps({"ready": True, "port": port}), flush=True)
    await serving


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
