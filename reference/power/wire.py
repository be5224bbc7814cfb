"""`python -m reference.power.wire SOCKET HOST PORT`: a wire from a device's own network to a registry outside it.

A network namespace of a device ends with each boot, and what listens in it with it. This process stays outside: it is
handed a listening socket of each new namespace, and carries whatever connects there to the registry.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from reference.support.processes import ROOT, ends_with_us

_PIECE_BYTES = 1 << 16


class Wire:
    """Our end: a process that carries. Made in the network that the registry is in; ends when closed, or with us."""

    def __init__(self, registry: str, log: Path) -> None:
        host, _, port = registry.rpartition(":")
        self._control, theirs = socket.socketpair()
        with theirs, log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "reference.power.wire", str(theirs.fileno()), host, port],
                stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": str(ROOT)}, preexec_fn=ends_with_us(),  # noqa: PLW1509 - it only calls prctl
            )  # fmt: skip

    def lead(self, listening: socket.socket) -> None:
        """From now on carry what connects to this socket, and nothing else. Raises OSError when the process has ended."""
        socket.send_fds(self._control, [b"."], [listening.fileno()])

    def close(self) -> None:
        """End it."""
        self._control.close()
        self._process.wait()


async def carry(control: socket.socket, host: str, port: int) -> None:
    """Carry what connects to the newest socket that came, until nobody holds the other end of `control`."""
    open_now: asyncio.Server | None = None

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio makes a noise about a cancelled one: it may only be cancelled at our end.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await _through(reader, writer, host, port)

    while True:
        listening = await asyncio.get_running_loop().run_in_executor(None, _next, control)
        if open_now is not None:
            open_now.close()
        if listening is None:
            return
        open_now = await asyncio.start_server(connected, sock=listening)


async def _through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    """One connection, until both sides have said all, or one of them is gone."""
    try:
        there, back = await asyncio.open_connection(host, port)
        try:
            await asyncio.gather(_pass(reader, back), _pass(there, writer))
        finally:
            back.close()
    finally:
        writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _next(control: socket.socket) -> socket.socket | None:
    try:
        word, handles, _, _ = socket.recv_fds(control, 1, 1)
    except OSError:
        return None
    return socket.socket(fileno=handles[0]) if word and handles else None


if __name__ == "__main__":
    asyncio.run(carry(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], int(sys.argv[3])))
