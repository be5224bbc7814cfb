"""What all lanes of a run share: where things lie, what was built and pushed, and who signs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from reference.core.limits import Limits
from reference.core.model import Command, Image
from reference.power.desk import CLIENT, TENANT
from reference.power.look import Files
from reference.power.stories import OLD_VERSION, PATIENT, UNKNOWN, Story

PROCESS, DOCKER = "process", "docker"
LIMITS = Limits(backoff_first_ms=20, backoff_limit_ms=200, poll_ms=8, watch_ms=100, outbox_resend_ms=500)
"""The field's, but for the pauses: a cycle has to be short."""
NAME = "opc-client"
PORT = 8080
GENERATION = 2
"""Of the order that is cut; the one before has installed the old version."""
_EXPIRES_MS = 4_000_000_000_000
_STALL_MS, _MARGIN_BYTES, _GRACE_MS = 5_000, 1 << 20, 2_000


@dataclass(frozen=True, slots=True)
class Bench:
    """One run's. Written to a file for its lanes, all of which see the same paths, each with mounts of its own."""

    folder: str
    registry: str
    digests: Mapping[str, str]
    """Version -> digest."""
    files: Mapping[str, Files]
    """Digest of an image, or diff id of a layer -> what lies in it."""
    layers: Mapping[str, list[str]] = field(default_factory=dict)
    """Digest -> diff ids of its layers, lowest first; where images have a base."""
    runtime: str = PROCESS

    @property
    def at(self) -> Path:
        """Where a lane mounts its device's disk."""
        return Path(self.folder, "disk")

    @property
    def here(self) -> Path:
        """A lane's own memory: what a boot forgets, and what belongs to the machine and not to the device."""
        return Path(self.folder, "here")

    def template(self, network: str) -> Path:
        """The disk that every cut begins with: the old version runs on it."""
        return Path(self.folder, f"template{network and '-'}{network}.img")

    @property
    def key(self) -> Path:
        """What commands are signed with."""
        return Path(self.folder, "key.pem")

    def save(self) -> None:
        """Write it for the lanes."""
        self._file(Path(self.folder)).write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Bench:
        """What was saved in a folder."""
        return cls(**json.loads(cls._file(folder).read_text("utf-8")))

    @staticmethod
    def _file(folder: Path) -> Path:
        return folder / "bench.json"

    def image(self, version: str) -> Image:
        """Of a version that was pushed."""
        return Image(f"{self.registry}/{NAME}", self.digests[version], version)

    def first(self) -> Command:
        """The order that installs the old version."""
        return Command("job-1", GENERATION - 1, self.image(OLD_VERSION), PATIENT, _EXPIRES_MS)

    def order(self, story: Story) -> Command:
        """A story's."""
        image = Image(f"{self.registry}/{NAME}", f"sha256:{'0' * 64}", story.version)
        if story.defect != UNKNOWN:
            image = self.image(story.version)
        return Command("job-2", GENERATION, image, story.health, _EXPIRES_MS, story.policy)

    def settings(self, rig: Mapping[str, object]) -> dict[str, object]:
        """Of a device; `rig` is what its rig adds."""
        client = rig["client"]
        assert isinstance(client, dict), "a rig adds to the client's part"
        nowhere = self.here / "unused"  # the line stands in for the broker, and brings the keys
        return {
            "tenant_id": TENANT,
            "client_id": CLIENT,
            "state_dir": self.at / "state",
            "run_dir": self.here / "run",
            "broker": {"host": "127.0.0.1", "port": 1, "ca": nowhere, "cert": nowhere, "key": nowhere},
            "registries": [{"host": self.registry, "plain_http": True}],
            "command_keys": [nowhere],
            "pull_watchdog_ms": _STALL_MS,
            "disk_margin_bytes": _MARGIN_BYTES,
            "seed": 1,
            **rig,
            "client": {"port": PORT, "stop_grace_ms": _GRACE_MS, **client},
        }
