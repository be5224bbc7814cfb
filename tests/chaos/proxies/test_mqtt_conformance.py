"""The MQTT-aware proxy speaks Toxiproxy's API: the same contract as for Toxiproxy itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chaos.proxies.mqtt import MqttProxy
from tests.chaos.proxies.conformance import ToxicContract


class TestMqttProxy(ToxicContract):
    @pytest.fixture
    async def base(self) -> AsyncIterator[str]:
        proxy = MqttProxy()
        await proxy.start()
        try:
            yield f"http://127.0.0.1:{proxy.api_port}"
        finally:
            await proxy.stop()
