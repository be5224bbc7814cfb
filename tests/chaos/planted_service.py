"""The service with a defect in it: `python -m tests.chaos.planted_service`, as reference.service."""

from __future__ import annotations

import sys

from reference.service.__main__ import main
from tests.chaos.planted import SERVICE, plant

if __name__ == "__main__":
    plant(SERVICE)
    sys.exit(main(sys.argv[1:]))
