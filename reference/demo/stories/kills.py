"""Agent, engine and client are killed as each phase becomes durable, then the device boots. A kill is not a power cut."""

from __future__ import annotations

from reference.core.errors import Reason
from reference.core.model import Outcome, Phase
from reference.demo.bench import OLD, Bench
from reference.demo.story import Published, Story

ON_BRIDGE = (Phase.SWITCHING, Phase.ROLLING_BACK)
"""Where an engine may hold on to a port that was published."""


async def _killed(bench: Bench, phase: Phase) -> None:
    await bench.pause_at(phase)
    job_id = await bench.command()
    await bench.paused()
    await bench.kill_everything()
    await bench.boot()
    await bench.finish(job_id)


def _killed_in(phase: Phase, when: str) -> Story:
    async def act(bench: Bench) -> None:
        await _killed(bench, phase)

    network = "bridge" if phase in ON_BRIDGE else "host"
    name, about = f"killed-in-{phase.value}", f"agent and client killed {when}, then a boot"
    if phase is Phase.ROLLING_BACK:
        crash = Published("2.0.1-crash", "crash-on-start")
        return Story(
            name, about, act, Outcome.ROLLED_BACK, Reason.CANDIDATE_EXITED, crash, OLD, hurts_engine=True,
            network=network,
        )  # fmt: skip
    return Story(name, about, act, hurts_engine=True, network=network)


STORIES: tuple[Story, ...] = (
    _killed_in(Phase.PULLING, "as the pull begins"),
    _killed_in(Phase.STAGED, "as the image is there"),
    _killed_in(Phase.SWITCHING, "as the switch is journaled"),
    _killed_in(Phase.VERIFYING, "as the trial begins"),
    _killed_in(Phase.COMMITTING, "as the commit is journaled"),
    _killed_in(Phase.ROLLING_BACK, "as the way back is journaled"),
)
