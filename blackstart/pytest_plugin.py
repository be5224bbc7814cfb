"""`pytest scenarios/`: a scenario file is a test. pytest finds this by its entry point, in every environment it is in.

So it is light and holds back: nothing of Blackstart is imported, and `sys.path` stays as it is, until a file is met that
is a scenario. What is done with it is in `chaos/pytest_plugin.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

ENDS = (".yaml", ".yml")
MAX_BYTES = 1 << 20
_METHOD = re.compile(rb"^method[ \t]*:", re.MULTILINE)
_ITEM = re.compile(rb"^[ \t]*(- *)?(\{ *)?(fault|action)[ \t]*:", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What can be said about scenarios on pytest's command line."""
    group = parser.getgroup("blackstart", "scenarios of Blackstart")
    group.addoption(
        "--chaos-seed", type=int, metavar="N", help="play scenarios with this seed, not their own"
    )
    group.addoption(
        "--chaos-report", type=Path, metavar="DIR", help="write a report of each scenario into this folder"
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Scenario files; every other YAML file is left alone."""
    if file_path.suffix not in ENDS or not is_scenario(file_path):
        return None
    from blackstart import activate

    activate()
    from chaos.pytest_plugin import ScenarioFile

    return ScenarioFile.from_parent(parent, path=file_path)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The index over the reports, where some were written."""
    import sys

    if (plugin := sys.modules.get("chaos.pytest_plugin")) is not None:
        plugin.write_index(session.config)


def is_scenario(path: Path) -> bool:
    """Whether it has a method with faults or actions in it, by a look at its text: it may be wrong in many ways."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES)
    except OSError:
        return False
    return _METHOD.search(text) is not None and _ITEM.search(text) is not None
