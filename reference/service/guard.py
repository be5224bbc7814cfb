"""The table of rights (`reference.service.auth.ROLES`) put in front of every route."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from reference.core.errors import ServiceError
from reference.service.auth import OPEN, ROLES, Authenticator, Principal, authorize


def guarded(authenticator: Authenticator) -> type[APIRoute]:
    """A kind of route that knows its caller (`caller(request)`) before anything of the request is read."""

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guard(request: Request) -> Response:
                if (request.method, self.path) not in OPEN:
                    principal = await authenticator.authenticate(request.headers.get("authorization"))
                    authorize(principal, request.method, self.path)
                    request.state.principal = principal
                return await handle(request)

            return guard

    return GuardedRoute


def caller(request: Request) -> Principal:
    """Who is asking, on a route that is not open."""
    principal = request.state.principal
    assert isinstance(principal, Principal)
    return principal


def check_table(routes: Sequence[BaseRoute]) -> None:
    """Every route is in the table of rights or open, not both, and the table speaks of no other.

    Raises ServiceError, at start-up, before a request could find the hole.
    """
    found = set(operations(routes))
    for wrong, why in (
        (found - ROLES.keys() - OPEN.keys(), "is in no table of rights"),
        ((ROLES.keys() | OPEN.keys()) - found, "is in the table of rights, but not a route"),
        (ROLES.keys() & OPEN.keys(), "is guarded and open at once"),
    ):
        if wrong:
            method, path = min(wrong)
            raise ServiceError(f"{method} {path} {why}", where="reference/service/auth.py")


def operations(routes: Iterable[BaseRoute]) -> list[tuple[str, str]]:
    """Method and path of each route; HEAD, which is GET without a body, is not one of its own."""
    found = []
    for route in routes:
        methods = getattr(route, "methods", None) or {"?"}
        found += [(method, str(getattr(route, "path", "?"))) for method in methods - {"HEAD"}]
    return found
