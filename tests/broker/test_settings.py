from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reference.broker import mosquitto_files
from reference.broker.capabilities import Kind
from reference.broker.mosquitto_files import add_device, configuration, device_called, find_program
from reference.broker.rights import mosquitto_rights
from reference.broker.settings import BrokerSettings, read_settings
from reference.core.errors import InputError
from reference.pki import Device

NEEDED = ["--port", "0", "--ca", "a", "--cert", "b", "--key", "c"]


def test_arguments_come_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(
        'kind = "mosquitto"\ndata = "file"\nport = 1\nhost = "file"\nca = "file"\ncert = "file"\nkey = "k"\n'
    )
    environment = {
        "BLACKSTART_BROKER_HOST": "environment",
        "BLACKSTART_BROKER_CA": "environment",
        "OTHER": "x",
    }
    found = read_settings(["--config", str(file), "--ca", "argument"], environment)
    assert (found.kind, found.port, found.host) == (Kind.MOSQUITTO, 1, "environment")
    assert (found.files.ca, found.files.cert) == (Path("argument"), Path("file"))


def test_settings_and_their_arguments_are_the_same() -> None:
    plain = read_settings(NEEDED, {})
    assert (plain.kind, plain.host, plain.data, plain.files.crl) == (Kind.AMQTT, "127.0.0.1", None, None)
    full = replace(plain, kind=Kind.MOSQUITTO, data=Path("d"), files=replace(plain.files, crl=Path("l")))
    for settings in (plain, full):
        assert read_settings(settings.arguments(), {}) == settings
    assert isinstance(full, BrokerSettings)


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (NEEDED[2:], {}, "--port"),
        ([*NEEDED, "--kind", "emqx"], {}, "One of: amqtt, mosquitto"),
        ([*NEEDED, "--kind", "mosquitto"], {}, "--data"),
        ([*NEEDED, "--port", "65536"], {}, "between 0 and 65535"),
        ([*NEEDED, "--port", "x"], {}, "between 0 and 65535"),
        ([*NEEDED, "--log-level", "loud"], {}, "One of: DEBUG"),
        (NEEDED, {"BLACKSTART_BROKER_PROT": "1"}, "'prot' is no setting"),
        ([*NEEDED, "--config", "/nowhere/at/all"], {}, "cannot be read"),
    ],
)
def test_what_cannot_be_is_said_with_its_place(
    arguments: list[str], environment: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_settings(arguments, environment)
    assert said in str(caught.value)


@pytest.mark.parametrize("content", ["port = [1]", "prot = 1", "not toml at all", "host = true"])
def test_a_file_that_is_wrong_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=str(file)):
        read_settings(["--config", str(file), *NEEDED], {})


def test_mosquitto_that_is_absent_is_said_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mosquitto_files, "_SEARCHED", str(tmp_path))
    with pytest.raises(InputError, match="apt-get install mosquitto"):
        find_program()
    old = tmp_path / "mosquitto"
    old.write_text("#!/bin/sh\necho mosquitto version 1.6.12\nexit 3\n")
    old.chmod(0o755)
    with pytest.raises(InputError, match=r"2\.0 or newer"):
        find_program()


def test_both_settings_that_bind_a_certificate_to_a_session_are_there() -> None:
    lines = configuration("127.0.0.1", 8883, crl=True).splitlines()
    for line in (
        "listener 8883 127.0.0.1", "require_certificate true", "use_identity_as_username true",
        "use_username_as_clientid true", "allow_anonymous false", "autosave_on_changes false", "crlfile crl.pem",
    ):  # fmt: skip
        assert line in lines
    assert "crlfile crl.pem" not in configuration("127.0.0.1", 8883, crl=False)


@pytest.mark.parametrize(
    "name",
    ["blackstart-service", "broker", "acme.d1.x", "acme.D1", ".d1", "acme.", "a b.c", "acme.d1\nuser x"],
)
def test_only_a_device_s_name_becomes_an_entry(name: str, tmp_path: Path) -> None:
    assert device_called(name) is None
    with pytest.raises(InputError):
        add_device(tmp_path, *name.partition(".")[::2])


def test_a_device_s_entry_grants_its_own_topics_and_no_wildcard() -> None:
    service, device = mosquitto_rights([Device("acme", "d1")]).split("\n\n")
    assert service.startswith("user blackstart-service\n")
    assert device.splitlines() == [
        "user acme.d1",
        "topic read tenants/acme/clients/d1/commands/cancel",
        "topic read tenants/acme/clients/d1/commands/update",
        "topic read tenants/acme/clients/d1/replies",
        "topic write tenants/acme/clients/d1/birth",
        "topic write tenants/acme/clients/d1/status",
    ]
