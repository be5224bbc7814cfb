"""The name that users know: `blackstart` on the command line, and the only name a wheel adds to site-packages.

The code lives in folders named after what they are (`reference`, later `simulator`, `chaos`, ...). In a checkout
they stand beside this package; in a wheel they are inside it. Either way `activate` makes them importable under
the same names, in this process only (docs/adr/0002-names-and-wheel.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

__version__ = "0.1.0"


def source_root() -> Path:
    """The folder that holds `reference/`: this package's own in a wheel, its parent in a checkout."""
    here = Path(__file__).resolve().parent
    return here if (here / "reference").is_dir() else here.parent


def activate() -> None:
    """Make `reference` and its siblings importable, once."""
    root = str(source_root())
    if root not in sys.path:
        sys.path.insert(0, root)


def main() -> None:
    """The console command."""
    activate()
    from reference.cli.main import run

    run()
