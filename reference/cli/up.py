"""`blackstart up` and `down`: the whole stack, ready to be tried, in the foreground or not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from reference.cli.api import address_file
from reference.cli.enrolled import example_settings, stop_enrolled
from reference.core.errors import InputError, ServiceError
from reference.stack import Stack, folder_errors
from reference.stack.folder import locked, read_object
from reference.support.files import write_durably

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends it: Ctrl-C, being asked to, and the terminal that is closed."""
START_S = 60.0
STOP_S = 30.0
POLL_S = 0.1
DEVICE = "edge-1"
ANOTHER = "edge-2"
"""A device that is made ready to be enrolled by whoever tries it."""
VERSIONS = (
    ("1.0.0", None),
    ("2.0.0", None),
    ("2.0.1-crash", "crash-on-start"),
    ("2.0.2-sick", "never-healthy"),
)


def run_up(data: Path, port: int, as_json: bool, broker: str = "amqtt", database: str | None = None) -> None:
    """Start, print where everything is, and stay until SIGINT, SIGTERM or SIGHUP. Raises InputError for a folder that cannot be used."""
    _check(data)
    asyncio.run(_up(Stack(data.absolute(), service_port=port, broker=broker, database=database), as_json))


def detached(
    data: Path, port: int, as_json: bool, broker: str = "amqtt", database: str | None = None
) -> None:
    """The same behind the terminal: come back when it is ready. Raises InputError, ServiceError with its last words."""
    _check(data)
    with folder_errors(data):
        (data / "logs").mkdir(parents=True, exist_ok=True)
        log = data / "logs" / "up.log"
        output = log.open("ab")
    words = ["--data", str(data), "--port", str(port), "--broker", broker, "--json"]
    said = {**os.environ, "BLACKSTART_DATABASE": database} if database else None  # a password is no argument
    with output:
        process = subprocess.Popen(
            [sys.executable, "-m", "blackstart", "up", *words],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=said,
        )  # fmt: skip
    end = time.monotonic() + START_S
    while (found := read_object(address_file(data))).get("pid") != process.pid:
        if process.poll() is not None or time.monotonic() > end:
            process.terminate()
            last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
            what = last[0].removeprefix("blackstart: ") if last else "it did not start"
            raise (InputError if process.returncode == 2 else ServiceError)(what)
        time.sleep(POLL_S)
    _show({key: str(value) for key, value in found.items()}, as_json, "`blackstart down` stops everything.")


def take_down(data: Path) -> bool:
    """End what `up` runs on the folder, and wait for it; answers whether there was anything. Raises ServiceError."""
    pid = read_object(address_file(data)).get("pid")
    # The lock tells whether one runs: what is left of one that was killed may name a stranger's pid.
    if not isinstance(pid, int) or not _in_use(data):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + STOP_S
    while _in_use(data):
        if time.monotonic() > end:
            raise ServiceError(
                f"it does not end (pid {pid})", where=str(data), todo="Look at logs/ in there."
            )
        time.sleep(POLL_S)
    return True


def _in_use(data: Path) -> bool:
    try:
        lock = os.open(data / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not locked(lock)
    finally:
        os.close(lock)


def _check(data: Path) -> None:
    if data == Path():
        # An unset variable (--data "$DATA") arrives as this, too: folders would be strewn over where one stands.
        raise InputError("a stack wants a folder of its own", where="--data", todo="Name the folder.")


async def _up(stack: Stack, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        # nohup's wish is kept. SIGINT is ignored from the start in any script's background job: no wish.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop.set)
    _say("starting the broker, the registry and the service ...")
    async with stack, stop_enrolled(stack):
        _say("publishing " + ", ".join(version for version, _ in VERSIONS) + " ...")
        for version, defect in VERSIONS:
            await stack.publish(version, defect)
        device = await stack.add_device(DEVICE)
        await stack.start_agent(device)
        found: dict[str, str | int] = {
            "url": stack.url,
            "openapi": f"{stack.url}/api/v1/openapi.json",
            "broker": f"mqtts://127.0.0.1:{stack.broker_port}",
            "mqtt": f"{stack.mqtt_version} ({stack.broker})",
            "registry": stack.registry().host,
            "client": f"http://127.0.0.1:{device.client_port}/healthz",
            "device": DEVICE,
            "settings": str(example_settings(stack, ANOTHER)),
            "token": stack.token(),
            "pid": os.getpid(),
        }
        path = address_file(stack.data)
        with folder_errors(stack.data):
            await asyncio.to_thread(write_durably, path, json.dumps(found).encode())
        try:
            _show({key: str(value) for key, value in found.items()}, as_json, "Ctrl-C stops everything.")
            await stop.wait()
            _say("stopping ...")
        finally:
            path.unlink(missing_ok=True)


def _show(found: dict[str, str], as_json: bool, end: str) -> None:
    if as_json:
        print(json.dumps(found), flush=True)
        return
    for name in ("url", "openapi", "broker", "mqtt", "registry", "client", "settings"):
        print(f"{name:>9}  {found[name]}")
    me, device = sys.argv[0], found["device"]
    print(f"\nAn Administrator's token, for curl:\n\nexport TOKEN={found['token']}\n")
    print(
        f"Install the first version on {device}, then update it:\n\n"
        f"  {me} update {device} --to 1.0.0 --wait\n"
        f"  {me} update {device} --to 2.0.0 --wait\n\n"
        f"{ANOTHER} is made ready for you to enrol, with the settings file above: see README.md. {end}",
        flush=True,
    )


def _say(what: str) -> None:
    with contextlib.suppress(OSError):  # The terminal may be gone: that is what SIGHUP says.
        print(what, file=sys.stderr, flush=True)
