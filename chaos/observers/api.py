"""What users of the API see: each device's last job, asked again and again the way they ask."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import httpx

from chaos.history import Recorder
from reference.core.job import JobStatus

EVERY_S = 0.05
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
        self._last: dict[str, dict[str, object]] = {}
        self._ended: set[str] = set()
        self._reachable = True
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ask once more, write how each device's last job stands, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._round()
        for device, ids in self._jobs.items():
            new = [job_id for job_id in ids if job_id not in self._before]
            if new and new[-1] in self._last:
                self._recorder.record("api", "end", device, job=self._last[new[-1]])

    def all_ended(self) -> bool:
        """Whether every job that was ordered since the start has ended, as far as was seen."""
        return all(job_id in self._ended for _, job_id in self._open())

    def _open(self) -> list[tuple[str, str]]:
        return [(device, j) for device, ids in self._jobs.items() for j in ids if j not in self._before]

    async def _run(self) -> None:
        while True:
            await self._round()
            await asyncio.sleep(self._every_s)

    async def _round(self) -> None:
        last = {device: ids[-1] for device, ids in self._jobs.items() if ids}
        for device, job_id in self._open():
            # A job's end is final: it is asked again only while it is the device's last, to see that it is.
            if job_id not in self._ended or last.get(device) == job_id:
                await self._ask(device, job_id)

    async def _ask(self, device: str, job_id: str) -> None:
        try:
            answer = await self._api.get(f"/api/v1/jobs/{job_id}")
            found = answer.json() if answer.status_code == httpx.codes.OK else None
        except (httpx.HTTPError, ValueError) as error:
            self._note(False, repr(error))
            return
        if not isinstance(found, dict):
            self._note(False, f"HTTP {answer.status_code}")
            return
        self._note(True, "")
        self._last[job_id] = found
        now = tuple(str(found.get(key)) for key in ("status", "phase", "outcome", "reason"))
        if self._seen.get(job_id) != now:
            self._seen[job_id] = now
            shown = {k: found.get(k) for k in ("jobId", "generation", "status", "phase", "outcome", "reason")}
            self._recorder.record("api", "job", device, **shown)
        if found.get("status") in TERMINAL and job_id not in self._ended:
            self._ended.add(job_id)
            self._recorder.record("api", "ended", device, jobId=job_id, status=found.get("status"))

    def _note(self, reachable: bool, what: str) -> None:
        if reachable != self._reachable:
            self._reachable = reachable
            self._recorder.record("api", "reachable" if reachable else "unreachable", what=what)
