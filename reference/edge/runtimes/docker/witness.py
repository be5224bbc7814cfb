"""Whose end it was. An engine without live-restore ends its containers when it restarts, and that is not their fault.

The engine remembers its last 256 events for as long as it runs: an end that it does not remember happened before it
began, or while it was away. Clocks say less: a socket that systemd listens on does not tell when the engine began.
"""

from __future__ import annotations

import time
from typing import Any

import docker

from reference.edge.runtimes.docker.engine import Document


class Witness:
    """Remembers what was seen: an end that the engine has told once stays told, whatever happens to the engine."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()

    def told(self, api: docker.APIClient, container: Document) -> bool:
        """Whether a container that has ended did so under the eyes of an engine that went on. Raises what the SDK does."""
        container_id = str(container["Id"])
        this = container_id, str(container["State"].get("StartedAt"))
        if this not in self._told:
            wanted = {"type": "container", "event": "die", "container": container_id}
            until: Any = f"{time.time():.9f}"  # the SDK takes it as it is, its stubs know whole seconds only
            stream = api.events(since=1, until=until, filters=wanted, decode=True)
            if any(stream):
                self._told.add(this)
        return this in self._told
