"""A private engine: what it gives, what outlives what, and that nothing is left."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reference.core.errors import BlackstartError, EngineError, InputError
from reference.engine import PrivateEngine, leftovers, links, private
from reference.engine.links import Bridge
from reference.engine.records import Record
from reference.support.processes import ROOT
from tests.engine import needs_engine, static_image

PAGE = {"www/index.html": b"here"}
SERVE = ["busybox", "httpd", "-f", "-p", "80", "-h", "/www"]


def seen(engine: PrivateEngine, links_too: bool = True) -> dict[str, object]:
    """What this machine has of an engine."""
    found: dict[str, object] = {
        "processes": leftovers.processes_of(engine.places),
        "mounts": leftovers.mounts_of(engine.places),
        "cgroups": list(leftovers._cgroups(engine.places)),
        "run": engine.places.run.exists(),
    }
    return {key: value for key, value in found.items() if value}


def eventually(true: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def page(address: str) -> bytes:
    try:
        with urllib.request.urlopen(f"http://{address}", timeout=2) as answer:
            return bytes(answer.read())
    except (OSError, urllib.error.URLError):
        return b""


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


@contextmanager
def client_of(engine: PrivateEngine) -> Iterator[Any]:
    client = engine.client()
    try:
        yield client
    finally:
        client.close()


def serve(engine: PrivateEngine, port: int, **options: object) -> Any:
    """A container that answers on a published port."""
    static_image(engine, "page:1", PAGE)
    with client_of(engine) as client:
        container = client.containers.run(
            "page:1",
            SERVE,
            detach=True,
            stop_signal="SIGKILL",
            ports={"80/tcp": ("127.0.0.1", port)},
            **options,
        )
        assert eventually(lambda: page(f"127.0.0.1:{port}") == b"here")
        return container.id


def pid_of(engine: PrivateEngine, container: str) -> int:
    with client_of(engine) as client:
        return int(client.api.inspect_container(container)["State"]["Pid"])


def test_it_runs_containers_and_leaves_nothing(tmp_path: Path) -> None:
    needs_engine()
    before = {name for _, name in socket.if_nameindex()}
    engine = PrivateEngine(tmp_path / ("a-long-name-" * 12) / "engine")
    engine.start()
    try:
        bridge = engine.bridge
        with client_of(engine) as client:
            client.networks.create("another")
        serve(engine, free_port(), network="another", restart_policy={"Name": "always"})
        serve(engine, free_port())
        assert len(links.links_of(bridge)) == 2, "its bridge, and that of the network"
    finally:
        engine.stop()
    assert seen(engine) == {}
    assert links.links_of(bridge) == []
    left = {name for _, name in socket.if_nameindex()} - before
    assert not [name for name in left if name == bridge.name]
    assert (engine.data_root / "image").exists(), "images stay"
    engine.wipe()
    assert not engine.data_root.exists()


def test_two_who_restart_it_at_once_do_so_one_after_the_other(
    own_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = PrivateEngine._spawn
    beside: list[int] = []

    def watched(engine: PrivateEngine) -> int:
        pid = spawn(engine)
        daemons = [
            p for p in leftovers.processes_of(engine.places) if leftovers.is_called(p, "dockerd", "sh")
        ]
        beside.extend(p for p in daemons if p != pid)
        return pid

    monkeypatch.setattr(PrivateEngine, "_spawn", watched)
    with ThreadPoolExecutor(4) as pool:
        for ended in [pool.submit(own_engine.restart) for _ in range(4)]:
            ended.result()
    assert own_engine.answers() and beside == [], "two daemons on one folder"


@pytest.mark.parametrize("how", ["restart", "kill", "command"])
def test_containers_outlive_its_daemon(own_engine: PrivateEngine, how: str) -> None:
    port = free_port()
    container = serve(own_engine, port)
    workload, daemon = pid_of(own_engine, container), own_engine.pid
    match how:
        case "restart":
            own_engine.restart()
        case "kill":
            own_engine.kill()
            assert not own_engine.answers()
            own_engine.resume()
        case _:
            subprocess.run(own_engine.restart_command, check=True, timeout=60, cwd="/")
    assert own_engine.pid not in (None, daemon)
    assert pid_of(own_engine, container) == workload
    assert eventually(lambda: page(f"127.0.0.1:{port}") == b"here"), "published again"


def test_without_live_restore_they_end_with_it(tmp_path: Path) -> None:
    needs_engine()
    with PrivateEngine(tmp_path, live_restore=False) as engine:
        workload = pid_of(engine, serve(engine, free_port()))
        engine.halt()
        assert leftovers.started(workload) is None


def test_after_a_cut_it_comes_back_with_what_it_had(own_engine: PrivateEngine) -> None:
    container, bridge = serve(own_engine, free_port(), restart_policy={"Name": "always"}), own_engine.bridge
    workload = pid_of(own_engine, container)
    leftovers.end_processes(own_engine.places)
    assert leftovers.started(workload) is None
    own_engine.start()
    assert own_engine.bridge == bridge
    assert eventually(lambda: pid_of(own_engine, container) not in (0, workload)), "revived by its policy"


def test_one_whose_record_is_gone_is_still_taken_down(tmp_path: Path) -> None:
    needs_engine()
    engine = PrivateEngine(tmp_path)
    engine.start()
    bridge = engine.bridge
    shutil.rmtree(engine.places.run)
    engine.stop()
    assert seen(engine) == {}
    assert links.links_of(bridge) == []


def test_two_are_strangers(own_engine: PrivateEngine, tmp_path: Path) -> None:
    ports = free_port(), free_port()
    serve(own_engine, ports[0])
    with PrivateEngine(tmp_path / "another") as another:
        serve(another, ports[1])
        assert another.bridge != own_engine.bridge
        assert page(f"127.0.0.1:{ports[0]}") == b"here", "the other's start took nothing from it"
        with client_of(another) as client:
            assert len(client.containers.list()) == 1
    assert page(f"127.0.0.1:{ports[0]}") == b"here", "nor did its end"


def test_a_folder_has_one(own_engine: PrivateEngine) -> None:
    with pytest.raises(InputError, match="an engine runs on this folder for process"):
        PrivateEngine(own_engine.places.folder).start()
    assert own_engine.answers()


def test_one_whose_owner_was_killed_is_taken_down_by_the_next(
    own_engine: PrivateEngine, tmp_path: Path
) -> None:
    script = """
        import sys, time
        from pathlib import Path
        from reference.engine import PrivateEngine
        PrivateEngine(Path(sys.argv[1])).start()
        print("up", flush=True)
        time.sleep(600)
    """
    orphan = PrivateEngine(tmp_path / "orphan")
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "orphan")],
        stdout=subprocess.PIPE, cwd=ROOT,
    ) as owner:  # fmt: skip
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        bridge = orphan.bridge
        workload = pid_of(orphan, serve(orphan, free_port()))
        assert orphan.places.folder not in private.sweep(), "its owner is there"
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    # Whoever does not see its links leaves it to those who do.
    blind = "from reference.engine import private; print(private.sweep())"
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", blind],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert str(orphan.places.folder) not in done.stdout
    with PrivateEngine(tmp_path / "next"):
        assert seen(orphan) == {}
        assert leftovers.started(workload) is None
        assert links.links_of(bridge) == []
    assert own_engine.answers(), "one with an owner is left alone"


def test_whoever_does_not_see_the_owner_does_not_judge_it(own_engine: PrivateEngine) -> None:
    """In another pid namespace the owner's number means nothing, or somebody else."""
    code = "from reference.engine import private; print(private.sweep())"
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code],
        capture_output=True, text=True, check=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == "[]\n"
    assert own_engine.answers()


def test_one_that_is_meant_to_outlive_its_starter_does(tmp_path: Path) -> None:
    needs_engine()
    code = "import sys, pathlib, reference.engine as e; e.PrivateEngine(pathlib.Path(sys.argv[1])).start(outlives_us=True)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60, cwd=ROOT)
    engine = PrivateEngine(tmp_path)
    try:
        assert tmp_path not in private.sweep()
        assert engine.answers()
    finally:
        engine.stop()
    assert seen(engine) == {}


def test_with_iptables_no_rule_is_left(tmp_path: Path) -> None:
    """In a network namespace of its own: an engine with rules empties those of any other."""
    needs_engine()
    script = """
        import subprocess, sys
        from pathlib import Path
        from reference.engine import PrivateEngine
        from tests.engine import static_image
        def rules():
            text = "".join(subprocess.check_output(["iptables", "-t", t, "-S"], text=True) for t in ("nat", "filter"))
            return [line for line in text.splitlines() if "blackstart" in line or "198.1" in line]
        engine = PrivateEngine(Path(sys.argv[1]), iptables=True)
        engine.start()
        try:
            static_image(engine, "page:1")
            engine.client().containers.run("page:1", ["sleep", "99"], detach=True, ports={"80/tcp": 8080})
            print(len(rules()) > 3)
            # As after a kill: dockerd cannot remove what it made.
            engine.kill()
        finally:
            engine.stop()
        print(rules())
    """
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=120, cwd=ROOT,
        env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
    )  # fmt: skip
    assert done.stdout.splitlines() == ["True", "[]"], done.stderr


# ---- bad input


def test_iptables_beside_another_engine_that_writes_rules(tmp_path: Path) -> None:
    """In a network namespace of its own, as above. Beside one that writes none it is fine."""
    needs_engine()
    script = """
        import sys
        from pathlib import Path
        from reference.core.errors import InputError
        from reference.engine import PrivateEngine
        folder = Path(sys.argv[1])
        with PrivateEngine(folder / "silent"), PrivateEngine(folder / "first", iptables=True) as first:
            first.restart()
            try:
                PrivateEngine(folder / "second", iptables=True).start()
            except InputError as error:
                print(error)
    """
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert re.fullmatch(
        r"--iptables: another engine \(pid \d+\) runs here, and each would empty the other's iptables rules\. "
        r"Start this one without it, or end the other one\.\n",
        done.stdout,
    ), done.stderr


def refused(engine: PrivateEngine) -> BlackstartError:
    with pytest.raises(BlackstartError) as caught:
        engine.start()
    assert seen(engine) == {}
    return caught.value


def test_no_dockerd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "_SBIN", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refused(PrivateEngine(tmp_path))
    assert str(error).startswith(
        "dockerd: no engine can be started here: dockerd is not installed. Install it"
    )


@pytest.mark.parametrize("program", ["containerd", "runc"])
def test_half_an_engine_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, **_: None if name == program else name)
    assert f"{program} is not installed. Install it" in str(refused(PrivateEngine(tmp_path)))


def test_not_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_engine()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert (
        str(refused(PrivateEngine(tmp_path)))
        == "dockerd: no engine can be started here: dockerd needs root. Run this as root."
    )


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    needs_engine()
    (tmp_path / "file").write_text("")
    error = refused(PrivateEngine(tmp_path / "file" / "engine"))
    assert isinstance(error, InputError)
    assert re.search(r"file.*cannot be used: Not a directory. Name another folder.", str(error))


def test_a_filesystem_that_overlay2_does_not_stack_on(tmp_path: Path) -> None:
    needs_engine()
    parts = [tmp_path / name for name in ("lower", "upper", "work", "merged")]
    for part in parts:
        part.mkdir()
    lower, upper, work, merged = map(str, parts)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "none", "-o", options, merged], check=False, capture_output=True
    )
    assert mounted.returncode == 0, mounted.stderr
    try:
        error = refused(PrivateEngine(parts[3] / "engine"))
    finally:
        subprocess.run(["umount", merged], check=True)
    assert isinstance(error, EngineError)
    assert (
        "the storage driver cannot be used on this folder's filesystem. Name a folder on ext4 or xfs"
        in str(error)
    )


def test_a_key_that_it_does_not_know(tmp_path: Path) -> None:
    needs_engine()
    error = refused(PrivateEngine(tmp_path, config={"no-such-key": 1}))
    assert "dockerd does not take its configuration" in str(error)


def test_an_engine_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_engine: PrivateEngine
) -> None:
    from reference.engine import places

    monkeypatch.setattr(places, "OLDEST_API", (9, 0))
    with pytest.raises(
        EngineError, match=r"the engine 2.* is too old \(API 1\.\d+\)\. Install Docker 20\.10"
    ):
        places.check_version(own_engine.socket)


def test_nobody_there(tmp_path: Path) -> None:
    engine = PrivateEngine(tmp_path)
    assert not engine.answers()
    engine.halt()
    engine.kill()
    for asked in (engine.restart, lambda: engine.bridge):
        with pytest.raises(EngineError, match="no private engine is up there"):
            asked()


def test_trouble_with_a_look_is_no_sign_that_an_owner_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record.made(tmp_path, Bridge(1), os.getpid())

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_text", full)
    assert not record.abandoned
