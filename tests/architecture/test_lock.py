"""Dependencies: every one pinned by hash, and no file that names where packages come from or where we were built."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.architecture.source import ROOT, committed_files, name, text_of

LOCK = ROOT / "requirements.lock"
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
HOST = re.compile(r"\b[a-z0-9-]+\.(?:org|com|net|io|dev|cloud|local|internal|example)\b", re.IGNORECASE)

# Put together from parts, so that this file does not name them either.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"), ("yarnpkg", "com"),
        ("proxy", "golang", "org"), ("sum", "golang", "org"), ("crates", "io"), ("rubygems", "org"),
        ("repo1", "maven", "org"), ("deb", "debian", "org"),
    )
]  # fmt: skip
HERE = ["/" + "work" + "/" + folder for folder in ("main", "shared", ".library", ".mirror")]


def requirements(text: str) -> dict[str, str]:
    """Normalised name -> the whole entry of a lock file, continuation lines joined."""
    entries = [
        e.strip() for e in text.replace("\\\n", " ").splitlines() if e.strip() and not e.startswith("#")
    ]
    return {normalised(entry): entry for entry in entries}


def normalised(requirement: str) -> str:
    """The name of a requirement as PEP 503 compares it, without extras, version and marker."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None, f"not a requirement: {requirement[:80]}"
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def addresses(text: str) -> list[str]:
    """Lines of a lock file that hold an address, or options by which one gets in."""
    options = ("--index-url", "--extra-index-url", "--find-links", "-i ", "-f ", "--trusted-host")
    return [
        line
        for line in text.splitlines()
        if "://" in line
        or " @ " in line
        or HOST.search(HASH.sub("", line))
        or line.strip().startswith(options)
    ]


def unpinned(text: str) -> list[str]:
    """Entries without an exact version or without a hash."""
    return [n for n, entry in requirements(text).items() if "==" not in entry or not HASH.search(entry)]


def test_the_lock_holds_no_address() -> None:
    assert addresses(LOCK.read_text(encoding="utf-8")) == []


def test_every_requirement_is_pinned_by_hash() -> None:
    text = LOCK.read_text(encoding="utf-8")
    assert len(requirements(text)) > 20
    assert unpinned(text) == []


def test_every_dependency_is_in_the_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    locked = requirements(LOCK.read_text(encoding="utf-8"))
    missing = sorted(r for r in wanted if normalised(r) not in locked)
    assert not missing, f"run `make lock`: {missing}"


GOOD = "h11==0.16.0 \\\n    --hash=sha256:" + "a" * 64 + "\n"


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https" + "://mirror/simple",
        "h11 @ file" + ":///somewhere/h11.whl",
        "# from mirror.internal",
        "--find-links wheels",
        "    # via packages.example.com",
    ],
)
def test_the_checker_sees_an_address(line: str) -> None:
    assert addresses(GOOD) == []
    assert addresses(GOOD + line + "\n") == [line]


def test_the_checker_sees_what_is_not_pinned() -> None:
    assert unpinned(GOOD) == []
    assert unpinned(GOOD + "rich==14.0\n") == ["rich"]
    assert unpinned(GOOD + "rich>=14 \\\n    --hash=sha256:" + "b" * 64 + "\n") == ["rich"]


def test_other_lock_files_hold_no_address() -> None:
    for path in committed_files():
        assert path.name not in ("uv.lock", "poetry.lock", "Pipfile.lock", "yarn.lock"), (
            f"{name(path)}: has addresses"
        )
        if path.name == "package-lock.json":
            packages = json.loads(path.read_text(encoding="utf-8")).get("packages", {})
            resolved = [p for p, entry in packages.items() if "resolved" in entry]
            assert not resolved, f"{name(path)}: {resolved[:3]}"


def leaks(text: str, root: Path = ROOT) -> list[str]:
    """What a committed text gives away: a package registry's host, or a path of the machine it was made on."""
    home = Path.home()
    own = [str(p) + "/" for p in (root, home) if len(p.parts) > 2]
    lowered = text.lower()
    return [h for h in REGISTRY_HOSTS if h in lowered] + [p for p in (*HERE, *own) if p in text]


def test_no_file_names_a_package_registry_or_this_machine() -> None:
    found = {
        name(path): leaked
        for path in committed_files()
        if (text := text_of(path)) is not None and (leaked := leaks(text))
    }
    assert not found


def test_the_checker_sees_a_leak() -> None:
    assert leaks("an honest text about /var/lib and example.com") == []
    assert leaks("get it from https" + "://" + REGISTRY_HOSTS[0].upper() + "/simple")
    assert leaks(f"see {HERE[0]}/README.md")
    assert leaks("see /srv/checkout/blackstart/README.md", Path("/srv/checkout/blackstart"))
