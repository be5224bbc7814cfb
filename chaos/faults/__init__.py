"""Every fault there is. A module in this folder that registers one is found: nothing else has to be told of it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache

from chaos.faults.base import Fault, registered
from reference.core.errors import InputError


@cache
def all_faults() -> Mapping[str, type[Fault]]:
    """By name, sorted."""
    for found in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{found.name}")
    return dict(sorted(registered().items()))


def fault_named(name: str) -> type[Fault]:
    """Raises InputError with what was probably meant."""
    known = all_faults()
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"Did you mean {near[0]!r}?" if near else "`blackstart chaos list --faults` shows them all."
        raise InputError(f"there is no fault {name!r}", where="fault", todo=hint)
    return known[name]


__all__ = ["all_faults", "fault_named"]
