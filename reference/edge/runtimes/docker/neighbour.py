"""Tells this device's kernel where a container on a bridge is, so that nobody waits for the second ARP question.

Whoever asks for a container while its link is being made leaves an unanswered ARP question behind; the kernel repeats
it a second later, and until then no connection reaches the container, though it has long been up. So: forget the old
container's entry, which leads nowhere, once it is gone (what is sent then waits, instead of being lost), and enter the
new one's as soon as it has started, which sends off all that waits. No setting of the device is changed, and an entry
ages like any other one. It needs CAP_NET_ADMIN and the device's own network; where that is missing nothing happens, and
nothing depends on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from collections.abc import Iterator

from reference.edge.runtimes.docker.engine import Document

_NEW, _DELETE = 28, 29  # RTM_NEWNEIGH, RTM_DELNEIGH
_REQUEST, _ACK, _REPLACE, _CREATE = 0x1, 0x4, 0x100, 0x400
_REACHABLE = 0x02
_TO, _LINK_ADDRESS = 1, 2  # NDA_DST, NDA_LLADDR
_GET_ADDRESS = 0x8915  # SIOCGIFADDR
_ANSWER_S = 1.0


def introduce(container: Document) -> bool:
    """Enter where a container that was just started is; whether all of its addresses on bridges could be entered."""
    return _tell_all(_NEW, container)


def forget(container: Document) -> bool:
    """Drop what is known of a container that has gone. `container` is how it was while it ran."""
    return _tell_all(_DELETE, container)


def _tell_all(kind: int, container: Document) -> bool:
    told = True
    for found in _places(container):
        told = _tell(kind, *found) and told
    return told


def _places(container: Document) -> Iterator[tuple[int, str, str]]:
    """Bridge, address and link address of each of its networks that is a bridge of this device."""
    for endpoint in (container.get("NetworkSettings", {}).get("Networks") or {}).values():
        gateway, address, link = (
            str(endpoint.get(key) or "") for key in ("Gateway", "IPAddress", "MacAddress")
        )
        if gateway and address and link and (bridge := _interface_with(gateway)) is not None:
            yield bridge, address, link


def _interface_with(address: str) -> int | None:
    """The interface of this device that has the address."""
    wanted = socket.inet_aton(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for index, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # one without an address
                asked = fcntl.ioctl(any_socket, _GET_ADDRESS, struct.pack("256s", name.encode()))
                if asked[20:24] == wanted:
                    return index
    return None


def _tell(kind: int, bridge: int, address: str, link: str) -> bool:
    """One message to the kernel; whether it was obeyed."""
    with (
        contextlib.suppress(OSError, ValueError),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink,
    ):
        netlink.settimeout(_ANSWER_S)
        netlink.send(message(kind, bridge, socket.inet_aton(address), bytes.fromhex(link.replace(":", ""))))
        answer = netlink.recv(4096)
        return struct.unpack_from("=i", answer, 16) == (0,)
    return False


def message(kind: int, bridge: int, address: bytes, link: bytes) -> bytes:
    """A netlink message about one neighbour: header, `struct ndmsg`, address, and for a new one its link address."""
    flags = _REQUEST | _ACK | (_CREATE | _REPLACE if kind == _NEW else 0)
    state = _REACHABLE if kind == _NEW else 0
    body = struct.pack("=BxxxiHBB", socket.AF_INET, bridge, state, 0, 0) + _attribute(_TO, address)
    if kind == _NEW:
        body += _attribute(_LINK_ADDRESS, link)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
