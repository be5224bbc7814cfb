"""Versions of the client for a stack: built without an engine, and pushed."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Coroutine, Mapping
from pathlib import Path

from reference.client.images import write_client_folder
from reference.oci.base import python_base
from reference.oci.build import Healthcheck, build_image
from reference.oci.push import push_image
from reference.oci.references import parse_reference

PUBLISHER = "publisher"
"""The account of a registry that may push."""


async def to_its_end(work: Coroutine[None, None, str]) -> str:
    """A thread cannot be cancelled: a cancellation waits for it, or it would write into a folder that is gone."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # Nobody asks for it any more.
        raise


def build_and_push(
    work: Path,
    version: str,
    defect: str | None,
    architecture: str | None,
    target: str,
    password: str,
    *,
    on_base: bool = False,
    healthcheck: Healthcheck | None = None,
    labels: Mapping[str, str] | None = None,
    after_ms: int | None = None,
    padding_bytes: int = 0,
) -> str:
    """Make the image in `work`, push it to `target` (`host/name:tag`); answers its digest. Raises BlackstartError.

    `on_base`: with Python in it, as a real engine needs it. `after_ms`: of the defect. `padding_bytes`: of a file in it
    that does not compress, the same for the same version.
    """
    folder, layout = work / "folder", work / "layout"
    # Of an earlier start: made anew, so it is this version's for sure.
    shutil.rmtree(folder, ignore_errors=True)
    write_client_folder(folder, version, defect, after_ms=after_ms)
    if padding_bytes:
        (folder / "padding").write_bytes(random.Random(version).randbytes(padding_bytes))  # noqa: S311 - no secret
    build_image(
        folder, layout, version=version, architecture=architecture, labels=labels, healthcheck=healthcheck,
        base=python_base() if on_base else None,
    )  # fmt: skip
    return push_image(layout, parse_reference(target), credentials=(PUBLISHER, password), plain_http=True)
