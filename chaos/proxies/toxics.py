"""The client of Toxiproxy's HTTP API: the package `toxiproxy-python`, and in this one place what it lacks.

It keeps the server's host and port in class attributes, so a process could speak with one server only; it waits for
ever; it cannot change a toxic; it takes an answer 500 for a proxy; and it gives the version as bytes. Here each call
has its own server (a context variable, which goes along into threads), a time limit, and errors with a name.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import requests
import toxiproxy  # type: ignore[import-untyped]
import toxiproxy.api  # type: ignore[import-untyped]
import toxiproxy.exceptions  # type: ignore[import-untyped]
import toxiproxy.proxy  # type: ignore[import-untyped]

from reference.core.errors import ServiceError

HOST = "127.0.0.1"
LIMIT_S = 3.0
"""Longest that a call may take: on loopback they take milliseconds, unless the server hangs."""

Stream = Literal["upstream", "downstream"]
"""Towards the far end, and back to the client."""


class ToxicsError(ServiceError):
    """The API refused, or failed."""


class ToxicsGoneError(ToxicsError):
    """Nothing of that name is there."""


class ToxicsHungError(ToxicsError):
    """The API did not answer in time, or is not there."""


@dataclass(frozen=True, slots=True)
class Toxic:
    """One toxic of a proxy; its attributes are numbers, in the units of the API."""

    name: str
    kind: str
    stream: Stream = "downstream"
    toxicity: float = 1.0
    """The share of connections that it works on."""
    attributes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProxySeen:
    """A proxy, as the server tells of it."""

    name: str
    port: int
    """Where it listens; 0 before it was ever enabled."""
    upstream: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class _Call:
    host: str
    port: int
    limit_s: float


_call: ContextVar[_Call] = ContextVar("toxiproxy_call")


class _OfThisCall:
    """A class attribute that is another one in each call."""

    def __init__(self, read: Callable[[_Call], str | int]) -> None:
        self._read = read

    def __get__(self, instance: object, owner: type) -> str | int:
        return self._read(_call.get())


class _Limited:
    """What the package takes for `requests`."""

    def get(self, url: str, **kwargs: Any) -> requests.Response:
        return self._ask("GET", url, **kwargs)

    def post(self, url: str, **kwargs: Any) -> requests.Response:
        return self._ask("POST", url, **kwargs)

    def delete(self, url: str, **kwargs: Any) -> requests.Response:
        return self._ask("DELETE", url, **kwargs)

    def _ask(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        limit_s = _call.get().limit_s
        with requests.Session() as session:
            session.trust_env = False  # A proxy of the environment is not for loopback.
            try:
                answer = session.request(method, url, timeout=limit_s, **kwargs)
            except requests.RequestException as error:
                what = "did not answer" if isinstance(error, requests.Timeout) else "is not there"
                raise ToxicsHungError(
                    f"Toxiproxy's API {what} within {limit_s:g} s: {method}", where=url
                ) from error
        if answer.status_code >= 500:
            raise ToxicsError(
                f"Toxiproxy answered {answer.status_code}: {answer.text[:200].strip()}", where=url
            )
        return answer


toxiproxy.api.requests = _Limited()
toxiproxy.api.APIConsumer.host = _OfThisCall(lambda call: call.host)
toxiproxy.api.APIConsumer.port = _OfThisCall(lambda call: call.port)


class Toxics:
    """One server's API. It may be Toxiproxy's or that of something that speaks like it.

    Every method raises ToxicsHungError when the server hangs, ToxicsGoneError for a name that is not there, and
    ToxicsError for whatever else it refuses.
    """

    def __init__(self, port: int, host: str = HOST, limit_s: float = LIMIT_S) -> None:
        self._where = _Call(host, port, limit_s)

    async def version(self) -> str:
        """What it says that it is; empty when that cannot be read."""
        told = await self._do(lambda: toxiproxy.api.APIConsumer.get("/version").content)
        try:
            found = json.loads(told)
        except ValueError:
            return ""
        return str(found.get("version", "")) if isinstance(found, dict) else ""

    async def proxies(self) -> Mapping[str, ProxySeen]:
        """All of them, by name."""
        found = await self._do(toxiproxy.Toxiproxy().proxies)
        return {name: _seen(proxy) for name, proxy in found.items()}

    async def create(self, name: str, upstream_port: int, *, enabled: bool = True) -> ProxySeen:
        """A proxy to a port of this machine."""
        made = await self._do(
            lambda: toxiproxy.Toxiproxy().create(f"{HOST}:{upstream_port}", name, f"{HOST}:0", enabled)
        )
        return _seen(made)

    async def delete(self, name: str) -> None:
        """Take a proxy away; its connections are cut."""
        await self._do(_named(name).destroy)

    async def disable(self, name: str) -> None:
        """It listens no longer, and its connections are cut."""
        await self._do(_named(name).disable)

    async def enable(self, name: str) -> ProxySeen:
        """It listens (again): on another port than before, since somebody else may have taken that one."""
        given = {"enabled": True, "listen": f"{HOST}:0"}
        told = await self._do(lambda: toxiproxy.api.APIConsumer.post(f"/proxies/{name}", json=given).json())
        return _seen(toxiproxy.proxy.Proxy(**told))

    async def toxics(self, proxy: str) -> Mapping[str, Toxic]:
        """Those of a proxy, by name."""
        found = await self._do(_named(proxy).toxics)
        return {name: Toxic(name, t.type, t.stream, t.toxicity, t.attributes) for name, t in found.items()}

    async def add(self, proxy: str, toxic: Toxic) -> None:
        """Put a toxic on a proxy, and on its connections that are open."""
        given = {
            "name": toxic.name, "type": toxic.kind, "stream": toxic.stream, "toxicity": toxic.toxicity,
            "attributes": dict(toxic.attributes),
        }  # fmt: skip
        await self._do(lambda: _named(proxy).add_toxic(**given))

    async def update(self, proxy: str, toxic: Toxic) -> None:
        """Let one that is there have these attributes and this toxicity."""
        given = {"attributes": dict(toxic.attributes), "toxicity": toxic.toxicity}
        path = f"/proxies/{proxy}/toxics/{toxic.name}"
        await self._do(lambda: toxiproxy.api.APIConsumer.post(path, json=given))

    async def remove(self, proxy: str, toxic: str) -> None:
        """Take a toxic away."""
        await self._do(lambda: _named(proxy).destroy_toxic(toxic))

    async def reset(self) -> None:
        """Every proxy open, every toxic gone."""
        await self._do(toxiproxy.Toxiproxy().reset)

    async def _do(self, call: Callable[[], Any]) -> Any:
        _call.set(self._where)
        asked = asyncio.ensure_future(asyncio.to_thread(call))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            # A thread cannot be cancelled, and what comes after must not be overtaken by what it still asks for.
            await asyncio.wait({asked})
            raise
        except toxiproxy.exceptions.NotFound as error:
            raise ToxicsGoneError(_told(error)) from error
        except (toxiproxy.exceptions.ProxyExists, toxiproxy.exceptions.InvalidToxic) as error:
            raise ToxicsError(_told(error)) from error


def _named(name: str) -> Any:
    return toxiproxy.proxy.Proxy(name=name, upstream="", enabled=True, listen="")


def _seen(proxy: Any) -> ProxySeen:
    port = int(str(proxy.listen).rpartition(":")[2] or 0)
    return ProxySeen(str(proxy.name), port, str(proxy.upstream), bool(proxy.enabled))


def _told(error: Exception) -> str:
    body = error.args[0] if error.args else b""
    return (
        f"Toxiproxy refused: {body.decode('utf-8', 'replace').strip() if isinstance(body, bytes) else body}"
    )
