"""The API against its own description: schemathesis makes up requests from it, good ones and bad ones, and checks
every answer with all the checks that it has. A new route takes part as soon as it is described."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from uvicorn.lifespan.off import LifespanOff

from reference.pki.authority import DevelopmentCA
from reference.service.auth import DevelopmentIssuer, Role
from reference.service.enrolment import Enrolment, Handout
from reference.service.server import listen, make_server
from tests.service import harness
from tests.service.harness import SLOW

CASES = 1_000
"""At least this many for each role."""
PER_OPERATION = 8
PATIENCE_S = 120
CONFIG = """
hooks = "{hooks}"
[checks]
# A body that breaks its schema by its length may break the bound on all bodies first.
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 414, 415, 422, 428, 429, 431]
"""
HOOKS = Path(__file__).with_name("schemathesis_hooks.py")


@asynccontextmanager
async def listening(folder: Path) -> AsyncIterator[tuple[str, DevelopmentIssuer]]:
    """The service on a port of its own, with something in it to be found."""
    authority = DevelopmentCA.open_or_create(folder / "ca")
    handout = Handout("broker.example", 8883, "5", authority.certificate.read_text(), ("a key",))
    enrolment = Enrolment(authority, handout)
    async with harness.running(folder, limits=SLOW, enrolment=enrolment) as service:
        await service.prepare()
        await service.order()
        app = service.http._transport.app  # type: ignore[attr-defined]
        server = make_server(app, None)
        server.config.lifespan_class = LifespanOff  # the application runs already
        listener = listen("127.0.0.1", 0)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", service.issuer
        finally:
            server.should_exit = True
            await serving
            listener.close()


async def _schemathesis(folder: Path, url: str, token: str, phases: str) -> tuple[int, str]:
    """Exit code, and what it says."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG.format(hooks=HOOKS))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "--no-color",
        "run", f"{url}/api/v1/openapi.json", "--checks", "all",
        "--exclude-checks", "positive_data_acceptance", "--phases", phases,
        "--max-examples", str(PER_OPERATION), "--seed", "4711", "--continue-on-failure",
        "--generation-database", "none", "--request-timeout", "10", "--header", f"Authorization: Bearer {token}",
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    # A made-up body may be a line of megabytes.
    return process.returncode or 0, "\n".join(
        line[:500] for line in said.decode(errors="replace").splitlines()
    )


# Who may only look cannot make what a second request would be about: no chains of requests for a Viewer.
@pytest.mark.parametrize(
    ("role", "phases"),
    [(Role.ADMINISTRATOR, "examples,coverage,fuzzing,stateful"), (Role.VIEWER, "examples,coverage,fuzzing")],
)
async def test_all_checks(tmp_path: Path, role: Role, phases: str) -> None:
    async with listening(tmp_path) as (url, issuer):
        code, said = await _schemathesis(tmp_path, url, issuer.issue("acme", role), phases)
    assert code == 0, said[-30_000:]
    found = re.search(r"(\d+) generated", said)
    assert found is not None, said[-8000:]
    print(f"\n{role.value}: {found[1]} cases")
    assert int(found[1]) >= CASES, "fewer than what is promised: raise PER_OPERATION"
