"""Pulls that were begun and are not known to be on the disk: STATE/docker/pulls.json, sealed.

After a cut in a pull the engine knows layers whose files are empty. It lists no image of them, so nothing looks broken;
the next pull finds the layers "already there", takes a moment, and what it lists can be inspected. Nothing that the
engine says tells such an image from a whole one: only that its pull was begun in another boot does.
"""

from __future__ import annotations

import logging
from pathlib import Path

from reference.edge.runtimes.files import seal, unseal
from reference.support.files import write_durably

log = logging.getLogger("reference.edge")

MOST = 16
"""Pulls that are remembered: the newest ones."""


class Begun:
    """The file. `boot_id` is this boot's. Raises OSError."""

    def __init__(self, state_dir: Path, boot_id: str) -> None:
        self._path = state_dir / "docker" / "pulls.json"
        self._boot_id = boot_id
        self._pulls = self._read()

    @property
    def cut(self) -> frozenset[str]:
        """Digests whose pull was begun in an earlier boot: nobody knows what is left of it."""
        return frozenset(digest for digest, boot_id in self._pulls.items() if boot_id != self._boot_id)

    @property
    def open(self) -> frozenset[str]:
        """Digests whose pull was begun in this boot and has not come to its end: it goes on, or is begun again."""
        return frozenset(self._pulls) - self.cut

    def begin(self, digest: str) -> None:
        """Durable when it returns: to be called before the engine is asked, and when nothing of an earlier one is left."""
        self._keep({**{d: b for d, b in self._pulls.items() if d != digest}, digest: self._boot_id})

    def synced(self) -> None:
        """All that pulls of this boot have brought is on the disk, and none is under way."""
        self._keep({d: b for d, b in self._pulls.items() if b != self._boot_id})

    def forget(self, digest: str) -> None:
        """Nothing of it is left."""
        self._keep({d: b for d, b in self._pulls.items() if d != digest})

    def _keep(self, pulls: dict[str, str]) -> None:
        if pulls == self._pulls:
            return
        newest = dict(list(pulls.items())[-MOST:])
        write_durably(self._path, seal({"pulls": newest}))
        self._pulls = newest

    def _read(self) -> dict[str, str]:
        try:
            pulls = unseal(self._path.read_bytes())["pulls"]
            return {str(digest): str(boot_id) for digest, boot_id in pulls.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, AttributeError) as error:
            log.error("a file is damaged", extra={"path": str(self._path), "detail": str(error)})
            return {}
