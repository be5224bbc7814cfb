"""`python -m reference.service`: the service as a process.

Says `{"ready": true, "port": N, "scheme": "http" or "https"}` on standard output, one line, once it answers; logs go
to standard error. Ends with 0 on SIGTERM or SIGINT, with 2 for settings that cannot be, with 1 when it could not work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Sequence

from reference.core.errors import BlackstartError, InputError
from reference.protocol.topics import service_subscriptions
from reference.service.app import Parts, create_app
from reference.service.auth import DevelopmentIssuer
from reference.service.jwks import JwksKeys
from reference.service.server import listen, make_server
from reference.service.settings import DATABASE, PROGRAM, Settings, read_settings
from reference.service.store import Store
from reference.service.tls import keep_fresh
from reference.support import logging as logs
from reference.support.addresses import is_loopback
from reference.support.files import allow_many_files
from reference.support.mqtt import MqttLink

log = logging.getLogger(__name__)
SWITCH_S = 0.000_5
"""How long a thread may hold the interpreter while another waits for it. With Python's 5 ms the event loop, which lets go
of it at every call of the system, waits as long as the writer's thread computes."""


def main(arguments: Sequence[str], program: str = PROGRAM) -> int:
    """The exit code."""
    logs.configure("service")
    sys.setswitchinterval(SWITCH_S)
    allow_many_files()
    try:
        settings = read_settings(arguments, program=program)
        logs.configure("service", settings.log_level)
        tls = settings.https.context() if settings.https else None
        listener = listen(settings.host, settings.port)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if isinstance(settings.keys, DevelopmentIssuer) and not is_loopback(settings.host):
        log.warning("tokens of the development issuer are accepted: whoever reads its key is Administrator")
    try:
        with listener:
            return asyncio.run(_serve(settings, listener, tls))
    except BlackstartError as error:
        sys.stderr.write(f"{error}\n")
        return 1


async def _serve(settings: Settings, listener: socket.socket, tls: ssl.SSLContext | None) -> int:
    link = MqttLink(
        settings.broker_host,
        settings.broker_port,
        settings.client_id,
        settings.tls,
        subscriptions=service_subscriptions(),
        protocol=settings.mqtt_version,
    )
    store = await asyncio.to_thread(Store.open, settings.database or settings.data / DATABASE, settings.data)
    app = create_app(
        Parts(
            store,
            link,
            settings.signing_key,
            settings.keys,
            rules=settings.rules,
            health=settings.health,
            enrolment=settings.enrolment,
        )
    )
    server = make_server(app, tls)

    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with contextlib.AsyncExitStack() as stack:
        if settings.https is not None and tls is not None:
            fresh = asyncio.create_task(keep_fresh(settings.https, tls))
            stack.callback(fresh.cancel)
        if isinstance(settings.keys, JwksKeys):
            stack.push_async_callback(settings.keys.stop)
        await server.serve(sockets=[listener])
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
