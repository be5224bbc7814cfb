"""Which requests something is done to, and how often it was done."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from chaos.proxies.registry.heads import What

if TYPE_CHECKING:
    from chaos.proxies.registry.acts import Act

Kind = Literal["manifest", "blob", "layer", "any"]
"""`layer`: a blob that a manifest has named as a layer. `any`: manifests and blobs."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to the registry."""

    method: str
    path: str
    """Without its query."""
    kind: What
    repository: str
    """Empty where it is about none."""
    reference: str
    """Tag or digest."""
    range: str | None
    layer: bool
    """A blob that a manifest before it has named as a layer."""


@dataclass(frozen=True, slots=True)
class Request:
    """What became of a request: the history's `front` `request`."""

    method: str
    path: str
    status: int
    """0: there was no answer."""
    bytes: int
    """Of the body, that were sent to the client."""
    repository: str
    kind: What
    range: str | None = None

    @classmethod
    def of(cls, asked: Asked, status: int, count: int) -> Request:
        """As it ended."""
        return cls(asked.method, asked.path, status, count, asked.repository, asked.kind, asked.range)


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that is done to requests. Only to those that read: pushes pass whole."""

    act: Act
    kind: Kind = "any"
    repository: str | None = None
    reference: str | None = None
    """Tag or digest, as it is asked for."""
    count: int = 0
    """To so many requests at most; 0: to all."""
    share: float = 1.0
    """To this share of the requests that match, drawn by `chance`."""
    chance: random.Random | None = None
    """Without it the front's own, which is seeded."""

    def matches(self, asked: Asked) -> bool:
        """Whether it is meant for that request."""
        if asked.method not in ("GET", "HEAD") or asked.kind not in ("manifest", "blob"):
            return False
        of_kind = self.kind in ("any", asked.kind) or (self.kind == "layer" and asked.layer)
        here = self.repository in (None, asked.repository) and self.reference in (None, asked.reference)
        return of_kind and here


@dataclass(slots=True, eq=False)
class Handle:
    """A rule in force, and what it has done until now."""

    rule: Rule
    chance: random.Random
    hits: int = 0
    """Requests that got it."""
    bytes: int = 0
    """Bytes that it kept back, changed, slowed down or saw: what the act says."""
    waited_s: float = 0.0
    """How long it let bytes wait."""
    kinds: Counter[str] = field(default_factory=Counter)
    """The hits, by what was asked for."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _taken: int = 0

    @property
    def in_force(self) -> bool:
        """Until it is removed."""
        return not self.ended.is_set()

    def takes(self, asked: Asked) -> bool:
        """Whether it is this request's turn; asked once for each."""
        rule = self.rule
        if not self.in_force or not rule.matches(asked) or (rule.count and self._taken >= rule.count):
            return False
        if rule.share < 1 and self.chance.random() >= rule.share:
            return False
        self._taken += 1
        return True

    def hit(self, asked: Asked, count: int = 0) -> None:
        """It was done to a request, and touched so many bytes."""
        self.hits += 1
        self.kinds["layer" if asked.layer else asked.kind] += 1
        self.bytes += count
