"""What the judge holds against a story, where no broken agent shows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from reference.core.model import Phase
from reference.demo.bench import Bench
from reference.demo.judge import _in_order, _seen
from reference.demo.observer import Seen
from reference.demo.stories import STORIES
from reference.edge.journal import HistoryEntry
from reference.stack.probe import Answer
from reference.stack.samples import samples_of

PLAIN = next(s for s in STORIES if s.name == "update-succeeds")
DEAF = replace(PLAIN, goes_on_ms=1_500)
SWITCHED_AT, ENDED_AT = 1_000, 9_000


def bench(down_at_ms: float, *marks: tuple[float, str], most: int = 1) -> Bench:
    """One whose client answered until `down_at_ms`, and then again."""
    answers = [Answer(at, at + 1, at != down_at_ms, "1.0.0") for at in (500.0, down_at_ms, 8_000.0)]
    found = SimpleNamespace(
        seen=Seen(answers, most), marks=list(marks), begins="1.0.0", notes={}, ended_ms=9_500.0
    )
    return cast("Bench", found)


def judged(story: object, seen: Bench) -> str:
    entry = cast("HistoryEntry", SimpleNamespace(phase=Phase.SWITCHING, at_ms=SWITCHED_AT))
    ended = cast("HistoryEntry", SimpleNamespace(phase=Phase.CLEANING_UP, at_ms=ENDED_AT))
    return " ".join(_in_order(story, seen, [entry, ended], ended))  # type: ignore[arg-type]


def test_a_client_goes_down_after_the_switch_is_journaled() -> None:
    assert judged(PLAIN, bench(2_000.0)) == ""
    assert "went down before `switching`" in judged(PLAIN, bench(900.0))


@pytest.mark.parametrize("what", ["killed", "engine restarts with its containers"])
def test_what_we_have_done_ourselves_is_not_held_against_it(what: str) -> None:
    assert judged(PLAIN, bench(900.0, (800.0, what))) == ""
    assert judged(PLAIN, bench(900.0, (950.0, what))) != "", "it was down before that"
    assert judged(PLAIN, bench(900.0, (800.0, "engine restarts"))) != "", "its containers go on"


def test_a_version_that_does_not_hear_is_left_its_time() -> None:
    assert judged(DEAF, bench(2_600.0)) == ""
    assert "was not left its 1500 ms" in judged(DEAF, bench(2_400.0))


def test_more_than_one_at_once_only_where_somebody_else_starts_them(tmp_path: Path) -> None:
    samples = samples_of(tmp_path / "none")
    last = Answer(8_000.0, 8_001.0, good=True, version="2.0.0")

    def said(most_at_once: int) -> str:
        story = replace(PLAIN, most_at_once=most_at_once)
        return " ".join(_seen(story, bench(2_000.0, most=2), last, 1, samples))

    assert "2 client processes lived at once" in said(1)
    assert "lived at once" not in said(2)
