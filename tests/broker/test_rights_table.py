"""Every topic with every certificate, on both brokers: only what is granted is delivered.

Everybody who gets in subscribes to every topic and to every wildcard, and publishes to every topic. What arrived is
collected once for each broker; the tests look at it cell by cell. What is expected is written here from the
protocol's words, not taken from the code that grants it.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pytest

from reference.pki import SERVICE_NAME, CertificateFiles, DevelopmentCA
from tests.broker import raw
from tests.broker.certificates import made, write_revoked
from tests.broker.conftest import KINDS, Stand, serving
from tests.broker.probe import Probe, until

OWNERS = [("acme", "d1"), ("acme", "d2"), ("other", "d1")]
TO_DEVICE = ["commands/update", "commands/cancel", "replies"]
FROM_DEVICE = ["birth", "status"]
NOBODYS = ["commands/other", "commands", "status/more", "other"]
OUTSIDE = ["elsewhere", "tenants", "tenants/acme/clients", "/tenants/acme/clients/d1/birth"]

TOPICS = [
    *(
        f"tenants/{t}/clients/{c}/{leaf}"
        for (t, c), leaf in product(OWNERS, TO_DEVICE + FROM_DEVICE + NOBODYS)
    ),
    *OUTSIDE,
]
WILDCARDS = [
    "#",
    "+",
    "+/#",
    "/#",
    "tenants/#",
    "tenants/+/clients/+/commands/#",
    "tenants/+/clients/+/birth",
    "tenants/+/clients/+/status",
    "tenants/+/clients/d1/#",
    "tenants/acme/clients/+/replies",
    "$SYS/#",
    "$SYS/broker/clients/connected",
    "$share/g/#",
    "$share/g/tenants/acme/clients/d1/commands/#",
    "$share/g/tenants/+/clients/+/birth",
]
DEVICES = {f"{tenant}.{client}": (tenant, client) for tenant, client in OWNERS}
ADMITTED = [*DEVICES, SERVICE_NAME]
BAD = ["none", "expired", "self-signed", "foreign-ca", "revoked", "server"]


def delivered_to(sender: str, topic: str) -> set[str]:
    """Who gets what `sender` publishes on `topic`."""
    for name, (tenant, client) in DEVICES.items():
        mine = f"tenants/{tenant}/clients/{client}/"
        leaf = topic.removeprefix(mine)
        if leaf == topic:
            continue
        if sender == SERVICE_NAME and leaf in TO_DEVICE:
            return {name}
        if sender == name and leaf in FROM_DEVICE:
            return {SERVICE_NAME}
    return set()


@dataclass
class Seen:
    """All that happened at one broker."""

    stand: Stand
    delivered: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """(sender, topic) to who got it."""
    strange: list[tuple[str, str, bytes]] = field(default_factory=list)
    granted: dict[tuple[str, str], bool] = field(default_factory=dict)
    let_in: dict[str, bool] = field(default_factory=dict)


def _gets_in(stand: Stand, name: str, files: CertificateFiles | None) -> bool:
    """Whether a CONNECT under that name is accepted; and then whether anything comes after it."""
    try:
        with raw.open_tls(stand.port, raw.context(stand.device(), files)) as peer:
            peer.sendall(raw.connect(name))
            return peer.recv(4) == raw.ACCEPTED
    except (ConnectionError, ssl.SSLError):
        return False


def _try_the_refused(seen: Seen, folder: Path) -> None:
    stand, ca = seen.stand, seen.stand.ca
    foreign = DevelopmentCA.open_or_create(folder / "foreign").issue_device("acme", "d3")
    revoked = ca.issue_device("acme", "d5")
    assert stand.crl is not None
    assert _gets_in(stand, "acme.d5", revoked), "before it was revoked"
    write_revoked(ca, stand.crl, revoked)
    until(lambda: not _gets_in(stand, "acme.d5", revoked))
    until(lambda: _gets_in(stand, "acme.d4", ca.issue_device("acme", "d4")))  # the broker is back
    tries = {
        "none": ("acme.d3", None),
        "expired": ("acme.d3", made(ca, folder / "expired", "acme.d3", "acme", expired=True)),
        "self-signed": ("acme.d3", made(ca, folder / "self", "acme.d3", "acme", self_signed=True)),
        "foreign-ca": ("acme.d3", foreign),
        "revoked": ("acme.d5", revoked),
        "server": ("broker", ca.issue_server("broker")),
    }
    for case, (name, files) in tries.items():
        seen.let_in[case] = _gets_in(stand, name, files)


def _exchange(seen: Seen) -> None:
    stand = seen.stand
    files = {name: stand.ca.issue_device(*owner) for name, owner in DEVICES.items()}
    files[SERVICE_NAME] = stand.ca.issue_service()
    probes: dict[str, Probe] = {}
    everything = TOPICS + WILDCARDS
    try:
        for name in ADMITTED:
            probes[name] = Probe(stand.port, name, files[name], files[name], stand.version)
            assert not probes[name].connected.get(timeout=5).is_failure
        _settle_rights(probes)
        for name, probe in probes.items():
            granted = [probe.subscribe([one])[0] for one in everything]
            seen.granted |= {(name, one): ok for one, ok in zip(everything, granted, strict=True)}
        for name, probe in probes.items():
            mids = [probe.publish(topic, f"{name} {topic}".encode()) for topic in TOPICS]
            until(lambda probe=probe, mids=mids: all(mid in probe.confirmed for mid in mids))  # type: ignore[misc]
        _flush(probes)
        for receiver, probe in probes.items():
            assert not probe.closed
            _sort(seen, receiver, probe)
    finally:
        for probe in probes.values():
            probe.close()


def _settle_rights(probes: dict[str, Probe]) -> None:
    """A device's rights at Mosquitto follow its first connection by a moment."""
    service = probes[SERVICE_NAME]
    service.subscribe(["tenants/+/clients/+/birth"])
    for name, (tenant, client) in DEVICES.items():
        topic = f"tenants/{tenant}/clients/{client}/birth"

        def heard(name: str = name, topic: str = topic) -> bool:
            probes[name].publish(topic, b"settle")
            return (topic, b"settle") in service.received

        until(heard)


def _flush(probes: dict[str, Probe]) -> None:
    """What was published before has arrived when this has: one more message to each."""
    service = probes[SERVICE_NAME]
    for name, (tenant, client) in DEVICES.items():
        service.publish(f"tenants/{tenant}/clients/{client}/replies", b"flush")
        probes[name].publish(f"tenants/{tenant}/clients/{client}/status", b"flush")
    for name, (tenant, client) in DEVICES.items():
        mine = f"tenants/{tenant}/clients/{client}"
        until(lambda name=name, mine=mine: (f"{mine}/replies", b"flush") in probes[name].received)  # type: ignore[misc]
        until(lambda mine=mine: (f"{mine}/status", b"flush") in service.received)  # type: ignore[misc]


def _sort(seen: Seen, receiver: str, probe: Probe) -> None:
    for topic, payload in probe.received:
        sender, _, said = payload.decode().partition(" ")
        if payload in (b"flush", b"settle"):
            continue
        if said != topic:
            seen.strange.append((receiver, topic, payload))
        seen.delivered.setdefault((sender, topic), set()).add(receiver)


@pytest.fixture(scope="module", params=KINDS)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("table")
    with serving(request.param, folder) as stand:
        seen = Seen(stand)
        _exchange(seen)
        _try_the_refused(seen, folder)
        yield seen


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("sender", ADMITTED)
def test_what_is_published_reaches_whom_it_is_for_and_nobody_else(
    seen: Seen, sender: str, topic: str
) -> None:
    assert seen.delivered.get((sender, topic), set()) == delivered_to(sender, topic)


def test_nothing_else_was_delivered(seen: Seen) -> None:
    assert seen.strange == []
    assert {sender for sender, _ in seen.delivered} == set(ADMITTED)


@pytest.mark.parametrize("case", BAD)
def test_a_certificate_that_is_not_good_does_not_get_in(seen: Seen, case: str) -> None:
    assert seen.let_in[case] is False


@pytest.mark.parametrize("topic_filter", TOPICS + WILDCARDS)
@pytest.mark.parametrize("subject", ADMITTED)
def test_a_subscription_without_the_right_is_refused_where_the_broker_can(
    seen: Seen, subject: str, topic_filter: str
) -> None:
    granted = seen.granted[subject, topic_filter]
    if not seen.stand.can.refuses_subscriptions:
        assert granted, "taken, and nothing is delivered on it: see the other table"
        return
    allowed = {f"tenants/+/clients/+/{leaf}" for leaf in FROM_DEVICE}
    if subject in DEVICES:
        tenant, client = DEVICES[subject]
        allowed = {f"tenants/{tenant}/clients/{client}/{leaf}" for leaf in TO_DEVICE}
    assert granted == (topic_filter in allowed)


@pytest.mark.parametrize(
    ("name", "holder"), [("acme.d9", "acme.d1"), ("other.d1", "acme.d1"), ("acme.d2", "other.d1")]
)
def test_a_client_id_that_is_not_the_certificate_s_takes_nobody_s_place(
    seen: Seen, name: str, holder: str
) -> None:
    """amqtt refuses it; Mosquitto takes the certificate's name instead."""
    stand = seen.stand
    files = {n: stand.ca.issue_device(*DEVICES[n]) for n in DEVICES}
    there = Probe(stand.port, "acme.d2", files["acme.d2"], files["acme.d2"], stand.version)
    service_files = stand.ca.issue_service()
    service = Probe(stand.port, SERVICE_NAME, service_files, service_files, stand.version)
    thief = None
    try:
        assert not there.connected.get(timeout=5).is_failure
        assert not service.connected.get(timeout=5).is_failure
        there.subscribe(["tenants/acme/clients/d2/commands/update"])
        if stand.can.mqtt_version == "5":
            thief = Probe(stand.port, name, files[holder], files[holder], stand.version)
            assert not thief.connected.get(timeout=5).is_failure
            thief.subscribe(["#"])
        else:
            assert not _gets_in(stand, name, files[holder])
        service.publish("tenants/acme/clients/d2/commands/update", b"secret")
        until(lambda: bool(there.received))
        assert not there.closed
        assert thief is None or (not thief.received or holder == "acme.d2")
    finally:
        for probe in (there, service, thief):
            if probe is not None:
                probe.close()


def test_another_part_of_the_service_has_no_rights(seen: Seen) -> None:
    """Only the one name has: a certificate of the same authority and organisation is not enough."""
    stand = seen.stand
    backup, files = stand.ca.issue_service("backup"), stand.ca.issue_device("acme", "d1")
    if stand.can.refuses_subscriptions:
        assert not _gets_in(stand, "backup", backup)
        return
    device = Probe(stand.port, "acme.d1", files, files, stand.version)
    probe = Probe(stand.port, "backup", backup, backup, stand.version)
    service_files = stand.ca.issue_service()
    service = Probe(stand.port, SERVICE_NAME, service_files, service_files, stand.version)
    try:
        for one in (device, probe, service):
            assert not one.connected.get(timeout=5).is_failure
            one.subscribe(["#"])
        mid = probe.publish("tenants/acme/clients/d1/commands/update", b"forged")
        until(lambda: mid in probe.confirmed)
        device.publish("tenants/acme/clients/d1/status", b"x")
        service.publish("tenants/acme/clients/d1/replies", b"x")
        until(lambda: bool(device.received) and bool(service.received))
        assert device.received == [("tenants/acme/clients/d1/replies", b"x")]
        assert probe.received == []
    finally:
        for one in (device, probe, service):
            one.close()
