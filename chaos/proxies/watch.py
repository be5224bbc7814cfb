"""What was seen at a meter in a stretch of time: the evidence that a network fault happened to somebody.

An *exchange*: the client has sent, and something came back; its wait is from the last byte sent to the first one back,
so it is never longer than what the client waited. A *burst*: all that comes back until the client sends again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

ENDS_KEPT = 1_000
FAST_S = 0.05
"""A burst shorter than this says nothing of a rate."""


@dataclass(eq=False, slots=True)
class Connection:
    """One connection through a meter, as it goes on."""

    got: int = 0
    """Bytes that came back."""
    waiting_since: float | None = None
    """When the first byte was sent that nothing has come back after."""
    last_sent: float | None = None
    last_got: float | None = None
    client_ended: float | None = None
    burst_began: float | None = None
    burst_bytes: int = 0
    burst_pieces: int = 0

    def sent(self, now: float) -> None:
        """The client has sent something."""
        self.last_sent = now
        if self.waiting_since is None:
            self.waiting_since = now
        self.burst_began, self.burst_bytes, self.burst_pieces = now, 0, 0

    def received(self, now: float, size: int) -> float | None:
        """To the client. How long it was waited for, when it is the first answer to something."""
        wait_s = (
            now - self.last_sent if self.waiting_since is not None and self.last_sent is not None else None
        )
        self.waiting_since = None
        self.got += size
        self.last_got = now
        self.burst_bytes += size
        self.burst_pieces += 1
        return wait_s


@dataclass(frozen=True, slots=True)
class Burst:
    """What came back until the client sent again."""

    size: int
    pieces: int
    seconds: float
    """From the last byte that was sent to the last that came back."""


@dataclass(frozen=True, slots=True)
class End:
    """A connection that the far side has ended."""

    got: int
    """Bytes that had come back on it since the watch began."""
    was_open: bool
    """It was there when the watch began."""


@dataclass(frozen=True, slots=True)
class Seen:
    """From a watch's beginning until now. Times are seconds; instants are of `time.monotonic`."""

    began: float
    until: float
    was_open: int = 0
    """Connections that were there at the beginning."""
    connections: int = 0
    """That came since."""
    refused: int = 0
    """Of these, reset at once because nobody was to be reached."""
    resets: int = 0
    """By the far side."""
    cut: int = 0
    """Reset by the meter because it was told to."""
    client_resets: int = 0
    half_closes: int = 0
    """Ends of the client that were passed on; the way back stays open."""
    ends: tuple[End, ...] = ()
    """By the far side, without a reset; the first 1000 of them."""
    sent: int = 0
    """Bytes from the client."""
    received: int = 0
    """Bytes to the client."""
    first_sent: float | None = None
    last_sent: float | None = None
    first_received: float | None = None
    last_received: float | None = None
    unanswered: int = 0
    """Bytes that were sent, and nothing has come back after them on their connection."""
    silence_s: float = 0.0
    """The longest time that nothing came back after a byte was sent."""
    exchanges: int = 0
    quickest_s: float = 0.0
    slowest_s: float = 0.0
    pieces: int = 0
    """Reads with something to the client."""
    largest_piece: int = 0
    most_pieces: Burst | None = None
    """The burst that came in most pieces."""
    fastest: Burst | None = None
    """The burst with the most bytes in a second, of those that lasted 50 ms."""
    client_ends: int = 0
    """Connections that the client had ended before the far side did."""
    slowest_end_s: float = 0.0
    """The longest that such an end took: from the client's own to the far side's."""


@dataclass(slots=True)
class _Tally:
    was_open: int = 0
    connections: int = 0
    refused: int = 0
    resets: int = 0
    cut: int = 0
    client_resets: int = 0
    half_closes: int = 0
    sent: int = 0
    received: int = 0
    exchanges: int = 0
    quickest_s: float = 0.0
    slowest_s: float = 0.0
    client_ends: int = 0
    slowest_end_s: float = 0.0
    pieces: int = 0
    largest_piece: int = 0
    first_sent: float | None = None
    last_sent: float | None = None
    first_received: float | None = None
    last_received: float | None = None
    most_pieces: Burst | None = None
    fastest: Burst | None = None


@dataclass(slots=True)
class _Pending:
    """Of one connection, for one watch."""

    got_before: int
    was_open: bool
    unanswered: int = 0
    since: float | None = None


@dataclass(slots=True)
class _Lost:
    """Of connections that are over."""

    unanswered: int = 0
    silence_s: float = 0.0


class Watch:
    """Counts from when it was made until it is closed. A meter tells it what happens."""

    def __init__(
        self, now: Callable[[], float], there: Iterable[Connection], closed: Callable[[Watch], None]
    ) -> None:
        self._now = now
        self._closed = closed
        self.began = now()
        self._tally = _Tally()
        self._ends: list[End] = []
        self._lost = _Lost()
        self._pending = {connection: _Pending(connection.got, was_open=True) for connection in there}
        self._tally.was_open = len(self._pending)
        self._final: Seen | None = None

    def seen(self) -> Seen:
        """Until now, or until it was closed."""
        if self._final is not None:
            return self._final
        now, tally = self._now(), self._tally
        waits = [now - p.since for p in self._pending.values() if p.since is not None]
        counts = {name: getattr(tally, name) for name in _Tally.__slots__}
        return Seen(
            began=self.began,
            until=now,
            ends=tuple(self._ends),
            unanswered=self._lost.unanswered + sum(p.unanswered for p in self._pending.values()),
            silence_s=max([self._lost.silence_s, *waits]),
            **counts,
        )

    def close(self) -> Seen:
        """Look no longer; again is success."""
        if self._final is None:
            self._final = self.seen()
            self._closed(self)
        return self._final

    # What the meter tells.

    def opened(self, connection: Connection) -> None:
        self._tally.connections += 1
        self._pending[connection] = _Pending(0, was_open=False)

    def was_refused(self) -> None:
        self._tally.refused += 1

    def was_cut(self) -> None:
        self._tally.cut += 1

    def far_reset(self) -> None:
        self._tally.resets += 1

    def client_reset(self) -> None:
        self._tally.client_resets += 1

    def client_ended(self) -> None:
        self._tally.half_closes += 1

    def far_ended(self, connection: Connection, now: float) -> None:
        # A far side that ends first may have waited for anything: only an answer to an end tells of an end.
        if (since := connection.client_ended) is not None:
            self._tally.client_ends += 1
            self._tally.slowest_end_s = max(self._tally.slowest_end_s, now - max(since, self.began))
        pending = self._pending.get(connection)
        if pending is not None and len(self._ends) < ENDS_KEPT:
            self._ends.append(End(connection.got - pending.got_before, pending.was_open))

    def sent(self, connection: Connection, size: int) -> None:
        tally, now = self._tally, connection.last_sent
        tally.sent += size
        tally.first_sent = tally.first_sent if tally.first_sent is not None else now
        tally.last_sent = now
        pending = self._pending[connection]
        pending.unanswered += size
        pending.since = pending.since if pending.since is not None else now

    def received(self, connection: Connection, size: int, wait_s: float | None) -> None:
        tally, now, pending = self._tally, connection.last_got, self._pending[connection]
        assert now is not None
        tally.received += size
        tally.pieces += 1
        tally.largest_piece = max(tally.largest_piece, size)
        tally.first_received = tally.first_received if tally.first_received is not None else now
        tally.last_received = now
        if pending.since is not None and wait_s is not None:
            tally.quickest_s = min(tally.quickest_s, wait_s) if tally.exchanges else wait_s
            tally.slowest_s = max(tally.slowest_s, wait_s)
            tally.exchanges += 1
            self._lost.silence_s = max(self._lost.silence_s, now - pending.since)
        pending.unanswered, pending.since = 0, None
        if connection.burst_began is not None and connection.burst_began >= self.began:
            self._burst(Burst(connection.burst_bytes, connection.burst_pieces, now - connection.burst_began))

    def over(self, connection: Connection) -> None:
        pending = self._pending.pop(connection, None)
        if pending is not None and pending.since is not None:
            self._lost.unanswered += pending.unanswered
            self._lost.silence_s = max(self._lost.silence_s, self._now() - pending.since)

    def _burst(self, burst: Burst) -> None:
        tally = self._tally
        if tally.most_pieces is None or burst.pieces >= tally.most_pieces.pieces:
            tally.most_pieces = burst
        if burst.seconds >= FAST_S and (
            tally.fastest is None or burst.size / burst.seconds > tally.fastest.size / tally.fastest.seconds
        ):
            tally.fastest = burst
