"""What the faults of the registry have in common: a rule at the front, and what it has done as proof.

The registry is what all devices share: such a fault is done to every device that pulls, whatever `device` says.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from chaos.faults.base import Family, Fault, FaultError, Ground, Params
from chaos.proxies.registry import Act, Answered, Handle, Rule
from chaos.proxies.registry.rules import Kind
from chaos.scenario.model import VersionName
from reference.stack.images import PUBLISHER
from reference.stack.parts import RegistryHandle

REPOSITORY = "opc-client"
"""Where versions are kept, when the service knows none yet."""
_PLURALS = {"manifest": "manifests", "layer": "layers", "blob": "configurations"}

Count = Annotated[int, Field(ge=0, le=1000)]


class LayerParams(Params):
    """What every fault of a layer on its way takes."""

    count: Count = 0
    """Done to so many requests; 0: to all while it lasts."""


class AnswerParams(Params):
    """What every answer in place of the registry's own takes."""

    kind: Literal["manifest", "layer", "any"] = "any"
    """What is asked for: a manifest, a layer, or anything of an image."""
    count: Count = 0
    """Given to so many requests; 0: to all while it lasts."""


class RuleFault(Fault):
    """A rule at the registry's front while it lasts."""

    family = Family.REGISTRY
    handle: Handle | None = None

    @abstractmethod
    def act(self) -> Act:
        """What is done to requests."""

    @abstractmethod
    def told(self, handle: Handle) -> str:
        """The proof, when there was at least one hit."""

    def kind(self) -> Kind:
        """To which requests."""
        return "layer"

    async def begin(self) -> None:
        """See the base."""
        rule = Rule(self.act(), self.kind(), count=self.given.count, chance=self.chance)
        self.handle = self.ground.front.add(rule)

    async def heal(self) -> None:
        """See the base."""
        if self.handle is not None:
            self.ground.front.remove(self.handle)

    async def fired(self) -> str:
        """See the base."""
        return self.told(self.handle) if self.handle is not None and self.handle.hits else ""


class LayerFault(RuleFault):
    """Something is done to layers on their way."""

    params: ClassVar[type[Params]] = LayerParams


class AnswerFault(RuleFault):
    """The front answers in place of the registry."""

    params: ClassVar[type[Params]] = AnswerParams
    status: ClassVar[int]
    code: ClassVar[str]
    message: ClassVar[str]

    def fields(self) -> tuple[tuple[str, str], ...]:
        """Of the answer's head, beside the usual."""
        return ()

    def act(self) -> Act:
        """See the base."""
        return Answered(self.status, self.code, self.message, self.fields())

    def kind(self) -> Kind:
        """See the base."""
        found: Kind = self.given.kind
        return found

    def told(self, handle: Handle) -> str:
        """See the base."""
        of = ", ".join(f"{n} for {_PLURALS.get(kind, kind)}" for kind, n in sorted(handle.kinds.items()))
        return f"{requests(handle.hits)} answered with {self.status} ({of})"


def requests(count: int) -> str:
    """`1 request was`, `3 requests were`."""
    return f"{count} request was" if count == 1 else f"{count} requests were"


def layers(count: int) -> str:
    """`1 layer`, `3 layers`: each time that one was asked for counts."""
    return f"{count} layer" if count == 1 else f"{count} layers"


class VersionParams(Params):
    """A version of the scenario."""

    version: VersionName = "2.0.0"
    """Which one."""


def behind(ground: Ground) -> tuple[str, tuple[str, str]]:
    """Where images are pushed to (`host:port`), and the credentials for it. Raises FaultError when that is not ours."""
    handle: RegistryHandle = ground.stack.registry()
    host = handle.push_host or handle.host
    ground.guard.address(host.rpartition(":")[0])
    return host, (PUBLISHER, handle.push_password)


async def repository_of(ground: Ground) -> str:
    """`host:port/name` by which the service, and so the devices, know the client's images. Raises FaultError."""
    answer = await ground.api.get("/api/v1/versions", params={"limit": 1})
    if answer.status_code != 200:
        raise FaultError(f"the service does not list its versions: {answer.status_code} {answer.text}")
    items: list[dict[str, Any]] = answer.json()["items"]
    return str(items[0]["repository"]) if items else f"{ground.stack.registry().host}/{REPOSITORY}"
