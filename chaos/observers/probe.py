"""The outside observer of one client: a thread that asks it every few milliseconds, and looks which processes live.

It knows nothing of the updater. It writes what changes, not every answer: the first failed probe by the time at which it
was sent, the first good one by the time at which its answer was there. It watches itself, too: when it could not ask for a
while it says so, and when it dies it leaves no end.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from chaos.history import Recorder
from reference.core.errors import BlackstartError
from reference.stack.box import Box
from reference.stack.probe import PROBE_TIMEOUT_S, Answer, ask

PROBE_EVERY_S = 0.005
LOOK_EVERY_S = 0.02
GAP_S = 0.25
"""Between two probes, beyond what one may take and the pause after it: more is written down."""

_log = logging.getLogger(__name__)


class ProbeObserver:
    """Watches one client from `start` to `stop`."""

    def __init__(
        self,
        recorder: Recorder,
        device: str,
        port: int,
        box: Box,
        kept: Callable[[], str | None],
        every_s: float = PROBE_EVERY_S,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        """`kept`: the digest whose image has to be on the disk now; None while none has to."""
        self._recorder = recorder
        self._device = device
        self._port = port
        self._box = box
        self._kept = kept
        self._every_s = every_s
        self._look_every_s = look_every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"probe-{device}", daemon=True)
        self._last: tuple[bool, str | None] | None = None
        self._counts = {"probes": 0, "failed": 0, "most": 0, "looks": 0, "missing": 0}
        self._pids: list[int] = []
        self._longest_gap, self._longest_gap_t = 0.0, 0.0
        self._through = False
        self._last_answer: Answer | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End, and write what it came to. Blocks for one probe. One that died on the way has not come to an end."""
        self._stop.set()
        self._thread.join()
        if not self._through:
            return
        last, count = self._last_answer, self._counts
        self._recorder.record(
            "probe", "end", self._device, good=bool(last and last.good), version=last.version if last else None,
            probes=count["probes"], failed=count["failed"], longest_gap_ms=round(self._longest_gap * 1000),
            longest_gap_t=round(self._longest_gap_t, 6),
        )  # fmt: skip
        self._recorder.record("processes", "end", self._device, n=len(self._pids), most=count["most"])
        self._recorder.record("image", "end", self._device, looks=count["looks"], missing=count["missing"])

    def _run(self) -> None:
        try:
            self._watch()
        except Exception as error:
            _log.exception("a probe died", extra={"device": self._device})
            with contextlib.suppress(Exception):  # It may be the recorder that it died of.
                what = f"{type(error).__name__}: {error}"
                self._recorder.record("probe", "died", self._device, what=what)
        else:
            self._through = True

    def _watch(self) -> None:
        next_look = 0.0
        before: float | None = None
        while not self._stop.is_set():
            began = time.monotonic()
            self._pass(before, began)
            before = began
            self._take(ask(self._port))
            if began >= next_look:
                self._look()
                next_look = began + self._look_every_s
            self._stop.wait(max(0.0, self._every_s - (time.monotonic() - began)))
        self._pass(before, time.monotonic())

    def _pass(self, before: float | None, now: float) -> None:
        """From the sending of one probe to that of the next: whatever happened in between, nobody has seen it."""
        if before is None:
            return
        gap, t = now - before, self._recorder.now() - (time.monotonic() - before)
        if gap > self._longest_gap:
            self._longest_gap, self._longest_gap_t = gap, t
        if gap > GAP_S + PROBE_TIMEOUT_S + self._every_s:
            ms, every_ms = round(gap * 1000), round(self._every_s * 1000)
            self._recorder.record("probe", "gap", self._device, t=t, ms=ms, every_ms=every_ms)

    def _take(self, answer: Answer) -> None:
        self._last_answer = answer
        self._counts["probes"] += 1
        self._counts["failed"] += not answer.good
        now = (answer.good, answer.version if answer.good else None)
        if now == self._last:
            return
        self._last = now
        if answer.good:
            at = self._recorder.at(answer.answered_ms)
            self._recorder.record("probe", "good", self._device, t=at, version=answer.version)
        else:
            self._recorder.record("probe", "bad", self._device, t=self._recorder.at(answer.sent_ms))

    def _look(self) -> None:
        pids = sorted(self._box.processes())
        if len(pids) > 1:
            # A look takes a while: it may have met one that was just ending, and then its successor. Who is there at
            # both looks was there in between.
            pids = sorted(set(pids) & set(self._box.processes()))
        if pids != self._pids:
            self._pids = pids
            self._counts["most"] = max(self._counts["most"], len(pids))
            self._recorder.record("processes", "count", self._device, n=len(pids), pids=pids)
        if (digest := self._kept()) is None:
            return
        # Twice, and asked again in between: a disk that has just lost its power has lost no image.
        there = self._has_image(digest)
        if there is False and self._kept() == digest:
            there = self._has_image(digest)
            if there is False:
                self._counts["missing"] += 1
                self._recorder.record("image", "missing", self._device, digest=digest)
        self._counts["looks"] += there is not None

    def _has_image(self, digest: str) -> bool | None:
        """None when it cannot be seen: an engine that is down, a disk without power."""
        with contextlib.suppress(BlackstartError, OSError):
            return self._box.has_image(digest)
        return None
