"""The pull fails, in every way a registry can make it fail. The client never notices."""

from __future__ import annotations

from reference.core.errors import Reason
from reference.core.job import JobStatus
from reference.core.model import Outcome, Phase
from reference.demo.bench import OLD, Bench
from reference.demo.front import CORRUPTED, DENIED, FRONT, STALLED
from reference.demo.stories.trials import plain
from reference.demo.story import Act, Published, Story
from reference.oci.manifests import machine_architecture

FOREIGN = "arm64" if machine_architecture() != "arm64" else "amd64"


async def _cancel_mid_pull(bench: Bench) -> None:
    """The layer stands still, so the cancel surely meets the pull."""
    job_id = await bench.command()
    await bench.reached(job_id, Phase.PULLING)
    await bench.front.stalled_once()
    bench.mark("cancel")
    answer = await bench.api.post(f"/api/v1/jobs/{job_id}/cancel")
    bench.notes["cancel_answered"] = answer.status_code
    await bench.finish(job_id)


def _failed_pull(
    name: str, about: str, reason: Reason, published: Published, act: Act = plain, **settings: object
) -> Story:
    return Story(
        name, about, act, Outcome.FAILED, reason, published, OLD, touches_client=False, settings=settings
    )


STORIES: tuple[Story, ...] = (
    _failed_pull(
        "registry-down", "the registry is gone when the pull begins", Reason.REGISTRY_UNREACHABLE,
        Published("2.0.3-gone", registry="registry-down"),
    ),
    _failed_pull(
        "registry-denies", "the registry says that this device may not have it", Reason.REGISTRY_DENIED,
        Published("2.0.6-denied", repository=DENIED, registry=FRONT),
    ),
    _failed_pull(
        "unknown-digest", "the registry does not have what was registered", Reason.IMAGE_UNKNOWN,
        Published("2.0.7-lost", lost=True),
    ),
    _failed_pull(
        "corrupt-layer", "a layer arrives with one byte changed, again and again", Reason.PULL_CORRUPT,
        Published("2.0.8-corrupt", repository=CORRUPTED, registry=FRONT),
    ),
    _failed_pull(
        "stalled-layer", "a layer begins, and nothing more comes", Reason.PULL_STALLED,
        Published("2.0.9-stalled", repository=STALLED, registry=FRONT), pull_watchdog_ms=400,
    ),
    _failed_pull(
        "wrong-architecture", "the image is for another machine", Reason.WRONG_ARCHITECTURE,
        Published("2.0.10-foreign", architecture=FOREIGN),
    ),
    Story(
        "cancel-mid-pull", "the admin changes her mind while a layer is on its way", _cancel_mid_pull, Outcome.FAILED,
        Reason.CANCELED, Published("2.0.9-stalled", repository=STALLED, registry=FRONT), OLD,
        status=JobStatus.CANCELED, touches_client=False,
    ),
)  # fmt: skip
