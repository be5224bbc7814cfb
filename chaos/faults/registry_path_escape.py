"""A layer that wants to be written outside of its image."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from chaos.faults._registry_hostile import HostileVersion
from chaos.faults._registry_images import HostileLayer, Way, escape
from chaos.faults.base import Params, register
from chaos.history import Event
from chaos.scenario.model import VersionName


class EscapeParams(Params):
    """Which version it is, and which way out it tries."""

    version: VersionName = "2.0.0-escape"
    """The update has to ask for it."""
    way: Way = "up"
    """`up`: names that begin with `..`; `absolute`: a whole path; `link`: a symbolic link, and a file through it."""


@register
class PathEscape(HostileVersion):
    """See `about`."""

    name = "registry-path-escape"
    about = (
        "A version is published whose layer has a file that lies outside of it: the update has to ask for it."
    )
    shown_by = "how often that layer was sent; a file that was written makes the run fail"
    params = EscapeParams
    _unlisten: Callable[[], None] | None = None
    _out = False

    @property
    def target(self) -> Path:
        """Where the file would land: in the run's folder, should an updater fall for it."""
        return self.ground.guard.path(self.ground.folder.resolve() / f"escaped-{self.given.version}")

    def layer(self) -> HostileLayer:
        """See the base."""
        return escape(self.given.way, self.target)

    async def begin(self) -> None:
        """See the base. It is looked for the file until the run is over, whenever it was shown that this has fired."""
        recorder = self.ground.recorder
        recorder.record("hostile", "lured", path=str(self.target), version=self.given.version)
        self._unlisten = recorder.listen(self._hear)
        await super().begin()

    def _hear(self, event: Event) -> None:
        if event.source == "run" and self._unlisten is not None:
            self._look()
            if event.event == "stopped":
                self._unlisten()
                self._unlisten = None
                if not self._out:
                    self.ground.recorder.record("hostile", "stayed-in", path=str(self.target))

    def _look(self) -> bool:
        """Whether the file was written; said once in the history."""
        if not self._out and self.target.exists():
            self._out = True
            self.ground.recorder.record("hostile", "got-out", path=str(self.target))
        return self._out

    async def fired(self) -> str:
        """See the base. That the file was written is said, and is a failure: `nothing-got-out`."""
        times, sent = self.served
        written = await asyncio.to_thread(self._look)
        if not times:
            return ""
        became = f"it WAS written to {self.target}" if written else "it was not written"
        return f"{sent} bytes of a layer with a file outside of it were sent, in {times} answers; {became}"
