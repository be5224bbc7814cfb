"""Whether power can be cut here; where it cannot, the tests that need it are skipped by name."""

from __future__ import annotations

import pytest

from reference.core.errors import InputError
from reference.power.disk import require


def _trouble() -> str:
    try:
        require()
    except InputError as error:
        return str(error)
    return ""


needs_power = pytest.mark.skipif(bool(_trouble()), reason=_trouble() or "power can be cut here")
