"""Two versions at once: one works, one stands by; the lease, the listening socket and the samples pass from one to the other."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reference.client.images import write_client_folder
from tests.client.test_client import Device, until

_NAMES = itertools.count()


class Pair(Device):
    """A device on which a version is started beside another one."""

    names: dict[int, str]

    def beside(self, version: str, defect: str | None = None) -> subprocess.Popen[bytes]:
        """Start it with the right to overlap."""
        image = self.folder / f"{version}-{len(self.running)}"
        write_client_folder(image, version, defect)
        mounts = {"/data": str(self.data), "/etc/opc-client/config.json": str(self.config)}
        name = f"blackstart-standby-test-{os.getpid()}-{next(_NAMES)}"
        environment = {
            "OPC_VERSION": version,
            "BLACKSTART_MOUNTS": json.dumps(mounts),
            "BLACKSTART_STANDBY": name,
        }
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(image / "main.py")], env=environment, stderr=subprocess.PIPE
        )
        self.running.append(process)
        self.names = {**getattr(self, "names", {}), process.pid: name}
        return process

    def standby(self, process: subprocess.Popen[bytes]) -> dict[str, object] | None:
        """What it says where only the updater asks; None: it does not stand by."""
        with contextlib.suppress(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(5)
            asked.connect("\0" + self.names[process.pid])
            asked.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: asked.recv(4096), b""))
            head, _, body = answer.partition(b"\r\n\r\n")
            return {"code": int(head.split()[1]), **json.loads(body)}
        return None

    def ready(self, process: subprocess.Popen[bytes]) -> bool:
        said = self.standby(process)
        return said is not None and said["code"] == 200

    def version(self) -> object:
        answer = self.probe()
        return None if answer is None else answer.json()["version"]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with contextlib.closing(Pair(tmp_path)) as pair:
        yield pair


def both(pair: Pair) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    """1.0 works, 2.0 stands by, ready."""
    old = pair.beside("1.0")
    until(pair.healthy)
    new = pair.beside("2.0")
    until(lambda: pair.ready(new))
    return old, new


def test_who_finds_the_lease_taken_stands_by_and_touches_nothing(pair: Pair) -> None:
    _, new = both(pair)
    said = pair.standby(new)
    assert said is not None and (said["version"], said["standby"]) == ("2.0", True)
    assert said["checks"] == {"configuration": True, "source": True, "buffer": True, "port": True}
    seen = len(pair.samples())
    until(lambda: len(pair.samples()) > seen + 20)
    assert {s["version"] for s in pair.samples()} == {"1.0"} and pair.version() == "1.0"
    assert not list(pair.folder.rglob("__pycache__")), "an image is not to be written into"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_takes_over_when_the_other_one_ends_however_that_ends(pair: Pair, number: signal.Signals) -> None:
    old, new = both(pair)
    old.send_signal(number)
    assert old.wait(10) == (0 if number is signal.SIGTERM else -number)
    until(lambda: pair.version() == "2.0")
    until(lambda: pair.samples()[-1]["version"] == "2.0")
    assert pair.standby(new) is None, "it works, and stands by no more"
    pair.check_sequence()


def test_no_request_is_refused_over_many_handovers(pair: Pair) -> None:
    """Whoever connects while it is handed over waits in the queue that is passed on."""
    old, failed, over = pair.beside("1.0"), [], threading.Event()
    until(pair.healthy)

    def ask() -> None:
        while not over.is_set():
            try:
                with socket.create_connection(("127.0.0.1", pair.port), 5) as asked:
                    asked.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                    if not asked.recv(4096).startswith(b"HTTP/1.1 200"):
                        failed.append("not well")
            except OSError as error:
                failed.append(repr(error))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for number in range(6):
            new = pair.beside(f"2.{number}")
            until(lambda new=new: pair.ready(new))  # type: ignore[misc]
            old.terminate()
            assert old.wait(10) == 0
            old = new
            until(lambda n=number: pair.samples()[-1]["version"] == f"2.{n}")  # type: ignore[misc]
    finally:
        over.set()
        asking.join()
    assert failed == []
    pair.check_sequence()


def test_the_next_sample_is_due_when_the_one_before_would_have_taken_it(pair: Pair) -> None:
    """The clock of samples goes on, over the handover too: so many fall into a time as without one."""
    pair.configure(interval_ms=400)
    old, _ = both(pair)
    seen = len(pair.samples())
    until(lambda: len(pair.samples()) > seen)
    old.terminate()
    old.wait(10)
    until(lambda: pair.samples()[-1]["version"] == "2.0")
    before, first = pair.samples()[-2:]
    assert before["version"] == "1.0"
    assert int(str(first["at"])) - int(str(before["at"])) >= 395, "not at once, as after a start"


def test_what_would_not_be_well_is_never_ready(pair: Pair) -> None:
    pair.beside("1.0")
    until(pair.healthy)
    new = pair.beside("2.0", "never-healthy")
    until(lambda: pair.standby(new) is not None)
    said = pair.standby(new)
    assert said is not None and (said["code"], said["status"]) == (503, "failing")


def test_sick_alone_is_ready_and_not_well_once_it_works(pair: Pair) -> None:
    old = pair.beside("1.0")
    until(pair.healthy)
    new = pair.beside("2.0", "sick-alone")
    until(lambda: pair.ready(new))
    old.terminate()
    old.wait(10)
    until(lambda: pair.version() == "2.0")
    assert not pair.healthy()


def test_a_volume_of_another_format_is_said_before_anything_stops(pair: Pair) -> None:
    pair.beside("1.0")
    until(pair.healthy)
    (pair.data / "format").write_text("9\n")
    assert pair.beside("2.0").wait(10) == 1


def test_one_that_stands_by_can_be_told_to_go(pair: Pair) -> None:
    old, new = both(pair)
    new.terminate()
    assert new.wait(10) == 0
    third = pair.beside("3.0")
    until(lambda: pair.ready(third))
    old.terminate()
    assert old.wait(10) == 0
    until(lambda: pair.version() == "3.0")


def test_a_taken_name_of_its_socket_is_said(pair: Pair) -> None:
    pair.beside("1.0")
    until(pair.healthy)
    with socket.socket(socket.AF_UNIX) as squatter:
        squatter.bind("\0" + "blackstart-standby-taken")
        mounts = {"/data": str(pair.data), "/etc/opc-client/config.json": str(pair.config)}
        image = pair.folder / "taken"
        write_client_folder(image, "2.0")
        environment = {
            "BLACKSTART_MOUNTS": json.dumps(mounts),
            "BLACKSTART_STANDBY": "blackstart-standby-taken",
        }
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(image / "main.py")], env=environment, capture_output=True, timeout=10,
            check=False,
        )  # fmt: skip
    assert (done.returncode, b"blackstart-standby-taken" in done.stderr) == (1, True)


def test_without_the_socket_it_takes_over_all_the_same(pair: Pair) -> None:
    """Somebody has the lease who passes nothing on: it is ready without, and binds its own when it is free."""
    with (pair.data / "lease").open("w") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        new = pair.beside("2.0")
        until(lambda: pair.standby(new) is not None)
        until(lambda: pair.ready(new))
        assert pair.probe() is None
    until(lambda: pair.version() == "2.0")


def test_an_image_says_whether_its_client_overlaps(tmp_path: Path) -> None:
    for name, overlaps in (("a", True), ("b", False)):
        write_client_folder(tmp_path / name, "1.0", overlaps=overlaps)
        labels = json.loads((tmp_path / name / "blackstart-image.json").read_text())["labels"]
        assert labels.get("blackstart.handover") == ("overlap" if overlaps else None)


def test_the_lease_of_one_that_was_killed_says_nothing_of_when(pair: Pair) -> None:
    """What it left there is from long ago: the first sample is taken at once."""
    (pair.data / "lease").write_bytes(f"{1:32}".encode())
    pair.configure(interval_ms=60_000)
    pair.beside("1.0")
    began = time.monotonic()
    until(lambda: (pair.data / "samples.log").exists() and len(pair.samples()) == 1)
    assert time.monotonic() - began < 30
