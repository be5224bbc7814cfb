"""`python -m reference.engine restart FOLDER`: what an updater on a private engine restarts it with."""

from __future__ import annotations

import sys
from pathlib import Path

from reference.core.errors import BlackstartError
from reference.engine.private import PrivateEngine


def main(arguments: list[str]) -> int:
    """0 when it answers again, 1 when it does not, 2 for wrong arguments."""
    match arguments:
        case ["restart", folder]:
            try:
                PrivateEngine(Path(folder)).restart()
            except BlackstartError as error:
                sys.stderr.write(f"blackstart: {error}\n")
                return 1
            return 0
        case _:
            sys.stderr.write("usage: python -m reference.engine restart FOLDER\n")
            return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
