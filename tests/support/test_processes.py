from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from reference.support.processes import ROOT, ManagedProcess, ProcessError, start_module

READY = 'import sys; print(\'{"ready": true, "port": 7}\', flush=True)\n'
WAIT = "import signal; signal.pause()\n"

Start = Callable[[str], Awaitable[ManagedProcess]]


@pytest_asyncio.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a module with the given source; it is ended afterwards whatever happens."""
    started: list[ManagedProcess] = []

    async def run(source: str) -> ManagedProcess:
        (tmp_path / "child.py").write_text(source)
        process = await start_module(
            "child",
            "an argument",
            env_extra={"PYTHONPATH": f"{tmp_path}:{ROOT}", "MARK": "m"},
            log_path=tmp_path / "log",
        )
        started.append(process)
        return process

    yield run
    for process in started:
        await process.kill()


async def test_the_ready_line_is_answered_and_the_rest_is_logged(start: Start) -> None:
    process = await start(
        READY
        + 'import os; os.write(1, f"more {sys.argv[1:]} {os.environ[\'MARK\']}\\n".encode()); os.write(2, b"err\\n")\n'
        + WAIT
    )
    assert await process.ready(10) == {"ready": True, "port": 7}
    assert await process.ready(10) == {"ready": True, "port": 7}
    assert process.alive
    async with asyncio.timeout(5):
        while "err" not in process.log_path.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await process.stop(5) == -signal.SIGTERM
    assert not process.alive
    log = process.log_path.read_text()
    assert "more ['an argument'] m" in log
    assert "err" in log


async def test_it_runs_in_a_session_of_its_own(start: Start) -> None:
    process = await start(READY + WAIT)
    await process.ready(10)
    assert os.getsid(process.pid) == process.pid


async def test_our_package_is_importable_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    process = await start_module("reference.broker", "--help", log_path=tmp_path / "deep" / "log")
    with pytest.raises(ProcessError, match="instead of being ready"):
        await process.ready(10)
    assert await process.wait() == 0


async def test_a_child_that_dies_at_start_gives_its_log(start: Start) -> None:
    process = await start('import sys; print("the disk is on fire", file=sys.stderr); sys.exit(3)\n')
    with pytest.raises(ProcessError, match=r"(?s)exit code 3 before it was ready.*the disk is on fire"):
        await process.ready(10)


async def test_a_child_that_says_nothing_meets_the_deadline(start: Start) -> None:
    process = await start(WAIT)
    with pytest.raises(ProcessError, match=r"not ready after 0\.05 s"):
        await process.ready(0.05)
    assert process.alive


@pytest.mark.parametrize("line", ["hello", "[1]", '{"ready": false}', "x" * 200_000])
async def test_a_first_line_that_is_not_the_ready_line_is_shown(start: Start, line: str) -> None:
    process = await start(f"print({line!r}, flush=True)\n" + WAIT)
    with pytest.raises(ProcessError, match="instead of being ready"):
        await process.ready(10)


async def test_one_that_ignores_sigterm_is_killed_after_the_grace(start: Start) -> None:
    process = await start("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + WAIT)
    await process.ready(10)
    assert await process.stop(0.1) == -signal.SIGKILL
    assert await process.stop(0.1) == -signal.SIGKILL, "stopping it again is fine"


async def test_a_kill_ends_only_the_process_itself(start: Start, tmp_path: Path) -> None:
    process = await start(
        "import os, signal\nread, write = os.pipe()\npid = os.fork()\nif pid == 0:\n    signal.pause()\n"
        'print(\'{"ready": true, "child": %d}\' % pid, flush=True)\n' + WAIT
    )
    child = (await process.ready(10))["child"]
    assert isinstance(child, int)
    try:
        async with asyncio.timeout(5):
            assert await process.kill() == -signal.SIGKILL, "although the child holds the pipe open"
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


async def test_much_output_does_not_block_it(start: Start) -> None:
    process = await start(READY + 'print("x" * 3_000_000, flush=True)\n')
    await process.ready(10)
    async with asyncio.timeout(10):
        assert await process.wait() == 0
    assert process.log_path.stat().st_size > 3_000_000


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # empty for a zombie
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl(2)")
async def test_a_child_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(READY + WAIT)
    (tmp_path / "parent.py").write_text(
        "import asyncio, sys\nfrom pathlib import Path\nfrom reference.support.processes import start_module\n"
        "async def main():\n"
        '    child = await start_module("child", log_path=Path(sys.argv[1]))\n'
        "    await child.ready()\n"
        '    print(\'{"ready": true, "child": %d}\' % child.pid, flush=True)\n'
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    extra = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    parent = await start_module(
        "parent", str(tmp_path / "log"), env_extra=extra, log_path=tmp_path / "parent.log"
    )
    try:
        child = (await parent.ready(10))["child"]
    finally:
        await parent.kill()
    assert isinstance(child, int)
    try:
        async with asyncio.timeout(5):
            while _lives(child):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        raise
