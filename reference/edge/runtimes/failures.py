"""What the system refuses leaves a runtime with a reason code."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from reference.core.errors import EngineError
from reference.edge.disk import disk_full


@contextlib.contextmanager
def failures(doing: str) -> Iterator[None]:
    """Name what the system refuses: DeviceError(DISK_FULL) or EngineError."""
    try:
        yield
    except TimeoutError as error:
        raise EngineError(f"could not {doing} in time", todo="See whether the device hangs.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(f"could not {doing}: {error.strerror}") from error
        raise EngineError(f"could not {doing}: {error}") from error
