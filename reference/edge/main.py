"""`python -m reference.edge.main --config FILE`: the agent as a process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import secrets
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from reference.core.adopt import adopted
from reference.core.errors import BlackstartError, DeviceError, InputError, JournalError, Reason
from reference.core.limits import DEFAULT_LIMITS, Limits
from reference.core.model import Health
from reference.core.update import UpdateRecord
from reference.edge.agent import Agent
from reference.edge.conversation import Conversation
from reference.edge.journal import Journal, set_aside
from reference.edge.observe import Eyes
from reference.edge.runtimes.process import ProcessRuntime
from reference.edge.runtimes.pull import Access, PullLimits
from reference.edge.settings import EdgeSettings, load_settings
from reference.protocol import topics
from reference.protocol.envelope import key_ring, load_public_key
from reference.support import logging as json_logging
from reference.support.mqtt import MqttLink, TlsFiles

log = logging.getLogger("reference.edge")

AgentFactory = Callable[[EdgeSettings, ProcessRuntime, Journal, Eyes, Limits], Agent]


def new_epoch() -> str:
    """A name for a new journal."""
    return secrets.token_hex(16)


def journal_path(settings: EdgeSettings) -> Path:
    """Where the journal is."""
    return settings.state_dir / "journal.db"


def registry_access(settings: EdgeSettings) -> Access:
    """How the device reaches its registries."""
    return Access(
        {r.host: (r.username, r.password or "") for r in settings.registries if r.username is not None},
        frozenset(r.host for r in settings.registries if r.plain_http),
        settings.registry_ca,
    )


async def open_journal(settings: EdgeSettings, eyes: Eyes) -> Journal:
    """The journal; one that cannot be believed is set aside and made anew from what runs."""
    path = journal_path(settings)
    try:
        return Journal.open(path)
    except JournalError as error:
        if error.reason is not Reason.JOURNAL_CORRUPT:
            raise
        _set_aside(path, error)
    world = await eyes.look(UpdateRecord(epoch="none"))
    Journal.create(path, adopted(world, new_epoch(), Health()))
    return Journal.open(path)


def _set_aside(path: Path, why: JournalError) -> None:
    if not path.exists():
        return
    try:
        target = set_aside(path, time.time())
    except OSError as error:
        raise DeviceError(f"cannot be set aside: {error.strerror}", where=str(path)) from error
    log.critical("journal set aside", extra={"detail": str(why), "now_at": str(target)})


def _make_folders(settings: EdgeSettings) -> None:
    for field in ("state_dir", "run_dir"):
        path: Path = getattr(settings, field)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{field}: {path} cannot be used: {error.strerror}", where="the configuration"
            ) from None


async def run_agent(
    settings: EdgeSettings, limits: Limits = DEFAULT_LIMITS, factory: AgentFactory = Agent
) -> None:
    """Run until SIGTERM or SIGINT. The client goes on running. Raises BlackstartError when it cannot start."""
    limits = replace(limits, **settings.limits)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    keys = key_ring(*(load_public_key(path) for path in settings.command_keys))
    _make_folders(settings)
    runtime = ProcessRuntime(
        settings.state_dir / "engine",
        settings.run_dir,
        registry_access(settings),
        PullLimits(stall_ms=settings.pull_watchdog_ms),
    )
    eyes = Eyes(runtime, settings.client, settings.run_dir, settings.seed)
    journal = await open_journal(settings, eyes)
    agent = factory(settings, runtime, journal, eyes, limits)
    broker = settings.broker
    link = MqttLink(
        broker.host,
        broker.port,
        f"{settings.tenant_id}.{settings.client_id}",
        tls=TlsFiles(broker.ca, broker.cert, broker.key),
        subscriptions=topics.device_subscriptions(settings.tenant_id, settings.client_id),
    )
    await link.start()
    conversation = Conversation(settings, link, agent, keys)
    print(json.dumps({"ready": True}), flush=True)  # noqa: T201
    tasks = [asyncio.create_task(w) for w in (agent.run(), conversation.run(), stop.wait())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(BlackstartError):
            await link.stop()
        await runtime.close()
        journal.close()


def main(arguments: list[str] | None = None, factory: AgentFactory = Agent) -> int:
    """The process's entry. Exit codes: 0 ended as asked, 1 it failed, 2 its configuration is wrong."""
    parser = argparse.ArgumentParser(prog="reference.edge", description="The edge updater.")
    parser.add_argument("--config", type=Path, required=True, help="the device's configuration, JSON")
    options = parser.parse_args(arguments)
    json_logging.configure("edge", logging.INFO)
    try:
        settings = load_settings(options.config)
        asyncio.run(run_agent(settings, factory=factory))
    except BlackstartError as error:
        print(f"blackstart edge: {error}", file=sys.stderr)  # noqa: T201
        return 2 if error.reason is Reason.INVALID_INPUT else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
