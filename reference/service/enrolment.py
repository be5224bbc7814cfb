"""How devices come by their certificates, renew them, and lose them. Over HTTP: `reference.service.enrolment_routes`.

Issuing is three steps: bind the right to the key (a transaction), sign (the issuer, which may be far away), keep the
certificate (a transaction), and only then answer. Killed in between, the service is asked again with the same key and
goes on where it was; a certificate that was signed and not kept has never left it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection

from reference.core.errors import BlackstartError
from reference.pki.issuer import Issuer, IssuerUnavailableError
from reference.pki.names import device_name
from reference.pki.proof import check_proof
from reference.pki.requests import check_subject, key_id, read_request
from reference.service import enrolment_records as records
from reference.service.auth import Principal
from reference.service.enrolment_records import Claim, NewToken
from reference.service.store import Store

log = logging.getLogger(__name__)

PUBLISH_S = 30.0
"""How often the list of revoked certificates is compared with the database: another service may have changed it."""
FORGET_TURNS = 240
"""In so many of those the certificates that have expired are let go of once."""
ATTEMPTS = 20
ATTEMPTS_S = 60.0
"""So many failures in so long from one address, or with one token: then it has to wait."""
REMEMBERED = 4_096


@dataclass(frozen=True, slots=True)
class Handout:
    """What an enrolled device is told beside its certificate."""

    broker_host: str
    broker_port: int
    mqtt_version: Literal["3.1.1", "5"]
    broker_ca: str
    """What the broker's certificate is checked against, in PEM."""
    command_keys: tuple[str, ...]
    """Public keys whose commands are obeyed, in PEM."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What enrolment is done with; without an issuer it answers that it cannot be had."""

    issuer: Issuer | None = None
    handout: Handout | None = None


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A device and its certificate."""

    tenant: str
    client: str
    pem: str


class Attempts:
    """Counts what fails, by whom, in memory. Someone who did too much has to wait; nothing is kept of the others."""

    def __init__(
        self, elapsed_s: Callable[[], float], most: int = ATTEMPTS, within_s: float = ATTEMPTS_S
    ) -> None:
        self._elapsed_s = elapsed_s
        self._most = most
        self._within_s = within_s
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def begin(self, who: str) -> float:
        """Count an attempt before its outcome is known, so that many at once are held back, too.

        Seconds to wait: 0 when it may go on.
        """
        now = self._elapsed_s()
        count, since = self._counts.get(who, (0, now))
        if now - since >= self._within_s:
            count, since = 0, now
        if count >= self._most:
            return self._within_s - (now - since)
        self._counts[who] = (count + 1, since)
        self._counts.move_to_end(who)
        if len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)
        return 0.0

    def forgive(self, who: str) -> None:
        """It was a good one."""
        count, since = self._counts.get(who, (0, 0.0))
        if count > 1:
            self._counts[who] = (count - 1, since)
        else:
            self._counts.pop(who, None)


class Registry:
    """Gives and takes certificates. `run` keeps the list of revoked ones as the database says."""

    def __init__(self, store: Store, parts: Enrolment, now_ms: Callable[[], int], token_ms: int) -> None:
        self._store = store
        self._token_ms = token_ms
        self._parts = parts
        self._now_ms = now_ms
        self._publishing = asyncio.Lock()

    @property
    def handout(self) -> Handout:
        """Raises IssuerUnavailableError."""
        self._issuer()
        assert self._parts.handout is not None, "an issuer comes with a handout"
        return self._parts.handout

    @property
    def authority(self) -> str:
        """The issuer's certificate in PEM. Raises IssuerUnavailableError."""
        return self._issuer().authority.public_bytes(Encoding.PEM).decode()

    async def new_token(self, caller: Principal, client_id: str) -> NewToken:
        """Raises NotFoundError."""
        now_ms, lifetime_ms = self._now_ms(), self._token_ms

        def work(connection: Connection) -> NewToken:
            records.require_client(connection, caller.tenant, client_id)
            return records.add_token(connection, caller, client_id, now_ms, lifetime_ms)

        token = await self._store.write(work)
        log.info(
            "registration token made", extra={"client": f"{caller.tenant}/{client_id}", "by": caller.subject}
        )
        return token

    async def enrol(self, token: str, client_id: str | None, csr: str) -> Enrolled:
        """Trade a token and a CSR for a certificate.

        Raises TokenError, ConflictError when the token was used by another key, InputError for the CSR, and
        IssuerUnavailableError.
        """
        issuer, now_ms = self._issuer(), self._now_ms()
        # The token first: strangers are not told what is wrong with their CSR. A bad CSR does not use a token up.
        row = await self._store.read(lambda c: records.check_token(c, token, client_id, now_ms))
        request = read_request(csr)
        check_subject(request, device_name(str(row.tenant), str(row.client)))
        key = key_id(request)
        claim = await self._store.write(lambda c: records.claim(c, token, client_id, key, now_ms))
        return await self._complete(issuer, claim, request)

    async def renew(self, proof: str) -> Enrolled:
        """Trade the proof of a good certificate for the next one.

        Raises CertificateRefusedError, InputError for the CSR, and IssuerUnavailableError.
        """
        issuer, now_ms = self._issuer(), self._now_ms()
        asked = check_proof(proof, issuer.authority, now_ms / 1000)
        request = read_request(asked.csr)
        check_subject(request, asked.device.mqtt_id)
        key = key_id(request)
        claim = await self._store.write(lambda c: records.claim_renewal(c, asked, key, now_ms))
        return await self._complete(issuer, claim, request)

    async def _complete(
        self, issuer: Issuer, claim: Claim, request: x509.CertificateSigningRequest
    ) -> Enrolled:
        pem = claim.pem
        if pem is None:
            cert = await asyncio.to_thread(issuer.issue, claim.tenant, claim.client, request)
            now_ms = self._now_ms()
            pem = await self._store.write(lambda c: records.keep(c, claim, cert, now_ms))
            how = "renewed" if claim.token is None else "enrolled"
            log.info("certificate issued", extra={"client": f"{claim.tenant}/{claim.client}", "how": how})
        return Enrolled(claim.tenant, claim.client, pem)

    async def revoke(self, caller: Principal, client_id: str) -> tuple[int, bool]:
        """How many certificates were taken back, and whether brokers can know it by now. Raises NotFoundError."""
        issuer, now_ms = self._parts.issuer, self._now_ms()

        def exists(connection: Connection) -> None:
            records.require_client(connection, caller.tenant, client_id)

        await self._store.read(exists)
        elsewhere: list[x509.Certificate] = []
        if issuer is not None:
            found = await asyncio.to_thread(issuer.issued_elsewhere, caller.tenant, client_id)
            elsewhere = list(found)

        def work(connection: Connection) -> int:
            exists(connection)
            return records.revoke(connection, caller, client_id, elsewhere, now_ms)

        count = await self._store.write(work)
        who = f"{caller.tenant}/{client_id}"
        log.warning("client revoked", extra={"client": who, "certificates": count, "by": caller.subject})
        return count, await self._publish()

    async def run(self) -> None:
        """Publish what is revoked, at once and then whenever it is not so, until cancelled."""
        for turn in itertools.count():
            await self._publish()
            if turn % FORGET_TURNS == 0:
                with contextlib.suppress(BlackstartError):  # the store tells of its troubles itself
                    await self._store.write(functools.partial(records.forget, now_ms=self._now_ms()))
            await asyncio.sleep(PUBLISH_S)

    async def _publish(self) -> bool:
        """Whether the list says now what the database does. What is in the way is logged, and tried again later."""
        issuer = self._parts.issuer
        if issuer is None:
            return False
        try:
            async with self._publishing:
                now_ms = self._now_ms()
                revoked = await self._store.read(lambda c: records.list_revoked(c, now_ms))
                if await asyncio.to_thread(issuer.publish_revoked, revoked):
                    log.info("list of revoked certificates published", extra={"certificates": len(revoked)})
        except BlackstartError as error:
            log.error("the list of revoked certificates is not published: %s", error)
            return False
        return True

    def _issuer(self) -> Issuer:
        if self._parts.issuer is None:
            raise IssuerUnavailableError(
                "this service has no certificate authority, so it can neither enrol nor renew",
                todo="Start it with the folder of one (--ca-dir).",
            )
        return self._parts.issuer
