"""The engine under the client restarts, is down, or has strangers at work; and what an image says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from reference.core.errors import Reason, ServiceError
from reference.core.limits import DEFAULT_LIMITS
from reference.core.model import Outcome, Phase
from reference.demo.bench import OLD, Bench
from reference.demo.front import FRONT, HELD
from reference.demo.stories.trials import plain
from reference.demo.story import PLAIN, Act, Published, Story
from reference.stack.box import forget_boot
from reference.stack.docker_box import CLIENT_LABEL, DockerBox

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

NO_ENGINE = "the process runtime has no engine that anything could happen to"
NO_CHECKS = "the process runtime does not know an image's own check"
DEAF_MS = 1_500
"""What a version that does not hear SIGTERM is given before SIGKILL."""
DOWN_S = 1.0


def box(bench: Bench) -> DockerBox:
    """The device's, on an engine. Raises ServiceError on another runtime: the story says that it is not for it."""
    if not isinstance(bench.device.box, DockerBox):
        raise ServiceError("this story needs a Docker Engine")
    return bench.device.box


async def stranger(bench: Bench, what: str, does: Callable[[DockerClient], object]) -> None:
    """Somebody else does something to the engine."""

    def do() -> None:
        with box(bench).asked() as docker:
            does(docker)

    bench.mark(what)
    await asyncio.to_thread(do)


def _held_repository(bench: Bench) -> str:
    return f"{HELD}{bench.version}"


async def _restart_engine(bench: Bench, *, with_all: bool = False) -> None:
    """Let dockerd end and start again. `with_all`: its containers end with it, where it has no live-restore."""
    bench.mark("engine restarts with its containers" if with_all else "engine restarts")
    await asyncio.to_thread(box(bench).own().restart)
    bench.mark("engine back")


async def _engine_restarts(bench: Bench) -> None:
    """Once in the middle of a layer, once as the switch is journaled, once in the trial. The containers go on."""
    await bench.pause_at(Phase.SWITCHING)
    job_id = await bench.command()
    await bench.front.held_once(_held_repository(bench))
    before = bench.client_pids()
    await _restart_engine(bench)
    bench.notes["client_untouched_by_restart"] = bench.client_pids() == before
    bench.front.let_go(_held_repository(bench))
    await bench.paused()
    await _restart_engine(bench)
    await bench.resume()
    await bench.reached(job_id, Phase.VERIFYING)
    await _restart_engine(bench)
    await bench.finish(job_id)


async def _engine_restarts_with_all(bench: Bench) -> None:
    """In the middle of a layer, and in the trial; every container ends with the engine."""
    job_id = await bench.command()
    await bench.front.held_once(_held_repository(bench))
    await _restart_engine(bench, with_all=True)
    bench.front.let_go(_held_repository(bench))
    await bench.reached(job_id, Phase.VERIFYING)
    await _restart_engine(bench, with_all=True)
    await bench.finish(job_id)


async def _engine_down_at_boot(bench: Bench) -> None:
    """The agent is up first, and is commanded before it can see anything."""
    bench.observe()
    await bench.settle()
    await bench.kill_everything()
    bench.mark("boot without the engine")
    forget_boot(bench.device)
    await bench.stack.start_agent(bench.device)
    job_id = await bench.command()
    await asyncio.sleep(DOWN_S)
    bench.notes["status_while_engine_is_down"] = (await bench.look(job_id)).get("status")
    await asyncio.to_thread(box(bench).own().start)
    bench.mark("engine up")
    await bench.finish(job_id)


async def _pruned(bench: Bench) -> None:
    """`docker image prune`, which must find nothing of ours; then with `--all`, which takes what no container uses."""
    await bench.pause_at(Phase.STAGED)
    job_id = await bench.command()
    await bench.paused()
    wanted = bench.stack.digests[bench.version]
    await stranger(bench, "image prune", lambda docker: docker.images.prune())
    bench.notes["kept_from_a_prune"] = bench.device.box.has_image(wanted)
    await stranger(bench, "image prune --all", lambda docker: docker.images.prune({"dangling": False}))
    bench.notes["candidate_pruned"] = not bench.device.box.has_image(wanted)
    await bench.resume()
    await bench.finish(job_id)


def _ours(docker: DockerClient, bench: Bench) -> list[Container]:
    named = f"{CLIENT_LABEL}={bench.stack.tenant}.{bench.device.client_id}"
    return list(docker.containers.list(all=True, filters={"label": named}))


async def _renamed(bench: Bench) -> None:
    """The client's container gets another name, and one that is not ours gets its old one."""

    def rename(docker: DockerClient) -> None:
        [client] = _ours(docker, bench)
        name, image = str(client.name), client.attrs["Image"]
        client.rename(f"renamed-{bench.device.client_id}")
        bench.notes["foreign"] = docker.containers.create(image, name=name).id

    await stranger(bench, "container renamed", rename)
    try:
        await bench.finish(await bench.command())
    finally:
        foreign = str(bench.notes["foreign"])

        def look(docker: DockerClient) -> None:
            found = {c.id: c for c in docker.containers.list(all=True)}
            bench.notes["foreign_container_untouched"] = (
                foreign in found and found[foreign].status == "created"
            )
            if foreign in found:
                found[foreign].remove()

        await stranger(bench, "foreign container looked at", look)


async def _both_revived(bench: Bench) -> None:
    """In the trial somebody sets `always` on old and new, and the engine restarts: it starts both."""
    await bench.pause_at(Phase.VERIFYING)
    job_id = await bench.command()
    await bench.paused()

    def always(docker: DockerClient) -> None:
        found = _ours(docker, bench)
        bench.notes["containers_in_the_trial"] = len(found)
        for one in found:
            one.update(restart_policy={"Name": "always"})

    def count(docker: DockerClient) -> None:
        bench.notes["both_revived"] = (
            sum(c.attrs["RestartCount"] > 0 or c.status == "running" for c in _ours(docker, bench)) == 2
        )

    await stranger(bench, "restart policy always", always)
    await _restart_engine(bench, with_all=True)
    await stranger(bench, "both looked at", count)
    await bench.resume()
    await bench.finish(job_id)


def _hurt(name: str, about: str, act: Act, published: Published = PLAIN, **more: object) -> Story:
    story = Story(name, about, act, published=published, runs=published.version, hurts_engine=True)
    return replace(story, not_on={"process": NO_ENGINE}, **more)  # type: ignore[arg-type]


def _checked(name: str, about: str, published: Published, reason: Reason | None = None) -> Story:
    outcome, runs = (Outcome.SUCCEEDED, published.version) if reason is None else (Outcome.ROLLED_BACK, OLD)
    return Story(name, about, plain, outcome, reason, published, runs, not_on={"process": NO_CHECKS})


def _held(version: str) -> Published:
    return Published(version, repository=f"{HELD}{version}", registry=FRONT)


STORIES: tuple[Story, ...] = (
    _hurt(
        "engine-restarts-mid-update", "the engine restarts in the pull, in the switch and in the trial",
        _engine_restarts, _held("2.0.11"),
    ),
    _hurt(
        "engine-restarts-with-its-containers", "the engine restarts in the pull and in the trial, and all containers end with it",
        _engine_restarts_with_all, _held("2.0.12"), live_restore=False,
    ),
    _hurt(
        "engine-down-at-boot", "the device boots, and the engine is not up yet", _engine_down_at_boot,
        limits={"pull_attempts_many": DEFAULT_LIMITS.pull_attempts_many},
    ),
    _hurt(
        "image-pruned-by-a-stranger", "`docker image prune` as the new image has just been pulled", _pruned, alone=True
    ),
    _hurt("container-renamed-by-a-stranger", "another container takes the client's name", _renamed),
    _hurt(
        "both-revived-by-restart-policy", "the engine starts the old and the new version at once", _both_revived,
        live_restore=False, most_at_once=2,
    ),
    _checked(
        "healthcheck-alone", "the image's own check says that it is well, and nothing else is asked",
        Published("2.0.13-checked", probe="", checks_itself=True),
    ),
    _checked(
        "healthcheck-says-no", "the image's own check is never good",
        Published("2.0.14-sick", "never-healthy", probe="", checks_itself=True), Reason.CANDIDATE_NEVER_HEALTHY,
    ),
    _checked(
        "no-healthcheck-in-image", "nothing can say how the new version is: no probe was named, and the image has no check",
        Published("2.0.15-unchecked", probe=""), Reason.CANDIDATE_NEVER_HEALTHY,
    ),
    Story(
        "ignores-sigterm", "the old version does not hear that it has to stop", plain,
        before=Published("1.0.1-deaf", "ignores-sigterm"), settings={"client": {"stop_grace_ms": DEAF_MS}},
        goes_on_ms=DEAF_MS,
    ),
)  # fmt: skip
