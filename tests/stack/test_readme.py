"""The README's ten commands, run as they stand there, and what it shows of them compared with what they say."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from reference.stack import free_port

ROOT = Path(__file__).parents[2]
SECTION = "## Ten commands"
LIMIT_S = 90
PORT = "8080"
"""Of the API in the README; here it may be taken."""
EXIT = {"blackstart update edge-2 --to 2.0.1-crash --wait": 1}
"""How a command ends, where that is not 0."""

ALSO = {
    "clients": ("clients --json", 0),
    "failed": ("jobs --client edge-2 --status failed --json", 0),
    "newest": ("jobs --limit 1", 0),
    "again": ("clients add edge-2", 1),
    "stranger": ("clients show nobody", 2),
    "token": ("clients token edge-2 --json", 0),
    "revoked": ("clients revoke edge-2 --json", 0),
    "events": ("events", 0),
    "mistaken": ("clients --json revoke edge-1", 2),
    "second": ("up --detach", 2),
}
"""What else is asked for of the same stack, and how it ends."""

pytestmark = pytest.mark.xdist_group("stack")


def commands() -> list[tuple[str, list[str]]]:
    """Each command and the lines that it is said to print; `...` stands for more that is not shown."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition(SECTION)[2].partition("\n## ")[0]
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        first, *lines = block.splitlines()
        assert first.startswith("$ "), first
        found.append((first.removeprefix("$ "), [line for line in lines if line.strip()]))
    return found


def plain(line: str) -> str:
    """What stays the same from run to run: ids, numbers, times, tokens, folders and spaces are taken out."""
    line = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", line)
    line = re.sub(r"sha256:[0-9a-f]+", "DIGEST", line)
    line = re.sub(r"\S+(?=/\.blackstart)", "FOLDER", line)
    line = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", line)
    line = re.sub(r"\b\d{3,}\b", "N", line)
    line = re.sub(r"(?<=pid )\d+|\b\d+(?= bytes)|(?<=of )\d+", "N", line)
    # Of a table's columns only the words count, and a downtime has two digits or three.
    return re.sub(r"\s+\d{1,2}$", " N", " ".join(line.split()))


def test_the_readme_has_ten_commands() -> None:
    assert len(commands()) == 10


def test_the_ten_commands_do_what_the_readme_shows(tmp_path: Path) -> None:
    (setup, _), *rest = commands()
    assert setup == "make setup && . .venv/bin/activate", "the one that is not run here"
    bin_folder, port = tmp_path / "bin", str(free_port())
    bin_folder.mkdir()
    program = bin_folder / "blackstart"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m blackstart "$@"\n'
    )
    program.chmod(0o755)
    script = ["trap 'blackstart down >down.out 2>&1' EXIT"]
    for number, (command, _) in enumerate(rest):
        ours = command.replace(f":{PORT}", f":{port}").replace("up --detach", f"up --detach --port {port}")
        script.append(f"{{ {ours}\n}} >{number}.out 2>&1\necho $? >{number}.exit")
    for name, (words, _) in ALSO.items():
        script.append(f"blackstart {words} >{name}.out 2>{name}.err\necho $? >{name}.exit")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BLACKSTART")}
    subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path, check=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL,
        env={**kept, "PATH": f"{bin_folder}:{os.environ['PATH']}"},
    )  # fmt: skip
    for number, (command, shown) in enumerate(rest):
        said = (tmp_path / f"{number}.out").read_text()
        code = int((tmp_path / f"{number}.exit").read_text())
        assert code == EXIT.get(command, 0), (command, said)
        lines = [plain(line.replace(f":{port}", f":{PORT}")) for line in said.splitlines() if line.strip()]
        expected = [plain(line) for line in shown]
        if "..." in expected:
            lines = lines[: expected.index("...")]
            expected = expected[: expected.index("...")]
        assert lines == expected, command
    check_also({name: (tmp_path / f"{name}.out").read_text() for name in ALSO}, tmp_path)
    assert (tmp_path / "down.out").read_text() == "ended\n"
    assert not processes(tmp_path), "`blackstart down` leaves nothing behind"


def check_also(said: dict[str, str], folder: Path) -> None:
    """The rest of the command line, against the stack as the ten commands have left it."""
    for name, (_, code) in ALSO.items():
        assert int((folder / f"{name}.exit").read_text()) == code, (name, said[name])
    clients = {one["clientId"]: one for one in json.loads(said["clients"])["items"]}
    assert clients.keys() == {"edge-1", "edge-2"}
    assert (clients["edge-2"]["runningVersion"], clients["edge-2"]["previousVersion"]) == ("1.0.0", "2.0.0")
    assert [one["targetVersion"] for one in json.loads(said["failed"])["items"]] == ["2.0.1-crash"]
    assert said["newest"].count("SUCCEEDED") == 1
    assert "more than these 1" in (folder / "newest.err").read_text()
    assert said["again"] == "", "what is not a token must not be taken for one"
    token = json.loads(said["token"])
    assert token["clientId"] == "edge-2"
    assert token["registrationToken"].startswith("bsr.")
    assert token["expiresAt"]
    assert json.loads(said["revoked"])["revokedCertificates"] == 1
    assert json.loads(said["events"].splitlines()[0])["id"] == 1
    assert "another blackstart runs on this folder" in (folder / "second.err").read_text()


def processes(folder: Path) -> list[str]:
    """What runs with the folder in its command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_text(errors="replace").split("\0")
        except OSError:
            continue  # it has ended
        if any(word.startswith(str(folder)) for word in words):
            found.append(" ".join(words))
    return found
