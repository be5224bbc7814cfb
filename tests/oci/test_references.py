"""Digests and references: what is accepted reads back the same, what is not gives InputError and nothing else."""

from __future__ import annotations

import hashlib
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference.core.errors import ImageError, InputError
from reference.oci.digests import check_digest, hex_of, is_digest, sha256_of
from reference.oci.references import Reference, is_name, is_tag, parse_reference

# A loaded machine is slow, not wrong.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

part = st.from_regex(r"[a-z0-9]{1,5}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
names = st.lists(part, min_size=1, max_size=4).map("/".join)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
digests = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:".__add__)
hosts = st.sampled_from(
    ["localhost", "127.0.0.1:5000", "[::1]:5000", "registry.example.com", "r:1", "a-b.c:65535"]
)


@unhurried
@given(st.binary())
def test_a_digest_is_of_the_content(data: bytes) -> None:
    assert sha256_of(data) == "sha256:" + hashlib.sha256(data).hexdigest()
    assert hex_of(check_digest(sha256_of(data))) == hashlib.sha256(data).hexdigest()


@unhurried
@given(st.one_of(st.text(), st.from_regex(r"sha(256|512):[0-9a-fA-F]{62,66}\n?")))
def test_only_digests_are_digests(text: str) -> None:
    good = len(text) == 71 and text.startswith("sha256:") and set(text[7:]) <= set("0123456789abcdef")
    assert is_digest(text) is good
    if not good:
        with pytest.raises(ImageError):
            check_digest(text, error=ImageError)
        with pytest.raises(InputError, match="64 lower-case hex"):
            check_digest(text)


@unhurried
@given(hosts, names, st.none() | tags, st.none() | digests)
def test_a_reference_reads_back_the_same(host: str, name: str, tag: str | None, digest: str | None) -> None:
    reference = Reference(host, name, tag, digest)
    assert parse_reference(str(reference)) == reference
    assert reference.repository == f"{host}/{name}"
    if tag is None and digest is None:
        with pytest.raises(InputError):
            _ = reference.target
    else:
        assert reference.target == (digest or tag)


@unhurried
@given(st.text(alphabet=string.printable + "é\u0660", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_reference(text)
    except InputError as error:
        assert error.what
        assert error.todo
    else:
        assert str(found) == text


@unhurried
@given(st.text(alphabet="ab0./_-~%\\\n", max_size=20))
def test_a_name_or_tag_never_climbs(text: str) -> None:
    if is_name(text):
        assert not any(p in ("", ".", "..") or p.startswith("_") for p in text.split("/"))
    if is_tag(text):
        assert "/" not in text
        assert not text.startswith(".")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "does not start with a registry host"),
        ("app:1", "does not start with a registry host"),
        ("library/app:1", "does not start with a registry host"),
        ("localhost:0/app", "does not start with a registry host"),
        ("localhost:99999/app", "does not start with a registry host"),
        ("http://localhost/app", "does not start with a registry host"),
        ("localhost:5000/", "not a repository name"),
        ("localhost:5000/App:1", "not a repository name"),
        ("localhost:5000/a/../b:1", "not a repository name"),
        ("localhost:5000/a//b", "not a repository name"),
        ("localhost:5000/" + "a" * 256, "not a repository name"),
        ("localhost:5000/app:", "not a tag"),
        ("localhost:5000/app:.x", "not a tag"),
        ("localhost:5000/app:1\n", "not a tag"),
        ("localhost:5000/app@sha256:abc", "not a digest"),
        ("localhost:5000/app@", "not a digest"),
        ("localhost:5000/" + "a" * 2000, "longer than"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_reference(text)
