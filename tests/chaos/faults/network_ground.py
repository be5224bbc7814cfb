"""As much of a bench as faults of the network touch: ways through a real Toxiproxy, each to a far end of its own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from chaos.faults import fault_named
from chaos.faults._network import NetworkFault
from chaos.faults.base import Ground, checked
from chaos.proxies.links import Passage
from chaos.scenario.model import FaultUse, Link
from tests.chaos.proxies.far_end import FarEnd
from tests.chaos.proxies.real_toxiproxy import links_in


@dataclass(slots=True)
class NetworkGround:
    """Stands for `Ground`; a device's ways are its own."""

    ways: dict[Link, list[Passage]] = field(default_factory=dict)

    def passages(self, link: Link, device: int | None) -> Sequence[Passage]:
        found = self.ways.get(link, [])
        return found if device is None else found[device - 1 : device]


@asynccontextmanager
async def ground_in(
    folder: Path, *ends: FarEnd, link: Link = Link.DEVICE_BROKER
) -> AsyncIterator[NetworkGround]:
    """One way of the link to each of these ends."""
    async with AsyncExitStack() as stack:
        links = await stack.enter_async_context(links_in(folder))
        ground = NetworkGround({link: []})
        for number, end in enumerate(ends, 1):
            far = await stack.enter_async_context(end)
            ground.ways[link].append(await links.passage(f"edge-{number}", far.port))
        yield ground


def fault_on(
    ground: NetworkGround, name: str, given: Mapping[str, object] | None = None, *, device: int | None = None
) -> NetworkFault:
    """The fault as a runner makes it, from what a scenario says under `with`."""
    use = FaultUse.model_validate(
        {"fault": name, "link": "device-broker", "device": device, "with": given or {}}
    )
    fault = fault_named(name)
    made = fault(cast(Ground, ground), use, checked(fault, use), random.Random(1))
    assert isinstance(made, NetworkFault)
    return made
