"""`blackstart engine ...`: a private engine for people."""

from __future__ import annotations

import json
from pathlib import Path

from reference.engine import PrivateEngine
from tests.cli.test_commands import app, blackstart, refused
from tests.engine import needs_engine, static_image

__all__ = ["app"]


def test_a_life(tmp_path: Path) -> None:
    needs_engine()
    folder = tmp_path / "engine"
    try:
        started = json.loads(blackstart(tmp_path, "engine", "start", "--data", "engine", "--json").stdout)
        assert started["answers"] is True
        assert started["folder"] == str(folder)
        assert refused(tmp_path, "engine", "start", "--data", "engine") == (
            f"{folder}: an engine runs on this folder. "
            "End it first (blackstart engine stop --data), or name another folder."
        )
        static_image(PrivateEngine(folder), "kept:1")
        said = blackstart(tmp_path, "engine", "restart", "--data", "engine").stdout
        assert said == f"it answers at {started['host']}: export DOCKER_HOST={started['host']}\n"
        again = json.loads(blackstart(tmp_path, "engine", "status", "--data", "engine", "--json").stdout)
        assert again["pid"] != started["pid"]
        assert {key: again[key] for key in ("host", "bridge", "subnet")} == {
            key: started[key] for key in ("host", "bridge", "subnet")
        }
        assert blackstart(tmp_path, "engine", "stop", "--data", "engine").stdout == "ended\n"
        assert not Path(started["host"].removeprefix("unix://")).exists()
        blackstart(tmp_path, "engine", "status", "--data", "engine", code=1)
        blackstart(tmp_path, "engine", "start", "--data", "engine")
        kept = PrivateEngine(folder).client().images.get("kept:1")
        assert kept.tags == ["kept:1"], "images outlive it"
    finally:
        ended = blackstart(tmp_path, "engine", "stop", "--data", "engine", "--wipe", "--json").stdout
    assert json.loads(ended) == {"ended": True}
    assert list(folder.iterdir()) == []
    assert blackstart(tmp_path, "engine", "stop", "--data", "engine").stdout == "no engine was up there\n"


def test_what_is_refused_says_what_to_do(tmp_path: Path) -> None:
    needs_engine()
    said = refused(tmp_path, "engine", "restart", "--data", "nothing", code=1)
    assert said == f"{tmp_path / 'nothing'}: no private engine is up there. Start it."


def test_an_image_that_an_engine_runs(app: Path, tmp_path: Path) -> None:
    alone, whole = tmp_path / "alone", tmp_path / "whole"
    blackstart(tmp_path, "image", "build", str(app), str(alone), "--version", "1")
    blackstart(tmp_path, "image", "build", str(app), str(whole), "--version", "1", "--python")
    sizes = [
        sum(path.stat().st_size for path in layout.rglob("*") if path.is_file()) for layout in (alone, whole)
    ]
    assert sizes[1] - sizes[0] > 5 << 20, "Python is in it"


def test_adopting_says_what_it_needs(tmp_path: Path) -> None:
    assert "--dry-run" in blackstart(tmp_path, "edge", "adopt", "--help").stdout
    assert "cannot be read" in blackstart(tmp_path, "edge", "adopt", "x", "--config", "none", code=2).stderr
