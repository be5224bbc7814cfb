"""A signal ends what runs in order: everything is stopped, unmounted and taken down on the way out."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


async def unwinding(play: Coroutine[None, None, T], told: list[int]) -> T:
    """Play until a signal: the first is written to `told` and cancels, so that everything is stopped on the way out.

    The later ones change nothing: an impatient second Ctrl-C would leave clients, or disks, behind.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(play)

    def end(number: int) -> None:
        if not told:
            told.append(number)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup's wish is kept. SIGINT is ignored from the start in any script's background job: no wish.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, end, number)
    return await task
