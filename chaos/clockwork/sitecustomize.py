"""Put in the way of Python in a process with a clock of its own: on its PYTHONPATH, see `chaos.clock`.

the clock is this process's alone: what it starts has this machine's
time.sleep works: libfaketime makes a call of clock_nanosleep(2) out of it that the kernel refuses
SIGUSR2: write what time this process believes it is, and nothing else changes
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from types import FrameType


def _tell(_: int, __: FrameType | None) -> None:
    """In the main thread, between two instructions: one number, written whole or not at all."""
    path = os.environ["BLACKSTART_CLOCK"]
    handle = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, f"{time.time_ns() // 1_000_000}".encode())
    finally:
        os.close(handle)
    os.rename(f"{path}.new", f"{path}.told")  # noqa: PTH104 - nothing is to be imported for it


def _sleep(seconds: float) -> None:
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], seconds)


if "faketime" in os.environ.get("LD_PRELOAD", "") and "BLACKSTART_CLOCK" in os.environ:
    del os.environ["LD_PRELOAD"]
    _name = os.environ.pop("FAKETIME_SHARED").split(" ")[0].lstrip("/")
    for _path in (f"/dev/shm/{_name}", f"/dev/shm/sem.{_name}"):  # noqa: S108
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_path)  # noqa: PTH108
    time.sleep = _sleep  # type: ignore[assignment]
    signal.signal(signal.SIGUSR2, _tell)
    with open(f"{os.environ['BLACKSTART_CLOCK']}.pid", "w", encoding="ascii") as _file:  # noqa: PTH123
        _file.write(str(os.getpid()))
