"""Build an OCI image from a folder, with no engine. The same folder gives the same bytes, every time.

The files land under `/app`, in one gzip layer; on top of a base when one is given. What would differ between two builds is fixed: order, owners (0:0),
modes (0755 or 0644), times (`SOURCE_DATE_EPOCH`, else 1970; reproducible-builds.org/specs/source-date-epoch).
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from reference.core.errors import InputError
from reference.oci import base as bases
from reference.oci.base import BaseLayer
from reference.oci.digests import sha256_of, sha256_of_file
from reference.oci.durable import fsync_directory, move_durably, write_durably
from reference.oci.fields import Fields, load_object
from reference.oci.folder import SETTINGS_FILE, Entry, list_folder
from reference.oci.layout import INDEX, MARKER, MARKER_TEXT, REF_NAME, blob_path, is_layout
from reference.oci.manifests import (
    ARCHITECTURES,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    machine_architecture,
)
from reference.oci.references import is_tag

PREFIX = "app"
WORKING_DIR = f"/{PREFIX}"
DEFAULT_ENTRYPOINT = ("python3", "/app/main.py")
VERSION_LABEL = "org.opencontainers.image.version"
MAX_SETTINGS_BYTES = 1 << 20
_KNOWN = frozenset({"entrypoint", "cmd", "env", "labels", "workingDir", "architecture", "healthcheck"})
_LATEST_EPOCH = 253_402_300_799  # The last second of the year 9999.


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """What was built. Sizes in bytes; `manifest_digest` is what a command names."""

    layout: Path
    version: str
    architecture: str
    manifest_digest: str
    manifest_size: int
    config_digest: str
    layer_digest: str
    layer_size: int
    files: int


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """What an engine runs in the container to learn how it is (`HEALTHCHECK`): a program, as its words."""

    test: tuple[str, ...]
    interval_ms: int = 30_000
    timeout_ms: int = 30_000
    start_period_ms: int = 0
    retries: int = 3

    def as_config(self) -> dict[str, object]:
        """As Docker's image configuration has it: times in nanoseconds."""
        return {
            "Test": ["CMD", *self.test],
            "Interval": self.interval_ms * 1_000_000,
            "Timeout": self.timeout_ms * 1_000_000,
            "StartPeriod": self.start_period_ms * 1_000_000,
            "Retries": self.retries,
        }


@dataclass(frozen=True, slots=True)
class _Settings:
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = WORKING_DIR
    architecture: str = ""
    healthcheck: Healthcheck | None = None
    more: Mapping[str, object] = field(default_factory=dict)


def build_image(
    folder: Path,
    out: Path,
    *,
    version: str,
    entrypoint: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    architecture: str | None = None,
    source_date_epoch: int | None = None,
    cmd: Sequence[str] | None = None,
    healthcheck: Healthcheck | None = None,
    more: Mapping[str, object] | None = None,
    base: BaseLayer | None = None,
) -> BuiltImage:
    """Write an image of `folder` as an OCI layout to `out`, whole or not at all.

    Arguments win over the folder's `blackstart-image.json`, which wins over the defaults: entrypoint
    `python3 /app/main.py` (`-I -S` on a base), this machine's architecture. `more` is keys of the configuration that
    only an engine reads (User, StopSignal, ExposedPorts, Volumes); `base` the layer below. `out` may be missing, empty, or a layout, which is replaced.
    `source_date_epoch` is in seconds since 1970; None takes it from the environment. Raises InputError.
    """
    if not is_tag(version):
        raise InputError(
            f"{version!r} cannot be a version: it has to be a valid tag",
            where="version",
            todo="Use up to 128 letters, digits, _ . -, not starting with . or -.",
        )
    _check_out(folder, out)
    epoch = _epoch() if source_date_epoch is None else _in_range(source_date_epoch)
    entries = list_folder(folder)
    given = _Settings(
        tuple(entrypoint or ()), tuple(cmd or ()), env or {}, labels or {},
        architecture=architecture or "", healthcheck=healthcheck, more=more or {},
    )  # fmt: skip
    default = bases.ENTRYPOINT if base is not None else DEFAULT_ENTRYPOINT
    settings = _resolve(folder, entries, _read_settings(folder), given, version, default)
    try:
        return _build(entries, out, settings, version, epoch, base)
    except OSError as error:
        place = str(error.filename or out)
        raise InputError(f"cannot be written: {error.strerror or error}", where=place) from error


def _check_out(folder: Path, out: Path) -> None:
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            "the image would be written into its own folder", where=str(out), todo="Choose another place."
        )
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or (not is_layout(out) and any(out.iterdir())):
        raise InputError(
            "exists and is not an OCI image layout", where=str(out), todo="Remove it or choose another place."
        )


def _epoch() -> int:
    text = os.environ.get("SOURCE_DATE_EPOCH", "").strip()
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise InputError(f"{text!r} is not a number of seconds", where="SOURCE_DATE_EPOCH", todo="Unset it.")
    return _in_range(int(text))


def _in_range(epoch: int) -> int:
    if not 0 <= epoch <= _LATEST_EPOCH:
        raise InputError(
            f"{epoch} is not in the years 1970 to 9999", where="SOURCE_DATE_EPOCH", todo="Unset it."
        )
    return epoch


def _read_settings(folder: Path) -> _Settings:
    path = folder / SETTINGS_FILE
    if not path.exists():
        return _Settings()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from error
    fields = load_object(data, str(path), limit_bytes=MAX_SETTINGS_BYTES, error=InputError)
    fields.only(_KNOWN)
    found = _Settings(
        fields.texts("entrypoint"),
        fields.texts("cmd"),
        fields.mapping("env"),
        fields.mapping("labels"),
        fields.text("workingDir", WORKING_DIR),
        fields.text("architecture", ""),
        _healthcheck(fields.child("healthcheck")) if fields.has("healthcheck") else None,
    )
    if fields.has("entrypoint") and not found.entrypoint:
        fields.refuse("entrypoint", "is empty")
    if not found.working_dir.startswith("/"):
        fields.refuse("workingDir", "is not an absolute path")
    return found


def _healthcheck(fields: Fields) -> Healthcheck:
    fields.only(frozenset({"test", "intervalMs", "timeoutMs", "startPeriodMs", "retries"}))
    usual = Healthcheck(())

    def number(key: str, otherwise: int) -> int:
        return fields.size(key) if fields.has(key) else otherwise

    found = Healthcheck(
        fields.texts("test"),
        number("intervalMs", usual.interval_ms),
        number("timeoutMs", usual.timeout_ms),
        number("startPeriodMs", usual.start_period_ms),
        number("retries", usual.retries),
    )
    if not found.test:
        fields.refuse("test", "is empty")
    return found


def _resolve(
    folder: Path,
    entries: list[Entry],
    settings: _Settings,
    given: _Settings,
    version: str,
    default: tuple[str, ...],
) -> _Settings:
    names = {entry.name for entry in entries}
    entrypoint = given.entrypoint or settings.entrypoint or default
    if entrypoint is default and "main.py" not in names:
        raise InputError(
            "there is no main.py and no entrypoint is given",
            where=str(folder),
            todo=f'Add main.py, or "entrypoint" in {SETTINGS_FILE}.',
        )
    program = entrypoint[0]
    if not program or (program.startswith("/app/") and program.removeprefix("/app/") not in names):
        raise InputError(f"the entrypoint {program!r} is not in the folder", where=str(folder))
    architecture = given.architecture or settings.architecture or machine_architecture()
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"{architecture!r} is not an architecture",
            where=str(folder),
            todo=f"Use one of {', '.join(sorted(ARCHITECTURES))}.",
        )
    env = {**settings.env, **given.env}
    for key in env:
        if not key or "=" in key:
            raise InputError(f"{key!r} cannot be the name of an environment variable", where=str(folder))
    labels = {**settings.labels, **given.labels, VERSION_LABEL: version}
    return _Settings(
        entrypoint, given.cmd or settings.cmd, env, labels, settings.working_dir, architecture,
        given.healthcheck or settings.healthcheck, given.more,
    )  # fmt: skip


def _build(
    entries: list[Entry], out: Path, settings: _Settings, version: str, epoch: int, base: BaseLayer | None
) -> BuiltImage:
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=parent))
    try:
        staged.chmod(0o755)
        built = _write_layout(entries, staged, out, settings, version, epoch, base)
        _publish(staged, out)
        return built
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _write_layout(
    entries: list[Entry],
    staged: Path,
    out: Path,
    settings: _Settings,
    version: str,
    epoch: int,
    base: BaseLayer | None,
) -> BuiltImage:
    blobs = staged / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    diff_id, layer = _write_layer(entries, blobs, epoch)
    layers, diff_ids = [layer], [diff_id]
    if base is not None:
        bases.place(base, blob_path(staged, base.digest))
        layers.insert(0, Descriptor(OCI_LAYER_GZIP, base.digest, base.size))
        diff_ids.insert(0, base.diff_id)
    more = dict(settings.more)
    if settings.healthcheck is not None:
        more["Healthcheck"] = settings.healthcheck.as_config()
    config = ImageConfig(
        architecture=settings.architecture,
        entrypoint=settings.entrypoint,
        cmd=settings.cmd,
        env=settings.env,
        working_dir=settings.working_dir,
        labels=settings.labels,
        diff_ids=tuple(diff_ids),
        created=datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        more=more,
    )
    config_descriptor = _add(staged, OCI_CONFIG, config.to_bytes())
    manifest = _add(staged, OCI_MANIFEST, Manifest(config_descriptor, tuple(layers)).to_bytes())
    listed = Descriptor(
        OCI_MANIFEST, manifest.digest, manifest.size, Platform(settings.architecture), {REF_NAME: version}
    )
    write_durably(staged / MARKER, MARKER_TEXT)
    write_durably(staged / INDEX, Index((listed,)).to_bytes())
    return BuiltImage(
        out,
        version,
        settings.architecture,
        manifest.digest,
        manifest.size,
        config_descriptor.digest,
        layer.digest,
        layer.size,
        sum(entry.kind == "file" for entry in entries),
    )


def _add(staged: Path, media_type: str, data: bytes) -> Descriptor:
    digest = sha256_of(data)
    write_durably(blob_path(staged, digest), data)
    return Descriptor(media_type, digest, len(data))


class _Tee:
    """A writer that hashes what passes: the digest of the uncompressed layer costs no second reading."""

    def __init__(self, sink: IO[bytes] | gzip.GzipFile) -> None:
        self.sink = sink
        self.hasher = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hasher.update(data)
        return self.sink.write(data)


def _write_layer(entries: list[Entry], blobs: Path, epoch: int) -> tuple[str, Descriptor]:
    staged = blobs / ".layer.tmp"
    with staged.open("wb") as raw:
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as packed:
            tee = _Tee(packed)
            with tarfile.open(mode="w|", fileobj=tee, format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:  # type: ignore[call-overload]
                tar.addfile(_member(Entry("", Path(), "directory"), epoch))
                for entry in entries:
                    _add_entry(tar, entry, epoch)
        raw.flush()
        os.fsync(raw.fileno())
    digest, size = sha256_of_file(staged)
    move_durably(staged, blobs / digest.partition(":")[2])
    return f"sha256:{tee.hasher.hexdigest()}", Descriptor(OCI_LAYER_GZIP, digest, size)


def _add_entry(tar: tarfile.TarFile, entry: Entry, epoch: int) -> None:
    if entry.kind != "file":
        tar.addfile(_member(entry, epoch))
        return
    try:
        with entry.path.open("rb") as file:
            changed = os.fstat(file.fileno()).st_size != entry.size
            if not changed:
                tar.addfile(_member(entry, epoch), file)
    except PermissionError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(entry.path)) from error
    if changed:
        raise InputError("changed while it was packed", where=str(entry.path), todo="Build again.")


def _member(entry: Entry, epoch: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(f"{PREFIX}/{entry.name}".rstrip("/"))
    info.mtime, info.mode, info.size = epoch, entry.mode, entry.size
    info.type = {"directory": tarfile.DIRTYPE, "file": tarfile.REGTYPE, "link": tarfile.SYMTYPE}[entry.kind]
    info.linkname = entry.target
    return info


def _publish(staged: Path, out: Path) -> None:
    """Put the staged layout in place. A layout that is there stays whole until its index is replaced at once."""
    if not is_layout(out):
        fsync_directory(staged / "blobs")
        fsync_directory(staged)
        staged.replace(out)  # A missing or empty folder: one rename.
        fsync_directory(out.absolute().parent)
        return
    new = {path.name for path in (staged / "blobs" / "sha256").iterdir()}
    for name in sorted(new):
        move_durably(staged / "blobs" / "sha256" / name, out / "blobs" / "sha256" / name)
    move_durably(staged / INDEX, out / INDEX)
    for path in (out / "blobs" / "sha256").iterdir():
        if path.name not in new:
            with contextlib.suppress(OSError):
                path.unlink()
