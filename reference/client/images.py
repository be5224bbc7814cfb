"""Folders from which images of the OPC Core Client are built: good ones, and ones with a declared defect for tests."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from reference.core.errors import InputError

DEFECTS = {
    "crash-on-start": 0,
    "never-healthy": 0,
    "dies-in-window": 300,
    "ignores-sigterm": 0,
    "slow-start": 500,
    "bad-migration": 0,
    "sick-alone": 0,
}
"""Every defect that the client knows, with its default `after_ms`."""
OVERLAPS = "blackstart.handover"
"""The label of an image whose client knows the lease; its value is `overlap`."""
_APP = Path(__file__).with_name("app")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def write_client_folder(
    dest: Path,
    version: str,
    defect: str | None = None,
    *,
    after_ms: int | None = None,
    overlaps: bool = True,
) -> None:
    """Write what `blackstart image build` takes: the app, `blackstart-image.json` and, if given, the defect.

    `overlaps`: its label says that it may stand by beside another version. `after_ms` is when a `dies-in-window` dies and how long a `slow-start` sleeps. Raises InputError.
    """
    if not _VERSION.fullmatch(version):
        raise InputError(f"{version!r} is not a version", todo="Use letters, digits and . _ - (64 at most).")
    if defect is not None and defect not in DEFECTS:
        raise InputError(f"{defect!r} is not a defect", todo=f"Use one of {', '.join(sorted(DEFECTS))}.")
    if after_ms is not None and after_ms < 0:
        raise InputError(f"after_ms is {after_ms}", todo="Use a whole number of milliseconds, 0 or more.")
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise InputError(
            "is there already and not an empty folder", where=str(dest), todo="Name a new folder."
        )
    try:
        shutil.copytree(_APP, dest, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        if defect is not None:
            wait_ms = DEFECTS[defect] if after_ms is None else after_ms
            _write(dest / "defect.json", {"defect": defect, "after_ms": wait_ms})
        labels = {
            "org.opencontainers.image.title": "opc-core-client",
            "org.opencontainers.image.version": version,
            **({OVERLAPS: "overlap"} if overlaps else {}),
        }
        _write(dest / "blackstart-image.json", {"env": {"OPC_VERSION": version}, "labels": labels})
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(dest)) from error


def _write(path: Path, body: dict[str, object]) -> None:
    path.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", "utf-8")
