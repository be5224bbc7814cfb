"""What a stack makes of its folder: in use, damaged, or left behind by one that was killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

import reference.stack
from reference.core.errors import InputError
from reference.stack import Stack

ROOT = Path(__file__).parents[2]
SECONDS = 30.0

pytestmark = pytest.mark.xdist_group("stack")


def processes_of(folder: Path) -> dict[int, list[str]]:
    """Every living process that names the folder in its arguments, and those."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_text(errors="replace").split("\0")  # empty for a zombie
            if any(str(folder) in word for word in words):
                found[int(entry.parent.name)] = words
    return found


def running(folder: Path, part: str) -> set[int]:
    """Those of them with `part` in an argument."""
    return {pid for pid, words in processes_of(folder).items() if any(part in word for word in words)}


CLIENT, AGENT = "/rootfs/", "reference.edge.main"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.03)


@contextlib.asynccontextmanager
async def blackstart(folder: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The console command in `folder`; what names the folder afterwards is killed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BLACKSTART")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "blackstart", *arguments, cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        # As a script's background job begins: it can be ended by SIGINT all the same.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        left = processes_of(folder)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert not left
    assert not list(folder.glob("blackstart-*")), "nor a scratch folder"


async def ends(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """Its exit code, and what it said on standard error."""
    async with asyncio.timeout(SECONDS):
        _, errors = await process.communicate()
    return process.returncode, errors.decode()


async def up_is_ready(process: asyncio.subprocess.Process) -> dict[str, str]:
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        line = await process.stdout.readline()
    found: dict[str, str] = json.loads(line)
    return found


UP = ("up", "--data", "here", "--port", "0", "--json")


async def test_up_ends_with_its_terminal_and_survives_a_kill(tmp_path: Path) -> None:
    with nothing_left(tmp_path):
        async with blackstart(tmp_path, *UP) as first:
            await up_is_ready(first)
            async with blackstart(
                tmp_path, "update", "edge-1", "--to", "1.0.0", "--wait", "--data", "here"
            ) as update:
                code, errors = await ends(update)
                assert code == 0, errors
            # A second one is refused, and takes nothing away from the first.
            async with blackstart(tmp_path, *UP) as second:
                code, errors = await ends(second)
            assert code == 2
            assert "another blackstart runs on this folder" in errors
            clients = running(tmp_path, CLIENT)
            assert clients
            for part in ("reference.broker", "reference.registry", "reference.service", AGENT):
                assert len(running(tmp_path, part)) == 1
            first.kill()
            await first.wait()
            # At once: the parts of the first may be ending still.
            async with blackstart(tmp_path, *UP) as third:
                await up_is_ready(third)
                assert running(tmp_path, CLIENT) == clients, "adopted"
                assert len(running(tmp_path, AGENT)) == 1
                third.send_signal(signal.SIGHUP)
                code, errors = await ends(third)
            assert code == 0, errors
            assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_demo_that_is_told_to_end_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with nothing_left(tmp_path):
        async with blackstart(tmp_path, "demo") as demo:
            await until(lambda: bool(running(tmp_path, CLIENT)))
            demo.send_signal(number)
            code, errors = await ends(demo)
    assert code == 128 + number, errors
    assert "Traceback" not in errors


async def test_only_one_stack_has_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference.stack, "LOCK_WAIT_S", 0.1)
    async with asyncio.timeout(SECONDS):
        async with Stack(tmp_path):
            with pytest.raises(InputError, match="another blackstart runs"):
                async with Stack(tmp_path):
                    pass
        async with Stack(tmp_path):
            pass


def a_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


async def test_a_damaged_folder_is_healed_or_named(tmp_path: Path) -> None:
    async with asyncio.timeout(SECONDS):
        async with Stack(tmp_path) as stack:
            await stack.add_device("edge-1")
            await stack.publish("1.0.0")
        for bad in (
            "[1]",
            '{"broker": 70000, "registry": -1}',
            '{"broker": true, "registry": "x"}',
            "[" * 50_000,
        ):
            (tmp_path / "ports.json").write_text(bad)
            assert stack._remembered("broker") == stack._remembered("registry") == 0
        for bad in ("[1]", '{"port": 0}', '{"port": null}'):
            (tmp_path / "devices" / "edge-1" / "client.json").write_text(bad)
            assert 1 <= stack._port_of("edge-1") <= 65_535
        for account in ("device", "publisher"):
            (tmp_path / "registry" / f"{account}-password").write_bytes(b"\xff\xfe")
        async with Stack(tmp_path) as stack:
            await stack.add_device("edge-1")
            await stack.publish("1.0.1")
            # The registry has another port now, and the version names the old one.
            with pytest.raises(InputError, match=r"1\.0\.0 is known here.*Remove the folder"):
                await stack.publish("1.0.0")
        for name in ("ports.json", "registry/device-password", "lock"):
            a_folder(tmp_path / name)
            with pytest.raises(InputError, match="cannot be used"):
                async with Stack(tmp_path):
                    pass
            shutil.rmtree(tmp_path / name)
    assert not processes_of(tmp_path)


async def test_up_names_a_folder_where_its_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "here" / "up.json").mkdir(parents=True)
    with nothing_left(tmp_path):
        async with blackstart(tmp_path, *UP) as process:
            code, errors = await ends(process)
    assert code == 2
    assert "Traceback" not in errors
    assert "up.json: cannot be used: Is a directory" in errors
