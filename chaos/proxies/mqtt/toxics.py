"""Toxics: what is done to connections, by Toxiproxy's names and with its attributes, and what is the same for all.

Those of Toxiproxy work on bytes, and draw their toxicity once for each connection. Ours on packets: `packet_toxics`.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chaos.proxies.mqtt.flow import END, Stage
from chaos.proxies.mqtt.packets import Stream
from reference.core.errors import InputError

SLICE_S = 0.1
"""Bandwidth is given out in pieces of so long."""


class ToxicError(InputError):
    """What was asked cannot be; `status` is the API's answer to it."""

    def __init__(self, what: str, status: int = 400, *, where: str = "", todo: str = "") -> None:
        super().__init__(what, where=where, todo=todo)
        self.status = status


class Attributes(BaseModel):
    """What a toxic takes. Unknown ones are passed over, as Toxiproxy does."""

    model_config = ConfigDict(strict=True, extra="ignore")
    seed: int | None = None
    """For all that is drawn; without it the proxy's own."""


class Toxic(ABC):
    """One toxic on one direction of a listener: on every connection that is open, and on those to come."""

    sort: ClassVar[str]
    """Its `type` in the API."""
    attributes_type: ClassVar[type[Attributes]] = Attributes
    on_packets: ClassVar[bool] = False
    silences: ClassVar[bool] = False
    for_open_only: ClassVar[bool] = False
    """Whether it is done, both ways, to the connections that are open when it comes, and not to later ones."""

    def __init__(self, name: str, stream: Stream, toxicity: float, attributes: Attributes, seed: int) -> None:
        self.name = name
        self.stream = stream
        self.toxicity = toxicity
        self.attributes = attributes
        self.hits = 0
        """Packets, or connections, that it has hurt."""
        self.chance = random.Random(seed if attributes.seed is None else attributes.seed)  # noqa: S311 - repeatable, no secret

    def update(self, attributes: Mapping[str, object], toxicity: float | None) -> None:
        """Change what is given. Raises ToxicError, and nothing is changed."""
        before = self.attributes.model_dump()
        self.attributes = read_attributes(type(self), {**before, **attributes})
        if self.attributes.seed != before["seed"]:
            self.chance.seed(self.attributes.seed)
        if toxicity is not None:
            self.toxicity = toxicity

    def describe(self) -> dict[str, object]:
        """As the API shows it."""
        attributes = self.attributes.model_dump()
        if attributes["seed"] is None:
            del attributes["seed"]
        return {
            "attributes": attributes, "name": self.name, "type": self.sort, "stream": self.stream.value,
            "toxicity": self.toxicity,
        }  # fmt: skip

    @abstractmethod
    async def pipe(self, stage: Stage) -> None:
        """See flow.Piping."""

    def taken_away(self, stage: Stage) -> None:  # noqa: B027 - most leave nothing behind
        """It is about to leave a connection."""


class ByteToxic(Toxic):
    """One that works on bytes."""

    async def pipe(self, stage: Stage) -> None:
        """Work on the connection, or leave it alone: drawn once, and again when the toxic is changed."""
        if self.chance.random() < self.toxicity:
            await self.work(stage)
        else:
            await _leave_alone(stage)

    @abstractmethod
    async def work(self, stage: Stage) -> None:
        """On one connection."""


async def _leave_alone(stage: Stage) -> None:
    while (chunk := await stage.take()) is not END:
        stage.pass_on(chunk)
    stage.close()


class Noop(ByteToxic):
    """Nothing."""

    sort = "noop"

    async def work(self, stage: Stage) -> None:
        """See ByteToxic."""
        await _leave_alone(stage)


class LatencyAttributes(Attributes):
    """Milliseconds: latency +/- jitter."""

    latency: int = 0
    jitter: int = 0


class Latency(ByteToxic):
    """Everything comes later, in order."""

    sort = "latency"
    attributes_type = LatencyAttributes
    attributes: LatencyAttributes

    async def work(self, stage: Stage) -> None:
        """See ByteToxic."""
        clock = asyncio.get_running_loop().time
        while (chunk := await stage.take()) is not END:
            jitter = self.attributes.jitter
            varied = self.chance.randrange(2 * jitter) - jitter if jitter > 0 else 0
            chunk.at += max(0, self.attributes.latency + varied) / 1000
            if (left := chunk.at - clock()) > 0:
                self.hits += 1
                await asyncio.sleep(left)
            stage.pass_on(chunk)
        stage.close()


class BandwidthAttributes(Attributes):
    """KB/s; 0 lets nothing through."""

    rate: int = 0


class Bandwidth(ByteToxic):
    """So much in a second."""

    sort = "bandwidth"
    attributes_type = BandwidthAttributes
    attributes: BandwidthAttributes

    async def work(self, stage: Stage) -> None:
        """See ByteToxic."""
        clock = asyncio.get_running_loop().time
        owed_s = 0.0
        while (chunk := await stage.take()) is not END:
            self.hits += 1
            rate = max(0, self.attributes.rate)
            if rate == 0:
                await asyncio.Event().wait()
            owed_s += len(chunk.data) / rate / 1000
            while len(chunk.data) > rate * 100:
                await asyncio.sleep(SLICE_S)
                stage.pass_part(chunk, rate * 100)
                owed_s -= SLICE_S
            began = clock()
            await asyncio.sleep(max(0.0, owed_s))
            owed_s -= clock() - began
            stage.pass_on(chunk)
        stage.close()


class DelayAttributes(Attributes):
    """Milliseconds."""

    delay: int = 0


class SlowClose(ByteToxic):
    """The end comes later."""

    sort = "slow_close"
    attributes_type = DelayAttributes
    attributes: DelayAttributes

    async def work(self, stage: Stage) -> None:
        """See ByteToxic."""
        while (chunk := await stage.take()) is not END:
            stage.pass_on(chunk)
        self.hits += 1
        await asyncio.sleep(max(0, self.attributes.delay) / 1000)
        stage.close()


class TimeoutAttributes(Attributes):
    """Milliseconds."""

    timeout: int = 0


class Timeout(ByteToxic):
    """A black hole; when nothing comes for `timeout` ms the connection ends, and so it does when this is taken away."""

    sort = "timeout"
    attributes_type = TimeoutAttributes
    attributes: TimeoutAttributes

    async def work(self, stage: Stage) -> None:
        """See ByteToxic."""
        within_s = self.attributes.timeout / 1000 if self.attributes.timeout > 0 else None
        try:
            while (chunk := await stage.take(within_s)) is not END:
                self.hits += 1
                stage.drop(chunk)
        except TimeoutError:
            self.hits += 1
        stage.close()

    def taken_away(self, stage: Stage) -> None:
        """What was swallowed is missing: the connection cannot go on."""
        stage.close()


class ResetPeer(ByteToxic):
    """`timeout` ms after the next byte both ends are reset."""

    sort = "reset_peer"
    attributes_type = TimeoutAttributes
    attributes: TimeoutAttributes

    async def work(self, stage: Stage) -> None:
        """See ByteToxic."""
        await stage.take()
        await asyncio.sleep(max(0, self.attributes.timeout) / 1000)
        self.hits += 1
        stage.flow.reset()


class LimitDataAttributes(Attributes):
    """Of one connection."""

    bytes: int = 0


class LimitData(ByteToxic):
    """After so much the connection ends."""

    sort = "limit_data"
    attributes_type = LimitDataAttributes
    attributes: LimitDataAttributes

    async def work(self, stage: Stage) -> None:
        """See ByteToxic."""
        while (chunk := await stage.take()) is not END:
            left = max(0, self.attributes.bytes - stage.memory)
            stage.memory += len(chunk.data)
            if len(chunk.data) >= left:
                self.hits += 1
                stage.pass_part(chunk, left) if len(chunk.data) > left else stage.pass_on(chunk)
                break
            stage.pass_on(chunk)
        stage.close()


class SlicerAttributes(Attributes):
    """Bytes, and microseconds after each slice."""

    average_size: int = 0
    size_variation: int = 0
    delay: int = 0


class Slicer(ByteToxic):
    """Everything comes in small pieces."""

    sort = "slicer"
    attributes_type = SlicerAttributes
    attributes: SlicerAttributes

    async def work(self, stage: Stage) -> None:
        """See ByteToxic."""
        pause_s = max(0, self.attributes.delay) / 1_000_000
        while (chunk := await stage.take()) is not END:
            sizes = self._sizes(len(chunk.data))
            self.hits += len(sizes) > 1
            for size in sizes[:-1]:
                stage.pass_part(chunk, size)
                await asyncio.sleep(pause_s)
            stage.pass_on(chunk)
            await asyncio.sleep(pause_s)
        stage.close()

    def _sizes(self, count: int) -> list[int]:
        """Halved, a little off the middle, until a piece is small enough."""
        average, off = max(1, self.attributes.average_size), max(0, self.attributes.size_variation)
        if count - average <= off:
            return [count]
        middle = count // 2 + (self.chance.randrange(2 * off) - off if off else 0)
        middle = min(max(middle, 1), count - 1)
        return [*self._sizes(middle), *self._sizes(count - middle)]


_TYPES: dict[str, type[Toxic]] = {
    one.sort: one
    for one in (Noop, Latency, Bandwidth, SlowClose, Timeout, ResetPeer, LimitData, Slicer)
}  # fmt: skip


def known_type(toxic: type[Toxic]) -> type[Toxic]:
    """Make a type known; a class decorator."""
    _TYPES[toxic.sort] = toxic
    return toxic


def read_attributes(toxic: type[Toxic], given: Mapping[str, object]) -> Attributes:
    """Checked. Raises ToxicError that names the attribute."""
    try:
        return toxic.attributes_type.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in ("attributes", *first["loc"]))
        raise ToxicError(f"bad request body: {place}: {first['msg']}") from None


class ToxicOrder(BaseModel):
    """A toxic as it is asked for, in a program or over the API."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: str = ""
    name: str = ""
    stream: str = "downstream"
    toxicity: float = Field(default=1.0)
    attributes: dict[str, Any] | None = None

    def make(self, seed: int) -> Toxic:
        """Raises ToxicError."""
        try:
            stream = Stream(self.stream.lower())
        except ValueError:
            raise ToxicError("stream was invalid, can be either upstream or downstream") from None
        kind = _TYPES.get(self.type)
        if kind is None:
            raise ToxicError("invalid toxic type", where=self.type, todo=f"Known: {', '.join(_TYPES)}.")
        attributes = read_attributes(kind, self.attributes or {})
        name = self.name or f"{self.type}_{stream.value}"
        return kind(name, stream, self.toxicity, attributes, seed)
