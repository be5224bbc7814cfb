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
    "tests/service/test_kills.py",
    "tests/service/test_schemathesis.py",
)
"""Begun first, because they take longest: two workers then end at about the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first; otherwise as collected."""
    items.sort(
        key=lambda item: next((n for n, place in enumerate(FIRST) if place in item.nodeid), len(FIRST))
    )


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
