"""The hook: named places in the agent at which its process kills itself. It is put around production's functions from
here, in the tests' own process; production has none.

A name says what has just happened and in which phase: `create.write@staged` is a place right behind an effect that is
the atom `create.write` (right before it, where a file is opened to be made), `before.pull@pulling` and
`after.pull@pulling` are around the execution of a step. A name that is reached several times has a number, from 1.

The atom of an effect is what `atoms_map.py` says, by the same rules that a trace of all system calls is held against.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from reference.core.delivery import Memory
from reference.core.limits import Limits
from reference.core.model import World
from reference.core.steps import (
    Act,
    Create,
    PrepareSnapshot,
    Pull,
    Remove,
    RemoveImage,
    RemoveSnapshot,
    RestartEngine,
    RestoreSnapshot,
    SetRestartPolicy,
    Snapshot,
    Start,
    Step,
    Stop,
    Sync,
    Wait,
)
from reference.core.update import UpdateRecord
from reference.edge import agent as edge_agent
from reference.edge import journal as edge_journal
from reference.edge.runtimes import process, procfs, registry, snapshot
from reference.world.atoms import Atom
from tests.agreement.atoms_map import Call, Mapper, relative
from tests.agreement.device import Device
from tests.agreement.patch import put, real

STEPS: dict[type[Act], str] = {
    Pull: "pull", Create: "create", Start: "start", Stop: "stop", Remove: "remove", RemoveImage: "unlist",
    SetRestartPolicy: "policy", Sync: "sync", RestartEngine: "engine", PrepareSnapshot: "reserve",
    Snapshot: "snapshot", RestoreSnapshot: "restore", RemoveSnapshot: "forget",
}  # fmt: skip
"""Every step, by the first word of its atoms."""

NO_ATOM = 4
"""Exit code of a process that did what no rule knows."""
_write = os.write


class Hook:
    """Counts the boundaries that are reached, and ends the process at one of them."""

    def __init__(self, device: Device, kill: tuple[str, int] | None, record: Path | None) -> None:
        self._roots = device.roots()
        self._kill = kill
        self._record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if record is not None else None
        self._reached: Counter[str] = Counter()
        self._mapper = Mapper()
        self.phase = "opening"
        self.step = ""
        """What is being executed."""
        self.stopping = False
        self.writing: ContextVar[str] = ContextVar("writing", default="")
        """What `write_durably` writes."""

    def named(self, what: str) -> str:
        """The boundary's name."""
        return f"{what}@{self.phase}"

    def next_is(self, name: str) -> bool:
        """Whether the process is to end when this is reached the next time."""
        return self._kill == (name, self._reached[name] + 1)

    def reach(self, name: str) -> None:
        """A boundary. Does not return if it is the one."""
        if self.next_is(name):
            os.kill(os.getpid(), signal.SIGKILL)
        self._reached[name] += 1
        if self._record is not None:
            _write(self._record, f"{name} {self._reached[name]}\n".encode())

    def done(self, call: Call) -> None:
        """An effect that has happened. One that no rule knows ends the process with NO_ATOM."""
        found = self._mapper.atoms(call)
        if found is None:
            print(f"no atom: {call}", file=sys.stderr, flush=True)
            os._exit(NO_ATOM)
        for atom in found[1]:
            self.reach(self.named(atom))

    def changed(self, name: str, path: object, folder: int | None = None) -> None:
        """A change of a file or folder, if it is one of the device's."""
        where = self.where(path, folder)
        if where is not None:
            self.done(Call(name, where, self.writing.get()))

    def where(self, path: object, folder: int | None = None) -> str | None:
        """The path as the rules have it, None if it is none of the device's."""
        if isinstance(path, int):
            text = str(Path(f"/proc/self/fd/{path}").readlink())
        else:
            text = os.fsdecode(path)  # type: ignore[arg-type]
            if folder is not None and not text.startswith("/"):
                text = f"{Path(f'/proc/self/fd/{folder}').readlink()}/{text}"
        return relative(text.removesuffix(" (deleted)"), self._roots)


def install(device: Device, kill: tuple[str, int] | None, record: Path | None) -> None:
    """Put the hook around everything. For the rest of this process's life."""
    hook = Hook(device, kill, record)
    _around_files(hook)
    _around_processes(hook)
    _around_engine(hook)
    _around_journal(hook)
    _around_loop(hook)


def _around_files(hook: Hook) -> None:
    def after(name: str, call: Callable[..., Any], place: int) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            # Asked before: the descriptor or name may be gone afterwards.
            found = hook.where(args[place], options.get("dir_fd"))
            result = call(*args, **options)
            if found is not None:
                hook.done(Call(name, found, hook.writing.get()))
            return result

        return wrapped

    for attribute, name, place in (
        ("mkdir", "mkdir", 0), ("rename", "rename", 1), ("replace", "rename", 1), ("unlink", "unlink", 0),
        ("remove", "unlink", 0), ("rmdir", "rmdir", 0), ("fsync", "fsync", 0), ("write", "write", 0),
    ):  # fmt: skip
        put(os, attribute, after(name, real(os, attribute), place))

    def opened(event: str, args: tuple[Any, ...]) -> None:
        """Before a file is made: there is no Python function that all ways of opening one go through."""
        makes = event == "open" and isinstance(args[0], str | bytes) and args[2] & os.O_CREAT
        if makes and not os.path.lexists(args[0]):
            hook.changed("open", args[0])

    sys.addaudithook(opened)


def _around_processes(hook: Hook) -> None:
    popen, send, ended = subprocess.Popen, signal.pidfd_send_signal, procfs.Handle.ended
    read_all, end = process._read_all, process.ProcessRuntime._end

    class Popen(popen):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            hook.done(Call("clone"))

    def sent(pidfd: int, number: signal.Signals, *rest: Any) -> None:
        send(pidfd, number, *rest)
        hook.done(Call("kill", detail=number.name))

    async def gone(self: procfs.Handle, timeout_s: float) -> bool:
        result = await ended(self, timeout_s)
        if hook.stopping and result:  # The workload's end is what a stop awaits first.
            hook.stopping = False
            hook.reach(hook.named(Atom.STOP_GONE))
        return result

    async def stopped(self: process.ProcessRuntime, container_id: str, grace_ms: int) -> None:
        hook.stopping = hook.step == "stop"
        await end(self, container_id, grace_ms)
        if hook.step == "stop":
            hook.reach(hook.named(Atom.STOP_RECORD))

    async def answered(fd: int) -> bytes:
        answer = await read_all(fd)
        hook.reach(hook.named(Atom.START_SPAWN))
        return answer

    put(subprocess, "Popen", Popen)
    put(signal, "pidfd_send_signal", sent)
    put(procfs.Handle, "ended", gone)
    put(process.ProcessRuntime, "_end", stopped)
    put(process, "_read_all", answered)


def _around_engine(hook: Hook) -> None:
    sync, copy_sync = real(process, "syncfs"), real(snapshot, "syncfs")
    durably, exchange = real(snapshot, "write_durably"), snapshot._exchange
    manifest = registry.Repository.manifest

    def synced(path: Path) -> None:
        hook.reach(hook.named(Atom.SYNC_BEGIN))
        sync(path)
        hook.reach(hook.named(Atom.SYNC_END))

    def copy_synced(path: Path) -> None:
        copy_sync(path)
        hook.changed("syncfs", path)

    def exchanged(one: Path, other: Path) -> bool:
        result = exchange(one, other)
        hook.changed("exchange", other)
        return result

    def written(path: Path, content: bytes, mode: int = 0o600) -> None:
        token = hook.writing.set(content.decode())
        try:
            durably(path, content, mode)
        finally:
            hook.writing.reset(token)

    async def asked(*args: Any, **options: Any) -> Any:
        answer = await manifest(*args, **options)
        hook.done(Call("ask"))
        return answer

    put(process, "syncfs", synced)
    put(snapshot, "syncfs", copy_synced)
    put(snapshot, "_exchange", exchanged)
    put(snapshot, "write_durably", written)
    put(registry.Repository, "manifest", asked)


def _around_journal(hook: Hook) -> None:
    write, make_durable = edge_journal.Journal.write, edge_journal._make_durable

    def written(self: edge_journal.Journal, memory: Memory) -> None:
        hook.phase = memory.record.phase
        hook.reach(hook.named("before.journal"))
        append = hook.named(Atom.JOURNAL_APPEND)
        if hook.next_is(append):
            # Between SQLite's write to its log and its sync no Python runs. Without the sync the files are as they
            # are at that moment, and so is the end.
            self._connection.execute("PRAGMA synchronous=OFF")
        write(self, memory)
        hook.reach(append)
        hook.reach(hook.named(Atom.JOURNAL_SYNC))

    def opened(connection: sqlite3.Connection, path: Path) -> None:
        hook.reach(hook.named(Atom.OPEN_READ))
        make_durable(connection, path)
        hook.reach(hook.named(Atom.OPEN_SYNC))

    put(edge_journal.Journal, "write", written)
    put(edge_journal, "_make_durable", opened)


def _around_loop(hook: Hook) -> None:
    execute, decide = real(edge_agent, "execute"), real(edge_agent, "decide")

    async def executed(act: Act, *rest: Any) -> None:
        hook.step = STEPS[type(act)]
        hook.reach(hook.named(f"before.{hook.step}"))
        await execute(act, *rest)
        hook.reach(hook.named(f"after.{hook.step}"))
        hook.step = ""

    waited: set[str] = set()

    def decided(record: UpdateRecord, world: World, now_ms: int | None, limits: Limits) -> Step:
        step: Step = decide(record, world, now_ms, limits)
        hook.phase = record.phase
        if isinstance(step, Wait) and record.phase not in waited:  # How often it waits is nobody's promise.
            waited.add(record.phase)
            hook.reach(hook.named(Atom.WAIT_PASS))
        return step

    put(edge_agent, "execute", executed)
    put(edge_agent, "decide", decided)
