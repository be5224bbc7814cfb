"""Writes reports: each file whole or not at all."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from chaos.history import History
from chaos.report.compared import Compared, compare
from chaos.report.index import index_page
from chaos.report.journal import journal
from chaos.report.junit import junit
from chaos.report.page import run_page
from chaos.result import Report, RunResult
from chaos.scenario.model import Scenario
from chaos.verdict import Ended
from reference.core.errors import BlackstartError, InputError
from reference.support.files import write_durably

RESULT, PAGE, JOURNAL, HISTORY = "result.json", "report.html", "journal.json", "history.jsonl"
REPORT, JUNIT, INDEX = "report.json", "junit.xml", "index.html"
_MODE = 0o644
_RUNS = TypeAdapter(list[RunResult])
_log = logging.getLogger(__name__)


def write_run(result: RunResult, history: History, folder: Path, scenario: Scenario | None = None) -> None:
    """`result.json`, `report.html` and `journal.json` of one run, in `folder`, which is made where it is not.

    `scenario`: what was played; without it the pages know its title and plan only. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    played = scenario if scenario is not None else _stand_in(history)
    beside = [name for name in (RESULT, JOURNAL, HISTORY) if name != HISTORY or (folder / HISTORY).exists()]
    # All is made before anything is written: a defect here leaves what was there before.
    contents: dict[str, str | bytes] = {
        RESULT: result.to_json() + "\n",
        JOURNAL: journal(result, history, played),
        PAGE: run_page(result, history, played, beside),
    }
    for name, content in contents.items():
        _write(folder / name, content)


def write_all(report: Report, folder: Path, earlier: Path | None = None) -> Compared | None:
    """`report.json`, `junit.xml` and `index.html` of all runs, compared with an earlier `report.json`, or its folder.

    An earlier report that cannot be read does not cost the new one: it is said in the pages, and logged. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Before anything is written: it may be the one in this very folder.
    compared = _compared(report, earlier) if earlier is not None else None
    body = json.loads(report.to_json())
    if compared is not None:
        body["compared"] = compared.to_json()
    contents: dict[str, str | bytes] = {
        REPORT: json.dumps(body, indent=1) + "\n",
        JUNIT: junit(report),
        INDEX: index_page(report, compared, _links(report, folder)),
    }
    for name, content in contents.items():
        _write(folder / name, content)
    return compared


def read_report(path: Path) -> Report:
    """A `report.json`, or the one in a folder. Raises InputError that names the file."""
    file = path / REPORT if path.is_dir() else path
    try:
        body = json.loads(file.read_bytes())
        runs = _RUNS.validate_python(body["runs"])
        return Report(runs, float(body.get("seconds", 0.0)))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(file)) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"no report of chaos runs: {place}: {first['msg']}", where=str(file)) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            "no report of chaos runs", where=str(file), todo=f"Name a {REPORT} that `--report` wrote."
        ) from None


def _compared(report: Report, earlier: Path) -> Compared:
    try:
        return compare(read_report(earlier), report)
    except BlackstartError as error:
        _log.warning("not compared", extra={"detail": str(error)})
        return Compared(problem=f"Not compared: {error}")


def _links(report: Report, folder: Path) -> dict[int, str]:
    """From a run's place to its page, relative, where there is one."""
    found = {}
    for number, run in enumerate(report.runs):
        places = [Path(run.folder)] if run.folder else []
        page = next((p / PAGE for p in (*places, folder / run.name) if (p / PAGE).is_file()), None)
        if page is not None and run.ended is not Ended.SKIPPED:
            found[number] = Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix()
    return found


def _stand_in(history: History) -> Scenario:
    """A scenario that has nothing of the real one but what ran before; pages take their words from the result."""
    first = next(history.of("probe", "good"), None)
    body = {"title": "not kept", "method": [{"action": "wait", "for": "0ms"}]}
    try:
        return Scenario.model_validate(
            {**body, "bench": {"begins": first.data.get("version") if first else None}}
        )
    except ValidationError:
        return Scenario.model_validate(body)


def _write(path: Path, content: str | bytes) -> None:
    write_durably(path, content if isinstance(content, bytes) else content.encode("utf-8", "replace"), _MODE)
