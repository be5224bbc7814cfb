"""The rules that are driven, of both sides: production's, or a mutant's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from reference.core import delivery, job
from reference.core.delivery import BirthVerdict, ClientState, Ingested, Memory
from reference.core.job import Job, Report
from reference.core.limits import Limits, ServiceLimits
from reference.world.machine import Rules


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """The functions that the service calls. `told` is called by `ingest`: a mutant of it comes with its own `ingest`."""

    birth: Callable[[ClientState, str, int | None], tuple[ClientState, BirthVerdict]] = delivery.birth
    orphaned: Callable[[Job, BirthVerdict, str | None, int], Job] = delivery.orphaned
    birth_floor: Callable[[ClientState, int | None], int] = delivery.birth_floor
    next_generation: Callable[[ClientState], int] = delivery.next_generation
    ingest: Callable[[ClientState, Job | None, Report, str], Ingested] = delivery.ingest
    command_pending: Callable[[Job, int, int], bool] = delivery.command_pending
    heard_silence_ms: Callable[[int, int], int] = delivery.heard_silence_ms
    superseded: Callable[..., Job] = job.superseded
    overtaken: Callable[[Job, Job], Job] = job.overtaken
    canceled: Callable[[Job], Job] = job.canceled
    overdue: Callable[[Job, int, int, ServiceLimits], Job] = job.overdue


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides of the conversation."""

    device: Rules = field(default_factory=Rules)
    service: ServiceRules = field(default_factory=ServiceRules)
    to_send: Callable[[Memory, dict[int, int], Limits], tuple[Report, ...]] = delivery.to_send
    remind: Callable[[Memory], Memory] = delivery.remind
