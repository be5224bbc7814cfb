"""The console command: what it says, in what form, and the exit code it ends with."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reference.client.images import write_client_folder

ROOT = Path(__file__).parents[2]
HEAVY = (
    "httpx",
    "fastapi",
    "rich.table",
    "sqlalchemy",
    "paho",
    "pydantic",
    "cryptography",
    "asyncio",
    "uvicorn",
)


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BLACKSTART")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **more}


def blackstart(
    folder: Path, *arguments: str, code: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run it in `folder`, as a person would, and check its exit code. Never a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "blackstart", *arguments],
        cwd=folder, env=environment(**variables), text=True, capture_output=True, timeout=30,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def refused(folder: Path, *arguments: str, code: int = 2, **variables: str) -> str:
    """One sentence on standard error, and nothing on standard output."""
    done = blackstart(folder, *arguments, code=code, **variables)
    assert done.stdout == ""
    said = done.stderr.strip()
    assert len(said.splitlines()) == 1, said
    return said.removeprefix("blackstart: ")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    write_client_folder(tmp_path / "app", "1.0.0")
    return tmp_path / "app"


# ---- help


def test_help_names_every_command_and_loads_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from reference.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(),
        text=True,
        capture_output=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    for command in (
        "up",
        "demo",
        "clients",
        "versions",
        "update",
        "job",
        "jobs",
        "rollback",
        "down",
        "edge",
        "service",
        "broker",
        "token",
        "image",
        "registry",
        "Exit codes",
    ):
        assert command in done.stdout
    assert done.stdout.rstrip().endswith("LOADED []")


# ---- what is wrong is said, with the right exit code


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["demo", "--only", "no-such-story"], "no story 'no-such-story'"),
        (["clients"], "no service to talk to"),
        (["versions"], "no service to talk to"),
        (["update", "edge-1", "--to", "2.0.0"], "no service to talk to"),
        (["update", "edge-1", "--to", "2.0.0", "--handover", "overlap"], "no service to talk to"),
        (["job", "x", "--url", "http://127.0.0.1:9"], "no service to talk to"),
        (["clients", "--url", "localhost", "--token", "t"], "not an address"),
        (["clients", "--url", "ftp://localhost", "--token", "t"], "not an address"),
        (["clients", "--url", "http://127.0.0.1:9", "--token", "ä\n"], "not a token"),
        (["token", "--role", "Boss"], "no role 'Boss'"),
        (["token", "--tenant", "a/b"], "tenant id"),
        (["image", "build", "absent", "out", "--version", "1"], "absent: not a folder"),
        (["image", "push", "absent", "localhost:5000/a:b"], "absent: not an OCI image layout"),
        (["image", "push", "absent", "nonsense"], "does not start with a registry host"),
        (["image", "push", "absent", "localhost:5000/a:b", "--user", "x"], "no password in it"),
        (["versions", "add", "1", "--image", "a/b:c", "--url", "http://x", "--token", "t"], "by digest"),
        (["registry", "--data", "reg"], "nobody could pull"),
        (["registry", "--data", "reg", "--users", "absent"], "absent"),
        (["registry", "--data", "reg", "--no-auth", "--port", "99999"], "not a port"),
        (["registry", "gc", "--data", "absent"], "no such folder"),
        (["clients", "--url", "http://x", "add", "edge-2"], "Options come behind `add`"),
        (["versions", "--json", "add", "1", "--image", "x"], "Options come behind `add`"),
        (["edge", "status", "--config", "absent"], "absent"),
        (
            ["edge", "enrol", "--url", "http://far.example", "--state", "x", "--token", "t"],
            "could use the token",
        ),
        (["up", "--data", "/proc/blackstart"], "cannot be used"),
        (["up", "--data", "/proc/blackstart", "--detach"], "cannot be used"),
        (["up", "--data", ""], "a folder of its own"),
    ],
    ids=lambda given: " ".join(given)[:40] if isinstance(given, list) else "",
)
def test_bad_input_is_2_and_one_sentence(tmp_path: Path, arguments: list[str], expected: str) -> None:
    done = blackstart(tmp_path, *arguments, code=2)
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if not line.startswith("starting the broker")]
    assert len(said) == 1
    assert expected in said[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["update"],
        ["registry", "--no-such"],
        ["edge", "status"],
        ["jobs", "--limit", "0"],
    ],
)
def test_bad_usage_is_2(tmp_path: Path, arguments: list[str]) -> None:
    assert "usage:" in blackstart(tmp_path, *arguments, code=2).stderr.lower()
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_take_down_is_said(tmp_path: Path) -> None:
    assert blackstart(tmp_path, "down").stdout == "nothing runs there\n"
    (tmp_path / ".blackstart").mkdir()
    # What one that was killed has left: the pid may be a stranger's by now.
    (tmp_path / ".blackstart" / "up.json").write_text(json.dumps({"pid": os.getpid()}))
    (tmp_path / ".blackstart" / "lock").touch()
    assert json.loads(blackstart(tmp_path, "down", "--json").stdout) == {"ended": False}


def test_the_version_is_told(tmp_path: Path) -> None:
    from blackstart import __version__

    assert blackstart(tmp_path, "--version").stdout == f"blackstart {__version__}\n"


@pytest.mark.parametrize(
    "words", ["edge run", "edge enrol", "edge status", "edge journal", "edge hold", "edge release", "service", "broker",
              "registry", "registry gc"],
)  # fmt: skip
def test_the_help_of_a_part_calls_it_by_the_name_it_was_called_by(tmp_path: Path, words: str) -> None:
    said = blackstart(tmp_path, *words.split(), "--help").stdout
    assert said.startswith(f"usage: blackstart {words} [-h]")


def test_an_authority_is_made_once(tmp_path: Path) -> None:
    made = json.loads(blackstart(tmp_path, "pki", "site", "--host", "broker.example", "--json").stdout)
    assert all((tmp_path / path).exists() for name, path in made.items() if name != "ca_fingerprint")
    assert (tmp_path / made["signing_key"]).stat().st_mode & 0o77 == 0
    before = {path: path.read_bytes() for path in (tmp_path / "site").rglob("*") if path.is_file()}
    assert (
        json.loads(blackstart(tmp_path, "pki", "site", "--host", "broker.example", "--json").stdout) == made
    )
    assert {path: path.read_bytes() for path in before} == before


def test_accounts_of_a_registry(tmp_path: Path) -> None:
    from reference.registry.users import RegistryUsers

    user = ["registry", "user", "--users", "users.json"]
    password = blackstart(tmp_path, *user, "device", "--repository", "opc-*").stdout.strip()
    blackstart(tmp_path, *user, "publisher", "--push")
    users = RegistryUsers.load(tmp_path / "users.json")
    device = users.verify("device", password)
    assert device is not None
    assert [device.may(what, "opc-client") for what in ("pull", "push", "delete")] == [True, False, False]
    assert not device.may("pull", "other")
    assert users.users["publisher"].may("delete", "other")
    blackstart(tmp_path, *user, "device", "--remove")
    assert RegistryUsers.load(tmp_path / "users.json").users.keys() == {"publisher"}
    refused(tmp_path, *user, "device", "--remove")


def test_authorities_to_trust_are_named_by_a_variable(tmp_path: Path) -> None:
    asked = ["clients", "--url", "https://127.0.0.1:9", "--token", "t"]
    assert "no certificates in PEM" in refused(tmp_path, *asked, BLACKSTART_CA="absent")
    (tmp_path / "empty").touch()
    assert "no certificates in PEM" in refused(tmp_path, *asked, BLACKSTART_CA="empty")


def test_nothing_was_made_by_a_refused_token(tmp_path: Path) -> None:
    refused(tmp_path, "token", "--role", "Boss", "--data", "here")
    assert list(tmp_path.iterdir()) == []


def test_a_service_that_is_down_is_unknown(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        said = refused(tmp_path, "clients", BLACKSTART_URL=url, BLACKSTART_TOKEN="t", code=3)
    assert said.startswith(f"{url}: does not answer")
    (tmp_path / ".blackstart").mkdir()
    for content in ("{", "[]", "{}", '{"url": 1}'):
        (tmp_path / ".blackstart" / "up.json").write_text(content)
        assert "no service to talk to" in refused(tmp_path, "clients")


# ---- what it makes


def test_a_token_says_what_was_asked(tmp_path: Path) -> None:
    import jwt

    made = json.loads(blackstart(tmp_path, "token", "--role", "Viewer", "--tenant", "t1", "--json").stdout)
    assert (made["role"], made["tenant"]) == ("Viewer", "t1")
    claims = jwt.decode(made["token"], options={"verify_signature": False})
    assert claims["role"] == "Viewer"
    plain = blackstart(tmp_path, "token").stdout.strip()
    assert jwt.decode(plain, options={"verify_signature": False})["role"] == "Administrator"


def test_the_same_folder_gives_the_same_image(tmp_path: Path, app: Path) -> None:
    first = blackstart(tmp_path, "image", "build", "app", "one", "--version", "1.0.0").stdout.strip()
    second = blackstart(tmp_path, "image", "build", "app", "two", "--version", "1.0.0", "--json").stdout
    assert first.startswith("sha256:")
    assert json.loads(second) == {"digest": first, "layout": "two", "version": "1.0.0"}
    (app / "more.txt").write_text("x")
    third = blackstart(tmp_path, "image", "build", "app", "three", "--version", "1.0.0").stdout.strip()
    assert third != first


def test_a_bad_image_folder_leaves_nothing(tmp_path: Path, app: Path) -> None:
    (app / "blackstart-image.json").write_text("{")
    assert "blackstart-image.json" in refused(tmp_path, "image", "build", "app", "out", "--version", "1.0.0")
    assert not (tmp_path / "out").exists()


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[int]:
    """`blackstart registry --no-auth`, and its port."""
    with subprocess.Popen(
        [sys.executable, "-m", "blackstart", "registry", "--port", "0", "--data", "images", "--no-auth"],
        cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["ready"] is True
            yield ready["port"]
        finally:
            process.send_signal(signal.SIGINT)
            try:
                _, errors = process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert (process.returncode, errors) == (0, "")


def test_an_image_is_pushed_to_a_registry_that_stands_alone(tmp_path: Path, app: Path) -> None:
    import httpx

    digest = blackstart(tmp_path, "image", "build", "app", "out", "--version", "1.0.0").stdout.strip()
    with registry(tmp_path) as port:
        push = ["image", "push", "out", f"localhost:{port}/opc-client:1.0.0", "--plain-http"]
        named = f"localhost:{port}/opc-client@{digest}"
        assert blackstart(tmp_path, *push).stdout.strip() == named
        assert json.loads(blackstart(tmp_path, *push, "--json").stdout) == {"image": named, "digest": digest}
        manifest = f"http://localhost:{port}/v2/opc-client/manifests/1.0.0"
        answer = httpx.get(manifest, trust_env=False, timeout=5)
        assert answer.headers["docker-content-digest"] == digest
        with pytest.raises(OSError), socket.create_connection((_address(), port), timeout=2):
            pass
    said = refused(tmp_path, *push, code=1)
    assert str(port) in said


def _address() -> str:
    """An address of this machine that is not loopback, as far as there is one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Nothing is sent: it only asks for the way.
            return str(probe.getsockname()[0])
        except OSError:
            return "192.0.2.1"
