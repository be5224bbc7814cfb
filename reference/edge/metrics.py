"""What the agent counts (Prometheus names and units), in a registry of its own for each agent."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from reference.core.delivery import Memory
from reference.core.errors import BlackstartError, Reason
from reference.core.model import Phase
from reference.core.update import UpdateRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The instruments, and the agent's onlooker that feeds them."""

    def __init__(self, received_bytes: Callable[[], int] = lambda: 0) -> None:
        """`received_bytes`: of images, over the wire, since this process began."""
        self.registry = CollectorRegistry()
        self._received_bytes = received_bytes
        self._received = 0
        made = self.registry
        self.phase = Gauge(
            "blackstart_edge_phase", "1 for the phase that the updater is in", ["phase"], registry=made
        )
        self.jobs = Counter(
            "blackstart_edge_jobs", "Jobs ended, by how and why", ["outcome", "reason"], registry=made
        )
        self.downtime = Histogram(
            "blackstart_edge_downtime_seconds", "The client's outage in one job, as the agent saw it",
            buckets=(0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300), registry=made,
        )  # fmt: skip
        self.probations = Counter(
            "blackstart_edge_probations_failed", "Versions that fell back after their commit", registry=made
        )
        self.fallbacks = Counter(
            "blackstart_edge_current_failed",
            "Times that a trusted version could not be brought up, and the one before had its turns",
            registry=made,
        )
        self.errors = Counter("blackstart_edge_errors", "Acts that failed, by why", ["reason"], registry=made)
        self.last_error = Gauge(
            "blackstart_edge_last_error_timestamp_seconds", "When an act last failed, and why", ["reason"],
            registry=made,
        )  # fmt: skip
        self.pulled = Counter(
            "blackstart_edge_pull_bytes", "Bytes of images that came over the wire", registry=made
        )
        self.boots = Counter("blackstart_edge_boots", "Boots that a trial has lived through", registry=made)
        self.writes = Counter(
            "blackstart_edge_journal_writes", "Durable writes of the journal", registry=made
        )
        self.outbox = Gauge(
            "blackstart_edge_outbox", "Reports that the service has not acknowledged", registry=made
        )
        self.connected = Gauge("blackstart_edge_broker_connected", "1 while connected", registry=made)
        self.free = Gauge("blackstart_edge_disk_free_bytes", "Free where the state is", registry=made)
        self.ballast = Gauge("blackstart_edge_ballast_held", "1 while the ballast is there", registry=made)

    def look(self, memory: Memory) -> None:
        """Begin with what the journal holds."""
        self._show(memory)

    def changed(self, before: Memory, after: Memory) -> None:
        """The journal holds something else now."""
        self.writes.inc()
        self._show(after)
        old, new = before.record, after.record
        if new.boots > old.boots:
            self.boots.inc(new.boots - old.boots)
        if new.outcome is not None and (old.outcome is None or not _same_job(old, new)):
            self.jobs.labels(new.outcome.value, new.reason.value if new.reason else "").inc()
            if new.downtime_ms is not None:
                self.downtime.observe(new.downtime_ms / 1000)

        fell_back = new.job is None and new.reason is Reason.PROBATION_FAILED
        if fell_back and (old.current, old.reason) != (new.current, new.reason):
            self.probations.inc()
        if new.job is None and new.reason is Reason.CURRENT_FAILED is not old.reason:
            self.fallbacks.inc()

    def failed(self, error: BlackstartError) -> None:
        """An act has failed."""
        self.errors.labels(error.reason.value).inc()
        self.last_error.clear()
        self.last_error.labels(error.reason.value).set_to_current_time()

    def text(self) -> bytes:
        """The exposition."""
        now = self._received_bytes()
        self.pulled.inc(max(now - self._received, 0))
        self._received = now
        return generate_latest(self.registry)

    def _show(self, memory: Memory) -> None:
        self.outbox.set(len(memory.outbox))
        for phase in Phase:
            self.phase.labels(phase.value).set(phase is memory.record.phase)


def _same_job(old: UpdateRecord, new: UpdateRecord) -> bool:
    return old.job is not None and new.job is not None and old.job.generation == new.job.generation
