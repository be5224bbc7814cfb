"""Overlap with another version of the client: the lease on the volume, and the listening socket that is passed on.

Who has the lock on /data/lease works on the volume; its end, however it comes, frees it. Whoever finds it taken waits in a
thread, so that it is ours within a millisecond. The socket comes by an abstract unix socket that is named after the lock's
file, to our own user or root only: connections that were made and not taken yet stay in its queue, and none is refused.
"""

import _thread
import fcntl
import os
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

ANSWER_S, PATIENCE_S = 1.0, 0.5
"""For an answer at the door; and for the socket, before it is ready without it."""
DOOR_TRIES = 20


class Lease:
    """Of one volume. `held`: it is ours. `wake`: becomes readable when it is, or when it is to be passed on."""

    def __init__(self, folder: str, leave: "Callable[[int, str], NoReturn]") -> None:
        self.leave = leave
        try:
            self.fd = os.open(folder + "/lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            leave(1, f"{folder}/lease: cannot be written: {error.strerror}")
        facts = os.fstat(self.fd)
        self.door_name = f"\0blackstart-lease-{facts.st_dev}-{facts.st_ino}"
        self.door: socket.socket | None = None
        self.server: socket.socket | None = None
        self.given = False
        self.wake, self.woken = os.pipe()
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.held = True
        except BlockingIOError:
            self.held = False

    # ---- whoever waits for it

    def stand_by(self, name: str, poll: select.poll) -> socket.socket:
        """Wait for it in a thread. Answers the socket on which the updater asks whether all is well."""
        server = _listening("\0" + name)
        if server is None:
            self.leave(1, f"cannot answer on the abstract socket {name!r}: is it taken?")
        self.since_s = time.monotonic()
        poll.register(self.wake, select.POLLIN)
        _thread.start_new_thread(self._wait, ())
        return server

    def _wait(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        self.held = True
        os.write(self.woken, b"x")

    def asks(self) -> bool:
        """Ask for the listening socket, unless it is here. Whether it has to be asked for again."""
        if self.server is not None:
            return False
        try:
            with socket.socket(socket.AF_UNIX) as other:
                other.settimeout(ANSWER_S)
                other.connect(self.door_name)
                for fd in socket.recv_fds(other, 1, 1)[1] if _ours(other) else []:
                    self.server = socket.socket(fileno=fd)
        except OSError:
            return True
        return self.server is None

    @property
    def ready(self) -> bool:
        """Whether no connection would be refused at the take-over, as far as that can be had."""
        return self.server is not None or time.monotonic() - self.since_s > PATIENCE_S

    def passed_on(self, port: int) -> "socket.socket | None":
        """The listening socket, if it came and is the one of this port."""
        os.read(self.wake, 1)
        if self.server is not None and self.server.getsockname()[1] != port:
            self.server.close()
            self.server = None
        return self.server

    # ---- whoever has it

    def open_door(self, poll: select.poll) -> int:
        """Be ready to pass the socket on; -1: that cannot be, and whoever comes next binds its own."""
        for _ in range(
            DOOR_TRIES
        ):  # One that was killed lets go of the lock a moment before its door is free.
            self.door = _listening(self.door_name)
            if self.door is not None:
                break
            time.sleep(0.001)
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, self._told)
        poll.register(self.wake, select.POLLIN)
        if self.door is None:
            return -1
        poll.register(self.door, select.POLLIN)
        return self.door.fileno()

    def give(self, server: socket.socket) -> None:
        """Pass it on to whoever asks."""
        assert self.door is not None
        try:
            other, _ = self.door.accept()
            with other:
                if _ours(other):
                    self.given = True  # Before it is: whoever gets it may have us told to go at once.
                    socket.send_fds(other, [b"x"], [server.fileno()])
        except OSError:
            return

    def _told(self, *_: object) -> None:
        """To end: at once, unless somebody stands by who may take over."""
        if not self.given:
            os._exit(0)
        os.write(self.woken, b"x")

    def next_s(self, most_s: float) -> "float | None":
        """When the one before would have taken its next sample (monotonic), if that is no further from now than this."""
        try:
            next_s = int(os.pread(self.fd, 32, 0)) / 1e9
        except (OSError, ValueError):
            return None
        return next_s if abs(next_s - time.monotonic()) <= most_s else None

    def free(self, poll: select.poll, next_s: float) -> None:
        """Let whoever stands by have it, and know when the next sample is due. No trouble with that keeps it here."""
        try:
            os.pwrite(self.fd, f"{round(next_s * 1e9):32}".encode(), 0)
        except OSError:
            self.given = False
        poll.unregister(self.wake)
        if self.door is not None:
            poll.unregister(self.door)
            self.door.close()
        os.close(self.fd)


def _ours(other: socket.socket) -> bool:
    uid = int.from_bytes(other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8], sys.byteorder)
    return uid in (0, os.getuid())


def _listening(name: str) -> "socket.socket | None":
    server = socket.socket(socket.AF_UNIX)
    try:
        server.bind(name)
        server.listen(16)
        server.setblocking(False)
    except OSError:
        server.close()
        return None
    return server
