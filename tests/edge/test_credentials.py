"""Registry credentials: a file that only its owner can read, a helper that is kept in bounds, and no secret said."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reference.core.errors import BlackstartError, DeviceError, Reason, RegistryError
from reference.edge.credentials import MAX_FILE_BYTES, CredentialFile, Fixed, Helper, Keyring, Login
from reference.edge.main import registry_access
from tests.edge.bench import edge_settings

HOST = "registry.example:5000"
GOOD = {HOST: {"username": "device", "password": "s3cret"}}


def written(path: Path, content: object, mode: int = 0o600) -> CredentialFile:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return CredentialFile(path)


async def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    source = written(tmp_path / "c.json", GOOD)
    assert await source.get(HOST) == Login("device", "s3cret")
    assert await source.get("other.example") is None
    written(tmp_path / "c.json", {HOST: {"username": "device", "password": "new"}})
    assert await source.get(HOST) == Login("device", "new")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601, 0o700 | 0o001])
async def test_rights_that_let_others_in_are_refused_in_words(tmp_path: Path, mode: int) -> None:
    source = written(tmp_path / "c.json", GOOD, mode)
    with pytest.raises(DeviceError) as caught:
        await source.get(HOST)
    said = str(caught.value)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
    assert f"{mode:04o}" in said
    assert f"chmod 600 {tmp_path / 'c.json'}" in said
    assert "s3cret" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    source = written(tmp_path / "c.json", GOOD)
    os.chown(tmp_path / "c.json", 12345, 12345)
    with pytest.raises(DeviceError, match="belongs to user 12345"):
        await source.get(HOST)


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "[" * 100_000, "x" * (MAX_FILE_BYTES + 1), "\x00",
        {HOST: "s3cret"}, {HOST: {"username": "u"}}, {HOST: {"username": "", "password": "s3cret"}},
        {HOST: {"username": "u", "password": 7}}, {HOST: {"username": "u", "password": "s3cret", "email": "x"}},
        {HOST: {"username": "u", "password": "s3cret\ud800"}},
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
async def test_a_file_that_is_none(tmp_path: Path, content: object) -> None:
    with pytest.raises(DeviceError) as caught:
        await written(tmp_path / "c.json", content).get(HOST)
    assert str(caught.value).startswith(str(tmp_path / "c.json"))
    assert "s3cret" not in str(caught.value)


async def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "binary").chmod(0o600)
    for path in (tmp_path / "absent", tmp_path, tmp_path / "fifo", tmp_path / "binary"):
        with pytest.raises(DeviceError):
            await CredentialFile(path).get(HOST)


def helper(folder: Path, program: str, timeout_ms: int = 10_000, ttl_ms: int = 300_000) -> Helper:
    """A helper that appends to `calls` and then does as `program` says (`host` is what it was asked)."""
    script = folder / "docker-credential-test"
    script.write_text(
        f"#!{sys.executable} -IS\n"
        "import json, os, sys, time\n"
        "host = sys.stdin.read()\n"
        f"open({str(folder / 'calls')!r}, 'a').write(' '.join(sys.argv[1:]) + ' ' + host + '\\n')\n"
        f"{program}\n"
    )
    script.chmod(0o700)
    return Helper((str(script),), timeout_ms, ttl_ms)


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def says(**answer: object) -> str:
    body = {"ServerURL": HOST, "Username": "AWS", "Secret": "s3cret", **answer}
    return f"print(json.dumps({body!r}))"


async def test_a_helper_is_asked_as_docker_asks_and_its_answer_kept(tmp_path: Path) -> None:
    source = helper(tmp_path, says())
    assert await source.get(HOST) == Login("AWS", "s3cret")
    assert await source.get(HOST) == Login("AWS", "s3cret")
    assert calls(tmp_path) == [f"get {HOST}"]
    source.forget()
    await source.get(HOST)
    assert len(calls(tmp_path)) == 2


async def test_no_name_and_no_secret_mean_nobody_in_particular(tmp_path: Path) -> None:
    assert await helper(tmp_path, says(Username="", Secret="")).get(HOST) is None


@pytest.mark.parametrize(
    ("lasts_s", "ttl_ms", "asked"),
    [(3600, 0, 1), (30, 300_000, 2), (-10, 300_000, 2), (None, 300_000, 1), (None, 0, 2)],
)
async def test_it_is_asked_again_when_its_answer_runs_out(
    tmp_path: Path, lasts_s: int | None, ttl_ms: int, asked: int
) -> None:
    expires = None if lasts_s is None else datetime.fromtimestamp(time.time() + lasts_s, UTC).isoformat()
    source = helper(tmp_path, says(ExpiresAt=expires), ttl_ms=ttl_ms)
    await source.get(HOST)
    await source.get(HOST)
    assert len(calls(tmp_path)) == asked


@pytest.mark.parametrize(
    "program",
    [
        "sys.exit(1)",
        "print('s3cret credentials not found'); sys.exit(1)",
        "print('s3cret')",
        "print('[]')",
        "print('[' * 60000)",
        says(Username=7),
        says(Secret="s3cret\ud800"),
        says(Secret=None),
        says(Username="<token>"),
        says(ExpiresAt="soon"),
        says(ExpiresAt=7),
        says(ExpiresAt="2030-01-01T00:00:00"),
        "os.kill(os.getpid(), 9)",
    ],
)
async def test_a_helper_that_fails_is_unauthorized_and_nothing_it_said_is_repeated(
    tmp_path: Path, program: str
) -> None:
    with pytest.raises(RegistryError) as caught:
        await helper(tmp_path, program).get(HOST)
    assert caught.value.reason is Reason.REGISTRY_UNAUTHORIZED
    assert "s3cret" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("time.sleep(3600)", {"timeout_ms": 300}),
        ("os.fork(); time.sleep(3600)", {"timeout_ms": 300}),
        ("os.close(1); time.sleep(3600)", {"timeout_ms": 300}),
        ("os.fork() and sys.exit(0); time.sleep(3600)", {"timeout_ms": 300}),
        ("while True: os.write(1, b'x' * 4096)", {}),
    ],
)
async def test_a_helper_without_end_is_ended_with_all_it_started(
    tmp_path: Path, program: str, options: dict[str, int]
) -> None:
    source = helper(
        tmp_path, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n{program}", **options
    )
    with pytest.raises(RegistryError) as caught:
        await source.get(HOST)
    assert caught.value.reason is Reason.REGISTRY_UNAUTHORIZED
    with pytest.raises(ProcessLookupError):
        _alive_in_group(int((tmp_path / "pid").read_text()))


def _alive_in_group(group: int) -> None:
    """Raises ProcessLookupError when no process of the group is left, but for those that are only not yet reaped."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        states = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group:
                states.append(fields[0])
        if all(state == "Z" for state in states):
            raise ProcessLookupError
        time.sleep(0.01)


async def test_a_helper_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="cannot be started"):
        await Helper((str(tmp_path / "absent"),)).get(HOST)


async def test_each_registry_has_its_own_and_a_refused_one_is_asked_anew(tmp_path: Path) -> None:
    keyring = Keyring({HOST: helper(tmp_path, says()), "b.example": Fixed(Login("b", "x"))})
    assert await keyring.login("b.example") == Login("b", "x")
    assert await keyring.login("c.example") is None
    await keyring.login(HOST)
    await keyring.login(HOST, renewed=True)
    assert len(calls(tmp_path)) == 2


def test_a_login_does_not_show_its_secret() -> None:
    assert "s3cret" not in repr(Login("device", "s3cret"))


async def test_they_come_from_the_configuration(tmp_path: Path) -> None:
    written(tmp_path / "c.json", GOOD)
    command = helper(tmp_path, says())._command
    registries = [
        {"host": HOST, "credentials_file": tmp_path / "c.json"},
        {"host": "a.example", "username": "u", "password": "p", "token_hosts": ["t.example"]},
        {"host": "b.example", "credential_helper": list(command)},
        {"host": "c.example"},
    ]
    settings = edge_settings(tmp_path, registries=registries)
    access = registry_access(settings)
    assert await access.login(HOST) == Login("device", "s3cret")
    assert await access.login("a.example") == Login("u", "p")
    assert await access.login("b.example") == Login("AWS", "s3cret")
    assert await access.login("c.example") is None
    assert access.token_hosts["a.example"] == {"t.example"}
    assert "'p'" not in repr(settings)


def test_one_source_for_each(tmp_path: Path) -> None:
    both = [{"host": HOST, "username": "u", "credentials_file": tmp_path / "c.json"}]
    with pytest.raises(ValueError, match="give one of"):
        edge_settings(tmp_path, registries=both)


async def test_what_is_wrong_with_the_file_ends_the_pull_in_words(tmp_path: Path) -> None:
    """As the reason of the job, and not as a pull without credentials."""
    written(tmp_path / "c.json", GOOD, 0o644)
    settings = edge_settings(tmp_path, registries=[{"host": HOST, "credentials_file": tmp_path / "c.json"}])
    with pytest.raises(BlackstartError, match="mode 0644"):
        await registry_access(settings).login(HOST)
