"""The page: what it shows, and that nothing a part says can change it into something else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast
from xml.etree import ElementTree

from reference.demo.bench import Bench
from reference.demo.observer import Seen
from reference.demo.report import page, picture
from reference.demo.stories import STORIES
from reference.demo.timeline import timeline

TIMELINE: dict[str, object] = {
    "length_ms": 1000.0,
    "old": "1.0.0",
    "phases": [{"from": 100, "to": 300, "what": "pulling"}, {"from": 300, "to": 900, "what": "verifying"}],
    "probe": [
        {"from": 0, "to": 300, "what": "1.0.0"},
        {"from": 300, "to": 380, "what": "down"},
        {"from": 380, "to": 1000, "what": "2.0.0"},
    ],
    "samples": [{"from": 0, "to": 300, "what": "1.0.0"}, {"from": 380, "to": 1000, "what": "2.0.0"}],
    "marks": [
        {"at": 90, "what": "update"},
        {"at": 95, "what": "killed"},
        {"at": 990, "what": "job succeeded"},
    ],
}


def _story(**changed: object) -> dict[str, object]:
    evidence = {"about": "a story", "problems": [], "timeline": TIMELINE}
    story: dict[str, object] = {
        "name": "one", "outcome": "succeeded", "reason": "", "downtime_ms": 80, "rollback_ms": None,
        "verdict": "pass", "evidence": evidence,
    }  # fmt: skip
    return {**story, **changed}


def _page(*stories: dict[str, object]) -> str:
    return page({"stories": list(stories), "passed": len(stories), "failed": 0, "unknown": 0, "seconds": 1.5})


def test_the_picture_is_well_formed_and_stays_on_its_axis() -> None:
    root = ElementTree.fromstring(picture(TIMELINE))
    bars = list(root.iter("rect"))
    assert len(bars) == 7
    for bar in bars:
        assert float(bar.attrib["x"]) >= 92
        assert float(bar.attrib["x"]) + float(bar.attrib["width"]) <= 984.1
    titles = [t.text for t in root.iter("title")]
    assert "down: 300 to 380 ms (80 ms)" in titles
    old, down, new = (b.attrib["fill"] for b in bars[2:5])
    assert len({old, down, new}) == 3


def test_marks_that_are_close_do_not_cover_each_other() -> None:
    root = ElementTree.fromstring(picture(TIMELINE))
    lines = {t.text: t.attrib["y"] for t in root.iter("text")}
    assert lines["update"] != lines["killed"]


def test_nothing_seen_is_no_picture() -> None:
    assert picture({}) == "" and picture({"length_ms": 0}) == ""


def test_what_a_part_says_is_text_and_never_markup() -> None:
    evil = "</p><script>alert(1)</script>"
    timeline = {**TIMELINE, "marks": [{"at": 1, "what": evil}], "probe": [{"from": 0, "to": 9, "what": evil}]}
    evidence = {"about": evil, "problems": [evil], "timeline": timeline}
    found = _page(_story(name=evil, reason=evil, evidence=evidence))
    assert "<script>" not in found and found.count("&lt;script&gt;") >= 4


def test_a_failure_says_why_beside_its_picture() -> None:
    evidence = {"about": "a story", "problems": ["the API says x, expected y"], "timeline": TIMELINE}
    assert "the API says x, expected y" in _page(_story(verdict="fail", evidence=evidence))


def test_a_story_that_was_never_seen_to_begin_has_an_empty_timeline(tmp_path: Path) -> None:
    device = SimpleNamespace(samples=tmp_path / "none")
    bench = SimpleNamespace(seen=Seen(), marks=[], device=device, begins=None)
    assert timeline(cast("Bench", bench), [])["length_ms"] == 0
    bench.marks = [(1000.0, "update"), (1500.0, "killed")]
    assert timeline(cast("Bench", bench), [])["length_ms"] == 500


def test_stories_have_names_of_their_own_and_devices_of_their_own() -> None:
    assert len({s.name for s in STORIES}) == len(STORIES)
    assert len({s.client_id for s in STORIES}) == len(STORIES)
