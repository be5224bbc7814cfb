"""`python -m reference.edge.main --config FILE`: the agent as a process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reference.core.adopt import adopted
from reference.core.errors import BlackstartError, DeviceError, EngineError, InputError, JournalError, Reason
from reference.core.limits import DEFAULT_LIMITS, Limits
from reference.core.model import Health
from reference.core.update import UpdateRecord
from reference.edge.agent import Agent
from reference.edge.conversation import Conversation
from reference.edge.credentials import CredentialFile, Fixed, Helper, Keyring, Login, Source
from reference.edge.disk import Ballast
from reference.edge.hold import hold_file
from reference.edge.http import Server
from reference.edge.inspect import socket_path
from reference.edge.journal import Journal, set_aside
from reference.edge.metrics import Metrics
from reference.edge.observe import Eyes
from reference.edge.renewal import Renewal
from reference.edge.runtimes.base import Runtime
from reference.edge.runtimes.process import ProcessRuntime
from reference.edge.runtimes.pull import Access, PullLimits
from reference.edge.settings import EdgeSettings, load_settings
from reference.edge.views import Views
from reference.protocol import topics
from reference.protocol.envelope import PublicKey, key_ring, load_public_key
from reference.support import logging as json_logging
from reference.support.mqtt import MqttLink, Protocol, TlsFiles

log = logging.getLogger("reference.edge")
RECEIVE_MAXIMUM = 50
"""Messages that the broker may hand over before the journal has taken the first (MQTT 5 only)."""

AgentFactory = Callable[[EdgeSettings, Runtime, Journal, Eyes, Limits], Agent]


def new_epoch() -> str:
    """A name for a new journal."""
    return secrets.token_hex(16)


def journal_path(settings: EdgeSettings) -> Path:
    """Where the journal is."""
    return settings.state_dir / "journal.db"


def registry_access(settings: EdgeSettings) -> Access:
    """How the device reaches its registries."""
    sources: dict[str, Source] = {}
    for registry in settings.registries:
        if registry.username is not None:
            sources[registry.host] = Fixed(Login(registry.username, registry.password or ""))
        elif registry.credentials_file is not None:
            sources[registry.host] = CredentialFile(registry.credentials_file)
        elif registry.credential_helper is not None:
            timeout_ms, ttl_ms = registry.credential_helper_timeout_ms, registry.credential_helper_ttl_ms
            sources[registry.host] = Helper(tuple(registry.credential_helper), timeout_ms, ttl_ms)
    return Access(
        Keyring(sources),
        frozenset(r.host for r in settings.registries if r.plain_http),
        settings.registry_ca,
        {r.host: frozenset(r.token_hosts) for r in settings.registries},
    )


def open_runtime(settings: EdgeSettings) -> Runtime:
    """What runs the client on this device. Raises EngineError when its folders cannot be used."""
    state_dir, run_dir, access = settings.state_dir / "engine", settings.run_dir, registry_access(settings)
    limits = PullLimits(stall_ms=settings.pull_watchdog_ms, margin_bytes=settings.disk_margin_bytes)
    if settings.runtime == "process":
        return ProcessRuntime(state_dir, run_dir, access, limits)
    # Only here: a device without an engine does not pay for what talks to one.
    from reference.edge.runtimes.docker import DockerRuntime

    name = f"{settings.tenant_id}.{settings.client_id}"
    return DockerRuntime(state_dir, run_dir, name, settings.client, settings.engine, access, limits)


@contextlib.asynccontextmanager
async def shown(
    settings: EdgeSettings,
    agent: Agent,
    journal: Journal,
    conversation: Conversation,
    received: Callable[[], int],
) -> AsyncIterator[int | None]:
    """While it lasts the agent can be looked at, and keeps its ballast. Answers the port of its loopback server.

    A view that cannot be opened is logged: the updater does not depend on its onlookers.
    """
    ballast = Ballast(settings.state_dir / "ballast", settings.ballast_bytes)
    views = Views(
        settings, agent, journal.history, lambda: conversation.connected, Metrics(received), ballast
    )
    agent.onlookers.append(views)
    public, private, port = Server(views.public()), Server(views.private()), None
    tending = asyncio.create_task(ballast.watch())
    try:
        with _without_onlookers():
            await private.listen_at(socket_path(settings))
        with _without_onlookers():
            port = await public.listen(settings.status_port) if settings.status_port is not None else None
        yield port
    finally:
        tending.cancel()
        await asyncio.gather(tending, return_exceptions=True)
        await public.close()
        await private.close()


@contextlib.contextmanager
def _without_onlookers() -> Iterator[None]:
    try:
        yield
    except DeviceError as error:
        log.error("nobody can look on", extra={"reason": error.reason, "detail": str(error)})


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder for this agent. The journal's own lock is not enough: a journal can be lost, or not made yet.

    Raises JournalError(JOURNAL_LOCKED) when another agent has it, InputError when it cannot be used.
    """
    path = folder / "agent.lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(f"cannot be used: {error.strerror}", where=str(path)) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise JournalError(
                "another agent runs on this folder", reason=Reason.JOURNAL_LOCKED, where=str(folder),
                todo="End that one first, or give this one folders of its own.",
            ) from None  # fmt: skip
        yield
    finally:
        os.close(handle)


async def open_journal(settings: EdgeSettings, eyes: Eyes, runtime: Runtime) -> Journal:
    """The journal; one that cannot be believed is set aside and made anew from what runs.

    Raises EngineError, and leaves it where it is, when what is here cannot be seen or put on the disk: nothing of it is
    to be trusted before.
    """
    path = journal_path(settings)
    try:
        return Journal.open(path)
    except JournalError as error:
        if error.reason is not Reason.JOURNAL_CORRUPT:
            raise
        why = error
    await runtime.sync()
    eyes.forget()
    world = await eyes.look(UpdateRecord(epoch="none"))
    if eyes.blind:
        todo = "The journal is made anew from what runs, once that can be seen."
        why_blind = world.error.message if world.error is not None else "it was not asked"
        raise EngineError(f"the engine does not say what runs here ({why_blind})", todo=todo)
    _set_aside(path, why)
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


def make_folders(settings: EdgeSettings) -> None:
    """Make the folders of state and of the boot. Raises InputError."""
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
    make_folders(settings)
    with alone(settings.state_dir):
        await _run(settings, limits, factory, keys, stop)


async def _run(
    settings: EdgeSettings,
    limits: Limits,
    factory: AgentFactory,
    keys: Mapping[str, PublicKey],
    stop: asyncio.Event,
) -> None:
    runtime = open_runtime(settings)
    eyes = Eyes(
        runtime,
        settings.client,
        settings.run_dir,
        settings.seed,
        hold_file=hold_file(settings.state_dir),
        lock_file=settings.lock_file or settings.run_dir / "lock",
    )
    try:
        with alone(settings.run_dir):
            while await _serve(settings, runtime, eyes, factory, limits, keys, stop):
                log.critical("the journal was lost while the agent ran: it is set aside and made anew")
    finally:
        await runtime.close()


async def _serve(
    settings: EdgeSettings,
    runtime: Runtime,
    eyes: Eyes,
    factory: AgentFactory,
    limits: Limits,
    keys: Mapping[str, PublicKey],
    stop: asyncio.Event,
) -> bool:
    """Until `stop`, or until the journal cannot be believed any more; answers whether to begin again."""
    journal = await open_journal(settings, eyes, runtime)
    lost: JournalError | None = None
    agent = factory(settings, runtime, journal, eyes, limits)
    broker = settings.broker
    link = MqttLink(
        broker.host,
        broker.port,
        f"{settings.tenant_id}.{settings.client_id}",
        tls=TlsFiles(broker.ca, broker.cert, broker.key),
        subscriptions=topics.device_subscriptions(settings.tenant_id, settings.client_id),
        protocol=Protocol(broker.mqtt_version),
        session_expiry_s=broker.session_expiry_s,
        receive_maximum=RECEIVE_MAXIMUM,
    )
    renewal = Renewal.of(settings, link)
    await link.start()
    conversation = Conversation(settings, link, agent, keys)
    try:
        async with shown(settings, agent, journal, conversation, lambda: runtime.received_bytes) as port:
            said = {"ready": True} if port is None else {"ready": True, "status_port": port}
            print(json.dumps(said), flush=True)  # noqa: T201
            works = (agent.run(), conversation.run(), stop.wait())
            await _first_of(*works, *([renewal.run()] if renewal is not None else []))
    except JournalError as error:
        if error.reason is not Reason.JOURNAL_CORRUPT:
            raise
        lost = error
    finally:
        with contextlib.suppress(BlackstartError):
            await link.stop()
        journal.close()
    if lost is not None:
        _set_aside(journal.path, lost)
    return lost is not None


async def _first_of(*works: Coroutine[Any, Any, object]) -> None:
    """Until one of them ends, which ends the others. Raises what it ended with."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main(arguments: list[str] | None = None, factory: AgentFactory = Agent) -> int:
    """The process's entry. Exit codes: 0 ended as asked, 1 it failed, 2 its configuration is wrong."""
    parser = argparse.ArgumentParser(prog="blackstart edge run", description="The edge updater.")
    parser.add_argument("--config", type=Path, required=True, help="the device's configuration, JSON")
    parser.add_argument(
        "--data", type=Path, help="folder of `state`, and of `run` where the configuration names none"
    )
    parser.add_argument(
        "--port", type=int, help="port on loopback of /healthz, /readyz and /metrics; 0: any that is free"
    )
    options = parser.parse_args(arguments)
    json_logging.configure("edge", logging.INFO)
    try:
        settings = load_settings(options.config, os.environ, options.data, options.port)
        asyncio.run(run_agent(settings, factory=factory))
    except BlackstartError as error:
        print(f"blackstart edge: {error}", file=sys.stderr)  # noqa: T201
        return 2 if error.reason is Reason.INVALID_INPUT else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
