"""A PostgreSQL of the tests' own, on a socket of its own. Where none can run, whoever asks for it is skipped and says so."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from chaos import postgres

TEMPLATE = "blackstart_template"


class Postgres(postgres.Postgres):
    """With a template for databases: fill it once, and each new database has what it has."""

    def __init__(self) -> None:
        if reason := postgres.missing():
            pytest.skip(f"postgresql: {reason}")
        self._folder = Path(tempfile.mkdtemp(prefix="blackstart-pg-log-"))
        super().__init__(self._folder, tcp=False)

    def stop(self) -> None:
        """End it, and remove all of it."""
        super().stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def create_database(self, template: str | None = TEMPLATE, *, name: str = "") -> str:
        """The URL of a new database, with the schema that the template has; None for an empty one."""
        return super().create_database(template, name=name)

    def create_template(self) -> str:
        """The URL of the template: fill it, and leave it alone."""
        return super().create_database(name=TEMPLATE)
