"""Entry point of `python -m reference.registry`."""

from reference.registry.main import main

raise SystemExit(main())
