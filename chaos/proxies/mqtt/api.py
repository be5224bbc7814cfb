"""Toxiproxy's HTTP API over listeners of ours: the same paths, objects and status codes (its 2.12).

Only loopback is led to, or listened on. Browsers are refused, as there: a page must not be able to do this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from chaos.proxies.mqtt.http import Request, Response
from chaos.proxies.mqtt.toxics import ToxicError, ToxicOrder
from chaos.proxies.mqtt.way import MqttWay
from reference.core.errors import BlackstartError
from reference.support.addresses import is_loopback

VERSION = "2.12.0-blackstart"
"""Whose API it is, and that it is ours."""
HOST = "127.0.0.1"
_Body = TypeVar("_Body", bound=BaseModel)


class _ProxyOrder(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    name: str = ""
    listen: str | None = None
    upstream: str | None = None
    enabled: bool | None = None


class _ToxicChange(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    attributes: dict[str, Any] | None = None
    toxicity: float | None = None


class ToxicApi:
    """Answers requests. `ways` are those of the proxy, by name; listeners of plain TCP can be added here."""

    def __init__(self, ways: dict[str, MqttWay], seed: int) -> None:
        self._ways = ways
        self._seed = seed

    async def __call__(self, request: Request) -> Response:
        """See http.Handler."""
        if request.agent.startswith("Mozilla/"):
            return Response(403, b"User agent not allowed\n", "text/plain")
        try:
            return await self._route(request)
        except ToxicError as error:
            return _failed(str(error.what), error.status)
        except BlackstartError as error:
            return _failed(str(error), 500)

    async def _route(self, request: Request) -> Response:
        method, path = request.method, request.path
        change = method in ("POST", "PATCH")
        match path:
            case ("version",) if method == "GET":
                return _json({"version": VERSION})
            case ("reset",) if method == "POST":
                return await self._reset()
            case ("populate",) if method == "POST":
                return await self._populate(request.body)
            case ("proxies",) if method == "GET":
                return _json({name: _shown(way) for name, way in self._ways.items()})
            case ("proxies",) if method == "POST":
                return _json(_shown(await self._create(_read(_ProxyOrder, request.body))), 201)
            case ("proxies", name) if method == "GET":
                return _json(_shown(self._way(name)))
            case ("proxies", name) if change:
                return await self._change(self._way(name), _read(_ProxyOrder, request.body))
            case ("proxies", name) if method == "DELETE":
                await self._way(name).disable()
                del self._ways[name]
                return Response(204)
            case ("proxies", name, "toxics", *rest) if len(rest) < 2:
                return self._toxics(self._way(name), method, rest, request.body)
            case ("version" | "reset" | "populate" | "proxies",) | ("proxies", _):
                return Response(405, b"", "text/plain")
            case _:
                return Response(404, b"404 page not found\n", "text/plain")

    def _toxics(self, way: MqttWay, method: str, rest: list[str], body: bytes) -> Response:
        match method, rest:
            case "GET", []:
                return _json([toxic.describe() for toxic in way.toxics])
            case "POST", []:
                return _json(way.add_toxic(_read(ToxicOrder, body)).describe())
            case "GET", [name]:
                return _json(way.toxic(name).describe())
            case (("POST" | "PATCH"), [name]):
                way.toxic(name)
                given = _read(_ToxicChange, body)
                return _json(way.update_toxic(name, given.attributes or {}, given.toxicity).describe())
            case "DELETE", [name]:
                way.remove_toxic(name)
                return Response(204)
            case _:
                return Response(405, b"", "text/plain")

    def _way(self, name: str) -> MqttWay:
        if name not in self._ways:
            raise ToxicError("proxy not found", 404, where=name)
        return self._ways[name]

    async def _create(self, order: _ProxyOrder) -> MqttWay:
        for field, value in (("name", order.name), ("upstream", order.upstream)):
            if not value:
                raise ToxicError(f"missing required field: {field}")
        if order.name in self._ways:
            raise ToxicError("proxy already exists", 409, where=order.name)
        way = MqttWay(
            order.name, _local(order.upstream or ""), _local(order.listen or f"{HOST}:0"), None, self._seed
        )
        if order.enabled is not False:
            await way.enable()
        self._ways[order.name] = way
        return way

    async def _change(self, way: MqttWay, order: _ProxyOrder) -> Response:
        listen, upstream = _local(order.listen or way.listen), _local(order.upstream or way.upstream)
        enabled = way.enabled if order.enabled is None else order.enabled
        if (listen, upstream) != (way.listen, way.upstream):
            await way.lead(listen, upstream)
        if enabled:
            await way.enable()
        else:
            await way.disable()
        return _json(_shown(way))

    async def _populate(self, body: bytes) -> Response:
        """Proxies made, or made anew where they differ; the others are left as they are."""
        try:
            orders = [_ProxyOrder.model_validate(one) for one in json.loads(body)]
        except (ValueError, TypeError) as error:
            raise ToxicError(f"bad request body: {error}") from None
        for number, order in enumerate(orders, 1):
            for field, value in (("name", order.name), ("upstream", order.upstream)):
                if not value:
                    raise ToxicError(f"missing required field: {field} at proxy {number}")
        ways = []
        for order in orders:
            known = self._ways.get(order.name)
            wanted = _local(order.listen or f"{HOST}:0"), _local(order.upstream or "")
            if known is not None and (known.listen, known.upstream) != wanted:
                await known.disable()
                del self._ways[order.name]
                known = None
            ways.append(known or await self._create(order))
        return _json({"proxies": [_shown(way) for way in ways]}, 201)

    async def _reset(self) -> Response:
        for way in tuple(self._ways.values()):
            await way.enable()
            for toxic in way.toxics:
                way.remove_toxic(toxic.name)
        return Response(204)


def _shown(way: MqttWay) -> Mapping[str, object]:
    return {
        "name": way.name, "listen": way.listen, "upstream": way.upstream, "enabled": way.enabled,
        "toxics": [toxic.describe() for toxic in way.toxics],
    }  # fmt: skip


def _local(address: str) -> str:
    """`host:port` with a name made an address. Raises ToxicError for what is not of this machine, or no address."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not is_loopback(host) or not port.isdecimal() or int(port) > 0xFFFF:
        raise ToxicError(f"{address} is no port of this machine: write {HOST}:PORT")
    return f"{HOST if host == 'localhost' else host}:{port}"


def _read(model: type[_Body], body: bytes) -> _Body:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        what = f"{place}: {first['msg']}" if place else first["msg"]
        raise ToxicError(f"bad request body: {what}") from None


def _json(value: object, status: int = 200) -> Response:
    return Response(status, json.dumps(value).encode() + b"\n")


def _failed(what: str, status: int) -> Response:
    return _json({"error": what, "status": status}, status)
