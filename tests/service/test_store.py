"""The database's file is the one that was named, whatever its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select, text, update
from sqlalchemy.exc import OperationalError

from reference.core.errors import InputError, ServiceError
from reference.core.limits import ServiceLimits
from reference.core.model import Health, Image
from reference.protocol.envelope import generate_key
from reference.service import orders
from reference.service.auth import Principal, Role
from reference.service.problems import ConflictError
from reference.service.schema import clients
from reference.service.store import Store
from tests.support.postgres import Postgres


def _names(folder: Path) -> set[str]:
    return {found.name for found in folder.iterdir()}


@pytest.mark.parametrize(
    "name", ["a?mode=memory", "a#b", "100%", "%3f%41", "file:a?uri=true", "a b", "ä&c@d:e"]
)
async def test_any_path_can_hold_the_database(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / f"{name}.db"
    for _ in range(2):
        store = Store.open(path)
        try:
            assert await store.read(lambda c: c.execute(text("SELECT count(*) FROM jobs")).scalar_one()) == 0
        finally:
            await store.close()
    assert path.stat().st_size > 0
    assert _names(tmp_path) == {name}
    assert {found.removesuffix("-wal").removesuffix("-shm") for found in _names(path.parent)} == {path.name}


# ---- transactions, on each database


@pytest.fixture
async def store(tmp_path: Path, database_url: str | None, each_database: str | None) -> AsyncIterator[Store]:
    opened = Store.open(database_url or tmp_path / "service.db", tmp_path)
    yield opened
    await opened.close()


def _add(connection: Connection, client: str) -> str:
    connection.execute(insert(clients).values(tenant="t", id=client, created_ms=0))
    return client


def _count(connection: Connection) -> int:
    return connection.scalar(select(func.count()).select_from(clients)) or 0


async def test_many_writers_at_once_each_get_their_own_outcome(store: Store) -> None:
    def refused(connection: Connection) -> None:
        _add(connection, "refused")
        raise InputError("no")

    def broken(connection: Connection) -> None:
        _add(connection, "broken")
        raise ZeroDivisionError

    def doubled(connection: Connection) -> None:
        _add(connection, "c0")

    await store.write(lambda c: _add(c, "c0"))
    works: list[Callable[[Connection], object]] = [refused, broken, doubled]
    works += [partial(_add, client=f"c{n}") for n in range(1, 100)]
    outcomes: list[object] = await asyncio.gather(
        *(store.write(work) for work in works), return_exceptions=True
    )
    assert [type(o) for o in outcomes[:3]] == [InputError, ZeroDivisionError, ServiceError]
    assert outcomes[3:] == [f"c{n}" for n in range(1, 100)]
    assert await store.read(_count) == 100


async def test_no_update_is_lost_between_writers(store: Store) -> None:
    """Read, count up, write: as every rule of a client does."""
    await store.write(lambda c: _add(c, "c"))

    def up(connection: Connection) -> int:
        issued = connection.scalar(select(clients.c.issued)) or 0
        connection.execute(update(clients).values(issued=issued + 1))
        return issued + 1

    given = await asyncio.gather(*(store.write(up) for _ in range(40)))
    assert sorted(given) == list(range(1, 41)), "no generation twice, none left out"


async def test_two_services_on_one_database_give_each_generation_once(postgres: Postgres) -> None:
    url = postgres.create_database()
    stores = [Store.open(url) for _ in range(2)]
    try:
        await stores[0].write(lambda c: _add(c, "c"))
        caller = Principal("me", "t", Role.ADMINISTRATOR)
        image = Image("localhost:5000/opc", "sha256:" + "ab" * 32, "1")
        await stores[0].write(lambda c: orders.register_version(c, caller, image, Health(), 0))
        desk = orders.Desk(generate_key(), ServiceLimits())
        for number in range(1, 6):
            works = (
                stores[n % 2].write(lambda c: orders.order_update(c, desk, caller, "c", "1", 0))
                for n in range(10)
            )
            outcomes = await asyncio.gather(*works, return_exceptions=True)
            made = [o for o in outcomes if not isinstance(o, BaseException)]
            assert len(made) == 1, outcomes
            assert made[0].job.generation == number
            assert {type(o) for o in outcomes if isinstance(o, BaseException)} == {ConflictError}
            job_id = made[0].job.id
            await stores[1].write(
                partial(orders.order_cancel, desk=desk, caller=caller, job_id=job_id, now_ms=0)
            )
    finally:
        for store in stores:
            await store.close()
        postgres.drop_database(url)


async def test_what_is_wrong_is_told_and_a_closed_store_says_so(store: Store) -> None:
    told: list[str | None] = []
    store.watch(told.append)
    with pytest.raises(ServiceError, match="the database failed"):
        await store.write(_disk_full)
    await store.read(_count)
    assert told == ["the database failed: disk full"] * 2, "it can be read: that says nothing of writing"
    await store.probe(3600)
    await store.read(_count)
    assert told[2:] == [None, None]
    await store.close()
    with pytest.raises(ServiceError, match="closed"):
        await store.write(_count)


def _disk_full(_connection: Connection) -> int:
    raise OperationalError("INSERT", {}, Exception("disk full"))
