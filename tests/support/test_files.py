from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reference.support import files


def test_content_and_mode_are_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "x"
    files.write_durably(path, b"one")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o600)
    files.write_durably(path, b"two", mode=0o644)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o644)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_the_order_is_file_then_name_then_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "x", []
    real = os.fsync

    def fsync(fd: int) -> None:
        kind = "folder" if Path(f"/proc/self/fd/{fd}").is_dir() else "file"
        seen.append((kind, path.exists()))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_durably(path, b"x")
    assert seen == [("file", False), ("folder", True)]


def test_a_failure_leaves_the_old_file_and_no_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_syncfs_takes_files_and_folders_and_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    files.syncfs(tmp_path)
    files.syncfs(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        files.syncfs(tmp_path / "absent")


def test_syncfs_without_the_call_syncs_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    monkeypatch.setattr(os, "sync", lambda: called.append(True))
    files.syncfs(tmp_path)
    assert called == [True]


def test_a_process_gets_as_many_files_as_it_may() -> None:
    code = (
        "import resource; from reference.support.files import allow_many_files as allow;"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard));"
        "got = allow(150); assert got == 150 == resource.getrlimit(resource.RLIMIT_NOFILE)[0], got;"
        "assert allow(120) == 150, 'never fewer';"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 110)); assert allow(150) == 110"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
