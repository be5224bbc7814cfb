"""How far the pull of an image is, and gates at which it stands still.

Told by what passes: a manifest says which layers there are, and the streams of blobs how much of them has come. Only
layers count. What was complete before another manifest named it (a base that images share) counts once it is asked for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Gate:
    """A place in a pull at which it stands still until it is let go."""

    fraction: float
    repository: str | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody stands there."""
    done_bytes: int = 0
    """Of layers, that had passed by then."""
    total_bytes: int = 0
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let it go, and whatever comes later; again is nothing."""
        self._open.set()

    @property
    def released(self) -> bool:
        """Whether it was let go."""
        return self._open.is_set()

    async def stand(self, done_bytes: int, total_bytes: int) -> None:
        """Stand there until it is let go."""
        if not self.reached.is_set():
            self.done_bytes, self.total_bytes = done_bytes, total_bytes
            self.reached.set()
        await self._open.wait()


@dataclass(slots=True)
class _Pull:
    manifest: str
    layers: Mapping[str, int]
    """Sizes by digest."""
    wanted: set[str]
    furthest: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.layers[digest] for digest in self.wanted)

    @property
    def done(self) -> int:
        return sum(self.furthest.get(digest, 0) for digest in self.wanted)

    @property
    def complete(self) -> bool:
        return bool(self.wanted) and self.done >= self.total

    def ahead(self, fraction: float) -> int:
        """Bytes until that much has passed; the last one never does, or there would be nothing to stand still."""
        return min(math.ceil(self.total * fraction), self.total - 1) - self.done


class Pulls:
    """Of all repositories."""

    def __init__(self) -> None:
        self._pulls: dict[str, _Pull] = {}
        self._came_with: dict[str, str] = {}
        """Layers that have passed whole: with which manifest they came first."""
        self._gates: list[Gate] = []

    def begin(self, repository: str, manifest: str, layers: Mapping[str, int]) -> None:
        """A manifest is served. The same one again goes on with its pull, unless that was complete."""
        known = self._pulls.get(repository)
        if known is not None and known.manifest == manifest and not known.complete:
            return
        wanted = {digest for digest in layers if self._came_with.get(digest, manifest) == manifest}
        self._pulls[repository] = _Pull(manifest, layers, wanted)

    def is_layer(self, repository: str, digest: str) -> bool:
        """Whether the last manifest that was served names it as a layer."""
        pull = self._pulls.get(repository)
        return pull is not None and digest in pull.layers

    def progress(self, repository: str) -> tuple[int, int]:
        """Bytes of layers that have passed, and that there are; (0, 0) before a manifest was served."""
        pull = self._pulls.get(repository)
        return (pull.done, pull.total) if pull is not None else (0, 0)

    def hold(self, fraction: float, repository: str | None) -> Gate:
        """Stand still there from now on."""
        self._gates.append(gate := Gate(fraction, repository))
        return gate

    def release_all(self) -> None:
        """Nothing stands still any more."""
        for gate in self._gates:
            gate.release()

    async def through(
        self, repository: str, digest: str, start: int, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """A stream of a blob's bytes from `start` on: counted, and held at the gates."""
        pull, here = self._pulls.get(repository), start
        if pull is None or digest not in pull.layers:
            async for chunk in chunks:
                yield chunk
            return
        pull.wanted.add(digest)
        async for whole in chunks:
            chunk = whole
            while chunk:
                gate, room = self._next_gate(repository, pull)
                if gate is not None and room <= 0:
                    await gate.stand(pull.done, pull.total)
                    continue
                part, chunk = chunk[: room or None], chunk[room:] if room else b""
                here += len(part)
                pull.furthest[digest] = max(pull.furthest.get(digest, 0), min(here, pull.layers[digest]))
                if pull.furthest[digest] >= pull.layers[digest]:
                    self._came_with.setdefault(digest, pull.manifest)
                yield part

    def _next_gate(self, repository: str, pull: _Pull) -> tuple[Gate | None, int]:
        """The nearest gate that is closed, and the bytes until it; without one (None, 0)."""
        self._gates = [gate for gate in self._gates if not gate.released]
        here = [gate for gate in self._gates if gate.repository in (None, repository)]
        if not here:
            return None, 0
        nearest = min(here, key=lambda gate: gate.fraction)
        return nearest, pull.ahead(nearest.fraction)
