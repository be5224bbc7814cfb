"""Bridges, made and removed by ioctl: no program has to be installed for it.

All private engines share 198.18.0.0/15, which is set aside for benchmarks (RFC 2544) and met nowhere else, in 64
parts: a /24 for the bridge, and a /22 for networks that are made later. The bridge's name says which part, and making
it is what claims the part: the kernel lets one of two engines have it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from reference.core.errors import EngineError

RANGE = ipaddress.IPv4Network("198.18.0.0/15")
PARTS = 64
_PREFIX = "blackstart"
# linux/sockios.h
_ADD_BRIDGE, _DELETE_BRIDGE = 0x89A0, 0x89A1
_GET_FLAGS, _SET_FLAGS = 0x8913, 0x8914
_GET_ADDRESS, _SET_ADDRESS, _SET_NETMASK = 0x8915, 0x8916, 0x891C
_UP = 1  # IFF_UP


@dataclass(frozen=True, slots=True)
class Bridge:
    """The part of the addresses that an engine has, and its default network's bridge."""

    part: int

    @classmethod
    def called(cls, name: str) -> Bridge:
        """The one of that name. Raises ValueError when it is none of ours."""
        if not name.startswith(_PREFIX):
            raise ValueError(f"{name!r} is not the bridge of a private engine")
        return cls(int(name.removeprefix(_PREFIX)))

    @property
    def name(self) -> str:
        """The interface, at most 15 characters."""
        return f"{_PREFIX}{self.part}"

    @property
    def everything(self) -> ipaddress.IPv4Network:
        """All addresses of the engine."""
        return list(RANGE.subnets(new_prefix=21))[self.part]

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """The default network's."""
        return next(iter(self.everything.subnets(new_prefix=24)))

    @property
    def pool(self) -> ipaddress.IPv4Network:
        """Those of networks that are made later."""
        return list(self.everything.subnets(new_prefix=22))[1]

    @property
    def address(self) -> str:
        """This machine's own on the bridge: where containers find it."""
        return str(self.subnet[1])


def claim(preferred: int) -> Bridge:
    """Make the bridge of a part that is free, the preferred one if it is. Raises EngineError."""
    routes = _routes()
    for step in range(PARTS):
        bridge = Bridge((preferred + step) % PARTS)
        if not any(route.overlaps(bridge.everything) for route in routes) and _make(bridge):
            return bridge
    raise EngineError(
        f"no part of {RANGE} is free for another engine",
        where="network",
        todo="End other private engines (blackstart engine stop), or remove the bridges blackstart*.",
    )


def _make(bridge: Bridge) -> bool:
    """False when it is there already."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        try:
            fcntl.ioctl(door, _ADD_BRIDGE, bridge.name.encode() + b"\0")
            _set(door, _SET_ADDRESS, bridge.name, _address(bridge.address))
            _set(door, _SET_NETMASK, bridge.name, _address(str(bridge.subnet.netmask)))
            _flag_up(door, bridge.name, up=True)
        except OSError as error:
            if error.errno == errno.EEXIST:
                return False
            raise EngineError(
                f"the bridge cannot be made: {error.strerror}",
                where=bridge.name,
                todo="Run this as root, on a kernel with bridges.",
            ) from error
    return True


def remove(bridge: Bridge) -> None:
    """Remove its bridge and those of its networks. What is gone already is no error."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        for name in [bridge.name, *_networks(door, bridge)]:
            with contextlib.suppress(OSError):
                _flag_up(door, name, up=False)
                fcntl.ioctl(door, _DELETE_BRIDGE, name.encode() + b"\0")


def links_of(bridge: Bridge) -> list[str]:
    """What is there of it: the bridge, and those of its networks."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        own = [name for _, name in socket.if_nameindex() if name == bridge.name]
        return own + _networks(door, bridge)


def _networks(door: socket.socket, bridge: Bridge) -> list[str]:
    """Bridges that dockerd made, by their address: their names are made from ids that only it knows."""
    found = []
    for _, name in socket.if_nameindex():
        if name.startswith("br-"):
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(door, _GET_ADDRESS, struct.pack("16s24x", name.encode()))
                if ipaddress.IPv4Address(answer[20:24]) in bridge.everything:
                    found.append(name)
    return found


def _set(door: socket.socket, what: int, name: str, value: bytes) -> None:
    fcntl.ioctl(door, what, struct.pack("16s", name.encode()) + value)


def _address(text: str) -> bytes:
    """As `struct sockaddr_in`, filled up to the size of an ifreq."""
    return struct.pack("=HH4s16x", socket.AF_INET, 0, socket.inet_aton(text))


def _flag_up(door: socket.socket, name: str, *, up: bool) -> None:
    asked = struct.pack("16sH22x", name.encode(), 0)
    (flags,) = struct.unpack_from("=H", fcntl.ioctl(door, _GET_FLAGS, asked), 16)
    flags = flags | _UP if up else flags & ~_UP
    fcntl.ioctl(door, _SET_FLAGS, struct.pack("16sH22x", name.encode(), flags))


def _routes() -> list[ipaddress.IPv4Network]:
    """Where this machine sends what: the default route aside."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/net/route").read_text().splitlines()[1:]:
            fields = line.split()
            to, mask = int(fields[1], 16), int(fields[7], 16)
            if mask:
                found.append(_network(to, mask))
    return found


def _network(to: int, mask: int) -> ipaddress.IPv4Network:
    """Both are the bytes as they go over the wire, printed as one number of this machine."""
    address, netmask = (socket.inet_ntoa(struct.pack("=I", value)) for value in (to, mask))
    return ipaddress.IPv4Network(f"{address}/{netmask}", strict=False)
