"""The contract over the real Toxiproxy: what it asks is what Toxiproxy does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.proxies.conformance import ToxicContract
from tests.chaos.proxies.real_toxiproxy import server_in


class TestToxiproxy(ToxicContract):
    @pytest.fixture
    async def base(self, tmp_path: Path) -> AsyncIterator[str]:
        async with server_in(tmp_path) as server:
            yield f"http://127.0.0.1:{server.process.port}"
