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
from reference.edge.inspect import said
from reference.edge.settings import load_settings
from reference.support.files import fsync_dir, write_durably

_ABOUT = {
    "hold": "Forbid every change on this device, durably, until `blackstart edge release`.",
    "release": "Allow changes again.",
}
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
        text = _beginning(path).decode("utf-8", "replace")
    except FileNotFoundError:
        return "somebody (a link to nowhere)" if path.is_symlink() else None
    except OSError:
        return "somebody (it cannot be read)"
    words = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(words.split())[:_MOST]


def _beginning(path: Path) -> bytes:
    # Whatever was put there: a pipe that nobody writes to would otherwise hold up the whole agent.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(handle, 4 * _MOST)
    finally:
        os.close(handle)


def main(arguments: Sequence[str] | None = None) -> int:
    """`hold` and `release`. Exit codes: 0 it is so now, 1 it could not be done, 2 what was given is wrong."""
    what, rest = said(sys.argv[1:] if arguments is None else arguments, _ABOUT)
    parser = argparse.ArgumentParser(prog=f"blackstart edge {what}", description=_ABOUT[what])
    parser.add_argument("--config", type=Path, required=True, help="the device's configuration, JSON")
    parser.add_argument("--data", type=Path, help="folder of `state`, as for `blackstart edge run`")
    if what == "hold":
        parser.add_argument("--who", default="", help="who says so, for those who wonder")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(rest)
    try:
        state = load_settings(options.config, os.environ, options.data).state_dir
        if what == "hold":
            hold(state, options.who)
            word = "held: nothing is started, stopped or changed here until `blackstart edge release`"
        else:
            word = "released" if release(state) else "was not held"
    except BlackstartError as error:
        print(f"blackstart edge: {error}", file=sys.stderr)  # noqa: T201
        return 2 if error.reason is Reason.INVALID_INPUT else 1
    print(json.dumps({"held": what == "hold"}) if options.json else word)  # noqa: T201
    return 0
