"""The scenario's form: pure data, read by the harness here and by the simulator."""

from __future__ import annotations

from chaos.scenario.model import Scenario

__all__ = ["Scenario"]
