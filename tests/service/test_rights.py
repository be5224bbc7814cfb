"""Every route with every kind of caller: all as the one table says. A new route takes part as soon as it is there."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from fastapi import FastAPI

from reference.core.errors import ServiceError
from reference.service.auth import DEVELOPMENT_ISSUER, OPEN, ROLES, Role
from reference.service.guard import check_table, operations
from tests.service.answers import problem
from tests.service.harness import DIGEST, Service
from tests.service.tokens import Signer, unsigned

VERSION: dict[str, object] = {"version": "9.0", "repository": "localhost:5000/opc", "digest": DIGEST}
BODIES: dict[tuple[str, str], object] = {
    ("POST", "/api/v1/clients"): {"clientId": "press-9"},
    ("POST", "/api/v1/clients/{client_id}/update"): {"targetVersion": "2.0"},
    ("POST", "/api/v1/versions"): VERSION,
}
"""Good ones. What is refused is refused without them, too."""
_numbers = itertools.count(1)


@dataclass
class Things:
    """What a path can name, and exists: once for each request, because some of them take it away."""

    client: str
    version: str
    job: str

    def path(self, route: str) -> str:
        filled = route.replace("{client_id}", self.client).replace("{job_id}", self.job)
        filled = filled.replace("{version}", self.version)
        assert "{" not in filled, f"{route}: say in tests/service/test_rights.py what that is"
        return filled


ONE_DATABASE = True
NOWHERE = Things("press-404", "4.0.4", "404")


async def _things(service: Service) -> Things:
    number = next(_numbers)
    client, version = f"press-{number}-x", f"2.{number}"
    assert (await service.post("/api/v1/clients", {"clientId": client})).status_code == 201
    await service.add_version(version)
    return Things(client, version, await service.order(version, client))


async def _ask(
    service: Service, method: str, path: str, headers: dict[str, str], body: object
) -> httpx.Response:
    if path.endswith("/events"):
        method = "HEAD"  # a stream has no end, and the same rights without its body
    return await service.http.request(method, path, json=body, headers=headers)


@pytest.mark.parametrize("role", list(Role))
async def test_route_by_role(service: Service, role: Role) -> None:
    for (method, route), allowed in ROLES.items():
        path = (await _things(service)).path(route)
        answer = await _ask(service, method, path, service.headers(role), BODIES.get((method, route)))
        if role not in allowed:
            if answer.request.method != "HEAD":
                problem(answer, 403, "forbidden")
            assert answer.status_code == 403, (method, route)
        else:
            assert answer.status_code not in (401, 403, 404, 405), (method, route, answer.text)
            assert answer.status_code < 500, (method, route, answer.text)


@pytest.mark.parametrize("role", list(Role))
async def test_what_does_not_exist_is_refused_before_it_is_looked_for(service: Service, role: Role) -> None:
    for (method, route), allowed in ROLES.items():
        if "{" in route:
            path = NOWHERE.path(route)
            answer = await _ask(service, method, path, service.headers(role), BODIES.get((method, route), {}))
            assert answer.status_code == 403 or role in allowed, (method, route)
            assert answer.status_code in (404, 409, 422) or role not in allowed, (method, route, answer.text)


async def test_another_tenants_things_are_not_there(service: Service) -> None:
    foreign = service.headers(tenant="other")
    for method, route in ROLES:
        things = await _things(service)
        body = BODIES.get((method, route))
        answer = await _ask(service, method, things.path(route), foreign, body)
        if "{" in route:
            absent = await _ask(service, method, NOWHERE.path(route), foreign, body)
            assert answer.status_code == absent.status_code, (method, route)
            if answer.status_code != 422:  # a body is asked for before
                found = problem(answer, 404, "not_found")["detail"]
                other = problem(absent, 404, "not_found")["detail"]
                for one, two in ((things.client, NOWHERE.client), (things.job, NOWHERE.job),
                                 (things.version, NOWHERE.version)):  # fmt: skip
                    found, other = found.replace(one, "?"), other.replace(two, "?")
                assert found == other, (method, route)
        elif method == "GET" and answer.request.method != "HEAD":
            assert things.client not in answer.text, route
            assert things.job not in answer.text, route


def _hmac(signer: Signer) -> str:
    head: dict[str, object] = {"alg": "HS256", "typ": "JWT", "kid": signer.key_id}
    body = unsigned(signer.claims(), head)[:-1]
    mac = hmac.new(signer.pem(), body.encode(), hashlib.sha256).digest()
    return unsigned(signer.claims(), head, mac)


def _none(signer: Signer) -> str:
    return unsigned(signer.claims(), {"alg": "none", "typ": "JWT", "kid": signer.key_id})


def _changed(signer: Signer) -> str:
    header, _, signature = signer.token(role="Viewer").split(".")
    return f"{header}.{signer.token().split('.')[1]}.{signature}"


UNKNOWN: dict[str, Callable[[Signer], str | None]] = {
    "no token": lambda _: None,
    "garbage": lambda _: "Bearer garbage",
    "three parts of garbage": lambda _: "Bearer a.b.c",
    "another scheme": lambda s: f"Basic {s.token()}",
    "expired": lambda s: f"Bearer {s.token(exp=int(time.time()) - 60)}",
    "from tomorrow": lambda s: f"Bearer {s.token(nbf=int(time.time()) + 86400)}",
    "wrong audience": lambda s: f"Bearer {s.token(aud='another-api')}",
    "wrong issuer": lambda s: f"Bearer {s.token(iss='https://elsewhere.example')}",
    "alg=none": lambda s: f"Bearer {_none(s)}",
    "HS256 with the public key": lambda s: f"Bearer {_hmac(s)}",
    "foreign key": lambda s: (
        f"Bearer {Signer(s.key_id, generate_private_key(SECP256R1()), s.issuer).token()}"
    ),
    "unknown key id": lambda s: f"Bearer {s.token({'kid': 'another'})}",
    "no key id": lambda s: f"Bearer {s.token({'kid': None})}",
    "claims changed after signing": lambda s: f"Bearer {_changed(s)}",
    "no tenant": lambda s: f"Bearer {s.token(tenant=None)}",
    "a tenant that is none": lambda s: f"Bearer {s.token(tenant='a/b')}",
    "a role that is none": lambda s: f"Bearer {s.token(role='Root')}",
}


@pytest.mark.parametrize("who", UNKNOWN)
async def test_route_by_those_who_are_nobody(service: Service, who: str) -> None:
    signer = Signer(service.issuer.key_id, service.issuer._key, DEVELOPMENT_ISSUER)
    things = await _things(service)
    authorization = UNKNOWN[who](signer)
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, route in ROLES:
        # The body is broken on purpose: who is not known learns nothing about it.
        answer = await service.http.request(method, things.path(route), content=b"{", headers=headers)
        problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer ")
    good = await service.http.get("/api/v1/jobs", headers={"Authorization": f"Bearer {signer.token()}"})
    assert good.status_code == 200, "the same signer, when all is as it should be"


async def test_open_routes_ask_for_no_token(service: Service) -> None:
    for method, route in OPEN:
        answer = await service.http.request(method, route)
        assert answer.status_code not in (401, 403, 405), (method, route)


def test_the_table_and_the_routes_are_the_same(service: Service) -> None:
    app: FastAPI = service.http._transport.app  # type: ignore[attr-defined]
    assert set(operations(app.routes)) == ROLES.keys() | OPEN.keys()


def test_the_service_does_not_start_with_a_route_that_is_nobodys(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    app: FastAPI = service.http._transport.app  # type: ignore[attr-defined]
    check_table(app.routes)
    with pytest.raises(ServiceError, match="is in the table of rights, but not a route"):
        check_table(app.routes[:-1])
    monkeypatch.setattr("reference.service.guard.ROLES", {**ROLES, ("GET", "/healthz"): frozenset(Role)})
    with pytest.raises(ServiceError, match="guarded and open at once"):
        check_table(app.routes)
    monkeypatch.undo()
    app.add_api_route("/api/v1/forgotten", lambda: None)
    with pytest.raises(ServiceError, match="GET /api/v1/forgotten is in no table of rights"):
        check_table(app.routes)
