"""Hosts, as far as it matters whether they are this machine: what goes over loopback needs no TLS."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether a name or an address (no port, no brackets) leads to this machine only.

    Of names only `localhost` does: what another one means is decided by whoever answers for it (RFC 6761, section 6.3).
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def name_of(host: str) -> str:
    """The name or address in `host[:port]`, without brackets; empty for what is none. Raises ValueError."""
    return urlsplit(f"//{host}").hostname or ""
