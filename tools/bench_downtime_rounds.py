"""The rounds of `make bench-downtime` on one ground: what is ordered, what the observer saw of it, what was missed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from reference.core.model import Handover, Health, Image, Outcome, Phase, Policy
from reference.support.processes import ROOT
from tools.bench_downtime_grounds import INTERVAL_MS, PORT, Ground
from tools.bench_downtime_numbers import Series, downtime_ms, first_good_after, samples_lost
from tools.bench_downtime_observer import Observer
from tools.bench_downtime_service import Service

GOOD = Health(start_period_ms=10_000, window_ms=10_000, stable_for_ms=100)
SICK = Health(start_period_ms=100, window_ms=100, stable_for_ms=50)
SELDOM = {"static": 4, "patient": 4, "plain": 8}
"""What is not taken in every round, but in every so many."""


class Measured:
    """All series of a run, by runtime, network and story."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, str, str], Series] = {}

    def add(self, ground: Ground, story: str, value_ms: float, lost: int | None = None) -> None:
        """One more value."""
        key = (ground.runtime, ground.network, story)
        series = self.series.setdefault(key, Series(*key))
        series.times_ms.append(value_ms)
        if lost is not None:
            series.lost.append(lost)

    def rows(self) -> list[dict[str, object]]:
        """Of the report."""
        return [
            series.row(self.series.get((runtime, network, "floor: same")), self.series.get((runtime, network, "floor: static")))
            for (runtime, network, _), series in self.series.items()
        ]  # fmt: skip


class Bench:
    """One ground under measurement."""

    def __init__(
        self,
        ground: Ground,
        images: dict[str, Image],
        observer: Observer,
        found: Measured,
        say: Callable[[str], None],
    ) -> None:
        self.ground, self.images, self.observer, self.found, self._say = ground, images, observer, found, say
        self.service = Service(ground.folder, ground.settings())
        self.stream = random.Random(1)

    def run(self, n: int, others: int, stories: set[str]) -> None:
        """Everything that is wanted here."""
        self.service.start()
        try:
            for version in (
                "1.0.0",
                "2.0.0",
                "1.0.0",
            ):  # Both are on the disk from now on, as current and previous.
                self._expect(self.service.order(self.images[version], GOOD), Outcome.SUCCEEDED)
            self.observer.watch(*self.ground.observers().values())
            if "success" in stories:
                self._successes(n)
            for story, version, health in (("broken start", "2.0.1", GOOD), ("sick", "2.0.2", SICK)):
                if story in stories:
                    self._failures(story, version, health, others)
            if "cut" in stories:
                self._cuts(others)
            if "overlap" in stories and self.ground.network == "host":
                self._overlaps(n)
        finally:
            self.service.stop()

    def _expect(self, outcome: Outcome, wanted: Outcome) -> None:
        if outcome is not wanted:
            raise SystemExit(
                f"bench_downtime: {outcome} instead of {wanted}; see {self.ground.folder}/agent.log"
            )

    def _successes(self, n: int) -> None:
        program = ROOT / "reference" / "client" / "app" / "main.py"
        image = self.images["1.0.0"]
        floors = self.ground.floors(f"{image.repository}@{image.digest}", program)
        updates = {"success": self.ground.observers()}
        if self.ground.network != "host":
            # Alone: hundreds of probes a second fill what the kernel keeps for an address that it does not know yet.
            updates["patient"] = {"patient": f"patient=127.0.0.1:{PORT}"}
        names, ordered = [*updates, *floors], 0
        for number in range(n):
            self._say(f"success and floors {number + 1}/{n}")
            self.stream.shuffle(names)
            for name in names:
                if number % SELDOM.get(name, 1):
                    continue
                if name in updates:
                    ordered += 1
                    self._success(("1.0.0", "2.0.0")[ordered % 2], "success", Policy(), updates[name])
                else:
                    swap, target = floors[name]
                    self.observer.watch(target)
                    swap()
                    self.found.add(self.ground, f"floor: {name}", downtime_ms(self.observer.seen()[0]))

    def _success(self, version: str, story: str, policy: Policy, observers: dict[str, str]) -> None:
        self.observer.watch(*observers.values())
        begin = self._samples_end()
        self._expect(self.service.order(self.images[version], GOOD, policy), Outcome.SUCCEEDED)
        seen = self.observer.seen()
        for name, answers in zip(observers, seen, strict=True):
            lost = self._lost(begin) if not name else None
            self.found.add(self.ground, f"{story}, {name}" if name else story, downtime_ms(answers), lost)

    def _failures(self, story: str, version: str, health: Health, n: int) -> None:
        """Its downtime, and how long after the verdict the old version was back."""
        observers = list(self.ground.observers().values())[:1]
        for number in range(n):
            self._say(f"{story} {number + 1}/{n}")
            self.observer.watch(*observers)
            begin, old = self._samples_end(), self._running()
            self._expect(self.service.order(self.images[version], health), Outcome.ROLLED_BACK)
            [answers] = self.observer.seen()
            verdict = next(at for at, phase in self.service.phases if phase is Phase.ROLLING_BACK)
            back = first_good_after(answers, verdict, old)
            assert back is not None, "the observer has waited for it"
            self.found.add(self.ground, story, downtime_ms(answers), self._lost(begin))
            self.found.add(self.ground, f"{story}, back after the verdict", back - verdict)

    def _running(self) -> str:
        line = self.ground.samples.read_bytes().rstrip(b"\n").rpartition(b"\n")[2]
        return str(json.loads(line)["version"])

    def _cuts(self, n: int) -> None:
        observers = list(self.ground.observers().values())[:1]
        for number in range(n):
            self._say(f"cut {number + 1}/{n}")
            self.observer.watch(*observers)
            begin = self._samples_end()
            self.service.send(self.images["2.0.0" if self._running() == "1.0.0" else "1.0.0"], GOOD)
            self.service.until(Phase.SWITCHING if number % 2 else Phase.VERIFYING)
            self.ground.cut()
            self.service.kill()
            self.ground.boot()
            self.service.start()
            self._expect(self.service.finish(), Outcome.SUCCEEDED)
            self.found.add(self.ground, "cut", downtime_ms(self.observer.seen()[0]), self._lost(begin))

    def _overlaps(self, n: int) -> None:
        for version in ("3.0.0", "4.0.0", "3.0.0"):
            self._expect(self.service.order(self.images[version], GOOD), Outcome.SUCCEEDED)
        observers = self.ground.observers()
        for number in range(n):
            self._say(f"overlap {number + 1}/{n}")
            self._success(
                ("4.0.0", "3.0.0")[number % 2], "overlap", Policy(handover=Handover.OVERLAP), observers
            )

    def _samples_end(self) -> int:
        return self.ground.samples.stat().st_size

    def _lost(self, begin: int) -> int:
        """Samples that are missing since the file was so long."""
        with self.ground.samples.open("rb") as file:
            file.seek(begin)
            whole = file.read().rpartition(b"\n")[0]
        return samples_lost([float(json.loads(line)["at"]) for line in whole.splitlines()], INTERVAL_MS)
