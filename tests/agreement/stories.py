"""The stories that a real device goes through here, by the names that the model has for them."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from reference.client.images import write_client_folder
from reference.core.model import Command, Health, Image, Policy
from reference.oci.build import build_image
from reference.oci.layout import blob_path
from reference.pki import DevelopmentCA
from reference.world import stories as model
from reference.world.story import Story as ModelStory
from tests.agreement.device import GOOD, Device, Task
from tests.edge.runtimes.registry import Registry, running_registry

PLAIN = Policy()
FAR_MS = 4_000_000_000_000


@dataclass(frozen=True, slots=True)
class Story:
    """A command for v2 on a device that runs v1, or (`first`) nothing."""

    name: str
    """The model's."""
    defect: str | None = None
    """Of v2."""
    after_ms: int | None = None
    health: Health = GOOD
    policy: Policy = PLAIN
    first: bool = False
    fault: str = ""
    """What the registry answers when it is asked for v2."""

    @property
    def model(self) -> ModelStory:
        """What the model says: `allows` tells whether outcomes, reasons and what runs are an end of it."""
        return model.story(self.name)


IMPATIENT = replace(GOOD, window_ms=400)
STORIES = (
    Story("success"),
    Story("crash", defect="crash-on-start"),
    Story("never_healthy", defect="never-healthy", health=IMPATIENT),
    Story("dies_in_window", defect="dies-in-window", after_ms=40, health=replace(GOOD, stable_for_ms=20_000)),
    Story("pull_registry_denied", fault="403"),
    Story("snapshot", policy=Policy(snapshot=True)),
    Story("bad_migration", defect="bad-migration", policy=Policy(snapshot=True)),
    Story("first_install", first=True),
    Story("first_install_bad", first=True, defect="crash-on-start"),
)


@dataclass
class Ground:
    """A registry with images of the client, an engine's folder that holds v1, and names for devices."""

    folder: Path
    registry: Registry
    cast: Path = field(init=False)
    _images: dict[tuple[str, str | None, int | None], Image] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def image(self, version: str, defect: str | None = None, after_ms: int | None = None) -> Image:
        """Built once and published."""
        key = (version, defect, after_ms)
        if key not in self._images:
            place = self.folder / "images" / str(len(self._images))
            write_client_folder(place, version, defect, after_ms=after_ms)
            built = build_image(place, place.with_suffix(".oci"), version=version)
            for path in blob_path(built.layout, built.manifest_digest).parent.iterdir():
                self.registry.content[f"sha256:{path.name}"] = path.read_bytes()
            self._images[key] = Image(f"{self.registry.address}/opc", built.manifest_digest, version)
        return self._images[key]

    def device(self, name: str = "device") -> Device:
        """A new one: nothing of it is there yet."""
        number, pid = next(self._numbers), os.getpid()
        # All of 127/8 is loopback: an address for each device, apart from those of another process's devices.
        address = f"127.{64 + pid % 128}.{pid // 128 % 256}.{1 + number % 254}"
        return Device(self.folder / f"{name}-{number}", address, self.registry.address)

    def task(self, story: Story, device: Device) -> Task:
        """A first life of the device in this story."""
        v1, v2 = self.image("v1"), self.image("v2", story.defect, story.after_ms)
        if story.fault:
            v2 = replace(v2, digest=f"sha256:{'0' * 64}")
            self.registry.faults[v2.digest] = story.fault
        order = Command("job-2", 2, v2, story.health, FAR_MS, story.policy)
        task = Task(device.folder, device.address, device.registry, (order,), setup=True)
        return task if story.first else replace(task, installed=v1, cast=self.cast)


@asynccontextmanager
async def ground(folder: Path) -> AsyncIterator[Ground]:
    """A registry on loopback, and v1 pulled from it."""
    async with running_registry() as registry:
        # Nobody speaks TLS here; without this file the agent reads every authority that the machine knows.
        shutil.copy(DevelopmentCA.open_or_create(folder / "authority").certificate, folder / "ca.pem")
        made = Ground(folder, registry)
        device = made.device("cast")
        device.make()
        runtime = device.runtime()
        await runtime.pull(made.image("v1"), lambda _: None)
        await runtime.close()
        made.cast = device.state / "engine"
        yield made
