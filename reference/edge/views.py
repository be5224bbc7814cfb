"""What a running agent shows: health and metrics on loopback, and the whole of its memory on its own socket."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping

from reference.core.delivery import Memory
from reference.core.errors import BlackstartError
from reference.core.model import Image
from reference.edge import disk
from reference.edge.agent import Agent
from reference.edge.disk import Ballast
from reference.edge.http import Handler, Response
from reference.edge.inspect import Object, history_view, memory_view
from reference.edge.journal import HistoryEntry
from reference.edge.metrics import CONTENT_TYPE, Metrics
from reference.edge.settings import EdgeSettings


class Views:
    """Read-only views of one agent; an onlooker of it."""

    def __init__(
        self,
        settings: EdgeSettings,
        agent: Agent,
        history: Callable[[], list[HistoryEntry]],
        connected: Callable[[], bool],
        metrics: Metrics,
        ballast: Ballast,
    ) -> None:
        self._settings = settings
        self._agent = agent
        self._history = history
        self._connected = connected
        self._metrics = metrics
        self._ballast = ballast
        self._started_at_ms = time.time_ns() // 1_000_000
        self._last_error: Object | None = None
        metrics.look(agent.memory)

    def changed(self, before: Memory, after: Memory) -> None:
        """See Onlooker."""
        self._metrics.changed(before, after)

    def failed(self, error: BlackstartError) -> None:
        """See Onlooker."""
        self._metrics.failed(error)
        at_ms = time.time_ns() // 1_000_000
        self._last_error = {"reason": error.reason.value, "message": str(error), "at_ms": at_ms}

    def public(self) -> Mapping[str, Handler]:
        """What everybody on this machine may see."""
        return {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._exposition}

    def private(self) -> Mapping[str, Handler]:
        """What the agent's own user may see."""
        return {**self.public(), "/status": self._status, "/journal": self._journal}

    def _healthz(self) -> Response:
        return Response(b"ok\n")  # the loop turns; when the updater itself ends, so does the process

    def _readyz(self) -> Response:
        checks: dict[str, object] = {
            "engine": self._agent.has_looked,
            "broker": self._connected(),
            "floor": self._agent.memory.record.floor is not None,
        }
        ready = all(checks.values())
        return Response.of({"ready": ready, "checks": checks}, 200 if ready else 503)

    def _exposition(self) -> Response:
        made = self._metrics
        made.connected.set(self._connected())
        made.ballast.set(self._ballast.held)
        made.free.set(self._free_bytes() or 0)
        return Response(made.text(), content_type=CONTENT_TYPE)

    def _free_bytes(self) -> int | None:
        with contextlib.suppress(OSError):
            return disk.free_bytes(self._settings.state_dir)
        return None

    def _status(self) -> Response:
        return Response.of({"live": self._live(), "memory": memory_view(self._agent.memory)})

    def _live(self) -> Object:
        progress = self._agent.progress
        return {
            "tenant_id": self._settings.tenant_id,
            "client_id": self._settings.client_id,
            "pid": os.getpid(),
            "started_at_ms": self._started_at_ms,
            "connected": self._connected(),
            "has_looked": self._agent.has_looked,
            "running": _image(self._agent.running),
            "hold": self._agent.hold,
            "pull": {"done_bytes": progress.done_bytes, "total_bytes": progress.total_bytes},
            "last_error": self._last_error,
            "disk": {"free_bytes": self._free_bytes(), "ballast_held": self._ballast.held},
        }

    def _journal(self) -> Response:
        return Response.of({"history": history_view(self._history())})


def _image(image: Image | None) -> Object | None:
    if image is None:
        return None
    return {"repository": image.repository, "digest": image.digest, "version": image.version}
