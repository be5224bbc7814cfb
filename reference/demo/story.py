"""What a story is: what is done to a device, and how it has to end. The judge compares; a story never judges itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from reference.core.errors import Reason
from reference.core.job import JobStatus
from reference.core.model import Outcome
from reference.demo.bench import NEW, OLD, Bench

Act = Callable[[Bench], Awaitable[None]]


@dataclass(frozen=True, slots=True, order=True)
class Published:
    """A version that a story needs: built, pushed and registered before it begins."""

    version: str
    defect: str = ""
    repository: str = "opc-client"
    registry: str = "registry"
    architecture: str = ""
    lost: bool = False
    """Registered under a digest that the registry does not hold."""
    snapshot: bool = False
    """Its updates copy the volume first."""


PLAIN = Published(NEW)


@dataclass(frozen=True, slots=True)
class Story:
    """A story by name. `published` is what is asked for, `runs` what has to answer in the end."""

    name: str
    about: str
    act: Act
    outcome: Outcome | None = Outcome.SUCCEEDED
    """What the API has to say of the job; None: there must not be any outcome."""
    reason: Reason | None = None
    published: Published = PLAIN
    runs: str = NEW
    begins: str | None = OLD
    """What runs before; None: nothing was ever installed."""
    status: JobStatus | None = None
    """What the API has to say, where the outcome alone does not tell."""
    refused: Reason | None = None
    """The device's log has to name a message that was refused for this."""
    touches_client: bool = True
    """False: the client must not have missed a single probe."""
    keeps_samples: bool = True
    """False: what the candidate collected goes with its trial, so that numbers may be used again."""
    alone: bool = False
    """Its numbers are published, or it hurts what all share: nothing else is played meanwhile."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Of the device's agent, beside the usual ones."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Of the device's updater, beside the demo's."""

    @property
    def version(self) -> str:
        """The version that is asked for."""
        return self.published.version

    @property
    def client_id(self) -> str:
        """The device that it is played on."""
        return self.name.replace("_", "-")
