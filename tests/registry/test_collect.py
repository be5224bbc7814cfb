"""Garbage collection: nothing that a manifest refers to goes, whatever happens meanwhile; what is garbage goes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from reference.oci import manifests as m
from reference.oci.digests import sha256_of
from reference.registry.collect import Collection, Stopped
from reference.registry.documents import read_document
from reference.registry.main import main
from reference.registry.storage import Storage
from tests.registry.processes import registry

REPOSITORIES = ("a", "a/b")
CONTENTS = [b"content %d" % number for number in range(4)]
GRACE_S = 3600
repositories = st.sampled_from(REPOSITORIES)
contents = st.sampled_from(CONTENTS)
tags = st.sampled_from(("1", "2"))


def push_blob(storage: Storage, name: str, data: bytes) -> str:
    path = storage.temporary / os.urandom(8).hex()
    path.write_bytes(data)
    storage.add_blob(name, sha256_of(data), path)
    return sha256_of(data)


def put(storage: Storage, name: str, data: bytes, *tag: str) -> str:
    return storage.add_manifest(name, data, read_document(data), "sha256", tag)


def image(*blobs: bytes, subject: str | None = None) -> bytes:
    config, *layers = [m.Descriptor(m.OCI_LAYER_TAR, sha256_of(data), len(data)) for data in blobs]
    document = json.loads(m.Manifest(config, tuple(layers)).to_bytes())
    if subject is not None:
        document["subject"] = m.Descriptor(m.OCI_MANIFEST, subject, 1).as_json()
    return m.canonical(document)


def age(storage: Storage) -> None:
    """All that is there was last touched long ago."""
    for path in storage.root.rglob("*"):
        if path.is_file():
            os.utime(path, (1, 1))


class Collecting(RuleBasedStateMachine):
    """The model: what each repository has, and what of it is fresh."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.storage = Storage(Path(self.folder.name))
        self.blobs: dict[tuple[str, bytes], bool] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, ...]] = {}
        self.subjects: dict[tuple[str, str], str | None] = {}
        self.fresh: set[tuple[str, str]] = set()
        self.tags: dict[tuple[str, str], str] = {}

    def teardown(self) -> None:
        self.storage.close()
        self.folder.cleanup()

    @rule(name=repositories, data=contents)
    def push(self, name: str, data: bytes) -> None:
        push_blob(self.storage, name, data)
        self.blobs[name, data] = True

    @rule(name=repositories, data=contents)
    def ask(self, name: str, data: bytes) -> None:
        found = self.storage.find_blob(name, sha256_of(data))
        assert (found is not None) == ((name, data) in self.blobs)
        if found is not None:
            assert found.read_bytes() == data
            self.blobs[name, data] = True

    @rule(source=repositories, name=repositories, data=contents)
    def mount(self, source: str, name: str, data: bytes) -> None:
        done = self.storage.mount_blob(name, sha256_of(data), [source])
        assert done == ((source, data) in self.blobs)
        if done:
            self.blobs[name, data] = True

    @rule(
        name=repositories,
        wanted=st.lists(contents, min_size=1, max_size=3),
        tag=tags | st.none(),
        about=st.booleans(),
    )
    def manifest(self, name: str, wanted: list[bytes], tag: str | None, about: bool) -> None:
        for data in wanted:
            if (name, data) not in self.blobs:
                push_blob(self.storage, name, data)
        known = sorted(digest for repository, digest in self.manifests if repository == name)
        subject = known[0] if about and known else None
        digest = put(self.storage, name, image(*wanted, subject=subject), *([tag] if tag else []))
        for data in wanted:
            self.blobs[name, data] = True
        self.manifests[name, digest] = tuple(wanted)
        self.subjects[name, digest] = subject
        self.fresh.add((name, digest))
        if tag:
            self.tags[name, tag] = digest

    @rule(name=repositories, tag=tags)
    def untag(self, name: str, tag: str) -> None:
        assert self.storage.delete_tag(name, tag) == (self.tags.pop((name, tag), None) is not None)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if not self.manifests:
            return
        name, digest = key = data.draw(st.sampled_from(sorted(self.manifests)))
        assert self.storage.delete_manifest(name, digest)
        del self.manifests[key]
        self.tags = {k: v for k, v in self.tags.items() if (k[0], v) != key}

    @rule()
    def grow_old(self) -> None:
        self._age()

    def _age(self) -> None:
        age(self.storage)
        self.blobs = dict.fromkeys(self.blobs, False)
        self.fresh.clear()

    @rule(untagged=st.booleans(), old=st.booleans(), data=st.data())
    def collect(self, untagged: bool, old: bool, data: st.DataObject) -> None:
        """Between any look and any removal, requests of others may come."""
        if old:
            self._age()

        def meanwhile() -> float:
            what = data.draw(st.sampled_from(("nothing", "nothing", "push", "ask", "mount", "manifest")))
            name, blob, other = data.draw(repositories), data.draw(contents), data.draw(repositories)
            if what == "push":
                self.push(name, blob)
            elif what == "ask":
                self._ask_now(name, blob)
            elif what == "mount":
                if self.storage.mount_blob(name, sha256_of(blob), [other]):
                    self.blobs[name, blob] = True
            elif what == "manifest" and self._ask_now(name, blob):
                self.manifest(name, [blob], data.draw(tags | st.none()), about=False)
            return time.time()

        Collection(self.storage, grace_s=GRACE_S, untagged=untagged, clock=meanwhile).run()
        if untagged:
            self._forget_untagged()
        used = {(name, blob) for (name, _), blobs in self.manifests.items() for blob in blobs}
        self.blobs = {
            key: fresh for key, fresh in self.blobs.items() if self._has(*key) or fresh or key in used
        }

    def _ask_now(self, name: str, blob: bytes) -> bool:
        """During a collection what is garbage may be gone already: the answer is what counts from then on."""
        if self.storage.find_blob(name, sha256_of(blob)) is None:
            self.blobs.pop((name, blob), None)
            return False
        self.blobs[name, blob] = True
        return True

    def _has(self, name: str, blob: bytes) -> bool:
        return self.storage.mark(name, "_blobs", sha256_of(blob)).exists()

    def _forget_untagged(self) -> None:
        kept = {(name, digest) for (name, _), digest in self.tags.items()}
        while more := {k for k in self.manifests if (k[0], self.subjects[k]) in kept} - kept:
            kept |= more
        for key in list(self.manifests):
            if not self.storage.has_manifest(*key):
                assert key not in kept
                assert key not in self.fresh
                del self.manifests[key]

    @invariant()
    def nothing_that_is_referred_to_is_missing(self) -> None:
        for (name, digest), blobs in self.manifests.items():
            found = self.storage.find_manifest(name, digest)
            assert found is not None
            assert sha256_of(found.data) == digest
            for data in blobs:
                assert self._has(name, data)
                assert self.storage.blob_file(sha256_of(data)).read_bytes() == data
        for (name, data), fresh in self.blobs.items():
            if fresh:
                assert self._has(name, data)
                assert self.storage.blob_file(sha256_of(data)).read_bytes() == data
        for (name, tag), digest in self.tags.items():
            assert self.storage.tagged(name)[tag] == digest


TestCollecting = Collecting.TestCase
TestCollecting.settings = settings(
    phases=(
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ),  # Each step is many fsyncs: shrinking takes minutes.
    max_examples=40,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def storage(tmp_path: Path):  # type: ignore[no-untyped-def]
    opened = Storage(tmp_path / "data")
    yield opened
    opened.close()


def test_garbage_goes(storage: Storage) -> None:
    for data in CONTENTS:
        push_blob(storage, "a", data)
    digest = put(storage, "a", image(CONTENTS[0], CONTENTS[1]), "1")
    assert Collection(storage, grace_s=GRACE_S).run().blobs == 0, "fresh"
    age(storage)
    would = Collection(storage, grace_s=GRACE_S, dry_run=True).run()
    assert would.blobs == 2
    did = Collection(storage, grace_s=GRACE_S).run()
    assert (did.blobs, did.contents, did.freed_bytes) == (2, 2, sum(map(len, CONTENTS[2:])))
    left = {path.name for path in (storage.root / "blobs").rglob("*") if path.is_file()}
    assert left == {digest[7:], *(sha256_of(data)[7:] for data in CONTENTS[:2])}
    assert Collection(storage, grace_s=GRACE_S).run().contents == 0
    storage.delete_tag("a", "1")
    assert Collection(storage, grace_s=0).run().manifests == 0, "devices pull by digest"
    assert Collection(storage, grace_s=0, untagged=True).run().manifests == 1
    assert not any(path.is_file() for path in (storage.root / "blobs").rglob("*"))


def test_what_was_asked_for_lately_stays(storage: Storage) -> None:
    """A client that found a blob does not send it, and refers to it a moment later."""
    digest = push_blob(storage, "a", CONTENTS[0])
    push_blob(storage, "b", CONTENTS[0])
    for name, mounted in (("a", False), ("b", True)):
        age(storage)
        if mounted:
            assert storage.mount_blob(name, digest, ["a"])
        else:
            assert storage.find_blob(name, digest) is not None
        Collection(storage, grace_s=GRACE_S).run()
        assert storage.mark(name, "_blobs", digest).exists()
        push_blob(storage, "a", CONTENTS[0])
        push_blob(storage, "b", CONTENTS[0])


def test_an_index_and_what_is_said_about_it_are_kept_by_its_tag(storage: Storage) -> None:
    push_blob(storage, "a", CONTENTS[0])
    child = put(storage, "a", image(CONTENTS[0]))
    index = m.Index((m.Descriptor(m.OCI_MANIFEST, child, len(image(CONTENTS[0]))),))
    top = put(storage, "a", index.to_bytes(), "1")
    about = put(storage, "a", image(CONTENTS[0], subject=top))
    loose = put(storage, "a", image(CONTENTS[0], CONTENTS[0]))
    assert Collection(storage, grace_s=0, untagged=True).run().manifests == 1
    assert [storage.has_manifest("a", d) for d in (child, top, about, loose)] == [True, True, True, False]


def test_a_damaged_manifest_keeps_everything_of_its_repository(storage: Storage) -> None:
    push_blob(storage, "a", CONTENTS[0])
    push_blob(storage, "a", CONTENTS[1])
    digest = put(storage, "a", image(CONTENTS[0]), "1")
    storage.blob_file(digest).write_bytes(b"{")
    assert Collection(storage, grace_s=0, untagged=True).run().blobs == 0
    storage.blob_file(digest).unlink()
    assert Collection(storage, grace_s=0, untagged=True).run().blobs == 0


def test_a_stop_ends_a_collection_at_once(storage: Storage) -> None:
    push_blob(storage, "a", CONTENTS[0])
    with pytest.raises(Stopped):
        Collection(storage, grace_s=0, stopping=lambda: True).run()
    assert storage.find_blob("a", sha256_of(CONTENTS[0])) is not None
    assert Collection(storage, grace_s=0).run().blobs == 1, "and another can follow"


def test_gc_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = Storage(tmp_path / "data")
    push_blob(opened, "a", CONTENTS[0])
    opened.close()
    data = str(tmp_path / "data")
    for more, contents_gone in ((["--dry-run"], 0), ([], 1), ([], 0)):
        assert main(["gc", "--data", data, "--grace", "0", *more]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["contents"] == contents_gone
    assert main(["gc", "--data", str(tmp_path / "absent")]) == 2
    with registry(tmp_path / "data", "--no-auth"):
        assert main(["gc", "--data", data]) == 2
    assert "another registry uses this folder" in capsys.readouterr().err


def test_a_running_registry_collects_while_others_push(tmp_path: Path) -> None:
    """Pushes with a grace of nothing: each may lose its blob before the manifest comes, and is then told so."""
    with registry(tmp_path / "data", "--no-auth", "--gc-every", "1", "--gc-grace", "0") as running:
        lost: list[str] = []
        threads = [
            threading.Thread(target=_pushing, args=(running.base, f"r{n}", lost.append)) for n in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert lost == []
        with httpx.Client(base_url=running.base, trust_env=False) as http:
            orphan = sha256_of(b"orphan")
            assert (
                http.post("/v2/x/blobs/uploads/", params={"digest": orphan}, content=b"orphan").status_code
                == 201
            )
        file = tmp_path / "data" / "blobs" / "sha256" / orphan[7:9] / orphan[7:]
        deadline = time.monotonic() + 10
        while file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _pushing(base: str, name: str, lost: Callable[[str], None]) -> None:
    with httpx.Client(base_url=base, trust_env=False, timeout=10) as http:
        for number in range(25):
            data = hashlib.sha256(b"%d" % number).digest()
            digest = sha256_of(data)
            for _ in range(20):
                http.post(f"/v2/{name}/blobs/uploads/", params={"digest": digest}, content=data)
                answer = http.put(
                    f"/v2/{name}/manifests/{number}",
                    content=image(data),
                    headers={"Content-Type": m.OCI_MANIFEST},
                )
                if answer.status_code == 201:
                    break
                assert answer.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"
            if http.get(f"/v2/{name}/blobs/{digest}").content != data:
                lost(f"{name}:{number}")


@pytest.mark.parametrize("what", ["ask", "push", "mount", "manifest"])
def test_what_is_wanted_between_the_look_and_the_removal_stays(storage: Storage, what: str) -> None:
    """The collector has seen that it is old and unused; then a request comes; then it removes."""
    data, digest = CONTENTS[0], push_blob(storage, "a", CONTENTS[0])
    push_blob(storage, "source", data)
    put(storage, "source", image(data))
    age(storage)
    came: list[str] = []

    def request_comes() -> float:
        if not came:
            came.append(what)
            if what == "ask":
                assert storage.find_blob("a", digest) is not None
            elif what == "push":
                push_blob(storage, "a", data)
            elif what == "mount":
                assert storage.mount_blob("a", digest, ["source"])
            else:
                put(storage, "a", image(data))
        return time.time()

    Collection(storage, grace_s=GRACE_S, clock=request_comes).run()
    assert came
    assert storage.mark("a", "_blobs", digest).exists()
    assert storage.blob_file(digest).read_bytes() == data
    age(storage)
    assert Collection(storage, grace_s=GRACE_S).run().blobs == (0 if what == "manifest" else 1)


def test_content_that_is_pushed_between_the_look_and_the_removal_stays(storage: Storage) -> None:
    """Its last mark went, the content is seen to be unused; then the same is pushed again."""
    data, digest = CONTENTS[0], push_blob(storage, "a", CONTENTS[0])
    storage.delete_blob("a", digest)
    age(storage)

    def request_comes() -> float:
        push_blob(storage, "b", data)
        return time.time()

    Collection(storage, grace_s=GRACE_S, clock=request_comes).run()
    assert storage.find_blob("b", digest) is not None
