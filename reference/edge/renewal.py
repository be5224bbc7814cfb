"""The certificate's next one, in time and without a gap.

At two thirds of its life a new key is made, certified over the service's API by the proof of the old one, and tried at
the broker. Only when the broker took it does it replace the old one on the disk, which stays good until its end.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cryptography import x509

from reference.core.errors import BlackstartError, Reason
from reference.edge.enrolment import Enrolled, EnrolmentError, Service, check_url, trusted
from reference.edge.identity import Identities, device_of, files_in, load_certificate, load_key
from reference.edge.settings import EdgeSettings
from reference.pki.proof import prove
from reference.pki.requests import make_request
from reference.support.mqtt import TlsFiles

log = logging.getLogger("reference.edge")

LOOK_S = 3600.0
"""How often the calendar is looked at."""
RETRY_FIRST_S, RETRY_LIMIT_S = 30.0, 3600.0
SHARE = 2 / 3
"""Of its life, when a certificate is renewed."""
SPREAD = 0.05
"""Of its life, by how much devices that were enrolled together differ at most."""


class Renewable(Protocol):
    """What is connected with the certificate."""

    async def renew(self, tls: TlsFiles) -> None:
        """Connect with these first, then let go of the old connection. Raises BlackstartError: all stays as it was."""


class Renewal:
    """Run `run` beside the agent. It never raises: a certificate that cannot be renewed is logged until it can."""

    def __init__(
        self,
        identities: Identities,
        service: Service,
        link: Renewable,
        now_s: Callable[[], float] = time.time,
        seed: int | None = None,
    ) -> None:
        self._identities = identities
        self._service = service
        self._link = link
        self._now_s = now_s
        self._random = random.Random(seed)  # noqa: S311 (spreads a fleet, protects nothing)
        self._early = self._random.random() * SPREAD

    @classmethod
    def of(cls, settings: EdgeSettings, link: Renewable) -> Renewal | None:
        """As the device is set up; None when somebody else sees to its certificate. Raises InputError."""
        told, broker = settings.renewal, settings.broker
        identities = Identities.of(TlsFiles(broker.ca, broker.cert, broker.key))
        if told is None or identities is None:
            return None
        return cls(identities, service_of(told.url, told.ca), link, seed=settings.seed)

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            try:
                await self.look()
                failures = 0
            except BlackstartError as error:
                failures += 1
                self._complain(error)
            except Exception:
                # A defect here must not end the updater, nor the certificate in silence.
                failures += 1
                log.exception("the certificate's renewal has a defect")
            await asyncio.sleep(self._wait_s(failures))

    def _wait_s(self, failures: int) -> float:
        full = LOOK_S if failures == 0 else min(RETRY_LIMIT_S, RETRY_FIRST_S * 2.0 ** min(failures - 1, 16))
        return full * self._random.uniform(0.5, 1.0)

    def due(self, cert: x509.Certificate) -> bool:
        """Whether it is time."""
        begins, ends = cert.not_valid_before_utc.timestamp(), cert.not_valid_after_utc.timestamp()
        return self._now_s() >= begins + (ends - begins) * (SHARE - self._early)

    async def look(self) -> bool:
        """Renew if it is time; whether it was done. Raises BlackstartError; what is in use stays in use then."""
        files = self._identities.files
        cert = await asyncio.to_thread(load_certificate, files.cert)
        if not self.due(cert):
            return False
        identity = await asyncio.to_thread(self._renewed, cert, files.key)
        # First the broker: a certificate that it refuses is of no use, and the old one is good still.
        await self._link.renew(files_in(identity))
        await asyncio.to_thread(self._identities.use, identity)
        await asyncio.to_thread(self._identities.tidy)
        log.info("the certificate was renewed", extra={"serial": identity.name})
        return True

    def _renewed(self, cert: x509.Certificate, key_path: Path) -> Path:
        """A new identity beside the one in use."""
        self._identities.drop_used()
        old, key = load_key(key_path), self._identities.pending_key()
        if (kept := self._identities.kept_for(key)) is not None:
            return kept  # the broker was not to be reached then; the old one may have ended since
        csr = make_request(key, device_of(cert).mqtt_id).decode()

        def ask(now_s: float) -> Enrolled:
            return self._service.renew(prove(old, cert, csr, now_s))

        try:
            answer = ask(self._now_s())
        except EnrolmentError as error:
            # A clock that is wrong here is told by the service's own, which it sends with every answer.
            if error.reason is not Reason.CERTIFICATE_REFUSED or error.service_s is None:
                raise
            answer = ask(error.service_s)
        return self._identities.keep(key, answer.certified)

    def _complain(self, error: BlackstartError) -> None:
        try:
            left_s = (
                load_certificate(self._identities.files.cert).not_valid_after_utc.timestamp() - self._now_s()
            )
        except BlackstartError:
            left_s = 0.0
        log.log(
            logging.CRITICAL if left_s <= 0 else logging.ERROR,
            "the certificate is not renewed",
            extra={"reason": error.reason, "detail": str(error), "days_left": round(left_s / 86_400, 1)},
        )


def service_of(url: str, ca: Path | None) -> Service:
    """Where to renew. Raises InputError."""
    return trusted(check_url(url), ca, None)
