"""What people and the client ask of the updater by a file: an operator's hold, and the update lock.

The hold is `hold` in the state folder: it outlives a boot, and nothing is started, stopped or changed while it is
there. The lock is a file that the client or an operator makes (settings: `lock_file`, else `lock` in the run folder,
which a boot forgets): no switch begins while it is there. What is written in either says who it was, for people.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from reference.core.errors import BlackstartError, DeviceError, Reason
from reference.edge.settings import load_settings
from reference.support.files import fsync_dir, write_durably

_MOST = 200
"""Characters of an owner's word that are told on."""


def hold_file(state_dir: Path) -> Path:
    """Where the hold is."""
    return state_dir / "hold"


def hold(state_dir: Path, who: str = "") -> None:
    """Hold the device, durably; again is success. Raises DeviceError."""
    try:
        write_durably(hold_file(state_dir), who.encode("utf-8", "replace"), 0o644)
    except OSError as error:
        raise DeviceError(f"cannot be held: {error.strerror}", where=str(hold_file(state_dir))) from error


def release(state_dir: Path) -> bool:
    """End the hold, durably; answers whether there was one. Raises DeviceError."""
    path = hold_file(state_dir)
    try:
        path.unlink()
        fsync_dir(state_dir)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DeviceError(f"cannot be released: {error.strerror}", where=str(path)) from error
    return True


def taken_by(path: Path) -> str | None:
    """Who has made the file, in one line (empty: it does not say); None when it is not there.

    One that is there and cannot be read is taken: in doubt nothing is interrupted.
    """
    try:
        with path.open("rb") as file:
            text = file.read(4 * _MOST).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError:
        return "somebody (it cannot be read)"
    words = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(words.split())[:_MOST]


def main(arguments: Sequence[str] | None = None) -> int:
    """`hold` and `release`. Exit codes: 0 it is so now, 1 it could not be done, 2 what was given is wrong."""
    parser = argparse.ArgumentParser(
        prog="blackstart edge", description="Forbid or allow every change on a device."
    )
    parser.add_argument("what", choices=("hold", "release"))
    parser.add_argument("--config", type=Path, required=True, help="the device's configuration, JSON")
    parser.add_argument("--data", type=Path, help="folder of `state`, as for `blackstart edge run`")
    parser.add_argument("--who", default="", help="hold: who says so, for those who wonder")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(arguments)
    try:
        state = load_settings(options.config, os.environ, options.data).state_dir
        if options.what == "hold":
            hold(state, options.who)
            said = "held: nothing is started, stopped or changed here until `blackstart edge release`"
        else:
            said = "released" if release(state) else "was not held"
    except BlackstartError as error:
        print(f"blackstart edge: {error}", file=sys.stderr)  # noqa: T201
        return 2 if error.reason is Reason.INVALID_INPUT else 1
    print(json.dumps({"held": options.what == "hold"}) if options.json else said)  # noqa: T201
    return 0
