"""Strangers knock at the broker."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from typing import Annotated

from pydantic import Field

from chaos.faults.base import Family, Instant, Params, register
from reference.pki.authority import CertificateFiles, DevelopmentCA
from reference.pki.names import device_name
from reference.stack import HOST, Device
from reference.support.mqtt import Protocol

ANSWER_S = 3.0
"""So long without a CONNACK is without a CONNACK."""
CONNACK = 0x20
FOREIGN, NONE = "a certificate of a foreign authority", "no certificate"


class KnockParams(Params):
    """How often."""

    times: Annotated[int, Field(ge=1, le=50)] = 3
    """With each of the two."""


@register
class ForeignCertificate(Instant):
    """Somebody says that he is the device: with a certificate of his own authority, and with none.

    Under TLS 1.3 the client's handshake seems to succeed: what counts is that no CONNACK comes. One that does is noted
    in the history as `hostile got-in`.
    """

    name = "foreign-certificate"
    family = Family.HOSTILE
    about = "A stranger connects to the broker under the device's name: with a foreign certificate, and with none."
    shown_by = "attempts that the broker has ended without a CONNACK"
    params = KnockParams
    given: KnockParams

    _knocking: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """See the port. It knocks on while the run goes on."""
        self._ended: Counter[str] = Counter()
        self._knocked: set[str] = set()
        self._got_in = 0
        self._knocking = asyncio.create_task(self._knock_all())

    async def heal(self) -> None:
        """Nobody knocks any more."""
        if self._knocking is not None:
            self._knocking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._knocking
            self._knocking = None

    async def _knock_all(self) -> None:
        foreign = await asyncio.to_thread(DevelopmentCA.open_or_create, self.ground.folder / "foreign-ca")
        for device in self.ground.chosen(self.use.device):
            files = foreign.issue_device(device.tenant, device.client_id)
            for who, certificate in ((FOREIGN, files), (NONE, None)):
                for _ in range(self.given.times):
                    await self._knock(device, who, certificate)

    async def _knock(self, device: Device, who: str, files: CertificateFiles | None) -> None:
        try:
            reader, writer = await asyncio.open_connection(
                self.ground.guard.address(HOST), self.ground.stack.broker_port, ssl=_context(files)
            )
        except ConnectionRefusedError:  # Nobody was there to refuse him.
            return
        except OSError as error:  # ssl.SSLError is one: not even the handshake.
            self._note(device, who, type(error).__name__)
            return
        try:
            answer = b""
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(ANSWER_S):
                    writer.write(connect(device_name(device.tenant, device.client_id), self._level()))
                    await writer.drain()
                    answer = await reader.read(64)
            if answer[:1] == bytes([CONNACK]):
                self._got_in += 1
                self.ground.recorder.record(
                    "hostile", "got-in", device.client_id, who=who, answer=answer.hex()
                )
            self._note(device, who, f"answer {answer[:8].hex()}" if answer else "no CONNACK")
        finally:
            writer.transport.abort()

    def _note(self, device: Device, who: str, how: str) -> None:
        self._ended[who] += 1
        self._knocked.add(device.client_id)
        self.ground.recorder.record("hostile", "knocked", device.client_id, who=who, ended=how)

    def _level(self) -> int:
        return 5 if self.ground.stack.mqtt_version == Protocol.V5.value else 4

    async def fired(self) -> str:
        """See the port: once all have tried. Where somebody got in that is said: it has happened, and is a failure."""
        if self._knocking is not None:
            await self._knocking
        if not all(device.client_id in self._knocked for device in self.ground.chosen(self.use.device)):
            return ""
        tried = ", ".join(f"{many} with {who}" for who, many in sorted(self._ended.items()))
        what = f"{self._got_in} of them GOT IN" if self._got_in else "none of them was let in"
        return f"{self._ended.total()} attempts to connect under the device's name ({tried}): {what}"


def _context(files: CertificateFiles | None) -> ssl.SSLContext:
    """Strangers do not ask whom they talk to."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if files is not None:
        context.load_cert_chain(files.cert, files.key)
    return context


def connect(client_id: str, level: int) -> bytes:
    """A CONNECT with a clean session (MQTT 3.1.1 and 5, section 3.1)."""
    name = client_id.encode()
    head = b"\x00\x04MQTT" + bytes([level, 0x02, 0, 20]) + (b"\x00" if level == 5 else b"")
    body = head + len(name).to_bytes(2, "big") + name
    assert len(body) < 128, "then its length takes one byte"
    return bytes([0x10, len(body)]) + body
