"""A command arrives again."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from chaos.faults._hostile import HostileCommand, stored_command
from chaos.faults.base import FaultError, Params, register
from reference.stack import Device


class Job(StrEnum):
    """Which of a device's jobs."""

    LAST = "last"
    FIRST = "first"


class ReplayParams(Params):
    """Which command, and how often."""

    job: Job = Job.LAST
    """Of the device's jobs; the first is its first install."""
    times: Annotated[int, Field(ge=1, le=100)] = 3
    """How often it comes again."""


@register
class CommandReplayed(HostileCommand):
    """The very bytes, signature and all."""

    name = "command-replayed"
    about = "The very bytes of an earlier command arrive again, several times."
    params = ReplayParams
    given: ReplayParams

    async def made(self, device: Device) -> tuple[Sequence[bytes], tuple[str, ...]]:
        """See the base."""
        known = self.ground.jobs.get(device.client_id, ())
        if not known:
            raise FaultError("nothing was ordered yet that could be repeated", where=device.client_id)
        job_id = known[-1] if self.given.job is Job.LAST else known[0]
        return [await stored_command(self.ground, job_id)] * self.given.times, (job_id,)
