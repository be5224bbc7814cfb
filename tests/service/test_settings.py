"""Where settings come from, which wins, and that a misspelt one is an error that says what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from reference.core.errors import InputError
from reference.pki.authority import DevelopmentCA
from reference.protocol.envelope import generate_key, write_private_key
from reference.service.auth import DevelopmentIssuer
from reference.service.jwks import JwksKeys
from reference.service.settings import OPTIONS, Settings, read_settings
from reference.support.mqtt import Protocol


@pytest.fixture
def needed(tmp_path: Path) -> dict[str, str]:
    files = DevelopmentCA.open_or_create(tmp_path / "ca").issue_service()
    write_private_key(generate_key(), tmp_path / "signing.pem")
    return {
        "data": str(tmp_path / "data"), "broker-host": "127.0.0.1", "ca": str(files.ca), "cert": str(files.cert),
        "key": str(files.key), "signing-key": str(tmp_path / "signing.pem"),
    }  # fmt: skip


def _flags(given: dict[str, str], *more: str) -> list[str]:
    return [part for name, value in given.items() for part in (f"--{name}", value)] + list(more)


def _wrong(arguments: list[str], environment: dict[str, str] | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        read_settings(arguments, environment or {})
    return caught.value


def test_argument_before_environment_before_file_before_default(
    needed: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "service.toml"
    lines = [f'{name} = "{value}"' for name, value in needed.items() if name not in ("data", "ca")]
    lines += ['data = "beside"', f'ca = "{Path(needed["ca"]).relative_to(tmp_path)}"', "port = 1", "broker-port = 11",
              "health-window-ms = 111", 'audience = "file"', "tls-dev = false"]  # fmt: skip
    config.write_text("\n".join(lines))
    environment = {
        "BLACKSTART_SERVICE_CONFIG": str(config), "BLACKSTART_SERVICE_PORT": "2", "BLACKSTART_SERVICE_BROKER_PORT": "22",
        "BLACKSTART_SERVICE_MQTT_VERSION": "5", "HOME": "/root", "BLACKSTART_URL": "for somebody else",
    }  # fmt: skip
    found = read_settings(["--port", "3"], environment)
    assert (found.port, found.broker_port, found.health.window_ms) == (3, 22, 111)
    assert (found.mqtt_version, found.rules.audience) == (Protocol.V5, "file")
    assert (found.host, found.rules.role_claim, found.health.probe) == ("127.0.0.1", "role", "/healthz")
    assert found.data == tmp_path / "beside", "a path in the file is meant from where the file is"
    assert isinstance(found.keys, DevelopmentIssuer)
    assert found.https is None


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_setting_has_three_names_and_a_good_one_is_known(option: object) -> None:
    from reference.service.settings import Option

    assert isinstance(option, Option)
    assert option.flag == f"--{option.name}"
    assert option.variable == "BLACKSTART_SERVICE_" + option.name.upper().replace("-", "_")


def test_what_is_misspelt_is_an_error_that_says_what_was_meant(
    needed: dict[str, str], tmp_path: Path
) -> None:
    assert "Did you mean --broker-port?" in str(_wrong(_flags(needed, "--brokerport", "5")))
    assert "Did you mean --tls-cert?" in str(_wrong(_flags(needed, "--tls-cerd=x")))
    error = _wrong(_flags(needed), {"BLACKSTART_SERVICE_PROT": "5"})
    assert error.where == "BLACKSTART_SERVICE_PROT"
    assert "BLACKSTART_SERVICE_PORT?" in str(error)
    config = tmp_path / "service.toml"
    config.write_text("broker_port = 5")
    error = _wrong(_flags(needed, "--config", str(config)))
    assert error.where == str(config)
    assert "broker-port?" in str(error)
    config.write_text("[broker]\nport = 5")
    assert "broker is not a setting" in str(_wrong(_flags(needed, "--config", str(config))))


@pytest.mark.parametrize(
    ("text", "why"),
    [("port = '5'", "whole number"), ("port = true", "whole number"), ("port = 5.0", "whole number"),
     ("tls-dev = 1", "true or false"), ("host = 5", "text"), ("port =", "not TOML"), ("host = ''", "empty"),
     ("mqtt-version = '4'", "One of 3.1.1, 5"), ("port = 70000", "65535"), ("\xff", "not TOML")],
)  # fmt: skip
def test_a_file_with_values_that_cannot_be(
    needed: dict[str, str], tmp_path: Path, text: str, why: str
) -> None:
    config = tmp_path / "service.toml"
    config.write_bytes(text.encode("latin-1"))
    error = _wrong(_flags(needed, "--config", str(config)))
    assert str(config) in error.where
    assert why in str(error)


def test_a_file_that_cannot_be_read(needed: dict[str, str], tmp_path: Path) -> None:
    assert "absent.toml" in _wrong(_flags(needed, "--config", str(tmp_path / "absent.toml"))).where
    (tmp_path / "large.toml").write_bytes(b"#" * 2_000_000)
    assert "more than" in str(_wrong(_flags(needed, "--config", str(tmp_path / "large.toml"))))


@pytest.mark.parametrize("name", ["data", "broker-host", "ca", "cert", "key", "signing-key"])
def test_what_is_missing_is_named(needed: dict[str, str], name: str) -> None:
    del needed[name]
    error = _wrong(_flags(needed))
    assert error.where == f"--{name}"
    assert f"BLACKSTART_SERVICE_{name.upper().replace('-', '_')}" in str(error)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "plant.example", "192.0.2.1"])
def test_plain_http_stays_on_this_machine(needed: dict[str, str], tmp_path: Path, host: str) -> None:
    error = _wrong(_flags(needed, "--host", host))
    assert error.where == "--host"
    assert "--tls-cert" in str(error)
    assert "--tls-dev" in str(error)
    for loopback in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        assert read_settings(_flags(needed, "--host", loopback), {}).https is None
    found = read_settings(_flags(needed, "--host", host, "--tls-dev", "--ca-dir", str(tmp_path / "ca")), {})
    assert found.https is not None
    assert found.ca_dir == tmp_path / "ca"
    issued = DevelopmentCA.open_or_create(tmp_path / "ca").issue_server("given")
    files = ["--tls-cert", str(issued.cert), "--tls-key", str(issued.key)]
    assert read_settings(_flags(needed, "--host", host, *files), {}).https is not None


def test_half_of_what_belongs_together(needed: dict[str, str], tmp_path: Path) -> None:
    assert _wrong(_flags(needed, "--tls-cert", needed["cert"])).where == "--tls-key"
    assert _wrong(_flags(needed, "--tls-key", needed["key"])).where == "--tls-cert"
    assert _wrong(_flags(needed, "--tls-dev")).where == "--ca-dir"
    assert _wrong(_flags(needed, "--tls-cert", needed["ca"], "--tls-key", needed["key"])).where
    both = ["--tls-dev", "--ca-dir", str(tmp_path / "ca"), "--tls-cert", needed["cert"]]
    assert _wrong(_flags(needed, *both)).where == "--tls-dev"
    assert _wrong(_flags(needed, "--issuer", "x")).where == "--issuer"
    assert _wrong(_flags(needed, "--jwks-url", "https://id.example/keys")).where == "--issuer"
    assert (
        _wrong(_flags(needed, "--jwks-url", "http://id.example/keys", "--issuer", "x")).where == "--jwks-url"
    )


def test_an_identity_provider_instead_of_the_development_issuer(needed: dict[str, str]) -> None:
    provider = [
        "--jwks-url",
        "https://id.example/keys",
        "--issuer",
        "https://id.example",
        "--jwks-ca",
        needed["ca"],
    ]
    found = read_settings(_flags(needed, *provider, "--role-claim", "realm_access.roles"), {})
    assert isinstance(found.keys, JwksKeys)
    assert found.keys.issuer == "https://id.example"
    assert found.rules.role_claim == "realm_access.roles"
    assert not (found.data / "issuer-key.pem").exists(), "no key is made that nobody asked for"


def test_secrets_are_shown_nowhere(needed: dict[str, str], tmp_path: Path) -> None:
    secret = "postgresql+psycopg://blackstart:hunter2@db/blackstart"
    found: Settings = read_settings(_flags(needed, "--database", secret), {})
    assert found.database == secret
    assert "hunter2" not in repr(found)
    assert "hunter2" not in str(_wrong(_flags(needed, "--database", f"{secret}\0")))
