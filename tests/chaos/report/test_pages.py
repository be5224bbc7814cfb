"""The pages: well-formed, whole, escaped, and with nothing in them from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from chaos.checkers import Case
from chaos.history import Event, History
from chaos.report import compare, write_all, write_run
from chaos.report.index import index_page
from chaos.report.lanes import closer, picture
from chaos.report.page import command, run_page
from chaos.report.style import STYLE
from chaos.report.svg import svg
from chaos.report.text import clean, esc, ms, seconds
from chaos.result import FaultRow, Report, RunResult
from chaos.verdict import Ended, Finding, Verdict
from tests.chaos.checkers.builder import EDGE, WALL_MS, Run
from tests.chaos.report.sample import SECOND, report, result

HOSTILE = "</title><script>alert('x')</script><img src=x onerror=\"y\"> & ]]> \x00\x1b\ud800 {bottom}"
LANES = (
    "update phase", "fault: lost-acks", "fault: registry-throttled", "client answers", "samples", "MQTT messages",
    "job at the API", "client processes",
)  # fmt: skip


def parsed(text: str) -> ET.Element:
    """The page as XML, which it is, too; raises for one that is not well-formed."""
    return ET.fromstring(text.removeprefix("<!DOCTYPE html>"))


def words(text: str) -> str:
    return " ".join("".join(parsed(text).find("body").itertext()).split())  # type: ignore[union-attr]


def page() -> str:
    made, history, scenario = result()
    return run_page(made, history, scenario, ["result.json"])


def hostile() -> tuple[RunResult, History]:
    """A run in which everything that anybody can name says something hostile."""
    made, history, _ = result()
    made.title = made.description = made.proves = made.reason = made.machine = made.version = HOSTILE
    made.file = made.folder = made.runtime = HOSTILE
    made.tags = [HOSTILE]
    made.findings += [Finding(HOSTILE, HOSTILE, HOSTILE, v, HOSTILE) for v in Verdict]
    made.faults += [FaultRow(HOSTILE, HOSTILE, 1, "", HOSTILE, 1.3, 1.4, 1.5, 1.0, HOSTILE, HOSTILE)]
    made.devices = [replace(d, outcome=HOSTILE, reason=HOSTILE, runs=HOSTILE) for d in made.devices]
    made.plan = [{"label": HOSTILE}]
    data = {
        "version": HOSTILE,
        "phase": HOSTILE,
        "status": HOSTILE,
        "to": HOSTILE,
        "kind": HOSTILE,
        "n": HOSTILE,
    }
    kinds = [
        ("probe", "good"), ("phase", "durable"), ("api", "job"), ("action", "update"), ("tap", "publish"),
        ("processes", "count"),
    ]  # fmt: skip
    more = [
        Event(1.5 + n / 100, WALL_MS, s, e, d, data)
        for n, (s, e) in enumerate(kinds)
        for d in (EDGE, HOSTILE)
    ]
    return made, History.made_of([*history.events, *more])


@pytest.mark.parametrize(
    "text", [page(), index_page(report(), compare(report(), report()), {0: "a/report.html"})]
)
def test_it_is_whole_and_needs_nothing(text: str) -> None:
    root = parsed(text)
    assert root.attrib["lang"] == "en"
    assert {element.tag for element in root.iter()}.isdisjoint(
        {"script", "link", "iframe", "img", "object", "base"}
    )
    assert not re.findall(r"(?:https?:)?//[a-z0-9]", text), "no address of elsewhere"
    for element in root.iter():
        assert not [name for name in element.attrib if name.startswith("on")]
        assert all(not v.strip().lower().startswith("javascript") for v in element.attrib.values())
    assert "@import" not in STYLE
    assert not re.findall(r"url\((?!#)", text)


def test_light_and_dark() -> None:
    assert "prefers-color-scheme: dark" in page()
    light, _, dark = STYLE.partition("@media (prefers-color-scheme: dark)")
    named = set(re.findall(r"(--[a-z0-9-]+):", light))
    assert named == set(re.findall(r"(--[a-z0-9-]+):", dark)), "each colour is there twice"
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", page())) <= named


def test_every_class_of_the_picture_has_a_style() -> None:
    used = {
        name for c in re.findall(r'<(?:rect|line|text)[^>]* class="([^"]+)"', page()) for name in c.split()
    }
    assert used
    assert {name for name in used if not re.search(rf"\.{re.escape(name)}\b", STYLE)} == set()


def test_it_says_what_people_ask() -> None:
    said = words(page())
    for part in (
        "a story", "lost-acknowledgement", "seed 7", "A lost acknowledgement is not a lost update.", "480 ms",
        "3 PUBACKs were dropped", "429 was served 4 times", "pid 4711 is gone", "at most 600 ms", "0.7.0",
        "Linux 6.1, 2 cores", "blackstart chaos run scenarios/lost-acknowledgement.yaml --seed 7",
    ):  # fmt: skip
        assert part in said


def test_every_finding_is_a_row() -> None:
    made, _, _ = result()
    rows = [
        r for r in parsed(page()).iter("tr") if len(list(r)) == 5 and r.find("th[@scope='row']") is not None
    ]
    assert len(rows) == len(made.findings)


def test_tables_and_pictures_are_named() -> None:
    root = parsed(page())
    assert all(table.find("caption") is not None for table in root.iter("table"))
    ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids))
    pictures = [s for s in root.iter("svg") if s.attrib.get("role") == "img"]
    assert len(pictures) >= 2
    for one in pictures:
        assert set(one.attrib["aria-labelledby"].split()) <= set(ids)


def test_the_picture_has_each_lane() -> None:
    made, history, scenario = result()
    case = Case(scenario, history, tuple(made.faults))
    root = ET.fromstring(svg(picture(case, made, EDGE), 0, "all"))
    texts = ["".join(t.itertext()) for t in root.iter("text")]
    assert [t for t in texts if t in LANES] == list(LANES)
    assert "fault: agent-killed" not in texts, "that was the other device's"
    other = ET.fromstring(svg(picture(case, made, SECOND), 0, "all"))
    assert "fault: agent-killed" in ["".join(t.itertext()) for t in other.iter("text")]


def test_the_picture_shows_what_was_seen() -> None:
    made, history, scenario = result()
    case = Case(scenario, history, tuple(made.faults))
    lanes = {lane.name: lane for lane in picture(case, made, EDGE).lanes}
    seen = [(bar.text, bar.kind, round(bar.end - bar.begin, 3)) for bar in lanes["client answers"].bars]
    assert seen == [("1.0.0", "v0", 0.72), ("down 80\u00a0ms", "down", 0.08), ("2.0.0", "v1", 0.8)]
    assert [b.kind for b in lanes["fault: lost-acks"].bars] == ["lead", "fault"]
    shown = [b.text for b in lanes["update phase"].bars if b.begin > 1.2]
    assert shown == ["accepted", "pulling", "staged", "switching", "verifying", "committing", "cleaning up"]
    assert {t.about for t in lanes["MQTT messages"].ticks} >= {
        "command to the device",
        "status to the broker",
    }
    statuses = [b.text for b in lanes["job at the API"].bars]
    assert statuses == ["QUEUED", "IN_PROGRESS", "not answering", "IN_PROGRESS", "SUCCEEDED"]


def test_a_fault_without_proof_is_drawn_otherwise() -> None:
    made, history, scenario = result()
    made.faults[0] = replace(made.faults[0], fired="")
    lane = picture(Case(scenario, history), made, EDGE).lanes[1]
    assert [b.kind for b in lane.bars] == ["lead", "unproved"]
    assert "not shown to have fired" in lane.bars[1].about


def test_many_faults_share_lanes_and_none_is_lost() -> None:
    made, history, scenario = result()
    made.faults = [
        FaultRow(
            f"f{n}",
            "latency",
            triggered_t=1.2 + n / 50,
            in_force_t=1.2 + n / 50,
            healed_t=1.3 + n / 50,
            fired="y",
        )
        for n in range(40)
    ]
    lanes = [lane for lane in picture(Case(scenario, history), made, EDGE).lanes if lane.name == "faults"]
    assert sum(len(lane.bars) for lane in lanes) == 40
    assert len(lanes) < 10
    for lane in lanes:
        assert all(a.end <= b.begin for a, b in zip(lane.bars, lane.bars[1:], strict=False))


def test_a_short_outage_is_shown_closer_and_a_long_one_is_not() -> None:
    made, history, scenario = result()
    case = Case(scenario, history)
    short, long = (picture(case, made, device) for device in (EDGE, SECOND))
    near = closer(short, case, EDGE)
    assert near is not None
    assert near.begin < 1.62 < 1.7 < near.end
    assert closer(long, case, SECOND) is None


def test_everything_is_in_the_picture() -> None:
    """No shape lies outside, nor has a width below nothing."""
    for match in re.finditer(r'<rect class="bar[^>]*? x="([0-9.-]+)" y="[^"]+" width="([0-9.-]+)"', page()):
        x, width = float(match[1]), float(match[2])
        assert width > 0
        assert 0 <= x <= x + width <= 1081


def test_what_is_hostile_is_only_words(tmp_path: Path) -> None:
    made, history = hostile()
    write_run(made, history, tmp_path / "run")
    made.name = HOSTILE
    write_all(Report.of([made], 1.0), tmp_path)
    for text in (
        (tmp_path / "run/report.html").read_text("utf-8"),
        (tmp_path / "index.html").read_text("utf-8"),
    ):
        root = parsed(text)
        assert not [e for e in root.iter() if e.tag in ("script", "img")]
        assert "alert('x')" in words(text)


def test_a_run_of_which_nothing_was_seen_has_a_page() -> None:
    made = RunResult("none", "none.yaml", "nothing", 1, Ended.UNKNOWN, "no port was free")
    said = words(run_page(made, History(), result()[2], []))
    assert "no port was free" in said
    assert "unknown" in said


def test_a_history_that_breaks_off_has_a_page() -> None:
    made, history, scenario = result()
    for count in range(0, len(history.events), 7):
        parsed(run_page(made, History(history.events[:count]), scenario, []))
    odd = (
        Run().add(1.0, "probe", "good", EDGE).add(1.0, "api", "job", EDGE).add(1.0, "phase", "durable", EDGE)
    )
    parsed(run_page(made, History.made_of(odd.events), scenario, []))


def test_twenty_devices_are_folded() -> None:
    made, history, scenario = result()
    devices = [f"edge-{n}" for n in range(1, 21)]
    made.findings = [Finding("samples", "none lost", "none", Verdict.PASS, d) for d in devices]
    made.findings += [Finding("downtime", "at most 1 ms", "2 ms", Verdict.FAIL, d) for d in devices]
    said = words(run_page(made, history, scenario, []))
    assert "20 devices" in said
    assert "downtime on edge-1, edge-2, edge-3 and 17 more: 2 ms" in said


def test_the_command_can_be_pasted() -> None:
    made, _, _ = result()
    made.file = "scenarios/it's here.yaml"
    assert command(made) == "blackstart chaos run 'scenarios/it'\"'\"'s here.yaml' --seed 7"


def test_the_index_has_every_run() -> None:
    text = index_page(report(), None, {1: "lost-acknowledgement/report.html"})
    said = words(text)
    for run in report().runs:
        assert run.name in said
    assert "no loop devices here" in said
    assert [a.attrib["href"] for a in parsed(text).iter("a")] == ["lost-acknowledgement/report.html"]
    assert "a fault was not shown to have fired" in said or "faults-fired" in said


def test_the_index_counts_faults() -> None:
    rows = {}
    for row in parsed(index_page(report(), None, {})).iter("tr"):
        cells = ["".join(c.itertext()) for c in row]
        rows[cells[0]] = cells[1:]
    assert rows["mqtt-drop"] == ["2", "3", "3"]
    assert rows["agent-killed"] == ["3", "3", "3"]


def test_nothing_played_is_said() -> None:
    assert "Nothing was played." in words(index_page(Report(), None, {}))


def test_quantities() -> None:
    assert (ms(None), ms(7), ms(1234567)) == ("–", "7\u00a0ms", "1\u202f234\u202f567\u00a0ms")
    assert (seconds(0.25), seconds(12.34), seconds(245)) == (
        "250\u00a0ms",
        "12.3\u00a0s",
        "4\u00a0min 05\u00a0s",
    )
    assert clean("a\x00b\ud800") == "a\ufffdb\ufffd"
    assert esc("<\"&'>") == "&lt;&quot;&amp;&#x27;&gt;"
