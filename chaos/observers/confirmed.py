"""Which version each device has confirmed: its image has to stay, whatever is on trial."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from chaos.bench import Bench
from chaos.history import Event
from reference.core.model import Phase
from reference.edge.inspect import look
from reference.edge.settings import load_settings
from reference.stack import Device


class Confirmed:
    """Which version each device has confirmed, as its agent said last: its image has to stay."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._ordered: dict[str, str] = {}
        self._versions: dict[str, str] = {}

    def start(self) -> Callable[[], None]:
        """Begin to listen; answers what ends that."""
        return self._bench.recorder.listen(self._hear)

    def version(self, name: str) -> str:
        """Of a device."""
        return self._versions[name]

    def begin(self, version: str | None) -> None:
        """What runs on all of them before anything is done; None: nothing."""
        self._versions = {device.client_id: version or "" for device in self._bench.devices}

    async def ask(self) -> None:
        """What each agent has in its journal now. Raises ServiceError when one cannot be asked."""
        for device in self._bench.devices:
            found = await asyncio.to_thread(look, load_settings(device.config), "status")
            self._versions[device.client_id] = str(
                _inner(found, "memory", "record", "current", "image", "version")
            )

    def kept(self, device: Device) -> Callable[[], str | None]:
        """The digest whose image has to be on the device's disk now; None while it has no power."""

        def now() -> str | None:
            if not self._bench.power(device).on:
                return None
            return self._bench.stack.digests.get(self._versions.get(device.client_id, ""))

        return now

    def _hear(self, event: Event) -> None:
        if (event.source, event.event) == ("action", "update"):
            self._ordered[str(event.data.get("jobId"))] = str(event.data.get("to"))
        elif event.source == "phase" and event.data.get("phase") == Phase.COMMITTING.value:
            # Said before the agent goes on: the old image is still there.
            version = self._ordered.get(str(event.data.get("job_id")))
            self._versions[event.device] = version or self._versions.get(event.device, "")


def _inner(found: object, *path: str) -> object:
    for step in path:
        found = found.get(step) if isinstance(found, Mapping) else None
    return found
