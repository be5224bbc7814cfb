"""The judge over histories that are told here: one that is good, and for each rule one that must fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from reference.core.delivery import Memory
from reference.core.errors import Reason
from reference.core.job import Job, JobStatus, Report
from reference.core.model import Command, Health, Image, ImageState, Installed, Outcome, Phase
from reference.core.update import UpdateRecord
from reference.power.bench import LIMITS
from reference.power.desk import Said
from reference.power.ends import End, legal, model_ends
from reference.power.judge import (
    Heard,
    Kind,
    Problem,
    Rest,
    Stored,
    StoredContainer,
    StoredImage,
    after_cut,
    at_rest,
    end_of,
)
from reference.power.run import Report as RunReport
from reference.power.stories import NEW, OLD, STORIES

OLD_DIGEST, NEW_DIGEST = f"sha256:{1:064x}", f"sha256:{2:064x}"
NAMES = {OLD_DIGEST: OLD, NEW_DIGEST: NEW}
WHOLE, LOST = StoredImage(ImageState.PRESENT, whole=True), StoredImage(ImageState.PRESENT, whole=False)
BROKEN = StoredImage(ImageState.BROKEN, whole=False)
IMAGES = {OLD_DIGEST: WHOLE, NEW_DIGEST: WHOLE}
BOTH = (StoredContainer("g1-aaaaaaaa", 1, OLD_DIGEST), StoredContainer("g2-bbbbbbbb", 2, NEW_DIGEST))


def installed(digest: str, generation: int) -> Installed:
    return Installed(Image("h/n", digest, "v"), Health(), generation)


COMMAND = Command("job-2", 2, Image("h/n", NEW_DIGEST, "2"), Health(), 1)
TRIAL = UpdateRecord(
    "e", Phase.VERIFYING, 2, installed(OLD_DIGEST, 1), job=COMMAND, candidate_id="g2-bbbbbbbb"
)
DONE = UpdateRecord("e", Phase.IDLE, 2, installed(NEW_DIGEST, 2), installed(OLD_DIGEST, 1))


def report(sequence: int, status: JobStatus = JobStatus.IN_PROGRESS, **more: object) -> Report:
    phase = Phase.CLEANING_UP if status.terminal else Phase.VERIFYING
    return Report("job-2", 2, sequence, status, phase, **more)  # type: ignore[arg-type]


SUCCESS = report(9, JobStatus.SUCCEEDED, outcome=Outcome.SUCCEEDED)
BACK = report(9, JobStatus.FAILED, outcome=Outcome.ROLLED_BACK, reason=Reason.CANDIDATE_EXITED)


def heard(*reports: Report, took: bool = True, epoch: str = "e") -> Heard:
    return Heard(tuple(Said(epoch, one) for one in reports), took, 2)


def on_disk(memory: Memory | None, images: Mapping[str, StoredImage] = IMAGES, **more: object) -> Stored:
    return Stored(memory, "" if memory else "is missing", images, BOTH, **more)  # type: ignore[arg-type]


CUT = on_disk(Memory(TRIAL, 7))


def kinds(problems: list[Problem]) -> set[Kind]:
    return {problem.kind for problem in problems}


def test_what_was_said_and_is_journaled_is_no_problem() -> None:
    assert after_cut(heard(report(6), report(7)), CUT) == []
    assert after_cut(heard(SUCCESS), on_disk(Memory(DONE, 9, finished=(SUCCESS,)))) == []


@pytest.mark.parametrize(
    ("said", "stored", "kind"),
    [
        (heard(report(8)), CUT, Kind.FALSE_REPORT),
        (heard(SUCCESS), on_disk(Memory(TRIAL, 9)), Kind.FALSE_REPORT),
        (heard(SUCCESS), on_disk(Memory(DONE, 9, finished=(BACK,))), Kind.FALSE_REPORT),
        (heard(report(7), epoch="another"), CUT, Kind.FALSE_REPORT),
        (heard(), on_disk(Memory(replace(TRIAL, floor=1), 7)), Kind.FALSE_REPORT),
        (heard(), on_disk(Memory(TRIAL, 9, outbox=(SUCCESS,))), Kind.FALSE_REPORT),
        (heard(), on_disk(None), Kind.CORRUPT),
        (heard(), on_disk(Memory(TRIAL, 7), {**IMAGES, NEW_DIGEST: LOST}), Kind.CORRUPT),
        (heard(), on_disk(Memory(TRIAL, 7), {**IMAGES, NEW_DIGEST: BROKEN}), Kind.CORRUPT),
        (heard(), on_disk(Memory(TRIAL, 7), {NEW_DIGEST: WHOLE}), Kind.CORRUPT),
        (heard(), replace(CUT, containers=BOTH[:1]), Kind.CORRUPT),
        (heard(), replace(CUT, containers=BOTH[1:]), Kind.CORRUPT),
        (heard(), replace(CUT, containers=(*BOTH, StoredContainer("g3-cccccccc", 0, None))), Kind.CORRUPT),
    ],
    ids=[
        "said ahead of the journal", "an end the journal does not hold", "another end", "another journal",
        "acknowledged and forgotten", "an end reported before there is one", "no journal",
        "passes for whole", "candidate broken", "old image gone", "no candidate", "no old container",
        "half a container",
    ],
)  # fmt: skip
def test_a_cut_that_cost_something_is_seen(said: Heard, stored: Stored, kind: Kind) -> None:
    assert kinds(after_cut(said, stored)) == {kind}


def test_an_image_that_the_runtime_calls_broken_is_no_lie_while_nothing_stands_on_it() -> None:
    pulling = Memory(replace(TRIAL, phase=Phase.PULLING), 7)
    assert after_cut(heard(), on_disk(pulling, {**IMAGES, NEW_DIGEST: BROKEN})) == []
    assert kinds(after_cut(heard(), on_disk(pulling, {**IMAGES, NEW_DIGEST: LOST}))) == {Kind.CORRUPT}


# ---- where it ended

JOB = Job("job-2", 2, JobStatus.SUCCEEDED, Phase.CLEANING_UP, Outcome.SUCCEEDED)
UPDATED = Rest(
    settled=True, clients=(NEW_DIGEST,), answered=NEW, job=JOB, said=(Said("e", SUCCESS),),
    stored=on_disk(Memory(DONE, 9, finished=(SUCCESS,)), switched=(1, 2)),
)  # fmt: skip
KEPT_BACK = on_disk(Memory(DONE, 9, finished=(BACK,)))
THIRD = f"sha256:{3:064x}"
FOUR = {f"sha256:{number:064x}": WHOLE for number in range(1, 5)}
FAILED = replace(JOB, status=JobStatus.FAILED, outcome=Outcome.ROLLED_BACK, reason=Reason.CANDIDATE_EXITED)


def judged(rest: Rest, after: Stored = CUT) -> set[Kind]:
    return kinds(at_rest(after, rest, NAMES, LIMITS))


def test_a_good_end_is_good_and_mapped() -> None:
    assert judged(UPDATED) == set()
    assert end_of(UPDATED, NAMES) == End(Outcome.SUCCEEDED, None, NEW, NEW, OLD)
    assert legal("success", end_of(UPDATED, NAMES))


@pytest.mark.parametrize(
    ("rest", "kind"),
    [
        (replace(UPDATED, answered=None), Kind.BRICKED),
        (replace(UPDATED, clients=()), Kind.BRICKED),
        (replace(UPDATED, clients=(OLD_DIGEST, NEW_DIGEST)), Kind.BRICKED),
        (replace(UPDATED, clients=(OLD_DIGEST,)), Kind.BRICKED),
        (replace(UPDATED, clients=(OLD_DIGEST,), answered=OLD), Kind.FALSE_REPORT),
        (replace(UPDATED, job=FAILED), Kind.FALSE_REPORT),
        (replace(UPDATED, said=(Said("e", BACK), Said("e", SUCCESS))), Kind.FALSE_REPORT),
        (replace(UPDATED, stored=on_disk(Memory(DONE, 9))), Kind.FALSE_REPORT),
        (replace(UPDATED, job=FAILED, said=(), stored=KEPT_BACK), Kind.FALSE_REPORT),
        (replace(UPDATED, stored=on_disk(None)), Kind.CORRUPT),
        (replace(UPDATED, stored=replace(UPDATED.stored, volume="line 3 holds the sample 5")), Kind.CORRUPT),
        (replace(UPDATED, stored=replace(UPDATED.stored, images={**IMAGES, THIRD: LOST})), Kind.CORRUPT),
        (replace(UPDATED, stored=replace(UPDATED.stored, images=FOUR)), Kind.UNMAPPED),
        (replace(UPDATED, stored=replace(UPDATED.stored, switched=(2, 2))), Kind.UNMAPPED),
        (replace(UPDATED, stored=on_disk(Memory(replace(DONE, floor=1), 9, finished=(SUCCESS,)))), Kind.UNMAPPED),
        (replace(UPDATED, stored=on_disk(Memory(TRIAL, 9, finished=(SUCCESS,)))), Kind.UNMAPPED),
    ],
    ids=[
        "nothing answers", "nothing runs", "two run", "one runs and says to be the other", "success and old runs",
        "failure and new runs", "two ends", "an end the journal does not hold",
        "failure is journaled and new runs", "no journal", "samples lost", "an image not whole", "too many images",
        "switched twice", "the floor fell", "the job never ended",
    ],
)  # fmt: skip
def test_a_bad_end_is_seen(rest: Rest, kind: Kind) -> None:
    assert kind in judged(rest)


@pytest.mark.parametrize("story", STORIES)
def test_no_story_may_end_with_nothing_or_without_an_end(story: str) -> None:
    assert model_ends(story)
    for end in model_ends(story):
        assert not legal(story, end._replace(runs=None))
        assert not legal(story, end._replace(outcome=None))
        assert not legal(story, end._replace(runs=NEW if end.runs == OLD else OLD))


def finding(landed: Phase, end: End, *problems: list[str]) -> dict[str, object]:
    place = {"outcome": end.outcome, "reason": end.reason, "runs": end.runs, "current": end.current}
    return {
        "number": 1, "story": "success", "landed": landed.value, "end": {**place, "previous": end.previous},
        "healthy": end.runs, "problems": list(problems),
    }  # fmt: skip


def test_a_report_is_bad_with_one_problem_or_with_a_phase_that_was_missed() -> None:
    good = next(iter(model_ends("success")))
    found = RunReport(9, 1, 7)
    assert all(found.add(finding(phase, good), legal) for phase in Phase)
    assert (found.exit_code(), found.missed) == (0, [])
    assert found.to_json()["landed"] == {phase.value: 1 for phase in Phase}
    assert not found.add(finding(Phase.IDLE, good, [Kind.FALSE_REPORT.value, "a lie"]), legal)
    assert (found.exit_code(), found.to_json()["false_reports"]) == (1, 1)
    few = RunReport(60, 1, 42)
    assert few.add(finding(Phase.IDLE, good), legal)
    assert few.exit_code() == 1
    assert few.missed == [phase.value for phase in Phase if phase is not Phase.IDLE]
    other = RunReport(1, 1, 1)
    assert not other.add(finding(Phase.IDLE, good._replace(runs=OLD)), legal)
    assert (other.exit_code(), other.to_json()["unmapped"]) == (1, 1)
