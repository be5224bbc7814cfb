"""Manifests, indexes and image configurations: OCI image specification 1.1, and Docker's schema 2 of the same.

Parsing is strict: what is accepted here has every field that is used, of the right type and in bounds. Unknown
fields are ignored, as the specification demands. Every refusal is an ImageError: the content will be as bad at the
next try. A digest is always that of the bytes received, never of a document written again.
"""

from __future__ import annotations

import json
import platform as host_platform
from collections.abc import Mapping
from dataclasses import dataclass, field

from reference.core.errors import ImageError, Reason
from reference.oci.digests import check_digest
from reference.oci.fields import Fields, load_object

MAX_MANIFEST_BYTES = 4 << 20
MAX_CONFIG_BYTES = 4 << 20
MAX_LAYERS = 512
MAX_MANIFESTS = 1024

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_TAR = "application/vnd.docker.image.rootfs.diff.tar"

MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
GZIP_LAYERS = frozenset({OCI_LAYER_GZIP, DOCKER_LAYER_GZIP})
TAR_LAYERS = frozenset({OCI_LAYER_TAR, DOCKER_LAYER_TAR})
ACCEPT = ", ".join([OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST])
"""The `Accept` header of a client that reads all that is read here."""

_ARCHITECTURES = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "armv6l": "arm",
    "armv7l": "arm",
    "armv8l": "arm",
    "i386": "386",
    "i686": "386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "loongarch64": "loong64",
}
ARCHITECTURES = frozenset(_ARCHITECTURES.values())
"""What an image may be for, in OCI's (that is Go's) words."""


def machine_architecture() -> str:
    """This machine's architecture in OCI's words; the kernel's own word when OCI has none."""
    machine = host_platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on."""

    architecture: str
    os: str = "linux"
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Names content: its kind, its digest and its size in bytes."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """The object that stands for it in a document."""
        found: dict[str, object] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.platform is not None:
            found["platform"] = _platform_json(self.platform)
        if self.annotations:
            found["annotations"] = dict(self.annotations)
        return found


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform: its configuration and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = OCI_MANIFEST
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes to fetch for all layers and the configuration."""
        return self.config.size + sum(layer.size for layer in self.layers)

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal manifests have equal bytes, and so equal digests."""
        document: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": self.config.as_json(),
            "layers": [layer.as_json() for layer in self.layers],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return canonical(document)


@dataclass(frozen=True, slots=True)
class Index:
    """The same image for several platforms."""

    manifests: tuple[Descriptor, ...]
    media_type: str = OCI_INDEX
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        document: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "manifests": [manifest.as_json() for manifest in self.manifests],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return canonical(document)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What to run and what it needs. `diff_ids` are the digests of the unpacked layers, lowest first."""

    architecture: str
    os: str = "linux"
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    diff_ids: tuple[str, ...] = ()
    variant: str = ""
    created: str = ""
    more: Mapping[str, object] = field(default_factory=dict)
    """Keys of `config` that only an engine reads: Healthcheck, User, StopSignal, ExposedPorts, Volumes. Written only."""

    @property
    def platform(self) -> Platform:
        """What it runs on."""
        return Platform(self.architecture, self.os, self.variant)

    @property
    def arguments(self) -> tuple[str, ...]:
        """What is executed: the entrypoint followed by the command."""
        return self.entrypoint + self.cmd

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        run: dict[str, object] = {
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.cmd),
            "Env": [f"{key}={value}" for key, value in sorted(self.env.items())],
            "WorkingDir": self.working_dir,
            "Labels": dict(self.labels),
            **self.more,
        }
        document: dict[str, object] = {
            **_platform_json(self.platform),
            "config": {key: value for key, value in run.items() if value},
            "rootfs": {"type": "layers", "diff_ids": list(self.diff_ids)},
        }
        if self.created:
            document["created"] = self.created
        return canonical(document)


def canonical(document: Mapping[str, object]) -> bytes:
    """JSON with sorted keys and no spaces: one document, one sequence of bytes."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _platform_json(platform: Platform) -> dict[str, object]:
    found: dict[str, object] = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        found["variant"] = platform.variant
    return found


def parse_document(data: bytes, media_type: str | None = None) -> Manifest | Index:
    """Read a manifest or an index, whichever it is. `media_type` is what the registry called it.

    Raises ImageError; also for a document that could be read as both (CVE-2021-41190).
    """
    fields = load_object(data, "manifest", limit_bytes=MAX_MANIFEST_BYTES)
    kind = fields.text("mediaType", media_type or _guess(fields))
    if media_type is not None and media_type != kind:
        raise ImageError(f"says it is {kind!r}, but was given as {media_type!r}", where="manifest")
    if fields.has("manifests") and (fields.has("layers") or fields.has("config")):
        raise ImageError("is a manifest and an index at once", where="manifest")
    if kind in MANIFEST_TYPES:
        return _manifest(fields, kind)
    if kind in INDEX_TYPES:
        return _index(fields, kind)
    raise ImageError(f"has the unknown media type {kind!r}", where="manifest")


def _guess(fields: Fields) -> str:
    return OCI_INDEX if fields.has("manifests") else OCI_MANIFEST


def parse_manifest(data: bytes, media_type: str | None = None) -> Manifest:
    """Read an image manifest. Raises ImageError."""
    found = parse_document(data, media_type)
    if isinstance(found, Manifest):
        return found
    raise ImageError("is an index where an image manifest is wanted", where="manifest")


def parse_index(data: bytes, media_type: str | None = None) -> Index:
    """Read an index. Raises ImageError."""
    found = parse_document(data, media_type)
    if isinstance(found, Index):
        return found
    raise ImageError("is an image manifest where an index is wanted", where="manifest")


def _check_schema(fields: Fields) -> None:
    if fields.size("schemaVersion") != 2:
        fields.refuse("schemaVersion", "is not 2")


def _manifest(fields: Fields, kind: str) -> Manifest:
    _check_schema(fields)
    if not fields.has("config"):
        fields.refuse("config", "is missing")
    if not fields.has("layers"):
        fields.refuse("layers", "is missing")
    layers = tuple(_descriptor(layer) for layer in fields.children("layers", at_most=MAX_LAYERS))
    return Manifest(_descriptor(fields.child("config")), layers, kind, fields.mapping("annotations"))


def _index(fields: Fields, kind: str) -> Index:
    _check_schema(fields)
    if not fields.has("manifests"):
        fields.refuse("manifests", "is missing")
    found = tuple(_descriptor(entry) for entry in fields.children("manifests", at_most=MAX_MANIFESTS))
    return Index(found, kind, fields.mapping("annotations"))


def _descriptor(fields: Fields) -> Descriptor:
    digest = check_digest(fields.text("digest"), where=fields.where, error=ImageError)
    platform = None
    if fields.has("platform"):
        inner = fields.child("platform")
        platform = Platform(inner.text("architecture"), inner.text("os"), inner.text("variant", ""))
    return Descriptor(
        fields.text("mediaType"), digest, fields.size("size"), platform, fields.mapping("annotations")
    )


def parse_config(data: bytes) -> ImageConfig:
    """Read an image configuration. Raises ImageError."""
    fields = load_object(data, "image configuration", limit_bytes=MAX_CONFIG_BYTES)
    run, root = fields.child("config"), fields.child("rootfs")
    env: dict[str, str] = {}
    for entry in run.texts("Env"):
        key, equals, value = entry.partition("=")
        if not key or not equals:
            run.refuse("Env", f"has {entry!r}, which is not KEY=value")
        env[key] = value
    diff_ids = tuple(check_digest(d, where=root.where, error=ImageError) for d in root.texts("diff_ids"))
    return ImageConfig(
        architecture=fields.text("architecture"),
        os=fields.text("os"),
        entrypoint=run.texts("Entrypoint"),
        cmd=run.texts("Cmd"),
        env=env,
        working_dir=run.text("WorkingDir", ""),
        labels=run.mapping("Labels"),
        diff_ids=diff_ids,
        variant=fields.text("variant", ""),
        created=fields.text("created", ""),
    )


def check_runnable(manifest: Manifest) -> None:
    """Refuse an artifact that is no image, or whose layers cannot be unpacked here. Raises ImageError."""
    if manifest.config.media_type not in CONFIG_TYPES:
        raise ImageError(
            f"is no image: its configuration is {manifest.config.media_type!r}", where="manifest"
        )
    for number, layer in enumerate(manifest.layers):
        if layer.media_type not in GZIP_LAYERS | TAR_LAYERS:
            raise ImageError(
                f"a layer of type {layer.media_type!r} cannot be unpacked",
                where=f"manifest: layers[{number}]",
                todo="Build the image with gzip or uncompressed layers.",
            )


def choose_manifest(index: Index, architecture: str, os: str = "linux") -> Descriptor:
    """The first manifest of `index` for this platform. Raises ImageError(WRONG_ARCHITECTURE)."""
    for entry in index.manifests:
        platform = entry.platform
        if platform is not None and platform.architecture == architecture and platform.os == os:
            return entry
    offered = sorted({str(entry.platform) for entry in index.manifests if entry.platform is not None})
    raise _wrong(architecture, os, ", ".join(offered) or "nothing that names a platform")


def check_platform(config: ImageConfig, architecture: str, os: str = "linux") -> None:
    """Refuse an image for another platform. Raises ImageError(WRONG_ARCHITECTURE)."""
    if config.architecture != architecture or config.os != os:
        raise _wrong(architecture, os, str(config.platform))


def _wrong(architecture: str, os: str, offered: str) -> ImageError:
    return ImageError(
        f"this device needs {os}/{architecture}, the image is for {offered}",
        reason=Reason.WRONG_ARCHITECTURE,
        where="image",
        todo="Build the image for this architecture as well.",
    )
