"""`python -m reference.broker --port P --ca FILE --cert FILE --key FILE`: the broker as a process.

One line of JSON on standard output once it listens, `{"ready": true, "port": N}`; its log on standard error.
SIGTERM and SIGINT end it. Exit codes: 0 told to end, 2 bad usage or input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from pathlib import Path

from reference.broker.server import GuardedBroker, bind, server_context
from reference.core.errors import BlackstartError
from reference.support.logging import configure

log = logging.getLogger("reference.broker")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m reference.broker", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument("--port", type=int, required=True, help="port to listen on; 0 picks a free one")
    parser.add_argument("--ca", type=Path, required=True, help="certificate of the authority, PEM")
    parser.add_argument("--cert", type=Path, required=True, help="the broker's certificate, PEM")
    parser.add_argument("--key", type=Path, required=True, help="the broker's private key, PEM")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser.parse_args(argv)


async def _serve(args: argparse.Namespace) -> None:
    server_context(args.ca, args.cert, args.key)  # said before anything is bound
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    broker = GuardedBroker(bind(args.host, args.port), args.ca, args.cert, args.key)
    await broker.start()
    sys.stdout.write(json.dumps({"ready": True, "port": broker.port}) + "\n")
    sys.stdout.flush()
    log.info("listening", extra={"host": args.host, "port": broker.port})
    await stop.wait()
    await broker.close()
    log.info("ended")


def main(argv: list[str] | None = None) -> int:
    """Run until told to end; the exit code."""
    args = _arguments(argv)
    configure("broker", args.log_level)
    logging.getLogger("amqtt").setLevel(
        logging.ERROR
    )  # it warns of each refusal that we have logged with its reason
    try:
        asyncio.run(_serve(args))
    except BlackstartError as error:
        log.log(logging.ERROR, str(error), extra={"reason": error.reason})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
