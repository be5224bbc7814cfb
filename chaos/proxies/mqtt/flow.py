"""One direction of one connection: what is read goes through the toxics, one after the other, and is written.

    source -> cut at packet borders -> gates -> toxics on packets -> toxics on bytes -> tap -> destination

Each toxic works in a task of its own, as in Toxiproxy. Between two awaits of a task nothing else happens, so toxics come
and go at once, and what one of them held goes on in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol

from chaos.proxies.mqtt.packets import Dialogue, Packet, Stream

log = logging.getLogger(__name__)

READ_BYTES = 32 * 1024
MOST_IN_FLIGHT_BYTES = 1 << 20
"""Nothing more is read while so much is on its way: what toxics hold back is bounded, and the sender is told by TCP."""


@dataclass(slots=True, eq=False)
class Chunk:
    """Some bytes on their way: a packet, or what came when they are none."""

    data: bytes
    packet: Packet | None = None
    at: float = 0.0
    """When it came, by the loop's clock; latency moves it on."""


END = Chunk(b"")
"""The source has nothing more to say."""


class Piping(Protocol):
    """What a toxic does to one direction of one connection."""

    @property
    def on_packets(self) -> bool:
        """Whether it needs whole packets: then it comes before all that work on bytes."""

    @property
    def silences(self) -> bool:
        """Whether nothing at all comes through it."""

    async def pipe(self, stage: Stage) -> None:
        """Take from the stage and pass on, until END. Cancelled when the toxic is taken away or changed."""


class Stage:
    """One toxic's place in a flow. What was taken and neither passed on nor dropped is in its hand."""

    def __init__(self, flow: Flow, toxic: Piping | None) -> None:
        self.flow = flow
        self.toxic = toxic
        self.memory = 0
        """The toxic's own, of this connection."""
        self.closed = False
        self._inbox: deque[Chunk] = deque()
        self._hand: list[Chunk] = []
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # ---- for the toxic

    async def take(self, within_s: float | None = None) -> Chunk:
        """The next chunk, or END. Raises TimeoutError when none comes in time."""
        if not self._inbox:
            self._filled.clear()
            async with asyncio.timeout(within_s):
                await self._filled.wait()
        chunk = self._inbox.popleft()
        self._hand.append(chunk)
        return chunk

    def pass_on(self, chunk: Chunk) -> None:
        """Out of the hand, to the next stage."""
        self._hand.remove(chunk)
        self.flow.after(self).put(chunk)

    def pass_part(self, chunk: Chunk, count: int) -> None:
        """The first bytes of it; the rest stays in the hand, and is what makes the packet whole."""
        part, chunk.data = chunk.data[:count], chunk.data[count:]
        self.flow.after(self).put(Chunk(part, None, chunk.at))

    def add(self, chunk: Chunk) -> None:
        """A chunk of the toxic's own, to the next stage."""
        self.flow.entered(chunk)
        self.flow.after(self).put(chunk)

    def drop(self, chunk: Chunk) -> None:
        """Out of the hand, and gone."""
        self._hand.remove(chunk)
        self.flow.gone(chunk)

    def close(self) -> None:
        """End this direction here: the next stage gets END, and all that comes later is dropped."""
        if not self.closed:
            self.closed = True
            self._drop_all()
            self.flow.after(self).put(END)

    # ---- for the flow

    def put(self, chunk: Chunk) -> None:
        """The previous stage's way to hand something over."""
        if self.closed:
            self.flow.gone(chunk)
            return
        self._inbox.append(chunk)
        self._filled.set()

    def start(self) -> None:
        """Let the toxic work."""
        assert self.toxic is not None, "the last stage is written by the flow"
        self._task = asyncio.create_task(self.toxic.pipe(self))
        self._task.add_done_callback(self._told)

    def stop(self) -> None:
        """Let it work no more."""
        if self._task is not None:
            self._task.cancel()

    def restart(self) -> None:
        """Anew, as the toxic is now; what it had in hand goes on."""
        self.stop()
        self._flush(self._hand)
        if not self.closed:
            self.start()

    def leave(self, then: Stage) -> None:
        """What it had in hand, and what waits for it, goes to `then`."""
        self.stop()
        for chunk in (*self._hand, *self._inbox):
            then.put(chunk)
        self._hand.clear()
        self._inbox.clear()

    def _flush(self, chunks: list[Chunk]) -> None:
        for chunk in tuple(chunks):
            self.pass_on(chunk)

    def _drop_all(self) -> None:
        for chunk in (*self._hand, *self._inbox):
            self.flow.gone(chunk)
        self._hand.clear()
        self._inbox.clear()

    def _told(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a toxic failed: the connection is cut", exc_info=error)
            self.flow.reset()


class Flow:
    """One direction. `run` it; it ends when all is written or the destination is gone."""

    def __init__(
        self,
        stream: Stream,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        owner: FlowOwner,
    ) -> None:
        self.stream = stream
        self.writer = writer
        self._reader = reader
        self._owner = owner
        self._in_flight = 0
        self._room = asyncio.Event()
        self._room.set()
        self._last = Stage(self, None)
        self._stages: list[Stage] = []
        self._reading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Pass on until the end. The destination is closed then."""
        self._reading = asyncio.create_task(self._read())
        try:
            while (chunk := await self._last.take()) is not END:
                self._owner.writes(chunk, self.stream)
                self.writer.write(chunk.data)
                await self.writer.drain()
                self._last.drop(chunk)
        except OSError:
            self._owner.source_ended(self.stream.back)  # The destination is the other direction's source.
        finally:
            self._last.closed = True
            self._reading.cancel()
            for stage in self._stages:
                stage.stop()
            close(self.writer)

    def source_gone(self) -> None:
        """Nobody is left to read from."""
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()
            self._first.put(END)

    # ---- toxics

    def insert(self, toxic: Piping) -> Stage:
        """At the end of its sort: what works on packets comes before what works on bytes."""
        stage = Stage(self, toxic)
        place = len(self._stages)
        if toxic.on_packets:
            place = sum(s.toxic is not None and s.toxic.on_packets for s in self._stages)
        self._stages.insert(place, stage)
        stage.start()
        return stage

    def stage_of(self, toxic: Piping) -> Stage | None:
        """Where it works."""
        return next((stage for stage in self._stages if stage.toxic is toxic), None)

    def remove(self, stage: Stage) -> None:
        """Take it out; what it holds goes on."""
        then = self.after(stage)
        self._stages.remove(stage)
        stage.leave(then)

    @property
    def silenced(self) -> bool:
        """Whether a toxic swallows all there is."""
        return any(stage.toxic is not None and stage.toxic.silences for stage in self._stages)

    def put_last(self, chunk: Chunk) -> None:
        """Past all toxics, between two packets."""
        self.entered(chunk)
        self._last.put(chunk)

    # ---- for stages

    def after(self, stage: Stage) -> Stage:
        """The next one."""
        place = self._stages.index(stage) + 1
        return self._stages[place] if place < len(self._stages) else self._last

    def entered(self, chunk: Chunk) -> None:
        """So much more is on its way."""
        self._in_flight += len(chunk.data)
        if self._in_flight > MOST_IN_FLIGHT_BYTES:
            self._room.clear()

    def gone(self, chunk: Chunk) -> None:
        """So much less."""
        self._in_flight -= len(chunk.data)
        if self._in_flight <= MOST_IN_FLIGHT_BYTES:
            self._room.set()

    def cut(self) -> None:
        """End the connection, both ways."""
        self._owner.cut("end")

    def reset(self) -> None:
        """The same with a reset for both ends."""
        self._owner.cut("reset")

    @property
    def _first(self) -> Stage:
        return self._stages[0] if self._stages else self._last

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(READ_BYTES):
                await self._enter(self._owner.dialogue.feed(self.stream, data))
                await self._room.wait()
        except OSError:
            pass  # A reset is an end, for whoever is on the other side.
        await self._enter(self._owner.dialogue.end(self.stream))
        self._owner.source_ended(self.stream)
        self._first.put(END)

    async def _enter(self, pieces: list[Packet | bytes]) -> None:
        now = asyncio.get_running_loop().time()
        for piece in pieces:
            packet = piece if isinstance(piece, Packet) else None
            chunk = Chunk(piece.data if isinstance(piece, Packet) else piece, packet, now)
            if await self._owner.reads(chunk, self.stream):
                self.entered(chunk)
                self._first.put(chunk)


class FlowOwner(Protocol):
    """The connection that a flow is one half of."""

    dialogue: Dialogue
    """What cuts it into packets."""

    async def reads(self, chunk: Chunk, stream: Stream) -> bool:
        """Something came; whether it goes on. It may stand still in here."""

    def writes(self, chunk: Chunk, stream: Stream) -> None:
        """Something is about to be on the wire."""

    def source_ended(self, stream: Stream) -> None:
        """The source of a direction has ended by itself."""

    def cut(self, how: Literal["end", "reset"]) -> None:
        """End both directions."""


def close(writer: asyncio.StreamWriter) -> None:
    """End it in order. Only once: closed twice, a TLS connection of Python 3.11 cannot be aborted any more."""
    if not writer.is_closing():
        writer.close()
