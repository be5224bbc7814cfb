"""The bench's agent with a defect in it: `python -m tests.chaos.planted_agent`, as chaos.agent."""

from __future__ import annotations

import sys

from chaos.agent import entry
from tests.chaos.planted import UPDATER, plant

if __name__ == "__main__":
    plant(UPDATER)
    sys.exit(entry(sys.argv[1:]))
