"""The checkers: small, composable, pure. Each reads the history of a run that is over and answers findings.

    CHECKERS["downtime"](Case(scenario, history, faults, plan)) -> [Finding(...), ...]

Those named as an invariant are run when the scenario asks for it; the others answer nothing where nothing is asked.
`chaos.judge` runs them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from chaos.checkers import client, device, ends, played, strangers, truth, wire
from chaos.checkers.case import Case, Checker, Missing
from chaos.checkers.played import fault_rows
from chaos.scenario.model import Invariant

CHECKERS: Mapping[str, Checker] = MappingProxyType(
    {
        "steady": played.steady,
        "observed": played.observed,
        "method-played": played.method_played,
        "faults-fired": played.faults_fired,
        "outcome": ends.outcome,
        "status": ends.status,
        "reason": ends.reason,
        "runs": ends.runs,
        "refused": ends.refused,
        "downtime": client.downtime,
        "rollback": client.rollback,
        "untouched": client.untouched,
        "samples": client.samples,
        "most-at-once": client.most_at_once,
        "delivery": wire.delivery,
        "converges-in": wire.converges_in,
        strangers.NAME: strangers.nobody_got_in,
        strangers.OUT: strangers.nothing_got_out,
        Invariant.NEVER_TWO_ACTIVE.value: device.never_two_active,
        Invariant.SAME_CONFIGURATION.value: device.same_configuration,
        Invariant.CURRENT_KEPT.value: device.current_kept,
        Invariant.SUCCESS_PROVED.value: truth.success_proved,
        Invariant.STATUS_NOT_AHEAD.value: truth.status_not_ahead,
        Invariant.ONE_INSTALL_PER_GENERATION.value: device.one_install,
        Invariant.TERMINAL_IS_FINAL.value: truth.terminal_is_final,
        Invariant.SERVICE_AGREES.value: truth.service_agrees,
        Invariant.CONVERGES.value: device.converges,
    }
)
"""Every checker by its name, in the order in which reports show them."""

__all__ = ["CHECKERS", "Case", "Checker", "Missing", "fault_rows"]
