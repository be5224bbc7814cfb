"""The reader of traces, on lines as strace writes them: what it misses would have no atom and nobody would know."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agreement.atoms_map import Call
from tests.agreement.trace import Reader, joined

ROOTS = {"STATE": Path("/dev-1/state"), "RUN": Path("/dev-1/run"), "DATA": Path("/dev-1/data")}
BEGIN = '7 execve("/usr/bin/python", ["python", "-m", "tests.agreement.agent"], 0x7ff /* 9 vars */) = 0'


def calls(*lines: str) -> list[Call]:
    """What is read of them, without the beginning."""
    return [call for call, _ in Reader(ROOTS).calls(joined([BEGIN, *lines]))][1:]


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ('7 mkdir("/dev-1/state/engine", 0777) = 0', Call("mkdir", "STATE/engine")),
        ("7 fdatasync(9</dev-1/state/journal.db-wal>) = 0", Call("fsync", "STATE/journal.db-wal")),
        ('7 unlinkat(5</dev-1/state/tmp>, "a, b", 0) = 0', Call("unlink", "STATE/tmp/a, b")),
        ('7 unlinkat(5</dev-1/state/tmp>, "x", AT_REMOVEDIR) = 0', Call("rmdir", "STATE/tmp/x")),
        (
            '7 rename("/dev-1/data/.volume.snapshot-3", "/dev-1/data/.volume.discarded-3") = 0',
            Call("rename", "DATA/.volume.discarded-3"),
        ),
        (
            '7 renameat2(AT_FDCWD</>, "/dev-1/data/c", AT_FDCWD</>, "/dev-1/data/volume", RENAME_EXCHANGE) = 0',
            Call("exchange", "DATA/volume"),
        ),
        (
            '7 openat(AT_FDCWD</>, "/dev-1/run/lock", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3</dev-1/run/lock>',
            Call("open", "RUN/lock"),
        ),
        (
            r'7 write(4</dev-1/state/f>, "{\"state\": 1}"..., 900) = 900',
            Call("write", "STATE/f", '{"state": 1}'),
        ),
        ("7 syncfs(11</dev-1/state/engine>) = 0", Call("syncfs", "STATE/engine")),
        ("7 write(4</dev-1/state/f>(deleted), \"x\", 1) = 1", Call("write", "STATE/f", "x")),
        ("7 pidfd_send_signal(5<anon_inode:[pidfd]>, SIGTERM, NULL, 0) = 0", Call("kill", detail="SIGTERM")),
        (
            "7 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 5</dev-1/state/x>, 0) = 0x7f1",
            Call("mmap", "STATE/x"),
        ),
        ("7 vfork() = 8", Call("clone")),
        ('7 linkat(AT_FDCWD</>, "/dev-1/state/a", AT_FDCWD</>, "/dev-1/state/b", 0) = 0', Call("link", "STATE/b")),
        ('7 symlink("../x", "/dev-1/state/b") = 0', Call("symlink", "STATE/b")),
        ("7 ioctl(5</dev-1/data/c>, BTRFS_IOC_CLONE or FICLONE, 6) = 0", Call("ioctl", "DATA/c")),
    ],
    ids=lambda given: given.partition("(")[0] if isinstance(given, str) else "",
)  # fmt: skip
def test_a_change_is_read(line: str, call: Call) -> None:
    assert calls(line) == [call]


@pytest.mark.parametrize(
    "line",
    [
        '7 mkdir("/dev-1/state/engine", 0777) = -1 EEXIST (File exists)',
        '7 openat(AT_FDCWD</>, "/dev-1/state/f", O_RDONLY|O_CLOEXEC) = 3</dev-1/state/f>',
        '7 write(1</dev-10/state/f>, "x", 1) = 1',
        '7 write(2<pipe:[1]>, "/dev-1/state", 12) = 12',
        "7 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 5</dev-1/state/x>, 0) = 0x7f1",
        "7 clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0}, 88) = 8",
        '7 sendto(6<socket:[1]>, "GET /healthz HTTP/1.0\\r\\n", 24, 0, NULL, 0) = 24',
    ],
)
def test_what_changes_nothing_is_left_out(line: str) -> None:
    assert calls(line) == []


def test_a_call_that_was_interrupted_is_put_together() -> None:
    found = calls(
        "7 clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD <unfinished ...>",
        '8 execve("/usr/bin/python", ["python", "/r/runtimes/shim.py", "/dev-1/run"], 0x7ff /* 1 var */ <unfinished ...>',
        "7 <... clone resumed>, child_tidptr=0x7f) = 8",
        "8 <... execve resumed>) = 0",
        '8 rename("/dev-1/run/a.new", <unfinished ...>',
        "7 fsync(3</dev-1/state/f>) = 0",
        '8 <... rename resumed>"/dev-1/run/a") = 0',
    )
    assert [(call.who, call.name, call.path) for call in found] == [
        ("agent", "clone", ""),
        ("shim", "execve", ""),
        ("shim", "rename", "RUN/a"),
        ("agent", "fsync", "STATE/f"),
    ]


def test_a_workload_is_told_from_its_shim() -> None:
    found = calls(
        "7 vfork() = 8",
        '8 execve("/usr/bin/python", ["python", "/r/runtimes/shim.py"], 0x7ff /* 1 var */) = 0',
        "8 fork() = 9",
        '9 execve("/usr/bin/python", ["python", "/dev-1/state/engine/images/aa/rootfs/app/main.py"], 0x7ff) = 0',
        '9 write(3</dev-1/data/volume/samples.log>, "1", 1) = 1',
        "9 +++ exited with 3 +++",
        "8 +++ exited with 0 +++",
    )
    assert [(call.who, call.name) for call in found[3:]] == [
        ("workload", "execve"),
        ("workload", "write"),
        ("workload", "exit"),
    ]
