"""The routes of enrolment. Two of them ask for no token of the API: a device brings what it has instead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from cryptography import x509
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from reference.core.errors import InputError, Reason
from reference.pki.proof import MAX_PROOF_CHARS, CertificateRefusedError
from reference.pki.requests import MAX_REQUEST_CHARS
from reference.protocol.models import ClientId
from reference.service.enrolment import Attempts, Enrolled, Enrolment, Registry
from reference.service.enrolment_records import NewToken, TokenError, token_id
from reference.service.guard import caller
from reference.service.problems import MEDIA_TYPE, problem
from reference.service.store import Store

_PROBLEM: dict[str, object] = {"description": "A problem (RFC 9457)", "content": {MEDIA_TYPE: {}}}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class _Given(_Model):
    model_config = ConfigDict(strict=True, extra="forbid")


class EnrolRequest(_Given):
    """A registration token, here or as a bearer token, and a request for a certificate (PKCS 10, PEM)."""

    csr: Annotated[str, Field(max_length=MAX_REQUEST_CHARS)]
    token: Annotated[str, Field(max_length=200)] | None = None
    client_id: ClientId | None = None
    """If it is said it has to be the token's."""


class RenewRequest(_Given):
    """The JWS that `reference.pki.proof` describes."""

    proof: Annotated[str, Field(max_length=MAX_PROOF_CHARS)]


class RegistrationToken(_Model):
    """Shown this once."""

    client_id: str
    registration_token: str
    expires_at: str

    @classmethod
    def of(cls, client_id: str, token: NewToken) -> Self:
        """As the API shows it."""
        return cls(client_id=client_id, registration_token=token.token, expires_at=_instant(token.expires_ms))


class BrokerView(_Model):
    """Where the broker is."""

    host: str
    port: int
    mqtt_version: Literal["3.1.1", "5"]
    ca: str
    """What its certificate is checked against, in PEM."""


class EnrolledView(_Model):
    """All that a device needs. Certificates and keys are in PEM."""

    tenant_id: str
    client_id: str
    certificate: str
    authority: str
    expires_at: str
    broker: BrokerView
    command_keys: list[str]


class RevokedView(_Model):
    """`published`: whether the list that brokers see says it already; if not, it will as soon as it can be written."""

    client_id: str
    revoked_certificates: int
    published: bool


class AuthorityView(_Model):
    """The authority's certificate in PEM: to be compared with a fingerprint that came another way."""

    authority: str


def _instant(at_ms: float) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _view(registry: Registry, enrolled: Enrolled) -> EnrolledView:
    handout = registry.handout
    cert = x509.load_pem_x509_certificate(enrolled.pem.encode())
    return EnrolledView(
        tenant_id=enrolled.tenant,
        client_id=enrolled.client,
        certificate=enrolled.pem,
        authority=registry.authority,
        expires_at=_instant(cert.not_valid_after_utc.timestamp() * 1000),
        broker=BrokerView(
            host=handout.broker_host,
            port=handout.broker_port,
            mqtt_version=handout.mqtt_version,
            ca=handout.broker_ca,
        ),
        command_keys=list(handout.command_keys),
    )


async def _tried(
    attempts: Attempts, request: Request, credential: str, work: Callable[[], Awaitable[EnrolledView]]
) -> EnrolledView | Response:
    """Do it, unless too much has failed from there; only a credential that is no good counts as a failure."""
    address = request.client.host if request.client is not None else "unknown"
    who = [f"address {address}", *([f"credential {credential}"] if credential else [])]
    begun: list[str] = []
    for one in who:
        wait_s = attempts.begin(one)
        if wait_s > 0:
            for other in begun:
                attempts.forgive(other)
            detail = "Too many attempts that were no good. Wait before the next one."
            headers = {"Retry-After": str(int(wait_s) + 1)}
            return problem(429, Reason.TOO_MANY_ATTEMPTS, detail, request.url.path, headers=headers)
        begun.append(one)
    good = False
    try:
        answer = await work()
        good = True
    except (TokenError, CertificateRefusedError):
        raise
    except BaseException:
        good = True
        raise
    finally:
        if good:
            for one in who:
                attempts.forgive(one)
    return answer


def _token_of(request: Request, body: EnrolRequest) -> str:
    if body.token is not None:
        return body.token
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise InputError(
            "no registration token was sent", where="token", todo="In the body, or as a bearer token."
        )
    return token.strip()[:200]


def install(
    app: FastAPI,
    store: Store,
    parts: Enrolment,
    now_ms: Callable[[], int],
    token_ms: int,
    elapsed_s: Callable[[], float] = time.monotonic,
) -> Registry:
    """Add the routes. The registry's `run` belongs into the application's lifespan (`publishing`)."""
    registry, attempts = Registry(store, parts, now_ms, token_ms), Attempts(elapsed_s)
    statuses: tuple[int, ...] = (401, 409, 422, 429, 503)
    problems: dict[int | str, dict[str, object]] = {status: dict(_PROBLEM) for status in statuses}

    @app.post(
        "/api/v1/clients/{client_id}/registration-token",
        status_code=201,
        responses={status: dict(_PROBLEM) for status in (401, 403, 404)},
    )
    async def make_registration_token(
        request: Request, response: Response, client_id: str
    ) -> RegistrationToken:
        """A new registration token for a client; the one before it is worth nothing any more."""
        token = await registry.new_token(caller(request), client_id)
        response.headers["Location"] = f"/api/v1/clients/{client_id}"
        response.headers["Cache-Control"] = "no-store"
        return RegistrationToken.of(client_id, token)

    @app.post(
        "/api/v1/clients/{client_id}/revoke", responses={status: dict(_PROBLEM) for status in (401, 403, 404)}
    )
    async def revoke_client(request: Request, client_id: str) -> RevokedView:
        """Take back a client's certificates and its registration token. A new token lets it in again."""
        count, published = await registry.revoke(caller(request), client_id)
        return RevokedView(client_id=client_id, revoked_certificates=count, published=published)

    @app.post("/api/v1/enrol", responses=problems, response_model=EnrolledView)
    async def enrol(request: Request, body: EnrolRequest) -> EnrolledView | Response:
        """Trade a registration token and a CSR for a certificate. The same key again gets the same certificate."""
        token = _token_of(request, body)

        async def work() -> EnrolledView:
            return _view(registry, await registry.enrol(token, body.client_id, body.csr))

        return await _tried(attempts, request, token_id(token), work)

    @app.post("/api/v1/enrol/renew", responses=problems, response_model=EnrolledView)
    async def renew(request: Request, body: RenewRequest) -> EnrolledView | Response:
        """Trade a certificate that is good still for the next one, by a request that is signed with its key."""

        async def work() -> EnrolledView:
            return _view(registry, await registry.renew(body.proof))

        return await _tried(attempts, request, "", work)

    @app.get("/api/v1/enrol/ca", responses={503: dict(_PROBLEM)})
    async def get_authority() -> AuthorityView:
        """The authority's certificate, for those who know its fingerprint."""
        return AuthorityView(authority=registry.authority)

    return registry


@asynccontextmanager
async def publishing(registry: Registry) -> AsyncIterator[None]:
    """While it lasts, the list of revoked certificates says what the database does."""
    task = asyncio.create_task(registry.run(), name="revoked certificates")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
