"""Where the model's atoms come from: every effect that a real device has while it updates is one of them.

A device goes through its first install, an update with a copy of its volume, one that migrates the volume and is rolled
back, the end of its agent, and one more update, under strace. Each call that changes its folders, begins or ends a
process, or asks the registry is matched with the table of `atoms_map.py`; one that no rule knows is an error.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from reference.core.model import Command, Outcome, Policy
from reference.support.processes import ROOT
from reference.world.atoms import Atom
from tests.agreement.agent import TASK
from tests.agreement.atoms_map import RULES, Call, Mapper, Rule
from tests.agreement.device import GOOD, Device, Task
from tests.agreement.judge import End, end_of
from tests.agreement.stories import FAR_MS, ground
from tests.agreement.trace import TRACED, Reader, joined

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.xdist_group("agreement-atoms"),
]

PATIENCE_S = 60.0
NOT_HERE = {
    Atom.ENGINE_DOWN: "there is no engine beside the agent; `restart_engine` only forgets what was verified",
    Atom.ENGINE_UP: "as before",
    Atom.BOOT_REVIVE: "restart policies are stored and reported, no more: the agent alone starts a client again",
    Atom.MESSAGE_IN: "the conversation is no effect on the device; tests/edge/test_puback.py looks at it",
    Atom.MESSAGE_OUT: "as before",
}
"""What the process runtime cannot do, and why."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A call with its line of the trace, and what is known of it."""

    call: Call
    line: str
    rule: Rule | None
    atoms: tuple[Atom, ...]
    agent_lives: bool
    """What is traced afterwards is the client, until it is ended."""


class Tracers:
    """Lives of agents under strace. What an agent leaves running goes on, and is still traced, after its own end."""

    def __init__(self, device: Device, folder: Path) -> None:
        self._device = device
        self._folder = folder
        self._running: list[asyncio.subprocess.Process] = []

    def _trace(self, number: int) -> Path:
        return self._folder / f"trace-{number}"

    async def live(self, task: Task) -> None:
        """One life, to the agent's end. Skips the test where nothing may be traced."""
        trace = self._trace(len(self._running))
        order = trace.with_suffix(".json")
        order.write_bytes(TASK.dump_json(task))
        process = await asyncio.create_subprocess_exec(
            "strace", "-f", "-y", "-s", "600", "--seccomp-bpf", "-o", str(trace), "-e", "signal=none",
            "-e", f"trace={TRACED}", sys.executable, "-m", "tests.agreement.agent", str(order),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )  # fmt: skip
        self._running.append(process)
        assert process.stdout is not None and process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            said = await process.stdout.readline()
            if not said:
                errors = (await process.stderr.read()).decode()
                if "ptrace" in errors.lower():
                    pytest.skip("strace may not trace here")
                raise AssertionError(errors)
            agent = Path(f"/proc/{said.split()[-1].decode()}")
            while agent.exists():  # noqa: ASYNC110, ASYNC240 - it is no child of ours
                await asyncio.sleep(0.005)

    async def close(self) -> list[list[Seen]]:
        """End what still runs; each life as it was seen."""
        self._device.kill_all()
        for process in self._running:
            async with asyncio.timeout(PATIENCE_S):
                await process.communicate()
        return [self._read(number) for number in range(len(self._running))]

    def _read(self, number: int) -> list[Seen]:
        raws = joined(self._trace(number).read_text(errors="replace").splitlines())
        end = max(raw.place for raw in raws if raw.pid == raws[0].pid)  # Not each end of a process is traced.
        mapper, found = Mapper(), []
        for call, raw in Reader(self._device.roots()).calls(raws):
            known = mapper.atoms(call)
            rule, atoms = known if known is not None else (None, ())
            found.append(Seen(call, raw.line, rule, atoms, raw.place <= end))
        return found


def unknown(seen: Iterable[Seen]) -> list[str]:
    """Lines of calls that no rule knows."""
    return [one.line for one in seen if one.rule is None]


@asynccontextmanager
async def device_with_orders(
    folder: Path, *versions: tuple[str, str | None]
) -> AsyncIterator[tuple[Device, Task]]:
    """A device with nothing on it, and orders for versions of these names and defects."""
    async with ground(folder) as made:
        device = made.device()
        device.make()
        orders = tuple(
            Command(f"job-{n}", n, made.image(name, defect), GOOD, FAR_MS, Policy(snapshot=True))
            for n, (name, defect) in enumerate(versions, 1)
        )
        try:
            yield device, Task(device.folder, device.address, device.registry, orders)
        finally:
            device.kill_all()


async def _updated(folder: Path) -> tuple[list[list[Seen]], End]:
    versions = (("v1", None), ("v2", None), ("v3", "bad-migration"), ("v4", None))
    async with device_with_orders(folder, *versions) as (device, task):
        tracers = Tracers(device, folder)
        await tracers.live(replace(task, orders=task.orders[:3], leave=True))
        await tracers.live(replace(task, orders=task.orders[3:]))
        end = await end_of(device)
        return await tracers.close(), end


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[Seen]], End]:
    """Two lives of an agent, call by call, and how they ended."""
    return asyncio.run(_updated(tmp_path_factory.mktemp("traced")))


@pytest.fixture(scope="module")
def lives(story: tuple[list[list[Seen]], End]) -> list[list[Seen]]:
    return story[0]


def test_the_device_has_done_what_it_was_told(story: tuple[list[list[Seen]], End]) -> None:
    _, end = story
    assert end.wrong == ()
    assert end.runs == ("v4",)
    assert {job: outcome for job, (outcome, _) in end.ends.items()} == {
        "job-1": Outcome.SUCCEEDED,
        "job-2": Outcome.SUCCEEDED,
        "job-3": Outcome.ROLLED_BACK,
        "job-4": Outcome.SUCCEEDED,
    }


def test_every_effect_has_an_atom(lives: list[list[Seen]]) -> None:
    assert unknown(one for life in lives for one in life) == []
    assert sum(len(life) for life in lives) > 500, "the trace is too short to say anything"


def test_no_rule_is_dead(lives: list[list[Seen]]) -> None:
    used = {one.rule for life in lives for one in life}
    assert [rule for rule in RULES if rule not in used] == []


def test_every_atom_occurs_that_the_process_runtime_can_do(lives: list[list[Seen]]) -> None:
    seen = {atom for life in lives for one in life for atom in one.atoms}
    assert set(Atom) - seen == set(NOT_HERE)


# ---- their order


def misplaced(lives: Iterable[list[Seen]]) -> list[str]:
    """Lines of calls that come before the atom that has to precede theirs, or while the journal is not durable."""
    found, done = [], set[Atom]()
    for life in lives:
        appended = False
        for one in (one for one in life if one.agent_lives):
            for atom in one.atoms:
                if atom in BEFORE and BEFORE[atom] not in done:
                    found.append(f"{atom} without {BEFORE[atom]}: {one.line}")
                if one.call.who == "agent" and appended and atom not in JOURNAL:
                    found.append(f"{atom} while the journal is not synced: {one.line}")
                if atom is Atom.JOURNAL_APPEND:
                    appended = True
                if atom is Atom.JOURNAL_SYNC:
                    appended = False
                if atom in FIRST:
                    done -= FIRST[atom]
                done.add(atom)
    return found


ORDERED = (
    (Atom.JOURNAL_APPEND, Atom.JOURNAL_SYNC),
    (Atom.PULL_MANIFEST, Atom.PULL_LAYER, Atom.PULL_INDEX),
    (Atom.CREATE_WRITE, Atom.CREATE_SHOW),
    (Atom.START_BEGIN, Atom.START_SPAWN, Atom.START_RECORD),
    (Atom.REMOVE_HIDE, Atom.REMOVE_PURGE),
    (Atom.UNLIST_HIDE, Atom.UNLIST_PURGE),
    (Atom.POLICY_WRITE, Atom.POLICY_SHOW),
    (Atom.SYNC_BEGIN, Atom.SYNC_END),
    (Atom.RESERVE_MAKE, Atom.SNAPSHOT_COPY, Atom.SNAPSHOT_SHOW),
    (Atom.RESTORE_EXCHANGE, Atom.RESTORE_RECORD),
    (Atom.FORGET_HIDE, Atom.FORGET_PURGE),
)
"""As the model has them. A stop is not here: its three are of three processes, traced apart."""
JOURNAL = {Atom.JOURNAL_APPEND, Atom.JOURNAL_SYNC, Atom.OPEN_READ, Atom.OPEN_SYNC}
BEFORE = {later: earlier for group in ORDERED for earlier, later in pairwise(group)}
FIRST = {group[0]: set(group[1:]) for group in ORDERED}


def test_the_atoms_of_a_step_come_in_the_models_order_and_the_journal_before_all(
    lives: list[list[Seen]],
) -> None:
    assert misplaced(lives) == []


def test_an_order_that_is_broken_is_seen(lives: list[list[Seen]]) -> None:
    for atom, earlier in BEFORE.items():
        assert any(line.startswith(f"{atom} without") for line in misplaced(without(earlier, lives))), atom
    assert any("not synced" in line for line in misplaced(without(Atom.JOURNAL_SYNC, lives)))


def without(atom: Atom, lives: list[list[Seen]]) -> list[list[Seen]]:
    """As if nothing had ever been this atom."""
    return [
        [replace(one, atoms=tuple(a for a in one.atoms if a is not atom)) for one in life] for life in lives
    ]


# ---- it can fail


async def test_a_file_that_no_atom_speaks_of_is_seen(tmp_path: Path) -> None:
    async with device_with_orders(tmp_path, ("v1", None)) as (device, task):
        tracers = Tracers(device, tmp_path)
        await tracers.live(replace(task, mutant="stray_file"))
        (seen,) = await tracers.close()
    found = unknown(seen)
    assert found and all("/engine/images/last-pulled" in line for line in found)


@pytest.mark.parametrize(
    "call",
    [
        Call("write", "DATA/volume/samples.log"),
        Call("open", "STATE/engine/blobs/sha256/" + "0" * 64),
        Call("unlink", "STATE/journal.db"),
        Call("rename", "STATE/engine/containers/g1-00000000", who="shim"),
        Call("write", "STATE/engine/images/" + "0" * 64 + "/rootfs/app/main.py", who="workload"),
        Call("clone", who="workload"),
        Call("kill", detail="SIGTERM", who="workload"),
        Call("execve", detail="/bin/sh -c true"),
        Call("write", "STATE/engine/snapshots/.2.json.abcdefgh.tmp", '{"body": {"state": "lost"}}'),
    ],
    ids=lambda call: f"{call.who}-{call.name}-{call.path.partition('/')[0]}",
)
def test_what_nobody_may_do_has_no_atom(call: Call) -> None:
    assert Mapper().atoms(call) is None
