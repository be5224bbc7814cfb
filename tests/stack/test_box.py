"""Whose processes are a device's: of those that name its folder, the ones that we start."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chaos.power.processes import family
from reference.stack.box import commands, kill_all, on_command_line

SLEEPS = "import time; time.sleep(1000)"
UP_S = 20.0


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def named(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until its command line has the folder."""
    marker, end = os.fsencode(f"{folder}/"), time.monotonic() + UP_S
    while not any(pid == process.pid and marker in command for pid, command in commands()):
        assert time.monotonic() < end, process.args
        time.sleep(0.01)


STRANGERS: list[Callable[[Path], list[str | Path]]] = [
    lambda log: ["tail", "-f", log],
    lambda log: ["sh", "-c", 'read line < "$0"', log],
]


@pytest.mark.parametrize("looks", STRANGERS, ids=["tail", "shell"])
def test_who_only_looks_is_a_stranger(tmp_path: Path, looks: Callable[[Path], list[str | Path]]) -> None:
    log = tmp_path / "agent.log"
    os.mkfifo(log)
    with running(*looks(log)) as stranger, running(sys.executable, "-c", SLEEPS, log) as ours:
        named(stranger, tmp_path)
        named(ours, tmp_path)
        assert on_command_line(tmp_path) == [ours.pid]
        assert family(os.fsencode(f"{tmp_path}/")) == {ours.pid}
        asyncio.run(kill_all(lambda: on_command_line(tmp_path)))
        assert ours.wait(UP_S) == -9
        assert stranger.poll() is None


def test_a_program_of_the_folder_is_ours_also_when_its_file_is_gone(tmp_path: Path) -> None:
    program = tmp_path / "client"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o700)
    with running(program, "1000") as ours:
        named(ours, tmp_path)
        assert on_command_line(tmp_path) == [ours.pid]
        program.unlink()
        assert on_command_line(tmp_path) == [ours.pid]


def test_a_folder_whose_name_only_begins_alike_is_another(tmp_path: Path) -> None:
    with running(sys.executable, "-c", SLEEPS, f"{tmp_path}2/agent.log") as other:
        named(other, Path(f"{tmp_path}2"))
        assert on_command_line(tmp_path) == []
