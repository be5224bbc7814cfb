"""How a registry is told who asks: basic, or a bearer token of its token endpoint.

Distribution's "Token Authentication Specification" (challenge, `service`, `scope`, `expires_in`); RFC 6750 for the
header. Credentials go to the registry's own host, and to a token endpoint only when that is the same host, one that
the device's configuration names for this registry, or, for a registry on loopback, loopback too.
"""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from reference.core.errors import Reason, RegistryError
from reference.edge.credentials import Keyring, Login
from reference.support.addresses import is_loopback, name_of

Credentials = Keyring | Mapping[str, tuple[str, str]] | Callable[[str], tuple[str, str] | None]
"""`host[:port]` -> user and password."""
MAX_ANSWER_BYTES = 64 * 1024
"""Longest answer of a token endpoint."""
MAX_TOKEN_S = 3600.0
"""A token is fetched anew after this long, whatever its endpoint says."""
DEFAULT_TOKEN_S = 60.0
"""How long a token is good when its endpoint does not say: the specification's number."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,16384}=*")
_CHALLENGE_CHARACTERS = 8 * 1024
_PARAMETER = re.compile(r'(?<![A-Za-z_])([A-Za-z_]{1,32})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
"""A name is tried from its first letter only: from each letter, a long word of a hostile registry takes a minute."""


@dataclass(frozen=True, slots=True)
class Access:
    """How registries are reached. Hosts in `plain_http_hosts` (`host:port`) are spoken to without TLS."""

    credentials: Credentials = field(default_factory=dict)
    plain_http_hosts: frozenset[str] = frozenset()
    ca_file: Path | None = None
    """Certificates that registries are checked against; None: the system's."""
    token_hosts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Registry -> further hosts (`host[:port]`) whose token endpoints may see its credentials."""

    async def login(self, host: str, *, renewed: bool = False) -> Login | None:
        """The login for exactly this host. Raises DeviceError, RegistryError."""
        found = self.credentials
        if isinstance(found, Keyring):
            return await found.login(host, renewed=renewed)
        pair = found(host) if callable(found) else found.get(host)
        return Login(*pair) if pair is not None else None


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry asks for in `WWW-Authenticate: Bearer`."""

    realm: str
    service: str = ""
    scope: str = ""
    error: str = ""


def challenge_of(headers: httpx.Headers) -> Challenge | None:
    """The bearer challenge in an answer; None when there is none that can be read."""
    for whole in headers.get_list("WWW-Authenticate"):
        value = whole[:_CHALLENGE_CHARACTERS]
        at = re.search(r"(?:^|,)\s*bearer\s", value, re.IGNORECASE)
        if at is None:
            continue
        found = {
            name.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain
            for name, quoted, plain in _PARAMETER.findall(value[at.end() :])
        }
        if "realm" in found:
            known = {key: found.get(key, "") for key in ("service", "scope", "error")}
            return Challenge(found["realm"], **known)
    return None


class Doorman:
    """What one pull says to one registry about who it is."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        access: Access,
        host: str,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._access = access
        self._host = host
        self._scope = f"repository:{name}:pull"
        self._clock = clock
        self._challenge: Challenge | None = None
        self._token: tuple[float, str] | None = None
        self._login: Login | None = None
        self._asked = False

    async def header(self) -> dict[str, str]:
        """The header for the next request to the registry's own host. Raises BlackstartError."""
        if not self._asked:
            self._login, self._asked = await self._access.login(self._host), True
        if self._challenge is not None:
            if self._token is None or self._clock() >= self._token[0]:
                self._token = await self._fetch(self._challenge)
            return {"Authorization": f"Bearer {self._token[1]}"}
        return {"Authorization": _basic(self._login)} if self._login is not None else {}

    async def refused(self, response: httpx.Response, times: int) -> bool:
        """After a 401: whether another try is worth it. `times`: how often this request was refused before.

        The first refusal is taken for an old token or an unknown way to ask; the second for old credentials.
        """
        challenge, before = challenge_of(response.headers), self._challenge
        self._challenge, self._token = challenge, None
        if times == 0 and challenge is not None:
            return True
        if times > 1 or (before is None and challenge is not None):
            return False
        old = self._login
        self._login = await self._access.login(self._host, renewed=True)
        return self._login != old

    async def _fetch(self, challenge: Challenge) -> tuple[float, str]:
        url = self._checked(challenge.realm)
        asked = {"service": challenge.service, "scope": challenge.scope or self._scope}
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self._login is not None:
            headers["Authorization"] = _basic(self._login)
        target = httpx.URL(url).copy_merge_params({key: value for key, value in asked.items() if value})
        data = bytearray()
        async with self._client.stream("GET", target, headers=headers) as response:
            if response.status_code != 200:
                raise _endpoint_error(response.status_code, url)
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > MAX_ANSWER_BYTES:
                    raise RegistryError("the token endpoint's answer is too long", where=shown(url))
        return self._read(bytes(data), url)

    def _read(self, data: bytes, url: str) -> tuple[float, str]:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        token = (found.get("token") or found.get("access_token")) if isinstance(found, dict) else None
        if not isinstance(found, dict) or not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise RegistryError("the token endpoint's answer holds no token", where=shown(url))
        lasts = found.get("expires_in", DEFAULT_TOKEN_S)
        if not isinstance(lasts, int | float) or isinstance(lasts, bool) or not 0 < lasts < 1e9:
            lasts = DEFAULT_TOKEN_S
        # A little early, so that it does not run out on the way.
        return self._clock() + min(lasts * 0.9, MAX_TOKEN_S), token

    def _checked(self, realm: str) -> str:
        """The token endpoint's address, if we may go there. Raises RegistryError."""
        try:
            parts = urlsplit(realm)
            host, userinfo = parts.netloc, parts.username or parts.password
            _ = parts.port  # one above 65535 is refused here, and not by the socket
        except ValueError:
            raise RegistryError("the registry names an unusable token endpoint", where=shown(realm)) from None
        if parts.scheme not in ("http", "https") or not host or userinfo:
            raise RegistryError("the registry names an unusable token endpoint", where=shown(realm))
        if parts.scheme == "http" and not (host in self._access.plain_http_hosts or self._both_local(host)):
            raise RegistryError(
                "the registry's token endpoint has no TLS",
                reason=Reason.REGISTRY_UNAUTHORIZED,
                where=shown(realm),
                todo="Give the token endpoint TLS.",
            )
        if self._login is not None and not self._trusted(host):
            raise RegistryError(
                f"the registry {self._host} sends us to {host} for a token, which may not see our credentials",
                reason=Reason.REGISTRY_UNAUTHORIZED,
                where=shown(realm),
                todo=f"If {host} is right, name it in the registry's token_hosts.",
            )
        return realm

    def _trusted(self, host: str) -> bool:
        named = self._access.token_hosts.get(self._host, frozenset())
        return host == self._host or host in named or self._both_local(host)

    def _both_local(self, host: str) -> bool:
        return is_loopback(name_of(host)) and is_loopback(name_of(self._host))


def shown(url: str) -> str:
    """An address for people and the journal: blob stores sign in the query, and some put a password before the host."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0].partition("#")[0])[:300]


def _basic(login: Login) -> str:
    return "Basic " + b64encode(f"{login.username}:{login.secret}".encode()).decode()


def _endpoint_error(status: int, url: str) -> RegistryError:
    reason = {
        400: Reason.REGISTRY_UNAUTHORIZED,
        401: Reason.REGISTRY_UNAUTHORIZED,
        403: Reason.REGISTRY_DENIED,
        429: Reason.REGISTRY_THROTTLED,
    }.get(status, Reason.REGISTRY_ERROR)
    return RegistryError(
        f"the token endpoint answers {status}",
        reason=reason,
        where=shown(url),
        todo="Correct the device's credentials.",
    )
