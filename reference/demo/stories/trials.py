"""A version arrives and is good, or is not: the switch, the trial, the way back."""

from __future__ import annotations

from reference.core.errors import Reason
from reference.core.model import Outcome
from reference.demo.bench import OLD, Bench, until
from reference.demo.story import Published, Story

HEAL_DEADLINE_S = 20.0


async def plain(bench: Bench) -> None:
    """Ask for the version and wait for the end of the job."""
    await bench.finish(await bench.command())


async def _rollback_fails(bench: Bench) -> None:
    """The configuration is broken while the client runs: neither version can start until it is mended."""
    configuration = bench.device.root / "client.json"
    good = configuration.read_bytes()
    configuration.write_bytes(b"{ this is not a configuration")
    bench.mark("configuration broken")
    try:
        await bench.finish(await bench.command())
    finally:
        configuration.write_bytes(good)
    bench.mark("configuration mended")

    async def back() -> bool | None:
        return (await bench.probe()) == OLD or None

    await until(back, HEAL_DEADLINE_S, f"{OLD} did not come back after its configuration had been mended")
    bench.notes["healed_after_job_end"] = True
    await bench.settle()


STORIES: tuple[Story, ...] = (
    Story("update-succeeds", "a good version arrives", plain, alone=True),
    Story(
        "crash-on-start", "the new version exits at once", plain, Outcome.ROLLED_BACK, Reason.CANDIDATE_EXITED,
        Published("2.0.1-crash", "crash-on-start"), OLD, alone=True,
    ),
    Story(
        "never-healthy", "the new version runs and is never well", plain, Outcome.ROLLED_BACK,
        Reason.CANDIDATE_NEVER_HEALTHY, Published("2.0.2-sick", "never-healthy"), OLD,
    ),
    Story(
        "dies-in-window", "the new version is well, and dies before its trial is over", plain, Outcome.ROLLED_BACK,
        Reason.CANDIDATE_EXITED, Published("2.0.4-dies", "dies-in-window"), OLD, network="bridge",
    ),
    Story(
        "first-install", "nothing was ever installed here", plain, before=None,
    ),
    Story(
        "already-running", "the version that is asked for runs already", plain, reason=Reason.ALREADY_RUNNING,
        published=Published(OLD), runs=OLD, touches_client=False,
    ),
    Story(
        "bad-migration", "the new version changes the volume's format and dies", plain, Outcome.ROLLED_BACK,
        Reason.CANDIDATE_EXITED, Published("2.0.5-migrates", "bad-migration", snapshot=True), OLD,
    ),
    Story(
        "rollback-fails-then-heals", "neither version can start, until the cause is mended", _rollback_fails,
        Outcome.ROLLBACK_FAILED, Reason.CANDIDATE_EXITED, runs=OLD, limits={"restore_attempts": 2},
    ),
)  # fmt: skip
