"""`blackstart up`: the whole stack in the foreground, ready to be tried."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path

from reference.cli.api import address_file
from reference.core.errors import InputError
from reference.stack import Stack, folder_errors
from reference.support.files import write_durably

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends it: Ctrl-C, being asked to, and the terminal that is closed."""
DEVICE = "edge-1"
VERSIONS = (
    ("1.0.0", None),
    ("2.0.0", None),
    ("2.0.1-crash", "crash-on-start"),
    ("2.0.2-sick", "never-healthy"),
)


def run_up(data: Path, port: int, as_json: bool, broker: str = "amqtt", database: str | None = None) -> None:
    """Start, print where everything is, and stay until SIGINT, SIGTERM or SIGHUP. Raises InputError for a folder that cannot be used."""
    if data == Path():
        # An unset variable (--data "$DATA") arrives as this, too: folders would be strewn over where one stands.
        raise InputError("a stack wants a folder of its own", where="--data", todo="Name the folder.")
    asyncio.run(_up(Stack(data.absolute(), service_port=port, broker=broker, database=database), as_json))


async def _up(stack: Stack, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        # nohup's wish is kept. SIGINT is ignored from the start in any script's background job: no wish.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop.set)
    _say("starting the broker, the registry and the service ...")
    async with stack:
        _say("publishing " + ", ".join(version for version, _ in VERSIONS) + " ...")
        for version, defect in VERSIONS:
            await stack.publish(version, defect)
        device = await stack.add_device(DEVICE)
        await stack.start_agent(device)
        found = {
            "url": stack.url,
            "openapi": f"{stack.url}/api/v1/openapi.json",
            "broker": f"mqtts://127.0.0.1:{stack.broker_port}",
            "mqtt": f"{stack.mqtt_version} ({stack.broker})",
            "registry": stack.registry().host,
            "client": f"http://127.0.0.1:{device.client_port}/healthz",
            "device": DEVICE,
            "token": stack.token(),
        }
        path = address_file(stack.data)
        with folder_errors(stack.data):
            await asyncio.to_thread(write_durably, path, json.dumps(found).encode())
        try:
            _show(found, as_json)
            await stop.wait()
            _say("stopping ...")
        finally:
            path.unlink(missing_ok=True)


def _show(found: dict[str, str], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found), flush=True)
        return
    for name in ("url", "openapi", "broker", "mqtt", "registry", "client"):
        print(f"{name:>9}  {found[name]}")
    print(f"\nAn Administrator's token, for another terminal:\n\nexport TOKEN={found['token']}\n")
    print(
        f"Install the first version, then update it:\n\n"
        f"  {sys.argv[0]} update {found['device']} --to 1.0.0 --wait\n"
        f"  {sys.argv[0]} update {found['device']} --to 2.0.0 --wait\n\nCtrl-C stops everything.",
        flush=True,
    )


def _say(what: str) -> None:
    with contextlib.suppress(OSError):  # The terminal may be gone: that is what SIGHUP says.
        print(what, file=sys.stderr, flush=True)
