"""iptables, when a private engine is let write rules: not beside another one that does, and none is left behind."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import subprocess
from pathlib import Path

from reference.core.errors import InputError
from reference.engine.leftovers import is_called
from reference.engine.links import Bridge, links_of
from reference.engine.places import Places

_TABLES = ("nat", "filter")
_LIMIT_S = 10


def refuse_beside_another(places: Places) -> None:
    """See that no other engine writes rules in this network namespace: each empties the other's. Raises InputError."""
    here = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116 (it names nothing in a folder)
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
        with contextlib.suppress(OSError):
            same = is_called(pid, "dockerd") and os.stat(f"/proc/{pid}/ns/net").st_ino == here  # noqa: PTH116
            if same and _writes_rules(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"), places):
                raise InputError(
                    f"another engine (pid {pid}) runs here, and each would empty the other's iptables rules",
                    where="--iptables",
                    todo="Start this one without it, or end the other one.",
                )


def _writes_rules(words: list[bytes], places: Places) -> bool:
    """Whether a dockerd with this command line does; one of ours says so in its daemon.json."""
    if b"--iptables=false" in words:
        return False
    with contextlib.suppress(ValueError, IndexError, OSError):
        config = Path(os.fsdecode(words[words.index(b"--config-file") + 1]))
        return config != places.config and json.loads(config.read_bytes()).get("iptables") is not False
    return True


def remove_rules(bridge: Bridge, path: str) -> None:
    """Remove every rule that names one of its links or addresses. Chains stay: they may be another engine's."""
    if (program := shutil.which("iptables", path=path)) is None:
        return
    names = {*links_of(bridge), bridge.name}
    for table in _TABLES:
        for rule in _run(program, "-t", table, "-S").splitlines():
            words = rule.split()
            ours = names & set(words) or any(_within(word, bridge) for word in words)
            if words[:1] == ["-A"] and ours:
                _run(program, "-t", table, "-D", *words[1:])


def _within(word: str, bridge: Bridge) -> bool:
    try:
        return ipaddress.IPv4Network(word.partition(":")[0], strict=False).subnet_of(bridge.everything)
    except ValueError:
        return False


def _run(*command: str) -> str:
    """What it says; nothing when it fails: a rule that is gone already is what was wanted."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    return done.stdout if done.returncode == 0 else ""
