"""What a story is: what is done to a device, and how it has to end. The judge compares; a story never judges itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from reference.core.errors import Reason
from reference.core.job import JobStatus
from reference.core.model import Handover, Health, Outcome
from reference.demo.bench import NEW, OLD, Bench
from reference.oci.build import Healthcheck
from reference.stack import DEMO_HEALTH

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
    overlaps: bool = False
    """Its updates start it beside the old version, which the image allows."""
    probe: str = DEMO_HEALTH.probe
    """Where its health is asked over HTTP; empty: the image's own check alone says it."""
    checks_itself: bool = False
    """The image has a HEALTHCHECK."""

    @property
    def health(self) -> Health:
        """How it has to be."""
        return replace(DEMO_HEALTH, probe=self.probe)

    @property
    def policy(self) -> dict[str, object]:
        """Of its updates, as the API takes it."""
        handover = {"handover": Handover.OVERLAP.value} if self.overlaps else {}
        return {**({"snapshot": True} if self.snapshot else {}), **handover}

    @property
    def labels(self) -> dict[str, str]:
        """Of the image."""
        return {"blackstart.handover": Handover.OVERLAP.value} if self.overlaps else {}


_ASKS_ITSELF = """
import json, socket, sys
port = json.load(open("/etc/opc-client/config.json"))["port"]
client = socket.create_connection(("127.0.0.1", port), 1)
client.sendall(b"GET /healthz HTTP/1.0\\r\\n\\r\\n")
sys.exit(b" 200 " not in client.recv(64))
"""
CHECK = Healthcheck(("python3", "-I", "-S", "-c", _ASKS_ITSELF), interval_ms=250, timeout_ms=2_000, retries=2)
"""How an image that checks itself does it: often, because a trial in the demo is short."""
FIRST = Published(OLD)
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
    before: Published | None = FIRST
    """What runs before; None: nothing was ever installed."""
    status: JobStatus | None = None
    """What the API has to say, where the outcome alone does not tell."""
    refused: Reason | None = None
    """The device's log has to name a message that was refused for this."""
    touches_client: bool = True
    """False: the client must not have missed a single probe."""
    most_at_once: int = 1
    """So many client processes may live at once: more than one only where somebody else starts them."""
    alone: bool = False
    """Its numbers are published, or it hurts what all share: nothing else is played meanwhile."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Of the device's agent, beside the usual ones."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Of the device's updater, beside the demo's."""
    not_on: Mapping[str, str] = field(default_factory=dict)
    """Runtimes on which it means nothing, each with the reason."""
    hurts_engine: bool = False
    """It kills, stops or restarts the engine, or changes what others have there: it gets an engine of its own."""
    live_restore: bool = True
    """Whether containers go on while that engine is down, or end with it."""
    goes_on_ms: int = 0
    """For so long at least the old version has to answer after the switch was journaled."""
    network: str = "host"
    """Of the client, where an engine gives it one: `host` or `bridge` (its port is published then)."""

    @property
    def version(self) -> str:
        """The version that is asked for."""
        return self.published.version

    @property
    def begins(self) -> str | None:
        """The version that runs before."""
        return self.before.version if self.before is not None else None

    @property
    def client_id(self) -> str:
        """The device that it is played on."""
        return self.name.replace("_", "-")
