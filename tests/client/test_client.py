"""The workload, as a process: its health, its samples over every kind of end, its defects, its configuration."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from reference.client.images import DEFECTS, write_client_folder
from reference.core.errors import InputError
from reference.oci.build import build_image


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


class Device:
    """A folder with a configuration and a volume, on which versions are run one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.data = folder / "data"
        self.data.mkdir()
        self.config = folder / "config.json"
        self.running: list[subprocess.Popen[bytes]] = []
        self.http = httpx.Client(trust_env=False, timeout=2)
        self.configure()

    def configure(self, **changes: object) -> None:
        source = {"kind": "simulated", "seed": 1}
        self.config.write_text(
            json.dumps({"port": self.port, "interval_ms": 2, "source": source, "cloud": None, **changes})
        )

    def run(
        self, version: str = "1.0", defect: str | None = None, after_ms: int | None = None
    ) -> subprocess.Popen[bytes]:
        image = self.folder / f"{version}-{defect}-{len(self.running)}"
        write_client_folder(image, version, defect, after_ms=after_ms)
        settings = json.loads((image / "blackstart-image.json").read_text())
        mounts = {"/data": str(self.data), "/etc/opc-client/config.json": str(self.config)}
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(image / "main.py")],
            env={**settings["env"], "BLACKSTART_MOUNTS": json.dumps(mounts)},
            stderr=subprocess.PIPE,
        )
        self.running.append(process)
        return process

    def probe(self, path: str = "/healthz") -> httpx.Response | None:
        with contextlib.suppress(httpx.HTTPError):
            return self.http.get(f"http://127.0.0.1:{self.port}{path}")
        return None

    def healthy(self) -> bool:
        answer = self.probe()
        return answer is not None and answer.status_code == 200

    def samples(self) -> list[dict[str, object]]:
        text = "".join(
            p.read_text() for p in (self.data / "samples.log.1", self.data / "samples.log") if p.exists()
        )
        return [json.loads(line) for line in text.splitlines()]

    def check_sequence(self) -> int:
        """No number is missing or there twice; answers the last one."""
        numbers = [sample["seq"] for sample in self.samples()]
        assert numbers == list(range(1, len(numbers) + 1))
        return len(numbers)

    def close(self) -> None:
        """Leave nothing running."""
        for process in self.running:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
        self.http.close()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with contextlib.closing(Device(tmp_path)) as device:
        yield device


def test_it_is_healthy_quickly_and_says_how_it_is(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    begin = time.perf_counter()
    device.run("2.1.0")
    until(device.healthy)
    with capsys.disabled():
        print(f" [healthy after {(time.perf_counter() - begin) * 1000:.0f} ms]", end="")
    answer = device.probe()
    assert answer is not None
    body = answer.json()
    assert (body["status"], body["version"]) == ("ok", "2.1.0")
    assert body["checks"] == {"configuration": True, "source": True, "buffer": True}
    until(lambda: len(device.samples()) > 3)
    assert {"seq", "value", "version", "at"} == set(device.samples()[0])


def test_sigterm_is_honoured_at_once(device: Device) -> None:
    process = device.run()
    until(device.healthy)
    begin = time.monotonic()
    process.terminate()
    assert process.wait(5) == 0
    assert time.monotonic() - begin < 1


def test_no_sample_is_repeated_or_skipped_over_kills_and_updates(device: Device) -> None:
    last = 0
    for round_ in range(5):
        process = device.run(f"1.{round_}")
        until(lambda: len((device.data / "samples.log").read_bytes() if device.healthy() else b"") > 0)
        until(lambda before=last: len(device.samples()) > before + 5)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL if round_ % 2 else signal.SIGTERM)
        process.wait()
        last = device.check_sequence()
    assert {sample["version"] for sample in device.samples()} == {f"1.{n}" for n in range(5)}


@pytest.mark.parametrize(
    "tail",
    [
        b'{"seq":3,"va',
        b"\0" * 5000,
        b"garbage\n",
        b'{"seq":3,"va\n\n',
        b'{"no":1}\n' + b"x" * 20_000,
        b"[1]\n",
    ],
)
def test_a_torn_end_is_repaired(device: Device, tail: bytes) -> None:
    good = b'{"seq":1,"value":1,"version":"0","at":1}\n{"seq":2,"value":1,"version":"0","at":2}\n'
    (device.data / "samples.log").write_bytes(good + tail)
    process = device.run()
    until(lambda: device.healthy() and (device.data / "samples.log").stat().st_size > len(good) + 200)
    process.terminate()
    process.wait()
    assert device.check_sequence() > 3


def test_the_number_goes_on_after_a_rotation(device: Device) -> None:
    (device.data / "samples.log.1").write_bytes(b'{"seq":1,"value":1,"version":"0","at":1}\n')
    process = device.run()
    until(lambda: len(device.samples()) > 3)
    process.kill()
    process.wait()
    device.check_sequence()


def test_a_broker_that_is_not_there_is_unhealthy_until_it_is(device: Device) -> None:
    with socket.socket() as broker:
        broker.bind(("127.0.0.1", 0))
        device.configure(cloud={"host": "127.0.0.1", "port": broker.getsockname()[1]})
        device.run()
        until(lambda: (answer := device.probe()) is not None and answer.json()["seq"] > 3)
        answer = device.probe()
        assert answer is not None
        assert (answer.status_code, answer.json()["checks"]["broker"]) == (503, False)
        broker.listen()
        until(device.healthy)


def test_other_requests_are_answered_as_http_does(device: Device) -> None:
    device.run()
    until(device.healthy)
    answer = device.probe("/nothing")
    assert answer is not None
    assert answer.status_code == 404
    assert device.http.post(f"http://127.0.0.1:{device.port}/healthz").status_code == 405
    with socket.create_connection(("127.0.0.1", device.port)) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    with socket.create_connection(("127.0.0.1", device.port)):
        assert device.healthy(), "a silent connection keeps nobody waiting"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ('{"port": "x"}', "port"),
        ('{"port": 0}', "port"),
        ('{"port": true}', "port"),
        ('{"port": 1, "interval_ms": 0}', "interval_ms"),
        ('{"port": 1, "host": 5}', "host"),
        ('{"port": 1, "source": []}', "source"),
        ('{"port": 1, "source": {"kind": "opcua"}}', "source.kind"),
        ('{"port": 1, "source": {"kind": "simulated", "seed": -1}}', "source.seed"),
        ('{"port": 1, "cloud": {"host": ""}}', "cloud.host"),
        ('{"port": 1, "cloud": {"host": "a", "port": 70000}}', "cloud.port"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_configuration_names_the_field(device: Device, text: str | None, named: str) -> None:
    device.config.unlink() if text is None else device.config.write_text(text)
    process = device.run()
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 2
    assert named.encode() in errors
    assert str(device.config).encode() in errors
    assert b"Traceback" not in errors
    assert errors.count(b"\n") == 1


def test_crash_on_start(device: Device) -> None:
    assert device.run(defect="crash-on-start").wait(10) == 1


def test_never_healthy(device: Device) -> None:
    device.run(defect="never-healthy")
    until(lambda: (answer := device.probe()) is not None and answer.status_code == 503)
    until(lambda: len(device.samples()) > 3)
    assert not device.healthy()


def test_dies_in_window(device: Device) -> None:
    process = device.run(defect="dies-in-window", after_ms=200)
    until(device.healthy)
    assert process.wait(10) == 1


def test_ignores_sigterm(device: Device) -> None:
    process = device.run(defect="ignores-sigterm")
    until(device.healthy)
    process.terminate()
    before = len(device.samples())
    until(lambda: len(device.samples()) > before + 5)
    assert process.poll() is None


def test_slow_start(device: Device) -> None:
    begin = time.monotonic()
    device.run(defect="slow-start", after_ms=200)
    until(device.healthy)
    assert time.monotonic() - begin > 0.2


def test_bad_migration_leaves_a_volume_that_the_version_before_refuses_by_name(device: Device) -> None:
    old = device.run()
    until(lambda: (device.data / "samples.log").exists() and (device.data / "samples.log").stat().st_size > 0)
    old.terminate()
    old.wait(10)
    assert device.run("2.0", "bad-migration").wait(10) == 1
    assert not (device.data / "samples.log").exists() and (device.data / "samples.v2").stat().st_size > 0
    again = device.run()
    _, said = again.communicate(timeout=10)
    assert again.returncode == 1
    assert b"the volume has format '2'; this version reads '1'" in said


def test_a_folder_can_be_built_into_an_image(tmp_path: Path) -> None:
    write_client_folder(tmp_path / "folder", "2.1.0", "never-healthy")
    built = build_image(tmp_path / "folder", tmp_path / "out", version="2.1.0")
    assert built.files == 5
    assert set(DEFECTS) == {
        "crash-on-start",
        "never-healthy",
        "dies-in-window",
        "ignores-sigterm",
        "slow-start",
        "bad-migration",
        "sick-alone",
    }


@pytest.mark.parametrize(
    ("version", "defect", "after_ms"),
    [("1.0", "explodes", None), ("", None, None), ("a/b", None, None), ("1", None, -1)],
)
def test_a_wrong_folder_request_writes_nothing(
    tmp_path: Path, version: str, defect: str | None, after_ms: int | None
) -> None:
    with pytest.raises(InputError):
        write_client_folder(tmp_path / "x", version, defect, after_ms=after_ms)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_a_folder_that_holds_something_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(InputError):
        write_client_folder(tmp_path, "1.0")
