"""What holds for every test: where everything has to run, a skip is a failure."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

NO_SKIPS = "BLACKSTART_NO_SKIPS"
"""Set to 1 where every real part is installed: a part that is missing must not pass for one that works."""


FIRST = (
    "tests/stack/",
    "tests/demo/",
    "tests/cli/",
    "tests/agreement/test_kills.py",
    "tests/power/test_cuts.py",
    "tests/service/test_kills.py",
    "tests/service/test_schemathesis.py",
)
"""Begun first, because they take longest: two workers then end at about the same time."""


NOT_ASKED = pytest.StashKey[list[str]]()
"""Tests of a suite for many that one class says it has nothing of, each with its reason."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long ones first; otherwise as collected. What a class cannot be asked (its `cannot`) is left out by name."""
    left_out = [item for item in items if _reason(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _reason(item)]
    config.stash[NOT_ASKED] = [f"{item.nodeid}: {_reason(item)}" for item in left_out]
    items.sort(
        key=lambda item: next((n for n, place in enumerate(FIRST) if place in item.nodeid), len(FIRST))
    )


def _reason(item: pytest.Item) -> str:
    """Why a test is not asked of its class; empty when it is."""
    cannot = getattr(getattr(item, "cls", None), "cannot", {})
    return str(cannot.get(getattr(item, "originalname", ""), ""))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was left out, and why."""
    for line in config.stash.get(NOT_ASKED, []):
        terminalreporter.write_line(f"NOT ASKED {line}")


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get(NO_SKIPS) == "1":
        report.outcome = "failed"
        report.longrepr = f"{NO_SKIPS} is set, and this was skipped: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test."""
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips itself while it is collected."""
    report = yield
    _refuse(report)
    return report
