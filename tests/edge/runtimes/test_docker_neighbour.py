"""The kernel is told where a container on a bridge is: in a network of the test's own, and by the runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from reference.edge.runtimes.docker import neighbour
from reference.edge.runtimes.docker.engine import Document
from reference.support.processes import ROOT
from tests.edge.runtimes.contract import SLEEPER, made
from tests.edge.runtimes.docker_bench import DockerBench

CONTAINER = {
    "NetworkSettings": {
        "Networks": {
            "bridge": {"Gateway": "10.9.8.1", "IPAddress": "10.9.8.2", "MacAddress": "02:42:0a:09:08:02"}
        }
    }
}
_IN_THERE = """
import json, subprocess, sys
from reference.edge.runtimes.docker import neighbour
def run(words): return subprocess.run(words.split(), check=True, capture_output=True, text=True).stdout
run("ip link add name br9 type bridge"); run("ip address add 10.9.8.1/24 dev br9"); run("ip link set br9 up")
container, seen = json.loads(sys.argv[1]), []
for do in (neighbour.introduce, neighbour.introduce, neighbour.forget, neighbour.forget):
    seen.append([do(container), run("ip neighbour show dev br9").split()])
print(json.dumps(seen))
"""


def test_an_entry_is_made_and_dropped_again() -> None:
    if os.geteuid() != 0:
        pytest.skip("neighbour: a network of one's own needs root")
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("neighbour: ip or unshare is not installed")
    command = ["unshare", "--net", sys.executable, "-c", _IN_THERE, json.dumps(CONTAINER)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    there = ["10.9.8.2", "lladdr", "02:42:0a:09:08:02", "REACHABLE"]
    assert json.loads(done.stdout) == [[True, there], [True, there], [True, []], [False, []]]


def test_who_may_not_is_not_in_the_way() -> None:
    """An updater without the right, or in a network of its own: nothing happens, and nothing fails."""
    assert neighbour.introduce(CONTAINER) is True, "no interface has that address: there is nothing to tell"
    assert neighbour.introduce({"NetworkSettings": {"Networks": None}}) is True
    assert neighbour.introduce({}) is True


def test_the_message_is_what_the_kernel_reads() -> None:
    link = bytes.fromhex("02420a090802")
    sent = neighbour.message(28, 7, bytes([10, 9, 8, 2]), link)
    assert len(sent) == int.from_bytes(sent[:4], sys.byteorder) == 48
    assert bytes([10, 9, 8, 2]) in sent
    assert link in sent
    dropped = neighbour.message(29, 7, bytes([10, 9, 8, 2]), link)
    assert len(dropped) == 36
    assert link not in dropped


async def test_the_kernel_is_told_of_each_start_and_each_end(
    docker_bench: DockerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what its table holds afterwards: a bridge that loses or gains a link may forget all entries at any time."""
    told: list[tuple[str, str, str, bool]] = []

    def spy(word: str) -> None:
        really: Callable[[Document], bool] = getattr(neighbour, word)

        def tell(container: Document) -> bool:
            [endpoint] = container["NetworkSettings"]["Networks"].values()
            done = really(container)
            told.append((word, container["Id"], endpoint["IPAddress"], done))
            return done

        monkeypatch.setattr(neighbour, word, tell)

    spy("introduce")
    spy("forget")
    docker_bench.setup = docker_bench.setup.model_copy(update={"network": "bridge"})
    runtime = docker_bench.open()
    name = await made(docker_bench, SLEEPER)
    await runtime.start(name)
    [endpoint] = docker_bench.api.inspect_container(name)["NetworkSettings"]["Networks"].values()
    address = endpoint["IPAddress"]
    assert address
    assert told == [("introduce", name, address, True)]
    await runtime.stop(name, 0)
    assert [words[:3] for words in told[1:]] == [("forget", name, address)]
