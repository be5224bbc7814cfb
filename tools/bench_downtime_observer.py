"""The outside observer of `make bench-downtime`, as the bench holds it: a process that asks, and what it has seen."""

from __future__ import annotations

import json
import subprocess
import sys

from reference.support.processes import ROOT, ends_with_us
from tools.bench_downtime_numbers import Answer

STEADY_MS = 40


class Observer:
    """The process that asks the client, and what it has seen."""

    def __init__(self) -> None:
        script = ROOT / "tools" / "bench_downtime_probe.py"
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            preexec_fn=ends_with_us(),  # noqa: PLW1509 - it only calls prctl
        )  # fmt: skip
        self._targets: list[str] = []

    def watch(self, *targets: str) -> None:
        """Ask these from now on, and wait until all answer well."""
        if list(targets) != self._targets:
            self._targets = list(targets)
            self._say("targets", *targets)
        self.settle()
        self._say("begin")

    def settle(self) -> None:
        """Wait until all have answered well for a while. Raises SystemExit."""
        self._say("steady", str(STEADY_MS))
        if self._hear() != "steady":
            raise SystemExit(f"bench_downtime: no good answers from {', '.join(self._targets)}")

    def seen(self) -> list[list[Answer]]:
        """Answers since `watch`, of each target, once all answer well again."""
        self.settle()
        self._say("end")
        found: list[list[Answer]] = [[] for _ in self._targets]
        for target, sent_ns, done_ns, version in json.loads(self._hear()):
            found[target].append(Answer(sent_ns / 1e6, done_ns / 1e6, version))
        return found

    def _say(self, *words: str) -> None:
        assert self._process.stdin is not None, "opened with a pipe"
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None, "opened with a pipe"
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None, "opened with a pipe"
        self._process.stdin.close()
        self._process.wait()
