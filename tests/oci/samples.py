"""Image folders and documents for tests."""

from __future__ import annotations

from pathlib import Path

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest(letter: str) -> str:
    """A well-formed digest made of one hex digit."""
    return "sha256:" + letter * 64


def descriptor(letter: str = "a", media_type: str = LAYER, **more: object) -> dict[str, object]:
    """A descriptor as JSON."""
    return {"mediaType": media_type, "digest": digest(letter), "size": 3, **more}


def manifest(**more: object) -> dict[str, object]:
    """A manifest as JSON."""
    return {"schemaVersion": 2, "config": descriptor("c", CONFIG), "layers": [descriptor()], **more}


def app_folder(root: Path, name: str = "app") -> Path:
    """A small program with a directory, an executable, a link and leftovers that do not belong into an image."""
    folder = root / name
    (folder / "lib" / "__pycache__").mkdir(parents=True)
    (folder / "main.py").write_text("print('hello')\n")
    (folder / "lib" / "part.py").write_text("X = 1\n")
    (folder / "lib" / "__pycache__" / "part.cpython-311.pyc").write_bytes(b"times in here")
    tool = folder / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    (folder / "link").symlink_to("lib/part.py")
    return folder
