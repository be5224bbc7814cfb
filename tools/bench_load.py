"""An open-loop load of POST requests: sent when they are due, whatever became of those before.

Each latency is counted from the instant at which the request was due, so that a server that stalls cannot hide the
requests that had to wait (Tene, "How NOT to Measure Latency", 2013).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

CONNECTIONS = 64
LATE_S = 5.0


@dataclass(frozen=True, slots=True)
class Request:
    """One POST."""

    path: str
    body: bytes


@dataclass(slots=True)
class Sent:
    """What came of a load."""

    latencies_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    bodies: list[bytes] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    """Per answer: when it was sent (time.monotonic)."""

    def percentile(self, share: float) -> float:
        """Nearest rank, in ms."""
        ranked = sorted(self.latencies_ms)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


async def post_all(
    port: int, requests: Sequence[Request], per_second: float, headers: Mapping[str, str]
) -> Sent:
    """Send them at that rate over a fixed number of connections. Raises RuntimeError when they are all late."""
    sent, due = Sent(), asyncio.Queue[tuple[float, Request] | None]()
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()

    async def lane() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while (item := await due.get()) is not None:
                at, request = item
                writer.write(
                    b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n%s"
                    b"Content-Length: %d\r\n\r\n%s"
                    % (request.path.encode(), head, len(request.body), request.body)
                )
                status, body = await _answer(reader)
                sent.latencies_ms.append((time.monotonic() - at) * 1000)
                sent.statuses[status] += 1
                sent.bodies.append(body)
                sent.begun.append(at)
        finally:
            writer.close()

    async with asyncio.TaskGroup() as group:
        lanes = [group.create_task(lane()) for _ in range(CONNECTIONS)]
        await asyncio.sleep(0.2)
        start = time.monotonic()
        for number, request in enumerate(requests):
            at = start + number / per_second
            if (wait := at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            elif wait < -LATE_S:
                raise RuntimeError(
                    f"the load itself is {-wait:.1f} s late: the machine cannot send this fast"
                )
            due.put_nowait((at, request))
        for _ in lanes:
            due.put_nowait(None)
    return sent


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return status, await reader.readexactly(int(line.split(b":")[1]))
    raise RuntimeError(f"an answer of no known length: {head[:200]!r}")


def order(client: str, version: str) -> Request:
    """An update of a client."""
    return Request(f"/api/v1/clients/{client}/update", json.dumps({"targetVersion": version}).encode())
