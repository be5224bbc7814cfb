"""`blackstart edge adopt NAME`: a container that somebody has made by hand becomes the client that is updated.

Nothing about the container changes. Two files say that it is the client's: a sealed one of the runtime, and the
journal. Between any two writes the power may go, and an agent that starts then must neither stop the client nor make a
second one: so a journal that knows no client goes first, and one that is missing is made from what runs, here or at
the next start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from reference.core.adopt import adopted
from reference.core.delivery import Memory
from reference.core.errors import BlackstartError, EngineError, InputError, JournalError, Reason
from reference.core.model import Health
from reference.core.update import UpdateRecord
from reference.edge.journal import Journal
from reference.edge.main import alone, journal_path, make_folders, new_epoch, open_runtime
from reference.edge.observe import Eyes
from reference.edge.runtimes.docker import DockerRuntime
from reference.edge.runtimes.docker.adoption import Adoption
from reference.edge.settings import EdgeSettings, load_settings
from reference.support.files import fsync_dir

_ABOUT = (
    "Make a container that somebody has made by hand the client that is updated here. Nothing about it changes, and what "
    "every update will keep of it is printed. The agent must not run; it takes over where it is started next."
)
Row = tuple[str, str, str]


async def adopt(settings: EdgeSettings, name: str, probe: str | None, *, look_only: bool = False) -> Adoption:
    """Adopt it, durably; again is success. Raises InputError for what cannot be adopted, EngineError, JournalError."""
    make_folders(settings)
    with alone(settings.state_dir), alone(settings.run_dir):
        runtime = open_runtime(settings)
        try:
            if not isinstance(runtime, DockerRuntime):
                todo = 'Set "runtime": "docker" in the configuration.'
                raise InputError(
                    "only a container of a Docker engine can be adopted", where="runtime", todo=todo
                )
            return await _adopt(settings, runtime, name, probe, look_only)
        finally:
            await runtime.close()


async def _adopt(
    settings: EdgeSettings, runtime: DockerRuntime, name: str, probe: str | None, look_only: bool
) -> Adoption:
    adoption, path = await runtime.look_at(name), journal_path(settings)
    memory = _memory(path)
    if memory is not None and (current := memory.record.current) is not None:
        if current.container_id != adoption.container_id:
            what = f"this device's client is {current.image.version} in container {str(current.container_id)[:12]}"
            raise InputError(what, where=str(path), todo="A device has one client: update that one.")
        return adoption if look_only else await runtime.adopt(name)  # Again: what was begun is finished.
    if memory is not None:
        _refuse_to_forget(memory, path)
    others = [c.id for c in (await runtime.observe()).containers if c.id != adoption.container_id]
    if others:
        what = f"the updater has a container of its own here: {others[0][:12]}"
        raise InputError(what, todo="Start the agent: that one is the client.")
    if look_only:
        return adoption
    _forget(path)
    await runtime.adopt(name)
    eyes = Eyes(runtime, settings.client, settings.run_dir, settings.seed)
    world = await eyes.look(UpdateRecord(epoch="none"))
    if eyes.blind or not world.containers:
        raise EngineError("the engine does not say what runs here", todo="Do it again.")
    health = Health(probe=probe if probe is not None else "" if _is_checked(adoption) else Health().probe)
    Journal.create(path, adopted(world, new_epoch(), health))
    return adoption


def _is_checked(adoption: Adoption) -> bool:
    """Whether the engine asks it how it is: its own HEALTHCHECK, or its image's."""
    check = adoption.carried.config.get("Healthcheck", adoption.of_the_image.get("Healthcheck"))
    return isinstance(check, dict) and (check.get("Test") or ["NONE"])[0] != "NONE"


def _memory(path: Path) -> Memory | None:
    """What is journaled; None when there is no journal. Raises JournalError for one that cannot be read."""
    if not path.exists():
        return None
    journal = Journal.open(path)
    try:
        return journal.memory
    finally:
        journal.close()


def _refuse_to_forget(memory: Memory, path: Path) -> None:
    """A journal without a client is made anew: nothing that it alone knows may be lost."""
    record = memory.record
    if record.job is not None or record.queued is not None or memory.outbox:
        raise JournalError(
            "holds an update, or reports that the service has not acknowledged", reason=Reason.CONFLICT,
            where=str(path), todo="Start the agent, and let it come to rest while it is connected.",
        )  # fmt: skip


def _forget(path: Path) -> None:
    """Remove the journal, its log first: without it there is nothing that could be replayed."""
    try:
        for part in (Path(f"{path}-wal"), Path(f"{path}-shm"), path):
            part.unlink(missing_ok=True)
        fsync_dir(path.parent)
    except OSError as error:
        raise JournalError(f"cannot be made anew: {error.strerror}", where=str(path)) from error


# ---- for people


def rows_of(adoption: Adoption) -> Iterator[Row]:
    """What becomes of it in an update: field, value, fate. Values of the environment may be secrets: names only."""
    carried = adoption.carried
    for part, document in (("Config", carried.config), ("HostConfig", carried.host)):
        for key, value in sorted(document.items()):
            if value not in (None, "", [], {}, False, 0):
                yield f"{part}.{key}", _shown(key, value), "kept"
    for network, endpoint in sorted(carried.networks.items()):
        yield f"Networks.{network}", _shown("", endpoint), "kept"
    yield "HostConfig.RestartPolicy", adoption.restart_policy, "kept; `no` while the client is exchanged"
    for key, value in sorted(adoption.of_the_image.items()):
        yield f"Config.{key}", _shown(key, value), "goes with its image"
    yield "Name", adoption.name, "a new one for each version; others find it by the alias"


def _shown(key: str, value: object) -> str:
    if key == "Env" and isinstance(value, list):
        return ", ".join(str(entry).partition("=")[0] for entry in value) + " (values as they are)"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def as_json(adoption: Adoption, done: bool) -> dict[str, object]:
    """The same for machines."""
    return {
        "adopted": done,
        "containerId": adoption.container_id,
        "name": adoption.name,
        "image": {
            "repository": adoption.image.repository,
            "digest": adoption.image.digest,
            "version": adoption.image.version,
        },
        "restartPolicy": adoption.restart_policy,
        "fields": [
            {"field": field, "value": value, "inAnUpdate": fate} for field, value, fate in rows_of(adoption)
        ],
        "warnings": list(adoption.warnings),
    }


def as_text(adoption: Adoption, done: bool) -> str:
    """A table."""
    image = adoption.image
    head = f"{adoption.name} ({adoption.container_id[:12]}) of {image.repository} {image.version}"
    lines = [
        f"{head} {'is the client here now' if done else 'can be adopted'}; nothing about it was changed.",
        "",
    ]
    rows = [("FIELD", "VALUE", "IN AN UPDATE"), *rows_of(adoption)]
    widths = [max(len(row[n]) for row in rows) for n in (0, 2)]
    lines += [f"{field.ljust(widths[0])}  {fate.ljust(widths[1])}  {value}" for field, value, fate in rows]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in adoption.warnings)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 it is adopted, 1 it could not be done, 2 what was given is wrong."""
    parser = argparse.ArgumentParser(prog="blackstart edge adopt", description=_ABOUT)
    parser.add_argument("name", help="the container's name or id")
    parser.add_argument("--config", type=Path, required=True, help="the device's configuration, JSON")
    parser.add_argument("--data", type=Path, help="folder of `state`, as for `blackstart edge run`")
    parser.add_argument(
        "--probe",
        help="path of its HTTP health; '' for its HEALTHCHECK alone. Default: its HEALTHCHECK if it has one, else /healthz",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what it would mean")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(arguments)
    done = not options.dry_run
    try:
        settings = load_settings(options.config, os.environ, options.data)
        found = asyncio.run(adopt(settings, options.name, options.probe, look_only=options.dry_run))
    except BlackstartError as error:
        print(f"blackstart edge: {error}", file=sys.stderr)  # noqa: T201
        return 2 if error.reason is Reason.INVALID_INPUT else 1
    print(json.dumps(as_json(found, done), indent=1) if options.json else as_text(found, done))  # noqa: T201
    return 0
