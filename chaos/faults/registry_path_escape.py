"""A layer that wants to be written outside of its image."""

from __future__ import annotations

import asyncio
from pathlib import Path

from chaos.faults._registry_hostile import HostileVersion
from chaos.faults._registry_images import HostileLayer, Way, escape
from chaos.faults.base import Params, register
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
    shown_by = "how often that layer was sent, and whether the file was written"
    params = EscapeParams

    @property
    def target(self) -> Path:
        """Where the file would land: in the run's folder, should an updater fall for it."""
        return self.ground.guard.path(self.ground.folder.resolve() / f"escaped-{self.given.version}")

    def layer(self) -> HostileLayer:
        """See the base."""
        return escape(self.given.way, self.target)

    async def fired(self) -> str:
        """See the base."""
        times, sent = self.served
        if not times:
            return ""
        written = await asyncio.to_thread(self.target.exists)
        became = f"it WAS written to {self.target}" if written else "it was not written"
        return f"{sent} bytes of a layer with a file outside of it were sent, in {times} answers; {became}"
