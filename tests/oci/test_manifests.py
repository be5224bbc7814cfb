"""Manifests, indexes, configurations: read strictly, written canonically."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference.core.errors import ImageError, InputError, Reason
from reference.oci import manifests as m
from reference.oci.fields import load_object
from tests.oci.samples import descriptor, digest, manifest

# A loaded machine is slow, not wrong.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _bytes(document: object) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize("kind", [m.OCI_MANIFEST, m.DOCKER_MANIFEST])
def test_both_kinds_of_manifest(kind: str) -> None:
    found = m.parse_manifest(_bytes(manifest(mediaType=kind)), kind)
    assert found.media_type == kind
    assert found.config.digest == digest("c")
    assert [layer.digest for layer in found.layers] == [digest("a")]
    assert found.size_bytes == 6
    assert m.parse_manifest(found.to_bytes()) == found


@pytest.mark.parametrize("kind", [m.OCI_INDEX, m.DOCKER_LIST])
def test_an_index_and_the_choice_from_it(kind: str) -> None:
    entries = [
        descriptor("1", m.OCI_MANIFEST, platform={"architecture": "unknown", "os": "unknown"}),
        descriptor("2", m.OCI_MANIFEST, platform={"architecture": "amd64", "os": "windows"}),
        descriptor("3", m.OCI_MANIFEST, platform={"architecture": "arm64", "os": "linux", "variant": "v8"}),
        descriptor("4", m.OCI_MANIFEST, platform={"architecture": "amd64", "os": "linux"}),
    ]
    found = m.parse_index(_bytes({"schemaVersion": 2, "mediaType": kind, "manifests": entries}))
    assert m.parse_index(found.to_bytes()) == found
    assert m.choose_manifest(found, "amd64").digest == digest("4")
    assert m.choose_manifest(found, "arm64").digest == digest("3")
    with pytest.raises(ImageError, match="linux/arm64/v8") as refused:
        m.choose_manifest(found, "riscv64")
    assert refused.value.reason is Reason.WRONG_ARCHITECTURE


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (manifest(schemaVersion=1), "schemaVersion"),
        (manifest(schemaVersion=True), "schemaVersion"),
        (manifest(mediaType="text/plain"), "unknown media type"),
        (manifest(mediaType=7), "not text"),
        (manifest(config=None), "'config' is missing"),
        (manifest(config=[]), "not an object"),
        (manifest(layers=None), "'layers' is missing"),
        (manifest(layers={}), "not a list"),
        (manifest(layers=["x"]), "not an object"),
        (manifest(layers=[descriptor(size=-1)]), "not a size"),
        (manifest(layers=[descriptor(size=2**63)]), "not a size"),
        (manifest(layers=[descriptor(size=1.0)]), "not a size"),
        (manifest(layers=[descriptor(size=True)]), "not a size"),
        (manifest(layers=[descriptor(digest="sha256:../../etc/passwd")]), "not a digest"),
        (manifest(layers=[descriptor()] * 513), "more than the 512"),
        (manifest(annotations={"a": 1}), "not text"),
        (manifest(annotations={"a": "\ud800"}), "no file or argument"),
        (manifest(manifests=[]), "at once"),
        ([], "not a JSON object"),
        (None, "not a JSON object"),
    ],
)
def test_a_bad_manifest_is_refused(document: object, says: str) -> None:
    with pytest.raises(ImageError, match=says) as refused:
        m.parse_document(_bytes(document))
    assert refused.value.reason is Reason.IMAGE_INVALID


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":NaN}', b'{"a":1,"a":2}', b"1" * 5000],
    ids=["empty", "half", "not-utf8", "deep", "nan", "twice", "huge-number"],
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        m.parse_document(data)


def test_sizes_are_limited() -> None:
    padding = "x" * m.MAX_MANIFEST_BYTES
    with pytest.raises(ImageError, match="more than the"):
        m.parse_manifest(_bytes(manifest(annotations={"a": padding})))


def test_the_kind_asked_for_is_the_kind_given() -> None:
    with pytest.raises(ImageError, match="given as"):
        m.parse_manifest(_bytes(manifest(mediaType=m.OCI_MANIFEST)), m.DOCKER_MANIFEST)
    with pytest.raises(ImageError, match="is an image manifest"):
        m.parse_index(_bytes(manifest()))
    with pytest.raises(ImageError, match="is an index"):
        m.parse_manifest(_bytes({"schemaVersion": 2, "manifests": []}))


def test_only_images_with_known_layers_are_runnable() -> None:
    m.check_runnable(m.parse_manifest(_bytes(manifest())))
    zstd = manifest(layers=[descriptor(), descriptor("b", m.OCI_LAYER_TAR + "+zstd")])
    with pytest.raises(ImageError, match="layers\\[1\\]"):
        m.check_runnable(m.parse_manifest(_bytes(zstd)))
    artifact = manifest(config=descriptor("c", "application/vnd.oci.empty.v1+json"))
    with pytest.raises(ImageError, match="no image"):
        m.check_runnable(m.parse_manifest(_bytes(artifact)))


def test_a_configuration_reads_back_the_same() -> None:
    config = m.ImageConfig(
        "arm64",
        entrypoint=("python3", "/app/main.py"),
        cmd=("--now",),
        env={"B": "2", "A": "1=1"},
        working_dir="/app",
        labels={"k": "v"},
        diff_ids=(digest("d"),),
        variant="v8",
        created="1970-01-01T00:00:00Z",
    )
    assert m.parse_config(config.to_bytes()) == config
    assert config.arguments == ("python3", "/app/main.py", "--now")
    m.check_platform(config, "arm64")
    with pytest.raises(ImageError) as refused:
        m.check_platform(config, "amd64")
    assert refused.value.reason is Reason.WRONG_ARCHITECTURE


@pytest.mark.parametrize(
    "document",
    [
        {"os": "linux"},
        {"architecture": "amd64"},
        {"architecture": "amd64", "os": "linux", "config": {"Env": ["NOEQUALS"]}},
        {"architecture": "amd64", "os": "linux", "config": {"Entrypoint": "sh"}},
        {"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["a\0b"]}},
        {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": ["x"]}},
        {"architecture": "amd64", "os": "linux", "config": {"Labels": {"a": None}}},
    ],
)
def test_a_bad_configuration_is_refused(document: object) -> None:
    with pytest.raises(ImageError):
        m.parse_config(_bytes(document))


def test_docker_writes_null_for_absent() -> None:
    run = {"Cmd": None, "Entrypoint": ["x"], "Env": None, "Labels": None, "WorkingDir": ""}
    found = m.parse_config(_bytes({"architecture": "amd64", "os": "linux", "config": run}))
    assert (found.entrypoint, found.cmd, found.env) == (("x",), (), {})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    [
        "schemaVersion",
        "mediaType",
        "config",
        "layers",
        "manifests",
        "annotations",
        "architecture",
        "os",
        "rootfs",
    ]
)


@unhurried
@given(st.dictionaries(keys, json_values))
def test_any_document_is_read_or_refused(document: dict[str, object]) -> None:
    for parse in (m.parse_document, m.parse_config):
        try:
            parse(_bytes(document))
        except ImageError as error:
            assert error.what


def test_unknown_keys_and_the_error_type_are_the_callers_choice() -> None:
    fields = load_object(b'{"a": "1"}', "file.json", limit_bytes=100, error=InputError)
    with pytest.raises(InputError, match=r"file\.json: 'a' is not known here; known: b"):
        fields.only(frozenset({"b"}))
