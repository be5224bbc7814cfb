"""`python -m tests.agreement.forker`: agents in a fraction of their usual time.

It has imported all of the agent. For each line on standard input, `{"id": N, "task": {...}}`, it forks a process that
is the agent of that task from there on; when that has ended it says `{"id": N, "status": S}`, the exit code, or minus
the signal that ended it. The only part that is not as in production is the interpreter's start.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import sys
from typing import NoReturn

from tests.agreement.agent import TASK, live


def _be_the_agent(body: object) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        task = TASK.validate_python(body)
        task.folder.mkdir(parents=True, exist_ok=True)
        log = os.open(task.folder / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        code = asyncio.run(live(task))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Until standard input ends; agents that still run are ended with it."""
    gc.collect()
    gc.freeze()  # What was imported is shared with every agent, and not copied by its collector.
    awake, wake = os.pipe()
    for fd in (awake, wake):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    unread = b""
    while True:
        ready = select.select([0, awake], [], [])[0]
        if awake in ready:
            os.read(awake, 4096)
            _bury(running)
        if 0 not in ready:
            continue
        data = os.read(0, 1 << 16)
        if not data:
            break
        *lines, unread = (unread + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _be_the_agent(order["task"])
            running[pid] = order["id"]
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _bury(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        number = running.pop(pid)
        print(json.dumps({"id": number, "status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    serve()
