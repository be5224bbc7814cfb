"""The import contracts forbid what the table in CONTRIBUTING.md forbids, and nothing else.

They are run over a skeleton of the project, packages without content, in which the imports in question stand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.architecture.source import ROOT

PACKAGES = (
    "core", "protocol", "oci", "pki", "support", "world", "edge", "service", "broker", "registry", "client", "engine",
    "power", "demo", "cli",
)  # fmt: skip
MODULES = {"core": ("errors", "model")}
CHAOS = ("scenario", "checkers", "faults", "history", "verdict", "pytest_plugin")
"""Of the other top-level package: named in full in the tables below."""

ALLOWED = {
    "protocol": ("core.model",),
    "oci": ("core.errors",),
    "pki": ("core.errors",),
    "support": ("core.errors",),
    "edge": ("core.model", "protocol", "oci", "pki", "support"),
    "service": ("core.model", "protocol", "oci", "pki", "support"),
    "broker": ("core.errors", "protocol", "pki", "support"),
    "registry": ("core.errors", "oci", "support"),
    "client": ("core.errors", "support"),
    "engine": ("core.errors", "support"),
    "stack": ("core.model", "edge", "service", "broker", "registry", "client", "engine"),
    "demo": ("stack", "edge", "core.model"),
    "world": ("core.model",),
    "power": (
        "core.model",
        "world",
        "protocol",
        "oci",
        "pki",
        "support",
        "edge",
        "client",
        "registry",
        "engine",
    ),
    "cli": ("demo", "stack", "service", "power", "world", "chaos.faults"),
    "chaos.faults": (
        "stack",
        "power",
        "world",
        "core.model",
        "protocol",
        "oci",
        "pki",
        "support",
        "edge",
        "engine",
        "client",
        "chaos.scenario",
    ),
    "chaos.scenario": ("core.model",),
    "chaos.checkers": ("core.model", "chaos.scenario", "chaos.history", "chaos.verdict"),
}
FORBIDDEN = {
    "core": ("protocol", "oci", "pki", "support", "edge", "service", "chaos.scenario"),
    "protocol": ("oci", "pki", "support", "edge"),
    "oci": ("core.model", "protocol", "pki", "support"),
    "pki": ("core.model", "protocol", "oci", "support"),
    "support": ("core.model", "protocol", "oci", "pki"),
    "edge": ("service", "broker", "registry", "client", "engine", "world", "stack", "cli"),
    "service": ("edge", "broker", "registry", "client", "world", "stack", "cli"),
    "broker": ("core.model", "oci", "edge", "service"),
    "registry": ("core.model", "protocol", "pki", "edge"),
    "client": ("core.model", "protocol", "oci", "pki", "edge"),
    "engine": ("core.model", "protocol", "oci", "pki", "edge"),
    "world": ("protocol", "oci", "support", "edge", "service", "power"),
    "power": ("service", "broker", "stack", "demo", "cli"),
    "demo": ("cli", "chaos.scenario"),
    "stack": ("power", "world", "demo", "cli", "chaos.scenario"),
    "chaos.faults": ("cli", "demo"),
    "chaos.scenario": ("protocol", "stack", "edge", "chaos.checkers", "chaos.history"),
    "chaos.checkers": ("protocol", "stack", "edge"),
}
OUTSIDE = {
    "core": "tests",
    "edge": "pytest",
    "service": "amqtt",
    "client": "fastapi",
    "support": "blackstart",
    "chaos.faults": "pytest",
    "chaos.checkers": "amqtt",
}


def skeleton(root: Path, edges: Iterable[tuple[str, str]]) -> None:
    """A project without content, with these imports in it: each in a module of its own, where there is room."""
    for package in PACKAGES:
        folder = root / "reference" / package
        folder.mkdir(parents=True)
        for module in ("__init__", *MODULES.get(package, ())):
            (folder / f"{module}.py").touch()
    for part in CHAOS:
        folder = root / "chaos" / part
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    (root / "chaos/__init__.py").touch()
    (root / "reference/__init__.py").touch()
    (root / "reference/stack.py").touch()
    (root / "blackstart").mkdir()
    (root / "blackstart/__init__.py").touch()
    shutil.copy(ROOT / "pyproject.toml", root)
    for number, (importer, imported) in enumerate(edges):
        module = root / in_full(importer).replace(".", "/")
        module = module / f"part{number}.py" if module.is_dir() else module.with_suffix(".py")
        with module.open("a") as file:
            file.write(f"import {imported}\n")


def in_full(name: str) -> str:
    """A package of the tables, as it is imported."""
    return name if name.startswith("chaos") else f"reference.{name}"


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """import-linter over it, as `make lint` runs it."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo"],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_what_the_table_allows_passes(tmp_path: Path) -> None:
    skeleton(tmp_path, ((a, in_full(b)) for a, imported in ALLOWED.items() for b in imported))
    done = lint(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("importer", FORBIDDEN)
def test_what_the_table_forbids_is_found(tmp_path: Path, importer: str) -> None:
    # One importer at a time: import-linter names each broken pair of packages, whatever else is broken.
    edges = [(importer, in_full(imported)) for imported in FORBIDDEN[importer]]
    skeleton(tmp_path, edges)
    done = lint(tmp_path)
    assert done.returncode == 1, done.stderr
    said = " ".join(done.stdout.split())
    missed = [imported for _, imported in edges if f"-> {imported} (l." not in said]
    assert not missed, f"{importer} may import {missed}:\n{done.stdout}"


def test_what_has_no_business_there_is_found(tmp_path: Path) -> None:
    skeleton(tmp_path, OUTSIDE.items())
    done = lint(tmp_path)
    assert done.returncode == 1, done.stderr
    missed = [imported for imported in OUTSIDE.values() if f"-> {imported} (l." not in done.stdout]
    assert not missed, done.stdout


def test_only_the_plugin_knows_pytest(tmp_path: Path) -> None:
    skeleton(tmp_path, ())
    (tmp_path / "chaos/pytest_plugin/__init__.py").write_text("import pytest\n")
    done = lint(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_new_folder_has_to_take_its_place(tmp_path: Path) -> None:
    skeleton(tmp_path, ())
    assert lint(tmp_path).returncode == 0
    (tmp_path / "reference/attic").mkdir()
    (tmp_path / "reference/attic/__init__.py").touch()
    done = lint(tmp_path)
    assert done.returncode == 1
    assert "attic" in done.stdout
