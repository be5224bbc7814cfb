"""The device's own memory and disk fail it."""

from __future__ import annotations

from reference.core.errors import Reason
from reference.core.model import Outcome
from reference.demo.bench import OLD, Bench
from reference.demo.story import Story
from reference.edge.main import journal_path
from reference.edge.settings import load_settings

NO_DISK_HAS_BYTES = 2**40
"""A reserve (1 TiB) that the disk of a demo cannot keep: for the updater the same as a disk that others have filled."""


async def _corrupt_journal(bench: Bench) -> None:
    """The journal is damaged while the agent is off; the client runs on, and the next update works."""
    await bench.stop_agent()
    before = bench.client_pids()
    path = journal_path(load_settings(bench.device.config))
    data = bytearray(path.read_bytes())
    for offset in range(4096, len(data), 512):
        data[offset] ^= 0xFF
    path.write_bytes(bytes(data))
    bench.mark("journal damaged")
    await bench.stack.start_agent(bench.device)
    bench.notes["client_untouched_by_damage"] = bench.client_pids() == before
    bench.notes["journals_set_aside"] = len(list(path.parent.glob("journal*corrupt*")))
    await bench.finish(await bench.command())


async def _disk_full(bench: Bench) -> None:
    await bench.reconfigure(disk_margin_bytes=NO_DISK_HAS_BYTES)
    await bench.finish(await bench.command())


STORIES: tuple[Story, ...] = (
    Story("corrupt-journal", "the journal is damaged on the disk", _corrupt_journal),
    Story(
        "disk-full", "what has to stay free on the device's disk is not", _disk_full, Outcome.FAILED,
        Reason.DISK_FULL, runs=OLD, touches_client=False,
    ),
)  # fmt: skip
