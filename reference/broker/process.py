"""One start-up for both brokers: a process that is ready, restarted on the same port, and ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from reference.broker.capabilities import CAPABILITIES, Capabilities
from reference.broker.mosquitto_files import add_device
from reference.broker.settings import BrokerSettings
from reference.support.processes import ManagedProcess, ProcessError, start_module

MODULE = "reference.broker"


@dataclass(slots=True)
class BrokerProcess:
    """A running `python -m reference.broker`. Made by `start_broker`; always `stop()` or `kill()` it."""

    settings: BrokerSettings
    """With the port that it was given."""
    mqtt_version: str
    """What links have to speak: `5` or `3.1.1`."""
    log_path: Path
    process: ManagedProcess

    @property
    def port(self) -> int:
        """Where it listens, with TLS."""
        return self.settings.port

    @property
    def capabilities(self) -> Capabilities:
        """What it does and does not."""
        return CAPABILITIES[self.settings.kind]

    async def stop(self) -> int:
        """End it in order: what it keeps is saved. Its exit code."""
        return await self.process.stop()

    async def kill(self) -> int:
        """SIGKILL, to Mosquitto too: what was not saved is gone."""
        return await self.process.kill()

    async def restart(self) -> None:
        """Start it again on the same port and folder, after `stop()` or `kill()`. Raises `ProcessError`."""
        again = await start_broker(self.settings, self.log_path)
        self.process = again.process

    def add_device(self, tenant_id: str, client_id: str) -> None:
        """Give a device its rights before it first connects, where the broker keeps a list. Raises `InputError`."""
        if self.settings.data is not None:
            add_device(self.settings.data, tenant_id, client_id)


async def start_broker(settings: BrokerSettings, log_path: Path) -> BrokerProcess:
    """Start a broker and wait until it listens. Raises `ProcessError` that ends with its log."""
    process = await start_module(MODULE, *settings.arguments(), log_path=log_path)
    try:
        said = await process.ready()
        port, version = said.get("port"), said.get("mqttVersion")
        if not isinstance(port, int) or not isinstance(version, str):
            raise ProcessError("the broker did not say its port and version", where=str(log_path))
    except BaseException:
        await process.kill()
        raise
    return BrokerProcess(replace(settings, port=port), version, log_path, process)
