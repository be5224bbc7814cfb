"""The shim: parent of one workload, outlives the agent. Run as `python -I -S shim.py DIR LOCK_FD READY_FD`.

Reads DIR/launch.json {argv, environment, cwd}; writes DIR/state.json (pids and start times) *before* the workload may
start, and DIR/exit.json after its end. READY_FD gets "ok" or what went wrong. The lock on LOCK_FD is held until nothing
of the workload is left. Standard library only and little of it: this is part of the downtime.
"""

import json
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # the typing module costs milliseconds
    from typing import Any


def start_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        return int(file.read().rpartition(")")[2].split()[19])


def put(path: str, value: dict[str, int]) -> None:
    with open(f"{path}.new", "w") as file:  # noqa: PTH123
        json.dump(value, file)
    os.rename(f"{path}.new", path)  # noqa: PTH104


def workload(plan: "dict[str, Any]", go: int, failure: int) -> None:
    """In the child: wait until its state is written, become the workload. A shim that died lets it end here."""
    try:
        os.setsid()
        if os.read(go, 1) != b"g":
            os._exit(126)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(plan["cwd"])
        os.execve(plan["argv"][0], plan["argv"], plan["environment"])  # noqa: S606
    except (OSError, ValueError) as error:
        os.write(failure, str(error).encode())
    os._exit(127)


def adopt_orphans() -> None:
    """PR_SET_CHILD_SUBREAPER (36), prctl(2). After the start, because loading ctypes costs milliseconds."""
    import ctypes

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def wait_for(pid: int) -> int:
    while True:
        ended, status = os.wait()
        if ended == pid:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def kill_leftovers(marker: bytes) -> None:
    """What was forked away from the workload is our child now; its own children will be when it is gone.

    What was forked away before we adopted orphans is nobody's: the marker in its environment tells it.
    """
    import time

    me = os.getpid()
    for name in os.listdir("/proc"):  # noqa: PTH208
        try:
            with open(f"/proc/{name}/environ", "rb") as file:  # noqa: PTH123
                if marker in file.read().split(b"\0") and int(name) != me:
                    os.kill(int(name), signal.SIGKILL)
        except (OSError, ValueError):
            continue
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for name in os.listdir("/proc"):  # noqa: PTH208
            try:
                with open(f"/proc/{name}/stat") as file:  # noqa: PTH123
                    parent = int(file.read().rpartition(")")[2].split()[1])
                if parent == me:
                    os.kill(int(name), signal.SIGKILL)
            except (OSError, ValueError):
                continue
        time.sleep(0.001)


def main() -> None:
    folder, lock, ready = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if os.fork():
        os._exit(0)  # nobody's child, so nobody has to reap us
    os.setsid()
    for fd in (lock, ready):
        os.set_inheritable(fd, False)
    with open(f"{folder}/launch.json") as file:  # noqa: PTH123
        plan = json.load(file)
    go_read, go_write = os.pipe()
    failure_read, failure_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go_write)
        workload(plan, go_read, failure_write)
    os.close(failure_write)
    os.close(go_read)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    me = os.getpid()
    state = {"pid": pid, "start": start_ticks(pid), "shim_pid": me, "shim_start": start_ticks(me)}
    put(f"{folder}/state.json", state)
    os.write(go_write, b"g")
    failure = os.read(failure_read, 4096)
    if failure:
        os.unlink(f"{folder}/state.json")  # noqa: PTH108
    else:
        put(f"{folder}/state.json", {**state, "executed": 1})
    try:  # noqa: SIM105 - contextlib costs milliseconds
        os.write(ready, failure or b"ok")
    except OSError:
        pass  # the agent is gone; the workload stays
    os.close(ready)
    if failure:
        return
    adopt_orphans()
    put(f"{folder}/exit.json", {"code": wait_for(pid)})
    kill_leftovers(f"BLACKSTART_CONTAINER={plan['environment'].get('BLACKSTART_CONTAINER')}".encode())


main()
