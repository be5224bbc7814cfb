"""The whole embedded stack, once through: every part is a process, every message and every pull is real."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from reference.core.errors import InputError
from reference.core.model import Health
from reference.edge.journal import Journal
from reference.stack import Device, Stack
from reference.support.processes import ProcessError, start_module

HEALTH = Health(start_period_ms=500, window_ms=1_500, stable_for_ms=300)
QUICK = {"watch_ms": 100, "backoff_first_ms": 100, "outbox_resend_ms": 1_000}
TERMINAL = {"SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED"}
POLL_S = 0.03
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.xdist_group("stack")


def client_pids(device: Device) -> set[int]:
    """Processes that run a program out of one of the device's images."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_text(errors="replace").split("\0")  # empty for a zombie
        except OSError:
            continue
        if any(word.startswith(str(device.state_dir)) and "/rootfs/" in word for word in words):
            found.add(int(entry.parent.name))
    return found


def runs(device: Device) -> str | None:
    """The version that answers on the client's port, None when none is well."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{device.client_port}/healthz", timeout=2) as answer:
            return str(json.load(answer)["version"])
    except OSError:
        return None


class Flow:
    def __init__(self, stack: Stack, device: Device) -> None:
        self.stack = stack
        self.device = device

    async def order(self, version: str) -> str:
        async with self.stack.api() as api:
            answer = await api.post(
                f"/api/v1/clients/{self.device.client_id}/update", json={"targetVersion": version}
            )
        assert answer.status_code == 202, answer.text
        return str(answer.json()["jobId"])

    async def end(self, job_id: str) -> dict[str, object]:
        async with asyncio.timeout(20), self.stack.api() as api:
            while True:
                found: dict[str, object] = (await api.get(f"/api/v1/jobs/{job_id}")).json()
                if found["status"] in TERMINAL:
                    return found
                await asyncio.sleep(POLL_S)

    async def update(self, version: str) -> dict[str, object]:
        return await self.end(await self.order(version))

    async def stop_agent(self) -> int:
        assert self.device.agent is not None
        return await self.device.agent.stop()

    def epoch(self) -> str:
        """Of the journal on the disk; the agent must not run."""
        with closing(Journal.open(self.device.state_dir / "journal.db")) as journal:
            return journal.memory.record.epoch

    async def the_service_says(self, version: str) -> None:
        async with asyncio.timeout(10), self.stack.api() as api:
            while True:
                found = (await api.get(f"/api/v1/clients/{self.device.client_id}")).json()
                if found["runningVersion"] == version:
                    return
                await asyncio.sleep(POLL_S)


async def test_the_life_of_a_device(tmp_path: Path) -> None:
    async with asyncio.timeout(90), Stack(tmp_path, seed=1) as stack:
        for version, defect in (
            ("1.0.0", None),
            ("2.0.0", None),
            ("2.0.1", "crash-on-start"),
            ("3.0.0", None),
        ):
            await stack.publish(version, defect, health=HEALTH)
        device = await stack.add_device("edge-1", QUICK)
        await stack.start_agent(device)
        flow = Flow(stack, device)

        # The first install, and a good update.
        assert (await flow.update("1.0.0"))["outcome"] == "succeeded"
        assert runs(device) == "1.0.0"
        job = await flow.update("2.0.0")
        assert (job["status"], job["rolledBack"]) == ("SUCCEEDED", False)
        assert isinstance(job["downtimeMs"], int)
        assert runs(device) == "2.0.0"
        await flow.the_service_says("2.0.0")

        # The same again restarts nothing.
        pids = client_pids(device)
        assert len(pids) == 1
        job = await flow.update("2.0.0")
        assert job["status"] == "SUCCEEDED"
        assert (job["reason"] or {}).get("code") == "already_running"  # type: ignore[attr-defined]
        assert client_pids(device) == pids

        # A bad one is rolled back, even though the service is away while it happens.
        job_id = await flow.order("2.0.1")
        await stack.stop_part("service")
        await stack.start_service()
        job = await flow.end(job_id)
        assert (job["status"], job["outcome"], job["rolledBack"]) == ("FAILED", "rolled_back", True)
        assert (job["reason"] or {}).get("code") == "candidate_exited"  # type: ignore[attr-defined]
        assert runs(device) == "2.0.0"

        # A second agent on the same state is refused and does no harm.
        pids = client_pids(device)
        second = await start_module(
            "reference.edge.main", "--config", str(device.config), log_path=tmp_path / "second.log"
        )
        try:
            with pytest.raises(ProcessError, match="another agent runs on this folder"):
                await second.ready()
        finally:
            assert await second.stop() == 1
        assert "Traceback" not in (tmp_path / "second.log").read_text()
        assert client_pids(device) == pids

        # The broker dies with an update under way.
        job_id = await flow.order("3.0.0")
        await stack.stop_part("broker")
        await stack.start_broker()
        assert (await flow.end(job_id))["outcome"] == "succeeded"
        assert runs(device) == "3.0.0"

        # The agent's end is not the client's, nor is the loss of its memory.
        pids = client_pids(device)
        assert len(pids) == 1
        assert await flow.stop_agent() == 0
        assert client_pids(device) == pids
        epoch = flow.epoch()
        with closing(sqlite3.connect(device.state_dir / "journal.db", isolation_level=None)) as connection:
            connection.execute("UPDATE rows SET body = replace(body, '3.0.0', '3.0.1') WHERE kind = 'record'")
        await stack.start_agent(device)
        assert client_pids(device) == pids
        assert runs(device) == "3.0.0"
        assert len(list(device.state_dir.glob("journal.db.corrupt-*"))) >= 1

        # It has a new epoch, and takes commands again once the service has told it how far it was.
        assert (await flow.update("2.0.0"))["outcome"] == "succeeded"
        assert runs(device) == "2.0.0"
        assert len(client_pids(device)) == 1
        assert await flow.stop_agent() == 0
        assert flow.epoch() != epoch

        samples = [json.loads(line)["seq"] for line in device.samples.read_text().splitlines()]
        assert samples == list(range(samples[0], samples[0] + len(samples))), "no sample lost, none twice"
        assert "Traceback" not in (device.root / "agent.log").read_text()
    assert client_pids(device) == set(), "a stack leaves no process behind"


async def test_a_port_that_is_taken_is_the_caller_s_to_change(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with asyncio.timeout(30):
            stack = Stack(tmp_path, service_port=taken.getsockname()[1])
            with pytest.raises(InputError, match="Choose another port"):
                async with stack:
                    pass
    assert not stack._parts, "what had started was stopped"


async def blackstart(stack: Stack, folder: Path, *arguments: str, code: int = 0) -> dict[str, object]:
    """What the console command says as JSON (nothing when it fails), pointed at the stack by its environment."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "blackstart", *arguments, "--json", cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BLACKSTART_URL": stack.url, "BLACKSTART_TOKEN": stack.token()},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, errors = (text.decode() for text in await asyncio.wait_for(process.communicate(), 30))
    assert process.returncode == code, (arguments, said, errors)
    assert "Traceback" not in errors
    found: dict[str, object] = json.loads(said) if said else {}
    return found


async def the_command_line(stack: Stack, folder: Path) -> None:
    clients, versions, update = await asyncio.gather(
        blackstart(stack, folder, "clients"),
        blackstart(stack, folder, "versions"),
        blackstart(stack, folder, "update", "edge-1", "--to", "1.0.1", "--wait", code=1),
    )
    assert [c["clientId"] for c in clients["items"]] == ["edge-1"]  # type: ignore[attr-defined]
    assert {v["version"] for v in versions["items"]} == {"1.0.0", "1.0.1"}  # type: ignore[attr-defined]
    assert (update["outcome"], update["rolledBack"]) == ("rolled_back", True)
    named = f"opc-client@{stack.digests['1.0.0']}"
    assert (await blackstart(stack, folder, "job", str(update["jobId"]))) == update
    refused = await asyncio.gather(
        blackstart(stack, folder, "job", "no-such-job", code=2),
        blackstart(stack, folder, "update", "nobody", "--to", "1.0.0", code=2),
        blackstart(stack, folder, "update", "edge-1", "--to", "9.9.9", code=2),
        blackstart(stack, folder, "clients", "--token", "nonsense", code=1),
        blackstart(stack, folder, "versions", "add", "1.0.0 !", "--image", f"localhost/{named}", code=2),
    )
    assert not any(refused)


async def test_a_second_start_goes_on_with_what_is_there(tmp_path: Path) -> None:
    async with asyncio.timeout(60):
        async with Stack(tmp_path) as stack:
            digest = await stack.publish("1.0.0", health=HEALTH)
            device = await stack.add_device("edge-1", QUICK)
            await stack.start_agent(device)
            assert (await Flow(stack, device).update("1.0.0"))["outcome"] == "succeeded"
            await stack.publish("1.0.1", "never-healthy", health=HEALTH)
            await the_command_line(stack, tmp_path)
            ports = (stack.broker_port, stack.registry().host, device.client_port)
        assert client_pids(device) == set()
        async with Stack(tmp_path) as stack:
            assert await stack.publish("1.0.0", health=HEALTH) == digest
            device = await stack.add_device("edge-1", QUICK)
            assert (stack.broker_port, stack.registry().host, device.client_port) == ports
            await stack.start_agent(device)
            async with asyncio.timeout(15):
                while runs(device) != "1.0.0":  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)
