"""The updater's service: what must be in it, and what must not, for the client to outlive it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/blackstart-edge.service"


def settings() -> dict[str, str]:
    lines = [line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_the_client_outlives_the_updater() -> None:
    found = settings()
    assert found["KillMode"] == "process", "or the process runtime's client ends with it"
    assert found["Restart"] == "always"


def test_the_engine_may_restart_beneath_it() -> None:
    found = settings()
    assert "docker.service" in found["After"]
    assert not {"Requires", "BindsTo", "PartOf", "Requisite"} & set(found)
    assert found["StartLimitIntervalSec"] == "0", "it is never given up"


def test_a_restart_is_no_boot() -> None:
    """The run folder tells one from the other: systemd removes it at each stop, unless it is told not to."""
    assert settings()["RuntimeDirectoryPreserve"] == "yes"


def test_nothing_hides_what_it_has_to_see() -> None:
    hiding = {
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "PrivateNetwork",
        "PrivatePIDs",
        "ProtectProc",
        "ProcSubset",
    }
    assert not hiding & set(settings())


def test_it_starts_what_there_is() -> None:
    from reference.edge.main import main

    words = settings()["ExecStart"].split()
    assert words[1:3] == ["edge", "run"]
    with pytest.raises(SystemExit) as ended:
        main([*words[3:], "--help"])
    assert ended.value.code == 0, "its options are known"


def test_systemd_takes_it(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd: systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/blackstart/bin/blackstart", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, said) == (0, [])
