"""A registry whose certificate has run out."""

from __future__ import annotations

from chaos.faults.base import Family, Fault, FaultError, Wants, register
from chaos.proxies.registry import expired_certificate
from chaos.scenario.model import FaultUse


@register
class CertificateExpired(Fault):
    """See `about`."""

    name = "registry-certificate-expired"
    family = Family.REGISTRY
    about = "The registry shows a certificate that has expired, on every new connection."
    shown_by = "TLS handshakes that clients broke off"
    _before = 0
    _broken: tuple[str, ...] = ()
    _in_force = False

    @classmethod
    def wants(cls, use: FaultUse, wants: Wants) -> None:  # noqa: ARG003
        """TLS before the registry."""
        wants.registry_tls = True

    async def begin(self) -> None:
        """See the base."""
        front = self.ground.front
        if front.certificate is None:
            raise FaultError("the registry's front has no TLS", todo="This is a defect of the bench.")
        authority = self.ground.stack.data / "ca"
        files = expired_certificate(authority, self.ground.folder / "expired-certificate")
        self._before = len(front.handshakes_broken)
        front.present(files)
        self._in_force = True

    async def heal(self) -> None:
        """See the base."""
        if self._in_force and (usual := self.ground.front.certificate) is not None:
            self._look()
            self.ground.front.present(usual)
            self._in_force = False

    async def fired(self) -> str:
        """See the base."""
        if self._in_force:
            self._look()
        if not self._broken:
            return ""
        said = ", ".join(sorted(set(self._broken)))
        handshakes = "TLS handshake was" if len(self._broken) == 1 else "TLS handshakes were"
        return f"{len(self._broken)} {handshakes} broken off: {said}"

    def _look(self) -> None:
        self._broken = tuple(self.ground.front.handshakes_broken[self._before :])
