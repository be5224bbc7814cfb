"""`python -m reference.broker --kind amqtt|mosquitto --port P --ca FILE --cert FILE --key FILE`: the broker as a process.

One line of JSON on standard output once it listens, `{"ready": true, "port": N, "mqttVersion": "5", "kind": ...}`;
its log on standard error. SIGTERM and SIGINT end it, and Mosquitto with it. Exit codes: 0 told to end, 1 Mosquitto
ended or does not run, 2 bad usage or input.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Coroutine

from reference.broker.capabilities import CAPABILITIES
from reference.broker.mosquitto import Address, Mosquitto
from reference.broker.revoked import WATCH_S, Watched, read_revoked
from reference.broker.server import GuardedBroker, bind, server_context
from reference.broker.settings import PROGRAM, BrokerSettings, from_process
from reference.core.errors import BlackstartError, InputError
from reference.support.logging import configure

log = logging.getLogger("reference.broker")


def _say_ready(settings: BrokerSettings, port: int, pid: int | None = None) -> None:
    ready: dict[str, object] = {
        "ready": True,
        "port": port,
        "kind": settings.kind.value,
        "mqttVersion": CAPABILITIES[settings.kind].mqtt_version,
    }
    if pid is not None:
        ready["mosquittoPid"] = pid
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    log.info("listening", extra={"host": settings.host, "port": port, "kind": settings.kind.value})


async def _until(stop: asyncio.Event, work: Coroutine[object, object, None]) -> None:
    """Do `work` until told to stop. Raises what it raises."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    except BaseExceptionGroup as group:  # of the task group that does the work: the first says it
        raise group.exceptions[0] from None
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _serve_amqtt(settings: BrokerSettings, stop: asyncio.Event) -> None:
    files = settings.files
    server_context(files.ca, files.cert, files.key)  # said before anything is bound
    revoked = read_revoked(files.crl, files.ca) if files.crl is not None else frozenset()
    broker = GuardedBroker(bind(settings.host, settings.port), files.ca, files.cert, files.key)
    await broker.revoke(revoked)
    await broker.start()
    _say_ready(settings, broker.port)
    await _until(stop, _follow(settings, broker))
    await broker.close()


async def _follow(settings: BrokerSettings, broker: GuardedBroker) -> None:
    """Look at the list of revoked certificates again and again."""
    crl, ca = settings.files.crl, settings.files.ca
    watched = Watched(crl) if crl is not None else None
    while True:
        await asyncio.sleep(WATCH_S)
        if crl is None or watched is None or not watched.changed():
            continue
        try:
            await broker.revoke(read_revoked(crl, ca))
        except InputError as error:
            log.critical("the list of revoked certificates is not used", extra={"why": str(error)})


async def _serve_mosquitto(settings: BrokerSettings, stop: asyncio.Event) -> None:
    assert settings.data is not None, "checked by the settings"
    mosquitto = Mosquitto(Address(settings.host, settings.port), settings.data, settings.files)
    try:
        await mosquitto.start()
        _say_ready(settings, mosquitto.port, mosquitto.pid)
        await _until(stop, mosquitto.watch())
    finally:
        await mosquitto.stop()


async def _serve(settings: BrokerSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serve = {"amqtt": _serve_amqtt, "mosquitto": _serve_mosquitto}[settings.kind.value]
    await serve(settings, stop)
    log.info("ended")


def main(argv: list[str] | None = None, program: str = PROGRAM) -> int:
    """Run until told to end; the exit code."""
    try:
        settings = from_process(argv, program)
        configure("broker", settings.log_level)
        # It warns of each refusal that we have logged with its reason.
        logging.getLogger("amqtt").setLevel(logging.ERROR)
        asyncio.run(_serve(settings))
    except InputError as error:
        log.log(logging.ERROR, str(error), extra={"reason": error.reason})
        return 2
    except BlackstartError as error:
        log.log(logging.ERROR, str(error), extra={"reason": error.reason})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
