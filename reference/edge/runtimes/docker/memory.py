"""What the Docker runtime keeps beside the engine, so that nothing hangs on the engine's memory alone.

STATE/docker/adopted.json    the container that was made by somebody else and is the client now, sealed; and a copy
STATE/docker/names.json      images by digest, as the engine calls them, that nobody had before the updater pulled them, sealed
STATE/docker/template.json   what the current container is beside its image, sealed: it can be made again from this
RUN/containers/ID            when the container had been started before it was started in this boot
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from reference.core.model import Image
from reference.edge.runtimes.docker.configuration import Carried, carried_from
from reference.edge.runtimes.docker.engine import Document
from reference.edge.runtimes.files import seal, unseal, write
from reference.support.files import fsync_dir, write_durably

log = logging.getLogger("reference.edge")

_ADOPTED = ("adopted.json", "adopted-copy.json")
"""Twice: no label says whose it is, and one that is nobody's would run on beside the next."""
MOST = 64
"""Names that are remembered: the newest ones."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A container that the updater did not make, and what its image is called here."""

    container_id: str
    name: str
    image: Image


class Memory:
    """The sealed files. Raises OSError."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "docker"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._template: tuple[str, Carried] | None = None
        self._adopted: Adopted | None = None
        self._looked = False
        """Whether adopted.json was read: it is asked for at every look."""

    def adopted(self) -> Adopted | None:
        """The adopted container. One whose file is damaged is nobody's, with a word in the log."""
        if not self._looked:
            self._adopted, self._looked = self._adopted_on_disk(), True
        return self._adopted

    def _adopted_on_disk(self) -> Adopted | None:
        for name in _ADOPTED:
            body = self._read(name)
            try:
                if body is not None:
                    return Adopted(body["container_id"], body["name"], Image(**body["image"]))
            except (KeyError, TypeError) as error:
                log.error(f"{name} is not what it should be", extra={"detail": str(error)})
        return None

    def adopt(self, adopted: Adopted) -> None:
        """Remember it, durably."""
        for name in _ADOPTED:
            write_durably(self._folder / name, seal(asdict(adopted)))
        self._adopted = adopted

    def let_go(self, container_id: str) -> None:
        """It was removed."""
        found = self.adopted()
        if found is not None and found.container_id == container_id:
            for name in _ADOPTED:
                (self._folder / name).unlink(missing_ok=True)
            fsync_dir(self._folder)
            self._adopted = None

    def names(self) -> tuple[str, ...]:
        """`repository@digest` that our own pulls have made: all others are somebody else's, and stay."""
        found = (self._read("names.json") or {}).get("names")
        return tuple(str(name) for name in found) if isinstance(found, list) else ()

    def note_name(self, name: str) -> None:
        """To be called before it is pulled. Durable when it returns."""
        self._keep_names([*(n for n in self.names() if n != name), name])

    def drop_names(self, digest: str) -> None:
        """Nothing of that image is left that would be ours."""
        self._keep_names([name for name in self.names() if not name.endswith(f"@{digest}")])

    def _keep_names(self, names: list[str]) -> None:
        if tuple(names) != self.names():
            write_durably(self._folder / "names.json", seal({"names": names[-MOST:]}))

    def template(self) -> tuple[str, Carried] | None:
        """The container that it was taken from, and what that one was."""
        if self._template is None and (body := self._read("template.json")) is not None:
            try:
                self._template = str(body["container_id"]), carried_from(body["carried"])
            except (KeyError, ValueError, AttributeError) as error:
                log.error("template.json is not what it should be", extra={"detail": str(error)})
        return self._template

    def keep_template(self, container_id: str, carried: Carried) -> None:
        """Remember it, durably, if it is news."""
        if self.template() == (container_id, carried):
            return
        body = {"container_id": container_id, "carried": carried.as_json()}
        write_durably(self._folder / "template.json", seal(body))
        self._template = container_id, carried

    def _read(self, name: str) -> Document | None:
        path = self._folder / name
        try:
            return unseal(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            path.replace(path.with_name(f"{name}.damaged"))
            log.error("a file is damaged and set aside", extra={"path": str(path), "detail": str(error)})
            return None


class Markers:
    """Which containers were started in this boot, without a look at any clock. Raises OSError.

    The marker holds what the engine said of the last start before ours: a start has happened when it says another one.
    """

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / "containers"
        self._sure: set[str] = set()

    def before_start(self, container_id: str, started_at: str) -> None:
        """To be called before it is started."""
        if not self.started(container_id, started_at):
            self._write(container_id, started_at)

    def seen_running(self, container_id: str) -> None:
        """It runs: whoever started it did so in this boot."""
        if container_id not in self._sure:
            self._write(container_id, "")
            self._sure.add(container_id)

    def started(self, container_id: str, started_at: str) -> bool:
        """Whether it was started in this boot, by us or under our eyes."""
        try:
            marker = json.loads((self._folder / container_id).read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        return isinstance(marker, str) and marker != started_at

    def forget(self, container_id: str) -> None:
        """It was removed."""
        self._sure.discard(container_id)
        (self._folder / container_id).unlink(missing_ok=True)

    def _write(self, container_id: str, started_at: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write(self._folder / container_id, json.dumps(started_at).encode())
