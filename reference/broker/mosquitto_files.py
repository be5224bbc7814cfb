"""What Mosquitto finds on the disk: its configuration, copies of the certificates, the rights, its memory.

All of it lies in one folder that belongs to the user that Mosquitto runs as, and is named relative to it: Mosquitto
is started inside, and so it needs no right to the folders above, which are the owner's alone (0700).
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from reference.broker.rights import mosquitto_rights
from reference.broker.server import PACKET_BYTES
from reference.core.errors import InputError
from reference.pki import Device, peer_of
from reference.support.files import write_durably

CONFIG, RIGHTS, CRL, LEARNED = "mosquitto.conf", "rights", "crl.pem", "devices"
KEPT, DAMAGED = "mosquitto.db", "Couldn't open database"
"""Sessions and what waits in them, and what Mosquitto says when it cannot read that."""
DEVICES = "devices"
"""In the data folder: names of devices (`tenant.client`), one a line, that have rights before they first connect."""
SESSION_DAYS = 14
"""A session that lasts (MQTT 3.1.1) and whose device has been away this long is dropped."""
AUTOSAVE_S = 60
"""What came since the last save is lost in a crash, and sent again end to end. Saving at every change instead makes
a fan-out more than ten times slower."""
IN_FLIGHT = 1_000
"""Unacknowledged messages to one client at most; clients of MQTT 5 say less."""
QUEUED = 200
"""Messages kept for one client beyond those. More are dropped, and sent again end to end."""

_VERSION = re.compile(r"mosquitto version (\d+)\.(\d+)")
_SEARCHED = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/sbin"))


@dataclass(frozen=True, slots=True)
class TlsServerFiles:
    """PEM files: whose certificates are let in, the broker's own, and, when there is one, the list of revoked ones."""

    ca: Path
    cert: Path
    key: Path
    crl: Path | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """The user that Mosquitto runs as."""

    uid: int
    gid: int


def find_program() -> str:
    """Where Mosquitto is. Raises `InputError` when it is not installed, or too old to take rights by certificate."""
    program = shutil.which("mosquitto", path=_SEARCHED)
    if program is None:
        raise InputError(
            "Mosquitto is not installed",
            where="--kind mosquitto",
            todo="Run `apt-get install mosquitto`, or take `--kind amqtt`.",
        )
    try:
        said = subprocess.run([program, "-h"], capture_output=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"Mosquitto cannot be run: {error}", where=program) from None
    version = _VERSION.search(said.decode("utf-8", "replace"))
    if version is None or int(version[1]) < 2:
        raise InputError("Mosquitto 2.0 or newer is needed", where=program, todo="Install a newer one.")
    return program


def account() -> Account | None:
    """Whom to become: the packaged user, or nobody. None when we are not root, and cannot become anyone."""
    if os.geteuid() != 0:
        return None
    for name in ("mosquitto", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(found.pw_uid, found.pw_gid)
    raise InputError(
        "there is neither a user `mosquitto` nor `nobody`, and Mosquitto is not run as root",
        where="--kind mosquitto",
        todo="Add one, or start the broker as a user of its own.",
    )


def configuration(host: str, port: int, *, crl: bool) -> str:
    """The whole of mosquitto.conf; `man 5 mosquitto.conf` says what each line means."""
    lines = [
        f"listener {port} {host}",
        "cafile ca.crt",
        "certfile server.crt",
        "keyfile server.key",
        *(["crlfile " + CRL] if crl else []),
        "tls_version tlsv1.2",
        "require_certificate true",
        # The certificate's common name is the user, and the user is the client id: without the second of the two,
        # one device's certificate takes over another's session.
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "allow_anonymous false",
        "allow_zero_length_clientid false",
        f"acl_file {RIGHTS}",
        "retain_available false",
        "max_qos 1",
        "max_topic_alias 0",
        "max_keepalive 300",
        f"max_inflight_messages {IN_FLIGHT}",
        f"max_queued_messages {QUEUED}",
        f"max_packet_size {PACKET_BYTES}",
        f"persistent_client_expiration {SESSION_DAYS}d",
        "persistence true",
        "persistence_location ./",
        f"autosave_interval {AUTOSAVE_S}",
        "autosave_on_changes false",
        "set_tcp_nodelay true",
        "sys_interval 0",
        "log_dest stderr",
        "log_timestamp false",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "log_type information",
        "connection_messages true",
    ]
    return "\n".join(lines) + "\n"


class MosquittoFolder:
    """`DATA/mosquitto`, owned by `who`, and the list of devices beside it."""

    def __init__(self, data: Path, who: Account | None) -> None:
        self.path = data / "mosquitto"
        self.asked_for = data / DEVICES
        self._who = who
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._give(self.path)
        except OSError as error:
            raise InputError(f"cannot be used as a folder: {error.strerror}", where=str(data)) from None

    def _give(self, path: Path) -> None:
        if self._who is not None:
            os.chown(path, self._who.uid, self._who.gid, follow_symlinks=False)

    def write(self, name: str, content: bytes) -> None:
        """Replace a file, for Mosquitto to read. Raises `InputError` when the disk refuses."""
        try:
            write_durably(self.path / name, content)
            self._give(self.path / name)
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", where=str(self.path / name)) from None

    def take_over(self) -> None:
        """Give all that is inside to the user: a folder that another user's Mosquitto has left behind."""
        for path in self.path.iterdir():
            self._give(path)

    def set_aside_kept(self) -> bool:
        """Move what Mosquitto kept out of its way (one of it stays); whether there was anything. Raises `InputError`."""
        kept = self.path / KEPT
        if not kept.exists():
            return False
        aside = kept.with_name(f"{KEPT}.damaged")
        try:
            if aside.is_dir():
                shutil.rmtree(aside)
            kept.replace(aside)
        except OSError as error:
            raise InputError(f"cannot be set aside: {error.strerror}", where=str(kept)) from None
        return True

    def copy_certificates(self, files: TlsServerFiles) -> None:
        """Raises `InputError` when one cannot be read."""
        wanted = {"ca.crt": files.ca, "server.crt": files.cert, "server.key": files.key, CRL: files.crl}
        for name, source in wanted.items():
            if source is None:
                continue
            try:
                content = source.read_bytes()
            except OSError as error:
                raise InputError(f"cannot be read: {error.strerror}", where=str(source)) from None
            self.write(name, content)

    def known_devices(self) -> set[Device]:
        """Those that were asked for, and those that have connected once."""
        return _read_names(self.asked_for) | _read_names(self.path / LEARNED)

    def write_rights(self, devices: Iterable[Device]) -> None:
        """One entry for each, and the service's."""
        ordered = sorted(devices, key=lambda device: device.mqtt_id)
        self.write(LEARNED, "".join(f"{device.mqtt_id}\n" for device in ordered).encode())
        self.write(RIGHTS, mosquitto_rights(ordered).encode())


def device_called(name: str) -> Device | None:
    """The device whose certificate has this common name; None for the service and for what is no device's."""
    try:
        peer = peer_of(name, name.partition(".")[0])
    except InputError:
        return None
    return peer if isinstance(peer, Device) else None


def add_device(data: Path, tenant_id: str, client_id: str) -> None:
    """Put a device on the list in the broker's data folder; the broker looks at it several times a second.

    It may be left out: a device also gets its rights when it first connects, a moment later. Raises `InputError`.
    """
    device = peer_of(f"{tenant_id}.{client_id}", tenant_id)
    line = f"{device.mqtt_id}\n".encode()
    path = data / DEVICES
    if device in _read_names(path):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path)) from None


def _read_names(path: Path) -> set[Device]:
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return set()
    named = (device_called(line.strip()) for line in text.splitlines())
    return {device for device in named if device is not None}
