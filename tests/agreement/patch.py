"""Putting something else in the place of a function of production's, in this process."""

from __future__ import annotations

from typing import Any


def real(owner: object, name: str) -> Any:
    """What is there; also what a module has only imported."""
    return getattr(owner, name)


def put(owner: object, name: str, new: object) -> None:
    """Replace it. Raises AttributeError for a name that is not there: a hook around nothing would go unnoticed."""
    getattr(owner, name)
    setattr(owner, name, new)
