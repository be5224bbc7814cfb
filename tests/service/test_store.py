"""The database's file is the one that was named, whatever its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from reference.service.store import Store


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
