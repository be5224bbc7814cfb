"""A device of a stack: where it is, what its client runs on, and the agent when it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from reference.stack.box import Box, BoxMaker, Site
from reference.support.processes import ManagedProcess


@dataclass(slots=True)
class Device(Site):
    """A simulated edge device."""

    make_box: BoxMaker
    agent: ManagedProcess | None = None
    box: Box = field(init=False)
    """What its client runs on."""

    def __post_init__(self) -> None:
        self.box = self.make_box(self)
