"""The stories that are cut everywhere: what may befall an update, each with every end that it may have."""

from __future__ import annotations

from dataclasses import replace

from reference.core.errors import Reason
from reference.core.job import JobStatus
from reference.core.model import Handover, Outcome, Policy
from reference.world import events
from reference.world.engine import FOR_GOOD, Boot
from reference.world.nouns import Behaviour, command
from reference.world.story import Ending, Ends, Story

SUCCEEDED: Ends = {"job-2": (Outcome.SUCCEEDED, None)}
NEW = Ending(SUCCEEDED, ("v2",))
STEADY = (Boot.PLAIN, Boot.STUCK)
"""For stories whose registry fails as often as is forgiven: a first pull that fails, too, would be one too many."""
CRASH = Behaviour(crashes=True)


def failed(reason: Reason, *runs: str) -> Ending:
    """The job never switched."""
    return Ending({"job-2": (Outcome.FAILED, reason)}, runs or ("v1",))


def back(reason: Reason) -> Ending:
    """The old version was brought back."""
    return Ending({"job-2": (Outcome.ROLLED_BACK, reason)}, ("v1",))


def _bad(name: str, about: str, reason: Reason, does: Behaviour) -> Story:
    return Story(name, about, (back(reason),), versions={"v2": does})


def _pull(reason: Reason, times: int, *ends: Ending) -> Story:
    word = "for good" if times == FOR_GOOD else f"{times} times"
    name = f"pull_{reason.value}" + ("" if times == FOR_GOOD else "_passes")
    return Story(
        name, f"the pull fails {word}: {reason.value}", ends, pulls=(("v2", (reason,) * times),), boots=STEADY
    )


BAD = (
    _bad("crash", "the new version exits at once", Reason.CANDIDATE_EXITED, CRASH),
    _bad("never_healthy", "it runs and never answers well", Reason.CANDIDATE_NEVER_HEALTHY, Behaviour(healthy_at=None)),
    _bad("dies_in_window", "it exits within its window", Reason.CANDIDATE_EXITED, Behaviour(dies_at=60)),
    _bad("turns_bad", "it was healthy and turns unhealthy", Reason.CANDIDATE_UNHEALTHY, Behaviour(bad_at=60)),
    _bad("flaps", "it is never healthy for long enough", Reason.CANDIDATE_UNHEALTHY, Behaviour(flaps_every=60)),
    _bad("start_refused", "the engine refuses to start it", Reason.START_REFUSED, Behaviour(refused=True)),
)  # fmt: skip

PULLS = (
    *(
        _pull(reason, FOR_GOOD, failed(reason))
        for reason in (
            Reason.REGISTRY_DENIED,
            Reason.REGISTRY_UNAUTHORIZED,
            Reason.REGISTRY_UNREACHABLE,
            Reason.REGISTRY_THROTTLED,
            Reason.PULL_CORRUPT,
            Reason.IMAGE_UNKNOWN,
            Reason.IMAGE_UNSAFE,
            Reason.WRONG_ARCHITECTURE,
            Reason.DISK_FULL,
        )
    ),
    _pull(Reason.REGISTRY_ERROR, 2, NEW),
    _pull(Reason.PULL_STALLED, 2, NEW),
    _pull(Reason.PULL_CORRUPT, 1, NEW),
)

SNAPSHOT = Policy(snapshot=True)
PROBATION = Policy(probation_ms=500)
MIGRATES = Behaviour(migrates=True, dies_at=60)


def _full(step: str, *ends: Ending, policy: Policy | None = None, times: int = FOR_GOOD) -> Story:
    about = f"the disk is full at {step}" + ("" if times == FOR_GOOD else ", once")
    order = (command(2, "v2", policy=policy),)
    return Story(f"disk_full_{step}", about, ends, order, acts=((step, times, Reason.DISK_FULL),))


FULL = failed(Reason.DISK_FULL)
DISKS = (
    _full("Create", FULL),
    _full("Sync", FULL, NEW, times=1),
    _full("PrepareSnapshot", FULL, policy=SNAPSHOT),
    _full("Snapshot", back(Reason.DISK_FULL), policy=SNAPSHOT),
    _full("SetRestartPolicy", back(Reason.DISK_FULL), NEW, times=1),
    _full("Remove", NEW, times=1),
    Story(
        "disk_full_RestoreSnapshot", "the disk is full when the volume comes back, once",
        (back(Reason.CANDIDATE_EXITED),), (command(2, "v2", policy=SNAPSHOT),), versions={"v2": MIGRATES},
        acts=(("RestoreSnapshot", 1, Reason.DISK_FULL),),
    ),
    Story(
        "disk_full_RemoveImage", "the disk is full when the failed version's image goes, once",
        (back(Reason.CANDIDATE_EXITED),), versions={"v2": CRASH}, acts=(("RemoveImage", 1, Reason.DISK_FULL),),
    ),
    Story("disk_full_journal", "the journal cannot be written, once", (NEW,), events=(events.journal_full,)),
    Story(
        "disk_full_journal_bad", "the same, and the new version exits", (back(Reason.CANDIDATE_EXITED),),
        versions={"v2": CRASH}, events=(events.journal_full,),
    ),
)  # fmt: skip

POLICIES = (
    Story("snapshot", "the volume is copied before the trial", (NEW,), (command(2, "v2", policy=SNAPSHOT),)),
    Story(
        "bad_migration", "the new version changes the volume and dies", (back(Reason.CANDIDATE_EXITED),),
        (command(2, "v2", policy=SNAPSHOT),), versions={"v2": MIGRATES},
    ),
    Story("probation", "the new version is on probation", (NEW,), (command(2, "v2", policy=PROBATION),)),
    Story(
        "good_until_the_first_reboot", "it falls back when it cannot be healthy after a boot",
        (NEW, Ending(SUCCEEDED, ("v1",)), back(Reason.CANDIDATE_EXITED)),
        (command(2, "v2", policy=PROBATION),), versions={"v2": Behaviour(last_boot=1)},
    ),
    Story("held", "an operator holds the device for a while", (NEW,), hold=True, events=(events.release,)),
    Story(
        "locked", "the client has the update lock, and gives it back or not",
        (NEW, failed(Reason.UPDATE_LOCKED)), lock=True, events=(events.unlock,),
    ),
)  # fmt: skip

OVERLAP = Policy(handover=Handover.OVERLAP)
WAITS = Behaviour(overlaps=True)


def _handover(name: str, about: str, *ends: Ending, v1: Behaviour = WAITS, v2: Behaviour = WAITS) -> Story:
    order = (command(2, "v2", policy=OVERLAP),)
    return Story(
        f"handover{name}", f"handover by overlap: {about}", ends, order, versions={"v1": v1, "v2": v2}
    )


EXITS, NEVER = back(Reason.CANDIDATE_EXITED), back(Reason.CANDIDATE_NEVER_HEALTHY)
HANDOVERS = (
    _handover("", "a good version", NEW),
    _handover("_never_ready", "the new version never stands by, ready", NEVER,
              v2=Behaviour(overlaps=True, ready_at=None, healthy_at=None)),
    # After a boot it is started alone, and has nothing to die of.
    _handover("_dies_waiting", "the new version exits while it stands by", EXITS, NEW,
              v2=Behaviour(overlaps=True, dies_waiting_at=10)),
    _handover("_refused", "the engine refuses to start the new version", back(Reason.START_REFUSED),
              v2=Behaviour(overlaps=True, refused=True)),
    _handover("_sick", "the new version is never healthy after it has taken over", NEVER,
              v2=Behaviour(overlaps=True, healthy_at=None)),
    _handover("_dies", "the new version exits after it has taken over", EXITS, v2=Behaviour(overlaps=True, dies_at=60)),
    _handover("_no_way_back", "the same, and the old one cannot stand by beside it", NEVER,
              v1=Behaviour(overlaps=True, ready_at=None), v2=Behaviour(overlaps=True, healthy_at=None)),
    _handover("_new_only", "the old version does not allow it", NEW, v1=Behaviour()),
    _handover("_old_only", "the new version does not allow it", NEW, v2=Behaviour()),
    replace(_handover("_killed", "somebody kills one of the two, once", NEW, EXITS), events=(events.killed,)),
)  # fmt: skip

CANCELED = failed(Reason.CANCELED)
THIRD = command(3, "v3")
THEN_THIRD: Ends = {"job-3": (Outcome.SUCCEEDED, None)}
OTHERS = (
    Story(
        "canceled", "the job is canceled at some moment",
        (NEW, CANCELED, Ending({"job-2": (JobStatus.CANCELED, Reason.CANCELED)}, ("v1",))),
        events=(events.cancel("job-2", 2),),
    ),
    Story(
        "older_generation", "a command of long ago arrives", (NEW,),
        events=(events.stale(command(1, "v1", job_id="job-1")),),
    ),
    Story("same_twice", "the same command arrives twice more", (NEW,),
          events=(events.stale(command(2, "v2")), events.stale(command(2, "v2")))),
    Story(
        "newer", "a newer version is ordered while one is on its way",
        (
            Ending(SUCCEEDED | THEN_THIRD, ("v3",)),
            Ending({"job-2": (Outcome.FAILED, Reason.SUPERSEDED)} | THEN_THIRD, ("v3",)),
            Ending({"job-2": (JobStatus.CANCELED, Reason.SUPERSEDED)} | THEN_THIRD, ("v3",)),
            Ending({"job-2": (JobStatus.REJECTED, Reason.STALE_GENERATION)} | THEN_THIRD, ("v3",)),
            NEW,
        ),
        later=(THIRD,), events=(events.order(THIRD),),
    ),
    Story(
        "newer_after_a_bad_one", "a newer version is ordered while a bad one is on its way",
        (
            Ending({"job-2": (Outcome.ROLLED_BACK, Reason.CANDIDATE_EXITED)} | THEN_THIRD, ("v3",)),
            Ending({"job-2": (Outcome.FAILED, Reason.SUPERSEDED)} | THEN_THIRD, ("v3",)),
            Ending({"job-2": (JobStatus.CANCELED, Reason.SUPERSEDED)} | THEN_THIRD, ("v3",)),
            Ending({"job-2": (JobStatus.REJECTED, Reason.STALE_GENERATION)} | THEN_THIRD, ("v3",)),
            back(Reason.CANDIDATE_EXITED),
        ),
        later=(THIRD,), versions={"v2": CRASH}, events=(events.order(THIRD),),
    ),
    Story(
        "rollback_fails_once", "bringing back the old version fails once", (back(Reason.CANDIDATE_EXITED),),
        versions={"v2": CRASH}, acts=(("TrustedStart", 1, Reason.ENGINE_ERROR),), boots=(Boot.PLAIN,),
    ),
    Story(
        "both_bad", "neither version can be healthy any more",
        (
            Ending({"job-2": (Outcome.ROLLBACK_FAILED, Reason.CANDIDATE_EXITED)}, ()),
        ),
        versions={"v1": CRASH, "v2": CRASH}, hopeless=True,
    ),
    Story("cures", "the old version is broken and the new one is the cure", (NEW,), versions={"v1": CRASH}),
    Story("first_install", "nothing was installed", (NEW,), first=True),
    Story("first_install_bad", "nothing was installed, and the first version exits",
          (Ending({"job-2": (Outcome.FAILED, Reason.CANDIDATE_EXITED)}, ()),), versions={"v2": CRASH}, first=True),
    Story("already_runs", "the commanded version runs already",
          (Ending({"job-2": (Outcome.SUCCEEDED, Reason.ALREADY_RUNNING)}, ("v1",)), Ending(SUCCEEDED, ("v1",))),
          (command(2, "v1"),)),
    Story("stuck_port", "the first start is refused until the engine is restarted", (NEW,),
          versions={"v2": Behaviour(stuck_port=True)}),
    Story("agent_upgraded", "another agent takes over at some moment", (NEW,), events=(events.upgrade,)),
    Story("agent_upgraded_bad", "the same, and the new version exits", (back(Reason.CANDIDATE_EXITED),),
          versions={"v2": CRASH}, events=(events.upgrade,)),
    Story(
        "client_killed", "somebody kills the client once",
        (NEW, back(Reason.CANDIDATE_EXITED)), events=(events.killed,),
    ),
    Story(
        "image_pruned", "somebody removes the new image before it is used",
        (NEW, failed(Reason.IMAGE_INVALID)), events=(events.prune("v2"),), strangers=True,
        boots=STEADY,
    ),
)  # fmt: skip

LOST: Ends = {"job-2": (JobStatus.FAILED, Reason.JOURNAL_CORRUPT)}
JOURNALS = (
    Story("corrupt_journal", "the journal is lost at some moment",
          (NEW, Ending(LOST, ("v1",)), Ending(LOST, ("v2",)),
           Ending({"job-2": (Outcome.SUCCEEDED, Reason.ALREADY_RUNNING)}, ("v2",))), events=(events.corrupt,)),
    Story("corrupt_journal_bad", "the same, and the new version exits",
          (back(Reason.CANDIDATE_EXITED), Ending(LOST, ("v1",))), versions={"v2": CRASH}, events=(events.corrupt,)),
    Story("corrupt_journal_sick", "the same, and the new version runs and is never healthy",
          (back(Reason.CANDIDATE_NEVER_HEALTHY), Ending(LOST, ("v1",))),
          versions={"v2": Behaviour(healthy_at=None)}, events=(events.corrupt,)),
    # Its command may find it stopped already, by the fall-back.
    Story("corrupt_journal_migrated", "the same, and it has changed the volume, of which a copy was taken",
          (back(Reason.CANDIDATE_NEVER_HEALTHY), back(Reason.CANDIDATE_EXITED), Ending(LOST, ("v1",))), (command(2, "v2", policy=SNAPSHOT),),
          versions={"v2": Behaviour(migrates=True, healthy_at=None)}, events=(events.corrupt,)),
    replace(_handover("_corrupt_journal", "the journal is lost at some moment, and the new version is never healthy",
                      NEVER, EXITS, Ending(LOST, ("v1",)), v2=Behaviour(overlaps=True, healthy_at=None)),
            events=(events.corrupt,)),
)  # fmt: skip

STORIES = (
    Story("success", "a good version", (NEW,)),
    *BAD, *PULLS, *DISKS, *POLICIES, *HANDOVERS, *OTHERS, *JOURNALS,
)  # fmt: skip


def story(name: str) -> Story:
    """The story of that name. Raises KeyError."""
    return {s.name: s for s in STORIES}[name]
