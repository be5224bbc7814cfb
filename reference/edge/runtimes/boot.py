"""The boot of a device, as a folder on a tmpfs knows it: what is of an earlier boot goes when another one has begun."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from reference.edge.runtimes.files import read_json, write
from reference.edge.runtimes.procfs import kernel_boot_id

_OF_THIS_BOOT = ("containers", "engine-restarted", "agent.sock", "lock")
"""What the agent and its client have in `run_dir`, beside the boot's id itself."""


def enter_boot(run_dir: Path) -> str:
    """The id of this boot. What an earlier boot left in `run_dir` is removed first. Raises OSError."""
    run_dir.mkdir(parents=True, exist_ok=True)
    kernel, known = kernel_boot_id(), read_json(run_dir / "boot-id") or {}
    if known.get("kernel") == kernel and isinstance(found := known.get("boot_id"), str):
        return found
    for path in (run_dir / name for name in _OF_THIS_BOOT):  # Ours alone: who knows where it was pointed at.
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    boot_id = os.urandom(16).hex()
    write(run_dir / "boot-id", json.dumps({"boot_id": boot_id, "kernel": kernel}).encode())
    return boot_id
