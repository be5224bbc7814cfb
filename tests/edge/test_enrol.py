"""Enrolling and renewing on the device: cut at every write, refused, tried again; always the old or the new, whole."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from reference.core.errors import Reason
from reference.edge import enrol, enrolment
from reference.edge.enrolment import Broker, Enrolled, EnrolmentError, Service
from reference.edge.identity import Identities, load_certificate, load_key
from reference.edge.renewal import Renewal
from reference.edge.settings import EdgeSettings, load_settings
from reference.pki import DevelopmentCA, command_signing_key
from reference.pki.proof import CertificateRefusedError, check_proof
from reference.pki.requests import key_id, read_request
from reference.support.mqtt import LinkError, TlsFiles

TOKEN = "bsr.0123456789abcdef.secret"


@dataclass
class Desk:
    """The service as a device sees it: one certificate for each key, kept on the disk, one key for each token."""

    ca: DevelopmentCA
    folder: Path
    client: str = "press-1"
    now_s: float | None = None
    refuses: list[EnrolmentError] = field(default_factory=list)
    asked: int = 0

    def trade(self, csr: str, right: str) -> Enrolled:
        self.asked += 1
        if self.refuses:
            raise self.refuses.pop(0)
        request = read_request(csr)
        key, bound = key_id(request), self.folder / f"right-{right}"
        if bound.exists() and bound.read_text() != key:
            raise EnrolmentError("used", reason=Reason.REGISTRATION_TOKEN_USED)
        bound.write_text(key)
        kept = self.folder / key
        if not kept.exists():
            cert = self.ca.issue("acme", self.client, request)
            kept.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        ca = self.ca.certificate.read_text()
        broker = Broker(host="127.0.0.1", port=8883, mqtt_version="3.1.1", ca=ca)
        command = command_signing_key(self.folder / "signing").public.read_text()
        return Enrolled(
            tenant_id="acme", client_id=self.client, certificate=kept.read_text(), authority=ca, broker=broker,
            command_keys=[command],
        )  # fmt: skip

    def enrol(self, token: str, csr: str) -> Enrolled:
        return self.trade(csr, token)

    def renew(self, proof: str) -> Enrolled:
        now_s = self.now_s
        assert now_s is not None
        try:
            asked = check_proof(proof, self.ca.authority, now_s)
        except CertificateRefusedError as error:
            refusal = EnrolmentError(error.what, reason=error.reason)
            refusal.service_s = now_s
            raise refusal from None
        return self.trade(asked.csr, f"{asked.serial:x}")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    folder = tmp_path / "service"
    folder.mkdir()
    made = Desk(DevelopmentCA.open_or_create(tmp_path / "ca"), folder)
    monkeypatch.setattr(Service, "enrol", lambda _self, token, csr: made.enrol(token, csr))
    monkeypatch.setattr(Service, "renew", lambda _self, proof: made.renew(proof))
    return made


def command(state: Path, *more: str, token: str = TOKEN) -> list[str]:
    return ["--url", "http://127.0.0.1:1", "--token", token, "--state", str(state), *more]


def enrolled(state: Path) -> EdgeSettings:
    """The device's configuration, when all that it names is whole."""
    settings = load_settings(state / "edge.json")
    cert, key = load_certificate(settings.broker.cert), load_key(settings.broker.key)
    assert cert.public_key() == key.public_key()
    assert stat.S_IMODE(settings.broker.key.stat().st_mode) == 0o600
    TlsFiles(settings.broker.ca, settings.broker.cert, settings.broker.key).context()
    assert settings.command_keys[0].exists()
    return settings


def test_a_device_is_enrolled(tmp_path: Path, desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    state, own = tmp_path / "device", tmp_path / "own.json"
    own.write_text(json.dumps({"client": {"port": 4840}, "registries": [{"host": "r.example"}]}))
    assert enrol.main(command(state, "--settings", str(own), "--run-dir", str(tmp_path / "run"))) == 0
    assert json.loads(capsys.readouterr().out)["clientId"] == "press-1"
    settings = enrolled(state)
    assert (settings.tenant_id, settings.client_id, settings.client.port) == ("acme", "press-1", 4840)
    assert settings.renewal is not None
    assert settings.renewal.url == "http://127.0.0.1:1"
    assert not (state / "pending.key").exists()
    assert Renewal.of(settings, Link()) is not None


def test_an_enrolled_device_is_left_alone_without_force(tmp_path: Path, desk: Desk) -> None:
    state = tmp_path / "device"
    assert enrol.main(command(state)) == 0
    before = load_certificate(state / "identity" / "cert.pem")
    assert enrol.main(command(state, token="bsr.1.2")) == 2
    assert load_certificate(state / "identity" / "cert.pem") == before
    assert enrol.main(command(state, "--force", token="bsr.1.2")) == 0
    after = load_certificate(enrolled(state).broker.cert)
    assert after.public_key() != before.public_key()
    assert [path.name for path in (state / "identities").iterdir()] == [f"{after.serial_number:x}"]


def test_force_keeps_what_was_set_up_by_hand(tmp_path: Path, desk: Desk) -> None:
    state = tmp_path / "device"
    assert enrol.main(command(state)) == 0
    config = state / "edge.json"
    body = json.loads(config.read_text()) | {"client": {"port": 4840}}
    body["broker"]["session_expiry_s"] = 7
    config.write_text(json.dumps(body))
    assert enrol.main(command(state, "--force", token="bsr.1.2")) == 0
    settings = enrolled(state)
    assert (settings.client.port, settings.broker.session_expiry_s) == (4840, 7)


def test_a_forced_enrolment_that_is_refused_changes_nothing(tmp_path: Path, desk: Desk) -> None:
    state = tmp_path / "device"
    assert enrol.main(command(state)) == 0
    before = (state / "edge.json").read_bytes()
    desk.refuses = [EnrolmentError("no", reason=Reason.REGISTRATION_TOKEN_INVALID)]
    assert enrol.main(command(state, "--force", token="bsr.1.2")) == 1
    assert (state / "edge.json").read_bytes() == before
    enrolled(state)


def test_a_pending_key_that_was_revoked_is_replaced(tmp_path: Path, desk: Desk) -> None:
    desk.refuses = [EnrolmentError("away")]
    state = tmp_path / "device"
    assert enrol.main(command(state)) == 1
    first = load_key(state / "pending.key")
    desk.refuses = [EnrolmentError("revoked", reason=Reason.CERTIFICATE_REFUSED)]
    assert enrol.main(command(state)) == 0
    assert load_key(enrolled(state).broker.key).public_key() != first.public_key()


def test_an_answer_for_another_key_is_not_kept(
    tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    from reference.pki.requests import make_request

    other = make_request(ec.generate_private_key(ec.SECP256R1())).decode()
    monkeypatch.setattr(Service, "enrol", lambda _self, token, _csr: desk.enrol(token, other))
    assert enrol.main(command(tmp_path / "device")) == 1
    assert not (tmp_path / "device" / "edge.json").exists()
    assert not (tmp_path / "device" / "identity").exists()


@pytest.mark.parametrize(
    "bad",
    [
        ["--url", "http://192.0.2.1", "--token", "t"],
        ["--url", "ftp://127.0.0.1", "--token", "t"],
        ["--url", "https://127.0.0.1:x", "--token", "t"],
        ["--url", "https://", "--token", "t"],
        ["--url", "https://localhost", "--token", ""],
        ["--url", "https://localhost", "--token", "t", "--ca", "/nonexistent"],
        ["--url", "https://localhost", "--token", "t", "--ca-fingerprint", "abc"],
        ["--url", "https://localhost", "--token", "t", "--settings", "/nonexistent"],
    ],
)
def test_bad_arguments_are_named(
    tmp_path: Path, desk: Desk, bad: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert enrol.main([*bad, "--state", str(tmp_path / "device")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert desk.asked == 0


def test_bad_settings_are_found_before_the_token_is_used(tmp_path: Path, desk: Desk) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"client": {"port": "x"}}))
    assert enrol.main(command(tmp_path / "device", "--settings", str(own))) == 2
    assert desk.asked == 0


def test_an_authority_with_another_fingerprint_is_not_trusted(
    tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = desk.ca.certificate.read_text()
    answer = json.dumps({"authority": pem}).encode()
    monkeypatch.setattr(enrolment, "exchange", lambda *_args, **_more: answer)
    good = x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256()).hex()
    colons = ":".join(good[i : i + 2].upper() for i in range(0, 64, 2))
    assert enrol.main(command(tmp_path / "a", "--ca-fingerprint", "0" * 64)) == 1
    assert desk.asked == 0
    for number, said in enumerate((good, colons)):
        state = tmp_path / f"good{number}"
        assert enrol.main(command(state, "--ca-fingerprint", said, token=f"bsr.{number}.x")) == 0
        assert (state / "service-ca.pem").read_text() == pem


# ---- cuts

CALLS = ("rename", "replace", "unlink", "mkdir", "symlink", "rmdir", "link")
"""What changes names. What is written under a name that is not final is of no account to anybody."""


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Do it in a child that is gone before its `number`-th call that changes a name; whether it lived to the end."""
    child = os.fork()
    if child == 0:
        counted = 0
        for name in CALLS:
            real = getattr(os, name)

            def cut(*args: Any, real: Any = real, **more: Any) -> Any:
                nonlocal counted
                counted += 1
                if counted == number:
                    os._exit(9)
                return real(*args, **more)

            setattr(os, name, cut)
        code = 1
        with suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9), "the child failed otherwise"
    return code == 0


def test_cut_at_any_write_the_same_token_still_enrols(tmp_path: Path, desk: Desk) -> None:
    cuts = 0
    for number in range(1, 400):
        state = tmp_path / f"device-{number}"
        args = command(state, token=f"bsr.{number}.x")

        def work(args: list[str] = args) -> None:
            if enrol.main(args) != 0:
                raise SystemExit

        lived = killed_at(number, work)
        if (state / "edge.json").exists():
            enrolled(state)
            assert lived or enrol.main(args) == 2
        else:
            assert enrol.main(args) == 0
            enrolled(state)
            assert not (state / "pending.key").exists()
        if lived:
            break
        cuts += 1
    else:
        pytest.fail("it never came to its end")
    assert cuts > 10


def test_cut_at_any_write_a_forced_enrolment_ends_too(tmp_path: Path, desk: Desk) -> None:
    for number in range(1, 400):
        state = tmp_path / f"device-{number}"
        assert enrol.main(command(state, token=f"bsr.{number}.a")) == 0
        args = command(state, "--force", token=f"bsr.{number}.b")

        def work(args: list[str] = args) -> None:
            if enrol.main(args) != 0:
                raise SystemExit

        lived = killed_at(number, work)
        if (state / "edge.json").exists():
            enrolled(state)
        if not lived and not (state / "edge.json").exists():
            assert enrol.main(args) == 0
        enrolled(state)
        if lived:
            return
    pytest.fail("it never came to its end")


# ---- renewal


@dataclass
class Link:
    """Connects with what it is given, or refuses."""

    refuses: bool = False
    taken: list[Path] = field(default_factory=list)

    async def renew(self, tls: TlsFiles) -> None:
        tls.context()
        if self.refuses:
            raise LinkError("the broker said no")
        self.taken.append(tls.cert.resolve())


@dataclass
class Clock:
    now_s: float

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def device(tmp_path: Path, desk: Desk) -> Path:
    state = tmp_path / "device"
    assert enrol.main(command(state)) == 0
    return state


def renewal_of(device: Path, desk: Desk, link: Link, life: float) -> tuple[Renewal, Clock, x509.Certificate]:
    """`life`: how much of the certificate's life has passed."""
    cert = load_certificate(device / "identity" / "cert.pem")
    begins, ends = cert.not_valid_before_utc, cert.not_valid_after_utc
    clock = Clock((begins + life * (ends - begins)).timestamp())
    desk.now_s = clock.now_s
    return Renewal(Identities(device), Service("http://127.0.0.1:1"), link, clock, seed=1), clock, cert


async def test_a_certificate_is_renewed_in_time_and_not_before(device: Path, desk: Desk) -> None:
    link = Link()
    renewal, clock, cert = renewal_of(device, desk, link, 0.6)
    assert await renewal.look() is False
    clock.now_s = desk.now_s = (cert.not_valid_after_utc - timedelta(days=29)).timestamp()
    assert await renewal.look() is True
    new = load_certificate(enrolled(device).broker.cert)
    assert new.public_key() != cert.public_key()
    assert link.taken == [(device / "identities" / f"{new.serial_number:x}" / "cert.pem").resolve()]
    assert [path.name for path in (device / "identities").iterdir()] == [f"{new.serial_number:x}"]


async def test_a_broker_that_refuses_the_new_one_leaves_the_old_in_use(device: Path, desk: Desk) -> None:
    link = Link(refuses=True)
    renewal, _, cert = renewal_of(device, desk, link, 0.7)
    for _ in range(2):
        with pytest.raises(LinkError):
            await renewal.look()
        assert load_certificate(enrolled(device).broker.cert) == cert
    asked, link.refuses = desk.asked, False
    assert await renewal.look() is True
    assert desk.asked == asked, "the certificate was there already"


async def test_a_certificate_that_came_in_time_is_used_when_the_old_has_ended(
    device: Path, desk: Desk
) -> None:
    link = Link(refuses=True)
    renewal, clock, cert = renewal_of(device, desk, link, 0.9)
    with pytest.raises(LinkError):
        await renewal.look()
    clock.now_s = desk.now_s = cert.not_valid_after_utc.timestamp() + 60
    link.refuses = False
    again = Renewal(Identities(device), Service("http://127.0.0.1:1"), link, clock)
    assert await again.look() is True
    assert load_certificate(enrolled(device).broker.cert) != cert


async def test_a_wrong_clock_is_set_right_by_the_service_s(device: Path, desk: Desk) -> None:
    renewal, clock, cert = renewal_of(device, desk, Link(), 0.8)
    clock.now_s += 86_400
    assert await renewal.look() is True
    assert load_certificate(enrolled(device).broker.cert) != cert


async def test_a_service_that_is_away_leaves_all_as_it_was(device: Path, desk: Desk) -> None:
    renewal, _, cert = renewal_of(device, desk, Link(), 0.8)
    desk.refuses = [EnrolmentError("away")]
    with pytest.raises(EnrolmentError):
        await renewal.look()
    assert load_certificate(enrolled(device).broker.cert) == cert
    pending = load_key(device / "pending.key").public_key()
    assert await renewal.look() is True
    assert load_certificate(enrolled(device).broker.cert).public_key() == pending


def test_cut_at_any_write_a_renewal_leaves_a_whole_identity(device: Path, desk: Desk) -> None:
    import asyncio

    for number in range(1, 400):
        renewal, _, cert = renewal_of(device, desk, Link(), 0.8)

        def work(renewal: Renewal = renewal) -> None:
            asyncio.run(renewal.look())

        lived = killed_at(number, work)
        enrolled(device)
        now = load_certificate(device / "identity" / "cert.pem")
        if lived:
            assert now != cert
            return
        if now == cert:
            assert asyncio.run(renewal.look()) is True
            enrolled(device)
    pytest.fail("it never came to its end")
