"""The table of mutants and controls."""

from __future__ import annotations

from reference.world.machine import Rules
from reference.world.mutants import controls, talk
from reference.world.mutants import updater as u
from reference.world.mutants.judge import Mutant
from reference.world.nouns import CLOSING


def _of(function: object) -> tuple[str, str]:
    doc = getattr(function, "__doc__", "") or ""
    return getattr(function, "__name__", ""), doc.splitlines()[0]


def _updater(function: object, *stories: str, **more: object) -> Mutant:
    name, about = _of(function)
    return Mutant(name, about, Rules(decide=function), stories or ("success",), **more)  # type: ignore[arg-type]


def _said(rule: str, function: object, *stories: str, part: str = "delivery", **more: object) -> Mutant:
    name, about = _of(function)
    return Mutant(name, about, Rules(**{rule: function}), stories or ("success",), part, **more)  # type: ignore[arg-type]


UPDATER = (
    _updater(u.window_skipped, "dies_in_window"),
    _updater(u.switch_not_journaled),
    _updater(u.old_image_removed_early),
    _updater(u.old_container_removed_early),
    _updater(u.old_image_not_kept),
    _updater(u.no_sync_before_a_start),
    _updater(u.no_sync_before_the_switch),
    _updater(u.boots_not_counted, limits=CLOSING, cuts=None, faults=0),
    _updater(u.boots_counted_early, limits=CLOSING),
    _updater(u.boots_of_the_last_job, "newer", limits=CLOSING, faults=0),
    _updater(u.success_without_a_trial),
    _updater(u.volume_not_restored, "bad_migration"),
    _updater(u.copied_too_early, "snapshot"),
    _updater(u.never_copied, "snapshot"),
    _updater(u.hold_ignored, "held"),
    _updater(u.lock_ignored, "locked"),
    _updater(u.lock_for_ever, "locked"),
    _updater(u.probation_without_end, "probation"),
    _updater(u.policies_left),
    _updater(u.both_run),
    _updater(u.back_beside_the_new, "never_healthy"),
    _updater(u.blamed_for_a_stuck_port, "stuck_port"),
    _updater(u.broken_image_believed),
    _updater(u.blamed_for_a_cut),
    _updater(u.exit_not_seen, "crash"),
    _updater(u.failures_not_counted, "pull_registry_unreachable"),
    _updater(u.one_failure_is_enough, "pull_registry_error_passes"),
    _updater(u.commit_taken_back),
    _updater(u.duty_forgotten, "both_bad"),
    _updater(u.rollback_without_end, "both_bad"),
    _updater(u.no_fall_back, "good_until_the_first_reboot"),
    _updater(u.nothing_revived),
    _updater(u.pulled_for_the_rollback, "crash"),
    _updater(u.error_forgotten, "start_refused"),
    _updater(u.no_sync_before_the_commit),
    _updater(u.stopped_before_it_is_ready, "handover"),
    _updater(u.overlap_not_asked_for, "handover_new_only", "handover_old_only"),
    _updater(u.standby_time_counted, "handover_sick"),
    _updater(u.both_kept, "handover"),
)

JOURNAL = (
    Mutant(
        "journal_not_synced", "A transaction is believed before it is synced.", Rules(journal_synced=False),
        ("success", "crash"), "journal",
    ),
    Mutant(
        "open_not_synced", "A journal that a killed process left is believed before it is synced.",
        Rules(opens_synced=False), ("success", "crash"), "journal",
    ),
)  # fmt: skip

SAID = (
    _said("advance", talk.success_told_early, part="outbox"),
    _said("advance", talk.end_not_told, part="outbox"),
    _said("advance", talk.only_the_newest_kept, "newer", part="outbox"),
    _said("advance", talk.acknowledged_unheard, "newer", part="outbox"),
    _said("advance", talk.end_forgotten, part="dedupe"),
    _said("receive", talk.dedupe_off, part="dedupe"),
    _said("receive", talk.floor_ignored, "older_generation"),
    _said("receive", talk.floor_not_raised),
    _said("receive_cancel", talk.canceled_after_the_switch, "canceled"),
)

DRIVER = (
    _said("fresh", talk.clean_at_the_start, part="journal"),
    _said("adopted", talk.newest_adopted, "corrupt_journal_bad", part="journal"),
    _said("adopted", talk.adopted_without_a_trial, "corrupt_journal_sick", part="journal", faults=0),
    _said("adopted", talk.adopted_with_a_floor, "corrupt_journal_bad", part="journal", faults=0),
)

MUTANTS = (*UPDATER, *JOURNAL, *SAID, *DRIVER)

CONTROLS = (
    _updater(controls.other_words, "crash", "canceled", cuts=1),
    _updater(controls.shorter_waits, "success", "never_healthy", cuts=1),
    _updater(controls.synced_more, "success", "crash", cuts=1),
    _updater(controls.seen_in_another_order, "success", "crash", cuts=1),
    _said("receive", controls.received_twice, "success", "newer", cuts=1, faults=0),
)

EXPLAINED = (
    (
        _updater(u.no_sync_after_the_commit),
        "All that it leaves unsynced is the removal of the old container and a policy, and both are done again.",
    ),
    (
        _updater(u.policy_left_at_the_commit),
        "In idle the installed version gets its policy; until then the updater starts it after a boot.",
    ),
    (
        _updater(u.old_left_at_the_commit),
        "The cleanup removes it; at the commit it goes earlier, so that no boot can revive it.",
    ),
    (
        _updater(u.image_not_looked_at_again, "success", "image_pruned"),
        "The engine refuses to make a container of it, before anything was stopped; the look pulls it again instead.",
    ),
)
"""Safeguards that are not needed alone, and why they stay: these are to survive."""
