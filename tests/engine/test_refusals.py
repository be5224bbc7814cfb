"""What dockerd says before it ends, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reference.engine.places import Places
from reference.engine.refusals import explain

# Words of dockerd 20.10 and containerd 1.6.
SAID = {
    "failed to start daemon: error initializing graphdriver: driver not supported": "the storage driver",
    "overlay2: the backing xfs filesystem is formatted without d_type support, backing file system is unsupported for "
    "this graph driver": "the storage driver",
    "failed to start daemon: mkdir /x/data/tmp: no space left on device": "the disk is full",
    "failed to start daemon: Devices cgroup isn't mounted": "control groups",
    'failed to start daemon: Error initializing network controller: error obtaining controller instance: failed to create NAT chain DOCKER: iptables failed: iptables -t nat -N DOCKER: iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)"': "iptables cannot be used",
    "failed to start daemon: mount /x/data:/x/data, flags: 0x1000: operation not permitted": "Run this as root",
    "unable to configure the Docker daemon with file /x/daemon.json: the following directives don't match any "
    "configuration option: no-such-key": "does not take its configuration",
}


@pytest.mark.parametrize(("said", "meaning"), SAID.items())
def test_known_words_become_a_sentence(said: str, meaning: str) -> None:
    message = str(explain(f'time="..." level=info msg="Starting up"\n{said}', Places.of(Path("/x")), "ended"))
    assert meaning in message
    assert message.startswith("/x/dockerd.log: dockerd ended: ")
    assert "\n" not in message


def test_unknown_words_are_shown_as_they_are() -> None:
    said = "\n".join(f"line {number}" for number in range(9))
    message = str(explain(said, Places.of(Path("/x")), "was not ready"))
    assert message == "/x/dockerd.log: dockerd was not ready; the end of its log:\nline 6\nline 7\nline 8"
    assert str(explain("", Places.of(Path("/x")), "ended")).endswith("dockerd ended and said nothing")
