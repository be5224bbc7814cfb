"""What `make bench-downtime` makes of probes: an outage counted too short would be a promise that is not kept."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import xml.etree.ElementTree as ET
from pathlib import Path
from unittest import mock

import pytest

from tools import bench_downtime_probe as probe
from tools.bench_downtime_numbers import (
    Answer,
    Series,
    downtime_ms,
    first_good_after,
    interval,
    outages,
    percentile,
    samples_lost,
)
from tools.bench_downtime_observer import Observer
from tools.bench_downtime_picture import picture
from tools.bench_downtime_table import PAGES, blocks


def good(sent_ms: float, took_ms: float = 1.0, version: str = "1") -> Answer:
    return Answer(sent_ms, sent_ms + took_ms, version)


def bad(sent_ms: float, took_ms: float = 1.0) -> Answer:
    return Answer(sent_ms, sent_ms + took_ms, None)


def test_an_outage_is_from_the_first_failed_probes_sending_to_the_first_good_answer() -> None:
    answers = [good(0), bad(2), bad(4), good(6, 3.0), good(8)]
    assert outages(answers) == [(2, 9)]
    assert downtime_ms(answers) == 7


def test_outages_are_summed() -> None:
    assert downtime_ms([good(0), bad(2), good(4), good(6), bad(8), good(10)]) == 6


def test_a_probe_that_was_kept_waiting_ends_the_outage_with_its_answer() -> None:
    assert outages([good(0), good(2, 50.0), bad(4), good(60)]) == [(2, 52)]


def test_an_answer_that_came_late_is_an_outage_though_nothing_failed() -> None:
    assert downtime_ms([good(0), good(2, 120.0), good(4)]) == pytest.approx(3)
    assert downtime_ms(
        [good(0), *(good(2 * n, 122 - 2 * n) for n in range(1, 50)), good(122)]
    ) == pytest.approx(120)


def test_probes_are_judged_in_the_order_in_which_they_were_sent() -> None:
    answers = [good(0), bad(2, 90.0), bad(4, 1.0), good(6)]
    assert outages(sorted(answers, key=lambda a: a.done_ms)) == outages(answers) == [(2, 7)]


def test_an_outage_without_an_end_lasts_as_long_as_was_looked() -> None:
    assert outages([good(0), bad(2), bad(4, 100.0)]) == [(2, 104)]


def test_back_is_the_version_that_was_there_before() -> None:
    answers = [good(0, version="2"), bad(2), good(4, version="2"), good(6, version="1")]
    assert first_good_after(answers, 1.0, "1") == 7
    assert first_good_after(answers, 7.0, "1") is None


@pytest.mark.parametrize(
    ("times", "lost"),
    [
        ([], 0),
        ([5.0], 0),
        ([0, 20, 40, 60], 0),
        ([0, 20, 40, 100, 120], 2),
        ([0, 20, 55, 60, 80], 0),  # late, and made up for
        ([0, 20, 40, 48, 60], 0),
    ],
)
def test_a_sample_is_lost_only_when_it_never_came(times: list[float], lost: int) -> None:
    assert samples_lost(times, 20) == lost


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(list(range(1, 101)), 0.95) == 95
    assert percentile([7.0], 0.95) == 7.0


def test_the_interval_covers_the_true_percentile_as_often_as_it_says() -> None:
    """Of 2,000 samples of 200 uniform values about 95 % must have 0.95 within their interval, and not nearly all."""
    stream = random.Random(1)
    hits = 0
    for _ in range(2_000):
        low, high = interval([stream.random() for _ in range(200)])
        hits += low <= 0.95 <= high
    assert 0.94 < hits / 2_000 < 0.985


def test_where_values_are_too_few_the_upper_bound_is_the_longest() -> None:
    assert interval([float(n) for n in range(50)])[1] == 49


def test_a_row_stands_beside_its_floors() -> None:
    ours = Series("docker", "host", "success", [100.0] * 19 + [300.0], [5] * 20)
    floor = Series("docker", "host", "floor: same", [80.0] * 20)
    row = ours.row(floor, None)
    assert row["p95_ms"] == 100
    assert row["max_ms"] == 300
    assert row["ratio"] == 1.25
    assert row["static_floor_p95_ms"] is None
    assert row["samples_lost"] == 100


def test_the_picture_is_one_and_says_all_names() -> None:
    stories = [
        Series("docker", "bridge", name, [1.0, 30.0, 9_000.0]) for name in ("success", "floor: same", "a < b")
    ]
    drawn = picture("a machine & more", stories)
    texts = [found.text for found in ET.fromstring(drawn).iter() if found.tag.endswith("text")]
    assert "docker, bridge: a < b" in texts
    assert drawn.count("<circle") == 9


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_published_numbers_are_those_of_the_committed_report(page: Path) -> None:
    assert page.read_text("utf-8") == blocks()[page], "run: python -m tools.bench_downtime_table"


class Served:
    """Something on loopback that answers as a client does, until it is closed."""

    def __init__(self, port: int = 0) -> None:
        self._listening = socket.create_server(("127.0.0.1", port))
        self._listening.settimeout(0.01)
        self.port = self._listening.getsockname()[1]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listening.accept()
                with client:
                    client.recv(4096)
                    client.sendall(b'HTTP/1.0 200 OK\r\n\r\n{"version": "7"}')

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._listening.close()


def test_the_observer_does_not_take_the_time_before_an_outage_for_its_end() -> None:
    observer, served = Observer(), Served()
    seen: list[list[Answer]] = []
    looking = threading.Thread(target=lambda: seen.extend(observer.seen()))
    try:
        observer.watch(f"127.0.0.1:{served.port}", f"patient=127.0.0.1:{served.port}")
        served.close()
        looking.start()
        looking.join(0.2)
        assert looking.is_alive(), "nobody answers: it must go on looking"
        served = Served(served.port)
        looking.join()
    finally:
        served.close()
        observer.close()
    assert len(seen) == 2
    assert all(outages(answers) for answers in seen)
    assert all({answer.version for answer in answers} == {"7", None} for answers in seen)


def test_steady_is_what_answered_a_probe_that_was_sent_after_the_question(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("select.epoll", mock.Mock)
    observer = probe.Observer()
    observer.good_since, observer.heard_ns = [0, 0], [30, 19]
    observer.steady = (50, 20)
    observer.watch(100)
    assert capsys.readouterr().out == ""
    observer.heard_ns[1] = 20
    observer.watch(100)
    assert capsys.readouterr().out == "steady\n"
    assert observer.steady is None
