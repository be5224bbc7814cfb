"""Whether power can be cut here; where it cannot, the tests that need it are skipped by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reference.core.errors import InputError
from reference.power.disk import require
from reference.power.engine import require_engine


def _trouble(see: Callable[[], None]) -> str:
    try:
        see()
    except InputError as error:
        return str(error)
    return ""


_ENGINE = _trouble(require_engine)
needs_engine = pytest.mark.skipif(bool(_ENGINE), reason=_ENGINE or "an engine can be started here")
needs_power = pytest.mark.skipif(bool(_trouble(require)), reason=_trouble(require) or "power can be cut here")
