"""The schema's history leads to the schema, from every point of it, on both databases."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import URL, create_engine, inspect, text

from reference.core.errors import InputError, ServiceError
from reference.service import migrations
from reference.service.databases import sqlite_engine
from reference.service.schema import metadata
from reference.service.store import Store
from tests.support.postgres import Postgres

REGENERATE = (
    "the schema and its revisions differ: python -m reference.service.migrations 'what changed' (or --again)"
)


def _where(path: Path, url: str | None) -> Path | str:
    return url or path / "service.db"


@pytest.mark.usefixtures("each_database")
async def test_the_revisions_make_the_schema(tmp_path: Path, database_url: str | None) -> None:
    store = Store.open(_where(tmp_path, database_url))
    try:
        for table in metadata.sorted_tables:
            found = await store.read(lambda c, t=table: {i["name"] for i in inspect(c).get_indexes(t.name)})  # type: ignore[misc]
            assert {str(index.name) for index in table.indexes} <= found, REGENERATE
        differences = await store.read(lambda c: compare_metadata(MigrationContext.configure(c), metadata))
        assert differences == [], REGENERATE
    finally:
        await store.close()


@pytest.mark.usefixtures("each_database")
async def test_a_newer_database_is_refused_in_words_and_left_alone(
    tmp_path: Path, database_url: str | None
) -> None:
    where = _where(tmp_path, database_url)
    store = Store.open(where)
    await store.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    await store.close()
    with pytest.raises(ServiceError, match="has schema 9999, this program knows none newer than") as caught:
        Store.open(where)
    assert caught.value.todo


async def test_the_database_of_the_first_program_is_taken_over(tmp_path: Path) -> None:
    """It had no revisions: `user_version` said which schema it was."""
    path = tmp_path / "service.db"
    engine = sqlite_engine(URL.create("sqlite", database=str(path)), "BEGIN IMMEDIATE")
    with engine.begin() as connection:
        config = migrations.configuration()
        config.attributes["connection"] = connection
        command.upgrade(config, migrations.BEFORE_ALEMBIC)
        connection.exec_driver_sql("DROP TABLE alembic_version")
        connection.exec_driver_sql("PRAGMA user_version = 1")
        connection.execute(text(
            "INSERT INTO clients (tenant, id, issued, reported, sequence, created_ms) VALUES ('acme', 'a', 3, 2, -1, 0)"
        ))  # fmt: skip
        connection.execute(text(
            "INSERT INTO jobs (id, tenant, client, generation, version, digest, status, phase, message, sequence, "
            "expires_ms, created_by, created_ms, updated_ms, told_ms) VALUES ('j', 'acme', 'a', 3, '1', 'd', 'QUEUED', "
            "'idle', '', -1, 0, 'me', 0, 0, 0)"
        ))  # fmt: skip
    engine.dispose()
    store = Store.open(path)
    try:
        assert await store.read(lambda c: compare_metadata(MigrationContext.configure(c), metadata)) == []
        query = text("SELECT issued, superseded_by FROM clients JOIN jobs ON client = clients.id")
        assert await store.read(lambda c: tuple(c.execute(query).one())) == (3, None)
    finally:
        await store.close()


@pytest.mark.parametrize("count", [4])
async def test_services_that_start_at_once_migrate_once(postgres: Postgres, count: int) -> None:
    url = postgres.create_database(template=None)
    stores = await asyncio.gather(*(asyncio.to_thread(Store.open, url) for _ in range(count)))
    try:
        assert await stores[0].read(lambda c: c.scalar(text("SELECT version_num FROM alembic_version"))) == (
            migrations.head()
        )
    finally:
        for store in stores:
            await store.close()
        postgres.drop_database(url)


def test_a_failed_revision_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = command.upgrade

    def half(*given: object, **named: object) -> None:
        real(*given, **named)  # type: ignore[arg-type]
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(command, "upgrade", half)
        with pytest.raises(ServiceError, match="the disk is full"):
            Store.open(tmp_path / "service.db")
    engine = create_engine(f"sqlite:///{tmp_path / 'service.db'}")
    assert inspect(engine).get_table_names() == []
    engine.dispose()


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://user:secret@host/name", "sqlite://", "sqlite:///:memory:"]
)
def test_a_url_that_is_no_database_of_ours(url: str) -> None:
    with pytest.raises(InputError) as caught:
        Store.open(url)
    assert "secret" not in str(caught.value)
    assert caught.value.todo


def test_a_password_is_never_told() -> None:
    with pytest.raises(ServiceError) as caught:
        Store.open("postgresql://user:secret@127.0.0.1:1/name")
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)


def test_the_revisions_are_one_line() -> None:
    """Two that follow the same one could not be told apart at the next start."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(migrations.FOLDER))
    found = [revision.revision for revision in scripts.walk_revisions()]
    assert len(scripts.get_heads()) == 1
    assert sorted(found, reverse=True) == found
