"""What the guard lets a fault hurt: processes of the run, and nobody who only stands near it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from chaos.faults.base import FaultError
from chaos.guard import Guard

_ORPHAN = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", *sys.argv[1:]], stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
print(child.pid)
"""


def judged(folder: Path, *arguments: str, **variables: str) -> bool:
    """Whether a process that is no child of ours, with these words and variables, is of the run in that folder."""
    given: Mapping[str, str] = {k: v for k, v in os.environ.items() if k not in ("PWD", "OLDPWD")} | variables
    made = subprocess.run(
        [sys.executable, "-c", _ORPHAN, *arguments], env=given, check=True, capture_output=True, text=True
    )
    pid = int(made.stdout)
    try:
        return Guard(folder).process(pid) == pid
    except FaultError as error:
        assert "is not of this run" in str(error)
        return False
    finally:
        os.kill(pid, signal.SIGKILL)


def test_what_names_the_folder_is_of_the_run(tmp_path: Path) -> None:
    run = tmp_path / "x"
    assert judged(run, str(run))
    assert judged(run, f"{run}/device/main.py")
    assert judged(run, f"--config={run}/device.json")
    assert judged(run, BLACKSTART_CONFIG=f"{run}/device.json")


def test_a_folder_whose_name_only_begins_like_it_is_another(tmp_path: Path) -> None:
    run = tmp_path / "x"
    assert not judged(run, f"{run}2/main.py")
    assert not judged(run, BLACKSTART_CONFIG=f"{run}2/device.json")


def test_whoever_only_stands_in_the_folder_is_nobody_of_the_run(tmp_path: Path) -> None:
    run = tmp_path / "x"
    assert not judged(run, PWD=f"{run}/device", OLDPWD=str(run))


@pytest.mark.parametrize("pid", [0, 1, -1, os.getpid()], ids=["0", "1", "-1", "ourselves"])
def test_neither_the_first_process_nor_ourselves(tmp_path: Path, pid: int) -> None:
    with pytest.raises(FaultError, match="is not to be hurt"):
        Guard(tmp_path).process(pid)
