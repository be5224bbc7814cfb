"""The observers write what they have seen themselves, and say when they were blind, died, or got no answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from chaos.checkers import CHECKERS, Case
from chaos.history import Event, Recorder
from chaos.observers import api as watching
from chaos.observers.api import ApiObserver
from chaos.observers.probe import GAP_S, ProbeObserver
from chaos.verdict import Finding, Verdict
from reference.core.errors import EngineError
from reference.stack.box import ProcessBox, Site
from reference.stack.probe import PROBE_TIMEOUT_S
from tests.chaos.checkers.builder import EDGE, scenario

DIGEST = "sha256:" + "1" * 64
ENOUGH_S = 20.0
"""For what comes at once, on any machine."""


# ---- the API's


class Service:
    """What a service answers for its jobs: an HTTP status, and the job."""

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[int, dict[str, object]]] = {}
        self.asked: list[str] = []
        self.awaited = asyncio.Event()

    def set(self, job: str, status: str, outcome: str | None = None, code: int = 200) -> None:
        self.jobs[job] = (code, {"jobId": job, "status": status, "outcome": outcome, "generation": 1})

    def answer(self, request: httpx.Request) -> httpx.Response:
        job = request.url.path.rpartition("/")[2]
        self.asked.append(job)
        self.awaited.set()
        code, body = self.jobs.get(job, (404, {}))
        return httpx.Response(code, json=body)

    async def asks(self, job: str) -> None:
        """Wait until it has been asked for the job once more, and its answer has been taken."""
        async with asyncio.timeout(ENOUGH_S):
            for _ in range(2):
                many = self.asked.count(job)
                while self.asked.count(job) == many:
                    self.awaited.clear()
                    await self.awaited.wait()

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url="http://service", transport=httpx.MockTransport(self.answer))


def seen(recorder: Recorder, source: str, event: str) -> list[Event]:
    return list(recorder.history().of(source, event))


@contextlib.asynccontextmanager
async def begun(
    service: Service, recorder: Recorder, jobs: dict[str, list[str]]
) -> AsyncIterator[ApiObserver]:
    """One that watches; the jobs are ordered since."""
    ordered: dict[str, list[str]] = {}
    async with service.client() as client:
        observer = ApiObserver(recorder, client, ordered, 0.001)
        ordered |= jobs
        observer.start()
        yield observer


async def watched(service: Service, jobs: dict[str, list[str]], then: Callable[[], None]) -> Recorder:
    """The history of an observer that has seen every job, when `then` happens before its end."""
    recorder = Recorder()
    async with begun(service, recorder, jobs) as observer:
        for ids in jobs.values():
            await service.asks(ids[-1])
        then()
        await observer.stop()
    return recorder


async def test_the_end_is_what_the_service_says_in_the_end() -> None:
    service = Service()
    service.set("a", "IN_PROGRESS")
    recorder = await watched(service, {EDGE: ["a"]}, lambda: service.set("a", "SUCCEEDED", "succeeded"))
    (end,) = seen(recorder, "api", "end")
    assert end.data["job"] == service.jobs["a"][1]


async def test_what_was_answered_before_is_no_end() -> None:
    service = Service()
    service.set("a", "SUCCEEDED", "succeeded")
    recorder = await watched(service, {EDGE: ["a"]}, service.jobs.clear)
    assert seen(recorder, "api", "end") == []
    assert [e.data for e in seen(recorder, "api", "job-gone")] == [{"jobId": "a"}]
    assert seen(recorder, "api", "unreachable") == [], "it did answer"


async def test_a_service_that_fails_in_the_end_leaves_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FINAL_S", 0.05)
    service = Service()
    service.set("a", "SUCCEEDED", "succeeded")
    service.set("b", "SUCCEEDED", "succeeded")
    jobs = {EDGE: ["a"], "edge-2": ["b"]}
    recorder = await watched(service, jobs, lambda: service.set("a", "SUCCEEDED", "succeeded", 503))
    assert [e.device for e in seen(recorder, "api", "end")] == ["edge-2"]
    assert seen(recorder, "api", "job-gone") == []


async def test_a_job_that_comes_back_is_told_again() -> None:
    service = Service()
    service.set("a", "SUCCEEDED", "succeeded")
    recorder, jobs = Recorder(), {EDGE: ["a"]}
    async with begun(service, recorder, jobs) as observer:
        await service.asks("a")
        kept = service.jobs.pop("a")
        await service.asks("a")
        service.jobs["a"] = kept
        await observer.stop()
    told = [e.event for e in recorder.history().of("api") if e.event in ("job", "job-gone", "end")]
    assert told == ["job", "job-gone", "job", "end"]


async def test_an_earlier_jobs_end_that_changes_is_seen_in_the_end() -> None:
    service = Service()
    service.set("a", "SUCCEEDED", "succeeded")
    service.set("b", "SUCCEEDED", "succeeded")
    recorder = await watched(service, {EDGE: ["a", "b"]}, lambda: service.set("a", "FAILED", "failed"))
    states = [e.data["status"] for e in seen(recorder, "api", "job") if e.data["jobId"] == "a"]
    assert states == ["SUCCEEDED", "FAILED"]


async def test_an_earlier_jobs_end_is_asked_for_while_it_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may change, and change back."""
    monkeypatch.setattr(watching, "ENDED_EVERY_S", 0.01)
    service = Service()
    service.set("a", "SUCCEEDED", "succeeded")
    service.set("b", "IN_PROGRESS")
    recorder, jobs = Recorder(), {EDGE: ["a", "b"]}
    async with begun(service, recorder, jobs) as observer:
        await service.asks("b")
        service.set("a", "FAILED", "failed")
        await service.asks("a")
        service.set("a", "SUCCEEDED", "succeeded")
        await observer.stop()
    states = [e.data["status"] for e in seen(recorder, "api", "job") if e.data["jobId"] == "a"]
    assert states == ["SUCCEEDED", "FAILED", "SUCCEEDED"]


# ---- the probe's


class _Well(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"version": "1.0.0"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def client_port() -> Iterator[int]:
    """Of a client that is well."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Well)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    serving.join()


class Looked(ProcessBox):
    """A device at which every look does something else first."""

    def __init__(self, root: Path, port: int, look: Callable[[], None], image: Callable[[], None]) -> None:
        super().__init__(Site("acme", EDGE, root, port))
        self._look, self._image = look, image

    def processes(self) -> list[int]:
        self._look()
        return super().processes()

    def has_image(self, digest: str) -> bool:
        self._image()
        return super().has_image(digest)


def nothing() -> None:
    """Happens."""


def kept() -> str | None:
    return DIGEST


class Watched:
    """A client that is well, watched by a probe until `until` was called so often, or something of a kind is seen."""

    def __init__(self, root: Path, port: int) -> None:
        self.recorder, self.root, self.port = Recorder(), root, port
        self._looks = threading.Semaphore(0)

    def __call__(
        self, look: Callable[[], None] = nothing, image: Callable[[], None] = nothing,
        kept: Callable[[], str | None] = kept, until: str = "",
    ) -> Recorder:  # fmt: skip
        there = threading.Event()
        self.recorder.listen(lambda e: there.set() if (e.source, e.event) == ("probe", until) else None)

        def looks() -> None:
            self._looks.release()
            look()

        box = Looked(self.root, self.port, looks, image)
        observer = ProbeObserver(self.recorder, EDGE, self.port, box, kept, 0.001, 0.001)
        observer.start()
        try:
            if until:
                assert there.wait(ENOUGH_S), until
            else:
                for _ in range(5):
                    assert self._looks.acquire(timeout=ENOUGH_S)
        finally:
            observer.stop()
        return self.recorder

    def observed(self) -> Finding:
        (found,) = CHECKERS["observed"](Case(scenario(), self.recorder.history()))
        return found


@pytest.fixture
def watch(tmp_path: Path, client_port: int) -> Watched:
    return Watched(tmp_path, client_port)


def test_one_that_comes_to_its_end_says_so(watch: Watched) -> None:
    recorder = watch()
    (end,) = seen(recorder, "probe", "end")
    assert (end.data["good"], end.data["version"]) == (True, "1.0.0")
    assert int(str(end.data["longest_gap_ms"])) < 1000 * end.t
    assert 0 <= float(str(end.data["longest_gap_t"])) < end.t
    assert len(seen(recorder, "processes", "end")) == len(seen(recorder, "image", "end")) == 1
    assert watch.observed().verdict is Verdict.PASS


def breaks() -> None:
    """As a bug does, or a disk that is full."""
    raise ValueError("out of nowhere")


def no_more() -> str | None:
    raise RuntimeError("out of nowhere")


def test_one_that_dies_leaves_no_end(watch: Watched) -> None:
    died(watch(look=breaks, until="died"), watch)


def test_one_that_dies_of_a_look_at_the_disk_leaves_no_end(watch: Watched) -> None:
    died(watch(image=breaks, until="died"), watch)


def test_one_that_dies_of_a_question_leaves_no_end(watch: Watched) -> None:
    died(watch(kept=no_more, until="died"), watch)


def test_one_that_cannot_write_leaves_no_end(watch: Watched) -> None:
    def full(event: Event) -> None:
        if event.event == "good":
            raise OSError("out of nowhere: the disk is full")

    watch.recorder.listen(full)
    died(watch(until="died"), watch)


def died(recorder: Recorder, watch: Watched) -> None:
    """Nothing is said to have been watched to its end."""
    (death,) = seen(recorder, "probe", "died")
    assert "out of nowhere" in str(death.data["what"])
    assert [e for e in recorder.history().events if e.event == "end"] == []
    found = watch.observed()
    assert found.verdict is Verdict.UNKNOWN
    assert "the probe died of" in found.measured


def test_a_time_in_which_it_could_not_ask_is_told(watch: Watched) -> None:
    stalled_s = GAP_S + PROBE_TIMEOUT_S + 0.05
    once = iter([stalled_s])
    recorder = watch(look=lambda: time.sleep(next(once, 0.0)), until="gap")
    gap = seen(recorder, "probe", "gap")[0]
    ms, (end,) = int(str(gap.data["ms"])), seen(recorder, "probe", "end")
    assert ms >= stalled_s * 1000
    assert 0 <= gap.t <= end.t - ms / 1000
    assert int(str(end.data["longest_gap_ms"])) >= ms


def test_a_look_that_could_not_be_taken_is_none(watch: Watched) -> None:
    def down() -> None:
        raise EngineError("is down", where="the engine", todo="Wait.")

    (end,) = seen(watch(image=down), "image", "end")
    assert (end.data["looks"], end.data["missing"]) == (0, 0)
