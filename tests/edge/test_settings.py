"""The device's configuration: whatever is wrong in it is named, with the file and the field, and nothing starts."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from reference.core.errors import InputError
from reference.edge import main as edge
from reference.edge.settings import load_settings
from reference.support import logging as json_logging
from tests.edge.bench import edge_settings

ROOT = Path(__file__).parents[2]
GOOD: dict[str, object] = {
    "tenant_id": "acme",
    "client_id": "edge-1",
    "state_dir": "state",
    "run_dir": "run",
    "broker": {"host": "127.0.0.1", "port": 8883, "ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"},
    "registries": [{"host": "localhost:5000", "plain_http": True, "username": "u", "password": "p"}],
    "client": {"port": 4840, "mounts": {"/data": "/var/lib/x"}, "environment": {"A": "b"}},
    "command_keys": ["command.pem"],
    "limits": {"boots": 5},
}
GONE = object()
NUL = "a\0b"


def changed(place: str, value: object) -> dict[str, object]:
    """The good configuration with one field changed, or gone."""
    body = copy.deepcopy(GOOD)
    at: object = body
    *path, last = place.split(".")
    for step in path:
        at = at[int(step)] if isinstance(at, list) else at[step]  # type: ignore[index]
    assert isinstance(at, dict)
    if value is GONE:
        del at[last]
    else:
        at[last] = value
    return body


WRONG = [
    *[(name, GONE) for name in ("tenant_id", "client_id", "state_dir", "run_dir", "broker", "registries", "client")],
    *[(f"broker.{name}", GONE) for name in ("host", "port", "ca", "cert", "key")],
    ("command_keys", GONE), ("client.port", GONE), ("registries.0.host", GONE),
    ("tenant_id", "a.b"), ("tenant_id", ""), ("tenant_id", 7), ("tenant_id", "a/b"),
    ("client_id", "a b"), ("client_id", "x" * 65), ("client_id", "edge/+"),
    ("state_dir", 7), ("state_dir", NUL), ("run_dir", NUL), ("run_dir", None),
    ("broker.host", ""), ("broker.host", "mqtt://x"), ("broker.port", 0), ("broker.port", 65536),
    ("broker.port", "8883"), ("broker.port", True), ("broker.ca", NUL), ("broker.tls", "x"), ("broker", []),
    ("registries", {}), ("registries", ["localhost"]), ("registries.0.host", ""),
    ("registries.0.plain_http", "yes"), ("registries.0.password", 5),
    ("client.port", -1), ("client.port", 1.5), ("client.mounts", ["/data"]), ("client.mounts", {"/data": NUL}),
    ("client.environment", {"A": 1}), ("client.environment", {"A=B": "1"}), ("client.stop_grace_ms", -1),
    ("client.stop_grace_ms", 10**9), ("client.address", ""),
    ("runtime", "podman"), ("engine", {"socket": "tcp://1.2.3.4"}), ("engine", {"socket": "unix://rel"}),
    ("engine", {"restart": []}), ("engine", {"restart": [""]}), ("engine", {"timeout_ms": 1}), ("engine", {"sockets": "x"}),
    ("client.network", "a b"), ("client.publish", {"8080": "http"}), ("client.publish", {"web": "80"}),
    ("client.hostname", "a.b"),
    ("client.devices", ["ttyS0"]), ("client.capabilities", ["net_raw"]), ("client.memory_bytes", -1),
    ("command_keys", []), ("command_keys", "command.pem"), ("clock_trusted", "no"), ("clock_trusted", 1),
    ("pull_watchdog_ms", 0), ("limits", {"boot": 1}), ("limits", {"boots": -1}), ("limits", {"boots": "many"}),
    ("seed", "x"), ("registry_ca", 1), ("tenantId", "acme"), ("status_port", -1), ("status_port", 65536),
    ("status_port", "any"), ("heartbeat_ms", 10), ("ballast_bytes", -1), ("disk_margin_bytes", "1G"),
    ("registries.0.credentials_file", "c.json"), ("registries.0.credential_helper", []),
    ("registries.0.credential_helper", "docker-credential-x"), ("registries.0.credential_helper", [""]),
    ("registries.0.token_hosts", ["https://x/"]), ("registries.0.credential_helper_timeout_ms", 1),
    ("state_dir", ""), ("lock_file", ""), ("broker.host", NUL), ("client.address", NUL), ("registries.0.host", NUL),
    ("pull_watchdog_ms", 10**400), ("limits.boots", 10**400), ("limits.watch_ms", 2**63),
]  # fmt: skip


def test_the_good_one_is_good(tmp_path: Path) -> None:
    path = tmp_path / "edge.json"
    path.write_text(json.dumps(GOOD))
    found = load_settings(path)
    assert found.state_dir == Path("state")
    assert found.registries[0].plain_http
    assert found.limits == {"boots": 5}
    assert found.clock_trusted


@pytest.mark.parametrize(
    ("client", "word"),
    [
        ({"publish": {"8080": "80"}}, "nothing to publish"),
        ({"hostname": "plc"}, "no host name of its own"),
        ({"aliases": ["opc"]}, "knows no aliases"),
        ({"aliases": ["opc"], "network": "bridge"}, "knows no aliases"),
    ],
)
def test_what_a_network_does_not_have_is_refused(
    tmp_path: Path, client: dict[str, object], word: str
) -> None:
    path = tmp_path / "edge.json"
    path.write_text(json.dumps(changed("client", {"port": 1, **client})))
    with pytest.raises(InputError) as caught:
        load_settings(path)
    assert word in str(caught.value)


def test_under_docker_a_client_may_have_a_network_of_its_own(tmp_path: Path) -> None:
    client = {
        "port": 1,
        "network": "plant",
        "publish": {"8080": "[::1]:80", "53/udp": "53"},
        "aliases": ["opc.plant"],
    }
    path = tmp_path / "edge.json"
    path.write_text(json.dumps({**changed("client", client), "runtime": "docker"}))
    found = load_settings(path, {"BLACKSTART_EDGE_ENGINE__SOCKET": "unix:///x/docker.sock"})
    assert (found.runtime, found.engine.socket) == ("docker", "unix:///x/docker.sock")


@pytest.mark.parametrize(("place", "value"), WRONG, ids=lambda v: "gone" if v is GONE else repr(v)[:30])
def test_a_wrong_field_is_named(tmp_path: Path, place: str, value: object) -> None:
    path = tmp_path / "edge.json"
    path.write_text(json.dumps(changed(place, value)))
    with pytest.raises(InputError) as caught:
        load_settings(path)
    said = str(caught.value)
    named = "registries.0" if place == "registries.0.credentials_file" else place  # it is one too many there
    assert said.startswith(f"{path}: {named}"), said
    assert "\n" not in said


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"seed": NaN}',
        b'{"a": "\\ud800"}',
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "edge.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_settings(path)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path, Path("a\0b")):
        with pytest.raises(InputError, match="cannot be read"):
            load_settings(path)


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        ("tenantId", "tenant_id"),
        ("heartbeat", "heartbeat_ms"),
        ("broker.hots", "host"),
        ("client.mount", "mounts"),
        ("registries.0.credential_file", "credentials_file"),
    ],
)
def test_a_name_that_is_not_known_brings_the_one_that_was_meant(
    tmp_path: Path, place: str, meant: str
) -> None:
    path = tmp_path / "edge.json"
    path.write_text(json.dumps(changed(place, "x")))
    with pytest.raises(InputError) as caught:
        load_settings(path)
    assert str(caught.value) == f"{path}: {place}: is not known here; did you mean {meant}?"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "edge.json"
    path.write_text(json.dumps(GOOD))
    return path


def test_the_environment_goes_before_the_file_and_the_command_line_before_both(good: Path) -> None:
    environment = {
        "BLACKSTART_EDGE_TENANT_ID": "7",
        "BLACKSTART_EDGE_STATE_DIR": "/elsewhere",
        "BLACKSTART_EDGE_BROKER__PORT": "1",
        "BLACKSTART_EDGE_CLOCK_TRUSTED": "false",
        "BLACKSTART_EDGE_STATUS_PORT": "2",
        "BLACKSTART_EDGE_COMMAND_KEYS": '["a.pem", "b.pem"]',
        "BLACKSTART_EDGE_REGISTRY_CA": "true",
        "BLACKSTART_EDGE_CLIENT__ENVIRONMENT": '{"C": "d"}',
        "BLACKSTART_OTHER": "x",
    }
    found = load_settings(good, environment)
    assert (found.tenant_id, found.state_dir, found.broker.port) == ("7", Path("/elsewhere"), 1)
    assert (found.clock_trusted, found.status_port) == (False, 2)
    assert found.command_keys == [Path("a.pem"), Path("b.pem")]
    assert found.registry_ca == Path("true")
    assert found.client.environment == {"C": "d"}
    assert found.broker.host == "127.0.0.1"
    found = load_settings(good, environment, Path("/data"), 0)
    assert (found.state_dir, found.run_dir, found.status_port) == (Path("/data/state"), Path("run"), 0)


def test_data_names_the_run_folder_where_nothing_else_does(tmp_path: Path) -> None:
    path = tmp_path / "edge.json"
    path.write_text(
        json.dumps({key: value for key, value in GOOD.items() if key not in ("run_dir", "state_dir")})
    )
    assert load_settings(path, data=Path("/data")).run_dir == Path("/data/run")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SEED", "x", "seed: "),
        ("BROKER__PORT", "many", "broker.port: "),
        ("BROKER__PORT", "[" * 100_000, "broker.port: "),
        ("COMMAND_KEYS", "[7]", "command_keys.0: "),
        ("TENANTID", "x", "Did you mean BLACKSTART_EDGE_TENANT_ID?"),
        ("BROKER__HOTS", "x", "Did you mean BLACKSTART_EDGE_BROKER__HOST?"),
        ("REGISTRIES__0__HOST", "x", "no part 'registries'"),
        ("", "x", "is not a setting"),
    ],
)
def test_a_wrong_variable_is_named(good: Path, variable: str, value: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_settings(good, {f"BLACKSTART_EDGE_{variable}": value})
    assert str(caught.value).startswith(f"BLACKSTART_EDGE_{variable}: ")
    assert said in str(caught.value)


def test_passwords_are_not_repeated(good: Path) -> None:
    body = changed("registries.0.password", ["s3cret"])
    good.write_text(json.dumps(body))
    with pytest.raises(InputError) as caught:
        load_settings(good)
    assert "s3cret" not in str(caught.value)
    good.write_text(json.dumps(changed("registries.0.password", "s3cret")))
    assert "s3cret" not in repr(load_settings(good))


def run(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reference.edge.main", "--config", str(path)],
        cwd=ROOT, text=True, capture_output=True, timeout=20,
    )  # fmt: skip


def test_the_process_ends_with_2_and_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "edge.json"
    path.write_text(json.dumps(changed("broker.port", 0)))
    done = run(path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"blackstart edge: {path}: broker.port: ")
    assert len(done.stderr.splitlines()) == 1


def test_so_it_does_when_what_the_file_names_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from reference.protocol.envelope import generate_key, write_public_key

    monkeypatch.setattr(json_logging, "configure", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    path, key = tmp_path / "edge.json", tmp_path / "command.pem"

    def refused(body: dict[str, object]) -> str:
        path.write_text(json.dumps(body))
        assert edge.main(["--config", str(path)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        return said.err

    assert "command.pem: cannot be read" in refused(GOOD)
    key.write_text("rubbish")
    assert "command.pem: not an Ed25519 public key" in refused(GOOD)
    key.unlink()
    write_public_key(generate_key(), key)
    (tmp_path / "file").write_text("")
    for field in ("state_dir", "run_dir"):
        assert f"{field}: file" in refused(changed(field, "file/x"))
    assert "TLS files" in refused(GOOD)


@pytest.mark.parametrize("name", ["poll_ms", "watch_ms"])
def test_a_loop_without_a_pause_cannot_be_ordered(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        edge_settings(tmp_path, limits={name: 0})


@pytest.mark.parametrize("run_dir", ["/", "/var/lib", "/var/lib/edge", "/var/lib/edge/../edge"])
def test_what_a_boot_forgets_does_not_hold_the_state(tmp_path: Path, run_dir: str) -> None:
    path = tmp_path / "edge.json"
    path.write_text(json.dumps({**GOOD, "state_dir": "/var/lib/edge", "run_dir": run_dir}))
    with pytest.raises(InputError, match="state_dir lies in run_dir"):
        load_settings(path)
