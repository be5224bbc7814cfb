"""An agent in this process: a fake runtime, a real journal, and a client whose health is what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from reference.core import delivery
from reference.core.limits import Limits
from reference.core.model import Command, Health, Image, Installed
from reference.core.update import UpdateRecord
from reference.edge.agent import Agent
from reference.edge.hold import hold_file
from reference.edge.journal import Journal
from reference.edge.observe import Eyes
from reference.edge.settings import EdgeSettings
from reference.support.mqtt import Event, Message
from tests.fakes.runtime import FakeRuntime

HEALTH = Health(start_period_ms=50, window_ms=400, stable_for_ms=20)
LIMITS = Limits(backoff_first_ms=5, backoff_limit_ms=20, poll_ms=3, watch_ms=30)


def image(number: int) -> Image:
    return Image("localhost:5000/opc-client", f"sha256:{number:064x}", f"{number}.0.0")


def command(generation: int, number: int | None = None, expires_at_ms: int = 4_000_000_000_000) -> Command:
    return Command(f"job-{generation}", generation, image(number or generation), HEALTH, expires_at_ms)


def installed(generation: int) -> Installed:
    return Installed(image(generation), HEALTH, generation, f"c{generation}")


def edge_settings(folder: Path, port: int = 1, **changes: object) -> EdgeSettings:
    body: dict[str, object] = {
        "tenant_id": "acme",
        "client_id": "edge-1",
        "state_dir": folder / "state",
        "run_dir": folder / "run",
        "broker": {
            "host": "127.0.0.1",
            "port": 1,
            "ca": Path("ca"),
            "cert": Path("cert"),
            "key": Path("key"),
        },
        "registries": [{"host": "localhost:5000", "plain_http": True}],
        "client": {"port": port},
        "command_keys": [Path("key.pem")],
        **changes,
    }
    return EdgeSettings.model_validate(body)


@asynccontextmanager
async def client_port(good: Callable[[], bool]) -> AsyncIterator[int]:
    """Answers health probes as `good` says."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n" if good() else b"HTTP/1.0 503 Sorry\r\n\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@dataclass
class Bench:
    """`start` runs the agent; `until` waits for what it journals."""

    folder: Path
    settings: EdgeSettings
    runtime: FakeRuntime
    sick: set[str] = field(default_factory=set)
    """Containers that are not well."""
    journal: Journal = field(init=False)
    agent: Agent = field(init=False)
    _task: asyncio.Task[None] | None = None

    @property
    def record(self) -> UpdateRecord:
        return self.agent.memory.record

    def open(self, record: UpdateRecord | None = None) -> Agent:
        """A new agent over the journal, which is made to hold `record` when one is given."""
        path = self.folder / "journal.db"
        if record is not None:
            Journal.create(path, record)
        self.journal = Journal.open(path)
        held, lock = hold_file(self.folder), self.folder / "lock"
        eyes = Eyes(self.runtime, self.settings.client, self.folder, 1, hold_file=held, lock_file=lock)
        self.agent = Agent(self.settings, self.runtime, self.journal, eyes, LIMITS)
        return self.agent

    def start(self, record: UpdateRecord | None = None) -> Agent:
        self.open(record)
        self._task = asyncio.create_task(self.agent.run())
        return self.agent

    async def stop(self) -> None:
        """End it as SIGTERM does. Raises what it ended with by itself."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if hasattr(self, "journal"):
            self.journal.close()

    def order(self, given: Command) -> delivery.Verdict:
        memory, verdict = delivery.receive(self.agent.memory, given, self.agent.now_ms(), LIMITS)
        self.agent.change(memory)
        return verdict

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(8):
            while not true():
                if self._task is not None and self._task.done():
                    self._task.result()
                await asyncio.sleep(0.002)


@asynccontextmanager
async def benched(folder: Path) -> AsyncIterator[Bench]:
    runtime = FakeRuntime()
    made: list[Bench] = []

    def good() -> bool:
        return bool(runtime.running()) and not set(runtime.running()) & made[0].sick

    async with client_port(good) as port:
        bench = Bench(folder, edge_settings(folder, port), runtime)
        made.append(bench)
        try:
            yield bench
        finally:
            await bench.stop()


class FakeLink:
    """What `Conversation` needs of a link; `say` puts a message in, `order` tells what happened, in order."""

    def __init__(self, order: list[str]) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.order = order
        self.sent: list[tuple[str, bytes]] = []

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        timeout_s: float = 5.0,
        correlation: bytes | None = None,
        content_type: str | None = None,
    ) -> None:
        self.sent.append((topic, payload))
        self.order.append(f"publish {topic.rsplit('/', 1)[1]}")

    def message(self, topic: str, payload: bytes) -> Message:
        return Message(topic, payload, False, lambda: self.order.append("ack"))
