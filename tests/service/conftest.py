"""One running service for each test that asks for it, on each database that is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from reference.service import migrations
from tests.service.harness import DATABASES, Device, Service, running
from tests.support.postgres import Postgres

KINDS = ("sqlite", "postgresql")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whatever runs a service runs on each database, but for modules that say `ONE_DATABASE = True`, or name some of
    their tests there: large tables of cases that are about something else."""
    one = getattr(metafunc.module, "ONE_DATABASE", ())
    if one is True or metafunc.function.__name__ in (one or ()):
        return
    names = set(metafunc.fixturenames)
    runs_one = "service" in names or ("tmp_path" in names and hasattr(metafunc.module, "running"))
    if runs_one or "each_database" in names:
        metafunc.parametrize("database_url", KINDS, indirect=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL with a template that has the schema. Skips where it is not installed."""
    server = Postgres()
    try:
        server.start()
        engine = create_engine(server.create_template())
        with engine.begin() as connection:
            migrations.upgrade(connection, "template")
        engine.dispose()
        yield server
    finally:
        server.stop()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """One that a test may kill: nobody else uses it, and the kernel ends it with the thread that started it last."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | None]:
    """The URL of an empty database with the schema; None for SQLite's file in the data folder.

    A service that is run over `tmp_path` finds it by itself.
    """
    if getattr(request, "param", "sqlite") == "sqlite":
        yield None
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.create_database()
    DATABASES[tmp_path] = url
    yield url
    del DATABASES[tmp_path]
    server.drop_database(url)


@pytest.fixture
def each_database(database_url: str | None) -> str | None:
    """For tests that run no service through the harness: `database_url`, on each database."""
    return database_url


@pytest.fixture
async def service(tmp_path: Path, database_url: str | None) -> AsyncIterator[Service]:
    async with running(tmp_path) as started:
        yield started


@pytest.fixture
def device(service: Service) -> Device:
    return Device(service.link)
