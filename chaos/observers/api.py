"""What users of the API see: every job that was ordered, asked again and again the way they ask.

What it cannot learn it does not write: the end of a device's last job is what the service said when it was asked last,
never what it had said before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import httpx

from chaos.history import Recorder
from reference.core.job import JobStatus

EVERY_S = 0.05
ENDED_EVERY_S = 1.0
"""Jobs that have ended, and are not their device's last, are asked for so often: an end must not change."""
FINAL_S = 3.0
"""In the end the service is asked again for so long, while it does not answer."""
TERMINAL = frozenset(status.value for status in JobStatus if status.terminal)


class ApiObserver:
    """Polls the jobs that were ordered since it was started."""

    def __init__(
        self,
        recorder: Recorder,
        api: httpx.AsyncClient,
        jobs: Mapping[str, Sequence[str]],
        every_s: float = EVERY_S,
    ) -> None:
        """`jobs`: ids by client id, which grow while it watches."""
        self._recorder = recorder
        self._api = api
        self._jobs = jobs
        self._every_s = every_s
        self._before = {job_id for ids in jobs.values() for job_id in ids}
        self._seen: dict[str, tuple[object, ...]] = {}
        self._asked: dict[str, float] = {}
        self._gone: set[str] = set()
        self._ended: set[str] = set()
        self._reachable = True
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ask for every job once more, write how each device's last job stands now, and end.

        A last job that the service does not answer for any more has no end.
        """
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        answers = await self._final()
        for device, job_id in dict(self._open()).items():
            if job_id in answers:
                self._recorder.record("api", "end", device, job=answers[job_id])

    async def _final(self) -> dict[str, dict[str, object]]:
        """Every job as it stands now; one that the service does not answer for is asked for again, but not for long."""
        answers: dict[str, dict[str, object]] = {}
        left, until = self._open(), time.monotonic() + FINAL_S
        while left:
            device, job_id = left.pop(0)
            if (found := await self._ask(device, job_id)) is not None:
                answers[job_id] = found
            elif job_id not in self._gone and time.monotonic() < until:
                left.append((device, job_id))
                await asyncio.sleep(self._every_s)
        return answers

    def all_ended(self) -> bool:
        """Whether every job that was ordered since the start has ended, as far as was seen."""
        return all(job_id in self._ended for _, job_id in self._open())

    def _open(self) -> list[tuple[str, str]]:
        # Other threads ask whether all has ended, while orders are given.
        return [(device, j) for device, ids in list(self._jobs.items()) for j in ids if j not in self._before]

    async def _run(self) -> None:
        while True:
            await self._round()
            await asyncio.sleep(self._every_s)

    async def _round(self) -> None:
        jobs = self._open()
        last = dict(jobs)
        for device, job_id in jobs:
            # A job's end is final: whether it is, is seen at once on the device's last, and soon on the others.
            old = job_id in self._ended and last[device] != job_id
            if not old or time.monotonic() - self._asked[job_id] >= ENDED_EVERY_S:
                await self._ask(device, job_id)

    async def _ask(self, device: str, job_id: str) -> dict[str, object] | None:
        """The job as the service shows it now; None when it does not."""
        self._asked[job_id] = time.monotonic()
        try:
            answer = await self._api.get(f"/api/v1/jobs/{job_id}")
            found = answer.json() if answer.status_code == httpx.codes.OK else None
        except (httpx.HTTPError, ValueError) as error:
            self._note(False, repr(error))
            return None
        if answer.status_code == httpx.codes.NOT_FOUND:
            self._note(True, "")
            self._lost(device, job_id)
            return None
        if not isinstance(found, dict):
            self._note(False, f"HTTP {answer.status_code}")
            return None
        self._note(True, "")
        self._gone.discard(job_id)
        self._changed(device, job_id, found)
        return found

    def _changed(self, device: str, job_id: str, found: dict[str, object]) -> None:
        now = tuple(str(found.get(key)) for key in ("status", "phase", "outcome", "reason"))
        if self._seen.get(job_id) != now:
            self._seen[job_id] = now
            self._recorder.record(
                "api", "job", device, jobId=found.get("jobId"), generation=found.get("generation"),
                status=found.get("status"), phase=found.get("phase"), outcome=found.get("outcome"),
                reason=found.get("reason"),
            )  # fmt: skip
        if found.get("status") in TERMINAL and job_id not in self._ended:
            self._ended.add(job_id)
            self._recorder.record("api", "ended", device, jobId=job_id, status=found.get("status"))

    def _lost(self, device: str, job_id: str) -> None:
        """The service took the order, and does not know the job."""
        if job_id not in self._gone:
            self._gone.add(job_id)
            self._seen.pop(job_id, None)  # Should it come back, that is a change.
            self._recorder.record("api", "job-gone", device, jobId=job_id)

    def _note(self, reachable: bool, what: str) -> None:
        if reachable != self._reachable:
            self._reachable = reachable
            self._recorder.record("api", "reachable" if reachable else "unreachable", what=what)
