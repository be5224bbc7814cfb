"""The outside observer of one client: a thread that asks it every few milliseconds, and looks which processes live.

It knows nothing of the updater. It writes what changes, not every answer: the first failed probe by the time at which it
was sent, the first good one by the time at which its answer was there.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from chaos.history import Recorder
from reference.core.errors import BlackstartError
from reference.stack.box import Box
from reference.stack.probe import Answer, ask

PROBE_EVERY_S = 0.005
LOOK_EVERY_S = 0.02


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
        self._last_answer: Answer | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End, and write what it came to. Blocks for one probe."""
        self._stop.set()
        self._thread.join()
        last, count = self._last_answer, self._counts
        self._recorder.record(
            "probe", "end", self._device, good=bool(last and last.good), version=last.version if last else None,
            probes=count["probes"], failed=count["failed"],
        )  # fmt: skip
        self._recorder.record("processes", "end", self._device, n=len(self._pids), most=count["most"])
        self._recorder.record("image", "end", self._device, looks=count["looks"], missing=count["missing"])

    def _run(self) -> None:
        next_look = 0.0
        while not self._stop.is_set():
            began = time.monotonic()
            self._take(ask(self._port))
            if began >= next_look:
                self._look()
                next_look = began + self._look_every_s
            self._stop.wait(max(0.0, self._every_s - (time.monotonic() - began)))

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
        self._counts["looks"] += 1
        with contextlib.suppress(BlackstartError, OSError):  # An engine that is down, a disk without power.
            # Twice, and asked again in between: a disk that has just lost its power has lost no image.
            if not self._box.has_image(digest) and self._kept() == digest and not self._box.has_image(digest):
                self._counts["missing"] += 1
                self._recorder.record("image", "missing", self._device, digest=digest)
