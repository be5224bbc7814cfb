"""Devices that people enrol against the stack that `up` runs: prepared for them, and ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from reference.core.errors import BlackstartError, InputError
from reference.edge.inspect import holder_of, journal_path
from reference.edge.main import open_runtime
from reference.edge.runtimes.base import Runtime
from reference.edge.runtimes.process import ProcessRuntime
from reference.edge.settings import EdgeSettings, load_settings
from reference.stack import REGISTRY_USER, Stack, folder_errors, free_port
from reference.stack.folder import kept_port, read_object
from reference.support.files import write_durably

GRACE_MS = 1_000
AGENT_S = 10.0
"""How long an agent may take to end."""


def example_settings(stack: Stack, client_id: str) -> Path:
    """The part of a device's configuration that is its owner's: registries, and the client as it is set up there.

    What `edge enrol --settings` wants. What is there already stays, so that it can be changed. Raises InputError.
    """
    root = stack.data / "devices" / client_id
    path, client = root / "settings.json", root / "client.json"
    with folder_errors(stack.data):
        volume = root / "volume"
        root.parent.mkdir(exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
        volume.mkdir(exist_ok=True)
        port = kept_port(read_object(client).get("port")) or free_port()
        source = {"kind": "simulated", "seed": 1}
        write_durably(client, json.dumps({"port": port, "source": source}).encode())
        if not path.exists():
            registry = stack.registry()
            write_durably(path, json.dumps({
                "run_dir": str(root / "run"),
                "registries": [{
                    "host": registry.host, "plain_http": True,
                    "username": REGISTRY_USER, "password": registry.pull_password,
                }],
                "client": {
                    "port": port,
                    "mounts": {"/data": str(volume), "/etc/opc-client/config.json": str(client)},
                },
            }, indent=1).encode())  # fmt: skip
    return path


@asynccontextmanager
async def stop_enrolled(stack: Stack) -> AsyncIterator[None]:
    """At the end, end the devices under the stack's folder that are not its own, too: agent, then client."""
    try:
        yield
    finally:
        for config in sorted((stack.data / "devices").glob("*/edge.json")):
            if config.parent.name not in stack.devices:
                with contextlib.suppress(InputError):  # not an agent's: nothing of it runs
                    await _end(load_settings(config))


async def _end(settings: EdgeSettings) -> None:
    if not settings.state_dir.is_dir():
        return  # It has never run.
    with contextlib.suppress(BlackstartError, ProcessLookupError, TimeoutError):
        async with asyncio.timeout(AGENT_S):
            if (agent := holder_of(journal_path(settings))) is not None:
                os.kill(agent, signal.SIGTERM)
            while holder_of(journal_path(settings)) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    runtime = open_runtime(settings)
    try:
        with contextlib.suppress(BlackstartError):
            await _stop_clients(runtime)
    finally:
        await runtime.close()


async def _stop_clients(runtime: Runtime) -> None:
    if isinstance(runtime, ProcessRuntime):  # It can also end those whose description is lost.
        await runtime.stop_all(GRACE_MS)
        return
    for container in (await runtime.observe()).containers:
        await runtime.stop(container.id, GRACE_MS)
