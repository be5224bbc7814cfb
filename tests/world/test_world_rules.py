"""The rules of the model world: each sees its breach, and nothing in what is right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reference.core.delivery import Memory
from reference.core.errors import Reason
from reference.core.invariants import Violation
from reference.core.job import Job, JobStatus, Report
from reference.core.model import Outcome, Phase
from reference.core.record import UpdateRecord
from reference.world.disk import LAYERS, Disk, StoredContainer, StoredImage, Volumes
from reference.world.nouns import command, image, installed
from reference.world.rules import clean_is_settled, service_is_final, told_is_final, trusted_survives
from reference.world.service import Service
from reference.world.story import device

V1, V2 = (StoredImage(image(v).digest, (True,), (LAYERS,)) for v in ("v1", "v2"))
C1 = StoredContainer("c1", 1, image("v1"), (True,))
DISK = Disk((C1,), (V1, V2))
IDLE = UpdateRecord("e", floor=2, current=installed(1, "v1", "c1"))
PHASES = [p for p in Phase if p not in (Phase.IDLE, Phase.CLEANING_UP)]


def in_phase(phase: Phase) -> UpdateRecord:
    outcome = Outcome.SUCCEEDED if phase is Phase.CLEANING_UP else None
    return replace(IDLE, phase=phase, job=command(2, "v2"), outcome=outcome)


def seen(found: list[Violation]) -> set[str]:
    return {v.invariant for v in found}


# ---- what a cut may leave of what is trusted


@pytest.mark.parametrize("phase", list(Phase))
def test_what_is_whole_and_there_survives(phase: Phase) -> None:
    record = IDLE if phase is Phase.IDLE else in_phase(phase)
    assert trusted_survives([record], DISK) == []


@pytest.mark.parametrize(
    "torn",
    [
        V1._replace(layers=(LAYERS, 0)),
        V1._replace(layers=(0, LAYERS)),
        V1._replace(listed=(True, False)),
        V1._replace(listed=(False, True)),
        None,
    ],
)
def test_an_image_that_a_cut_may_break_is_no_way_back(torn: StoredImage | None) -> None:
    disk = DISK._replace(images=(V2,) if torn is None else (torn, V2))
    for phase in PHASES:
        expected = set() if phase is Phase.COMMITTING else {"trusted_survives"}
        assert seen(trusted_survives([in_phase(phase)], disk)) == expected, phase
    assert trusted_survives([IDLE], disk) == [], "in idle it may be on its way back"


def test_previous_is_trusted_too() -> None:
    record = replace(in_phase(Phase.STAGED), previous=installed(0, "v0"))
    (found,) = trusted_survives([record], DISK)
    assert found.detail == "staged: a cut may leave v0 broken or gone"


def test_after_the_commit_it_is_the_new_image_that_has_to_be_whole() -> None:
    torn = DISK._replace(images=(V1, V2._replace(layers=(0, LAYERS))))
    assert seen(trusted_survives([in_phase(Phase.COMMITTING)], torn)) == {"trusted_survives"}
    assert trusted_survives([in_phase(Phase.SWITCHING)], torn) == []


def test_the_container_of_current_is_there_until_the_commit() -> None:
    going = DISK._replace(containers=(C1._replace(listed=(True, False)),))
    for phase in PHASES:
        expected = set() if phase is Phase.COMMITTING else {"trusted_survives"}
        assert seen(trusted_survives([in_phase(phase)], going)) == expected, phase


def test_every_record_that_a_cut_may_leave_is_asked() -> None:
    torn = DISK._replace(images=(V1._replace(layers=(0, LAYERS)), V2))
    assert seen(trusted_survives([in_phase(Phase.STAGED), IDLE], torn)) == {"trusted_survives"}
    assert seen(trusted_survives([IDLE, in_phase(Phase.STAGED)], torn)) == {"trusted_survives"}


# ---- what is taken for synced


@pytest.mark.parametrize(
    "disk",
    [
        DISK._replace(images=(V1, V2._replace(listed=(False, True)))),
        DISK._replace(images=(V1, V2._replace(layers=(0, 1, LAYERS)))),
        DISK._replace(containers=(C1._replace(policy=("always", "no")),)),
        DISK._replace(containers=(C1._replace(listed=(False, True)),)),
    ],
)
def test_what_the_updater_takes_for_synced_is(disk: Disk) -> None:
    assert seen(clean_is_settled(False, disk)) == {"clean_is_settled"}
    assert clean_is_settled(True, disk) == [], "it does not take it for synced"


def test_what_processes_write_is_not_the_updaters_to_sync() -> None:
    busy = DISK._replace(containers=(C1._replace(ran=(0, 1)),), volumes=(Volumes(), Volumes("v2")))
    assert clean_is_settled(False, busy) == []
    assert clean_is_settled(False, device()[1].disk) == []


# ---- what was told

DONE = Report("job-2", 2, 4, JobStatus.SUCCEEDED, Phase.CLEANING_UP, Outcome.SUCCEEDED)


@pytest.mark.parametrize(
    "other",
    [
        replace(DONE, status=JobStatus.FAILED),
        replace(DONE, outcome=Outcome.ROLLED_BACK),
        replace(DONE, reason=Reason.CANDIDATE_EXITED),
    ],
)
def test_a_device_never_tells_two_ends_of_one_job(other: Report) -> None:
    before, after = (Memory(IDLE, finished=(r,)) for r in (DONE, other))
    (found,) = told_is_final(before, after)
    assert found.invariant == "terminal_is_final" and found.detail.startswith("job-2: ")


def test_told_again_or_forgotten_or_of_another_job_is_no_other_end() -> None:
    before = Memory(IDLE, finished=(DONE,))
    others = (
        (),
        (replace(DONE, sequence=9, message="again"),),
        (DONE, replace(DONE, job_id="job-3", status=JobStatus.FAILED)),
        (DONE, replace(DONE, generation=3, status=JobStatus.FAILED)),
    )
    for finished in others:
        assert told_is_final(before, Memory(IDLE, finished=finished)) == []


def test_no_job_of_the_service_changes_its_end_or_is_forgotten() -> None:
    ended, running = Job("a", 1, JobStatus.SUCCEEDED, outcome=Outcome.SUCCEEDED), Job("b", 2)
    before = Service(jobs=(ended, running))
    assert service_is_final(before, before) == []
    assert service_is_final(before, Service(jobs=(ended, replace(running, status=JobStatus.FAILED)))) == []
    changed = Service(jobs=(replace(ended, status=JobStatus.FAILED), running))
    assert seen(service_is_final(before, changed)) == {"terminal_is_final"}
    (found,) = service_is_final(before, Service(jobs=(ended,)))
    assert found == Violation("terminal_is_final", "job b was forgotten")
