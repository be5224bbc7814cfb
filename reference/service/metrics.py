"""What the service counts (Prometheus names and units), in a registry of its own for each instance."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The instruments."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made = self.registry
        self.requests = Counter(
            "blackstart_http_requests", "Requests answered", ["method", "route", "status"], registry=made
        )
        self.request_seconds = Histogram(
            "blackstart_http_request_seconds", "From request to answer", ["route"], registry=made,
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
        )  # fmt: skip
        self.jobs_created = Counter("blackstart_jobs_created", "Jobs begun", registry=made)
        self.jobs_ended = Counter(
            "blackstart_jobs_ended",
            "Jobs ended, by how and why",
            ["status", "outcome", "reason"],
            registry=made,
        )
        self.accepted_seconds = Histogram(
            "blackstart_command_accepted_seconds", "From the order to the device's word that it has the command",
            registry=made, buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30, 60, 600, 3600, 86400),
        )  # fmt: skip
        self.sends = Counter(
            "blackstart_commands_sent", "Commands sent, again or not", ["kind"], registry=made
        )
        self.messages = Counter(
            "blackstart_messages", "Messages from devices, by what became of them", ["kind", "verdict"],
            registry=made,
        )  # fmt: skip
        self.broker_connected = Gauge("blackstart_broker_connected", "1 while connected", registry=made)

        self.part_up = Gauge(
            "blackstart_part_up",
            "1 while a part that the service stands on is there",
            ["part"],
            registry=made,
        )
        self.spooled = Gauge(
            "blackstart_statuses_spooled", "Statuses that wait in a file for the database", registry=made
        )

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)
