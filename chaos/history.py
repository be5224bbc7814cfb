"""The one history of a run: who saw what, and when. Written as it happens, read by checkers and reports afterwards.

A line of `history.jsonl` is an object:

    {"t": 1.234567, "wall_ms": 1764421000123.4, "source": "probe", "event": "bad", "device": "edge-1", "data": {...}}

`t`: seconds since the run began, monotonic. `wall_ms`: milliseconds since 1970. `device`: empty when it is about none.
What each source writes, and with which data: docs/chaos.md, "The history".
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from reference.core.errors import InputError

Data = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Event:
    """One line."""

    t: float
    wall_ms: float
    source: str
    event: str
    device: str = ""
    data: Data = field(default_factory=dict)

    def to_json(self) -> str:
        """As a line of the file, without its end."""
        body = {
            "t": round(self.t, 6), "wall_ms": round(self.wall_ms, 3), "source": self.source, "event": self.event,
            "device": self.device, "data": dict(self.data),
        }  # fmt: skip
        return json.dumps(body, separators=(",", ":"), default=str)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Raises ValueError for what is no such line."""
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("not an object")  # noqa: TRY004 - of the file, not of the caller
        try:
            data = found.get("data", {})
            return cls(
                float(found["t"]), float(found["wall_ms"]), str(found["source"]), str(found["event"]),
                str(found.get("device", "")), data if isinstance(data, dict) else {},
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an event: {error}") from error


@dataclass(frozen=True, slots=True)
class History:
    """What was seen, in the order of `t`. Pure: checkers get this, and nothing else."""

    events: tuple[Event, ...] = ()
    torn: bool = False
    """Its file broke off in the middle of its last line: what came after is not known."""

    def of(self, source: str, event: str | None = None, device: str | None = None) -> Iterator[Event]:
        """The events of a source, of one kind and about one device where these are given."""
        for found in self.events:
            if found.source == source and event in (None, found.event) and device in (None, found.device):
                yield found

    def last(self, source: str, event: str, device: str | None = None) -> Event | None:
        """The last one of a kind."""
        return next(iter([*self.of(source, event, device)][-1:]), None)

    def first(self, source: str, event: str, device: str | None = None) -> Event | None:
        """The first one of a kind."""
        return next(self.of(source, event, device), None)

    @classmethod
    def made_of(cls, events: Iterable[Event], *, torn: bool = False) -> Self:
        """In order, whatever order they come in."""
        return cls(tuple(sorted(events, key=lambda event: event.t)), torn)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The file that a `Recorder` wrote; `torn` when its last line is no whole one, as a full disk or a kill leaves it.

        Raises InputError that names the line, for any other that is wrong.
        """
        found, torn = [], False
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read: {error}", where=str(path)) from None
        lines = text.split("\n")
        rest = lines.pop()  # nothing, where the last line has its end
        for number, line in enumerate(lines, 1):
            try:
                found.append(Event.from_json(line))
            except ValueError as error:
                raise InputError(f"no line of a history: {error}", where=f"{path}:{number}") from None
        if rest:
            try:
                found.append(Event.from_json(rest))
            except ValueError:
                torn = True
        return cls.made_of(found, torn=torn)


class Recorder:
    """Writes the history. Any thread may record; listeners are called in the thread that records, and must be quick."""

    def __init__(self, path: Path | None = None) -> None:
        self._file: IO[str] | None = (
            path.open("w", encoding="utf-8", buffering=1) if path is not None else None
        )
        self._began = time.monotonic()
        self._events: list[Event] = []
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Event], None]] = []

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def at(self, wall_ms: float) -> float:
        """The `t` of a wall time of this process's clock, for what was seen with one."""
        return self.now() - (time.time() * 1000 - wall_ms) / 1000

    def record(
        self, source: str, event: str, device: str = "", /, *, t: float | None = None, **data: object
    ) -> Event:
        """Write an event of now, or of `t` where it was seen then; answers it."""
        now, wall_ms = self.now(), time.time() * 1000
        when = now if t is None else t
        made = Event(when, wall_ms - (now - when) * 1000, source, event, device, data)
        with self._lock:
            self._events.append(made)
            if self._file is not None:
                self._file.write(made.to_json() + "\n")
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener(made)
        return made

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Have `listener` called for every event from now on; answers what ends that."""
        with self._lock:
            self._listeners.append(listener)

        def end() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    async def seen(self, wanted: Callable[[Event], bool], *, nth: int = 1, since: float = 0.0) -> Event:
        """The n-th event that `wanted` says yes to, of those since `since`: at once if it is there, else when it comes."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Event] = loop.create_future()
        left = nth

        def look(event: Event) -> None:
            nonlocal left
            if left > 0 and event.t >= since and wanted(event):
                left -= 1
                if left == 0:
                    loop.call_soon_threadsafe(_settle, found, event)

        with self._lock:
            for event in self._events:
                look(event)
            self._listeners.append(look)
        try:
            return await found
        finally:
            with self._lock:
                self._listeners.remove(look)

    def history(self) -> History:
        """All that was recorded until now."""
        with self._lock:
            return History.made_of(self._events)

    def close(self) -> None:
        """Nothing is written any more."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def _settle(waiter: asyncio.Future[Event], event: Event) -> None:
    if not waiter.done():
        waiter.set_result(event)
