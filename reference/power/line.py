"""The line between a device and whoever plays its service: a socket pair outside the disk that is cut.

A packet is a word, a newline, and bytes. The word is a topic's kind (`reference.protocol.topics.Kind`), or one of the
three that no broker would carry: `puback`, when the device has acknowledged a message; `images`, what its runtime
makes of the images at the first look of a boot; and `phase`, when its journal has come to one. The last is only for
whoever wants to cut there; nobody is judged by it.
"""

from __future__ import annotations

import socket

MAX_BYTES = 1 << 17
PUBACK, PHASE, IMAGES = "puback", "phase", "images"

Packet = tuple[str, bytes]


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends. Packets keep their bounds and their order."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(line: socket.socket, word: str, content: bytes) -> None:
    """Send a packet. Raises OSError."""
    line.send(word.encode() + b"\n" + content)


def receive(line: socket.socket) -> Packet | None:
    """The next packet; None when the other side is gone. Raises BlockingIOError when nothing is there now."""
    try:
        data = line.recv(MAX_BYTES, socket.MSG_DONTWAIT)
    except ConnectionResetError:
        return None
    word, _, content = data.partition(b"\n")
    return (word.decode(), content) if data else None
