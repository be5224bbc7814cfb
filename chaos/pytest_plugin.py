"""A scenario file as a test of pytest: played as `blackstart chaos run` plays it. Fail and unknown both fail the test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from chaos.load import load, name_of, problems
from chaos.result import Report, RunResult
from chaos.scenario import Scenario
from chaos.verdict import Ended, Verdict
from reference.core.errors import BlackstartError

RESULTS = pytest.StashKey[list[RunResult]]()


class ScenarioFailed(Exception):  # noqa: N818 - what pytest shows as the failure's name
    """A run that failed, or that cannot be told."""

    def __init__(self, result: RunResult) -> None:
        super().__init__(f"{result.name}: {result.ended.value}")
        self.result = result


class ScenarioFile(pytest.File):
    """One file, which is one test."""

    def collect(self) -> Iterator[ScenarioItem]:
        """Raises CollectError with all that is wrong with the file, by line."""
        try:
            if wrong := problems(self.path):
                raise self.CollectError("\n".join(map(str, wrong)))
            scenario = load(self.path)
        except BlackstartError as error:
            raise self.CollectError(str(error)) from None
        yield ScenarioItem.from_parent(self, name=name_of(self.path), scenario=scenario)


class ScenarioItem(pytest.Item):
    """The scenario, to be played."""

    def __init__(self, *, scenario: Scenario, name: str, parent: ScenarioFile) -> None:
        super().__init__(name, parent)
        self.scenario = scenario
        self.extra_keyword_matches.update(scenario.tags, (use.fault for use in scenario.faults))
        """So that `-k network` and `-k power-cut` choose."""

    def runtest(self) -> None:
        """Play it. Raises ScenarioFailed; skips with the reason where a part that it needs is missing."""
        from chaos.lanes import play_file
        from chaos.runner import Options

        seed: int | None = self.config.getoption("--chaos-seed")
        report = report_folder(self.config)
        said: list[str] = []
        playing = play_file(
            self.path, Options(seed), said.append, report / self.name if report is not None else None
        )
        try:
            result = asyncio.run(playing)
        finally:
            self.add_report_section("call", "progress", "\n".join(said))
        self.config.stash.setdefault(RESULTS, []).append(result)
        if result.ended is Ended.SKIPPED:
            pytest.skip(result.reason)
        if result.ended is not Ended.PASS:
            raise ScenarioFailed(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:  # noqa: ARG002
        """The table of what was expected and what was measured, in place of a traceback."""
        if isinstance(excinfo.value, ScenarioFailed):
            return told(excinfo.value.result)
        if isinstance(excinfo.value, BlackstartError):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where it is, and what it is about."""
        return self.path, None, f"{self.name}: {self.scenario.title}"


def report_folder(config: pytest.Config) -> Path | None:
    """Where reports go."""
    folder: Path | None = config.getoption("--chaos-report")
    return folder


def write_index(config: pytest.Config) -> None:
    """The report over all that this process has played. Under xdist each run has its own report, and there is no index."""
    results = config.stash.get(RESULTS, [])
    folder = report_folder(config)
    if not results or folder is None or hasattr(config, "workerinput"):
        return
    from chaos.report import write_all

    write_all(Report.of(results, sum(run.seconds for run in results)), folder, None)


def told(result: RunResult) -> str:
    """A run in words: the verdict, why, and every finding, those that did not pass first."""
    lines = [f"{result.name}: {result.ended.value}, seed {result.seed}"]
    lines += [result.reason] if result.reason else []
    findings = sorted(
        result.findings, key=lambda f: (f.verdict is Verdict.PASS, f.verdict is Verdict.UNKNOWN)
    )
    rows = [
        (f.verdict.value, f"{f.checker} ({f.device})" if f.device else f.checker, f.expected, f.measured)
        for f in findings
    ]
    if rows:
        lines += ["", *_table(("VERDICT", "CHECKER", "EXPECTED", "MEASURED"), rows)]
    for fault in result.faults:
        how = f"fired: {fault.fired}" if fault.fired else fault.failed or "was not shown to have fired"
        lines.append(f"fault {fault.label}, {fault.nth}: {how}")
    return "\n".join([*lines, "", f"Play it again: blackstart chaos run {result.file} --seed {result.seed}"])


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[n]) for row in (titles, *rows)) for n in range(len(titles))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (titles, *rows)
    ]
