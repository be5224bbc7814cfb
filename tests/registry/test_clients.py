"""Clients of others against the registry: skopeo and crane, with both ways to say who one is."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from reference.oci import manifests as m
from reference.oci.build import BuiltImage, build_image
from reference.oci.digests import sha256_of
from reference.oci.layout import read_layout
from reference.registry.users import RegistryUsers, make_user
from tests.oci.samples import app_folder
from tests.registry.processes import Running, registry

USER = "builder"
Client = Callable[..., str]


@pytest.fixture(scope="module", params=["basic", "token"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("clients")
    RegistryUsers({USER: make_user(USER, USER, push=True)}).save(folder / "users.json")
    with registry(folder / "data", "--users", str(folder / "users.json"), "--auth", request.param) as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BuiltImage]:
    """The same image for two architectures."""
    folder = tmp_path_factory.mktemp("images")
    app = app_folder(folder)
    return {a: build_image(app, folder / a, version="1", architecture=a) for a in ("amd64", "arm64")}


def client(program: str, folder: Path) -> Client:
    """A program that is run with its configuration in `folder`; answers what it prints."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    folder.mkdir(exist_ok=True)
    environment = {"HOME": str(folder), "PATH": "/usr/local/bin:/usr/bin:/bin", "DOCKER_CONFIG": str(folder)}

    def run(*arguments: str, fails: bool = False) -> str:
        done = subprocess.run(
            [found, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode != 0) == fails, (arguments, done.stdout, done.stderr)
        return done.stdout + (done.stderr if fails else "")

    return run


@pytest.fixture
def skopeo(tmp_path: Path) -> Client:
    run = client("skopeo", tmp_path / "home")
    return lambda *arguments, fails=False: run("--insecure-policy", *arguments, fails=fails)


@pytest.fixture
def crane(tmp_path: Path, server: Running) -> Client:
    run = client("crane", tmp_path / "home")
    run("auth", "login", server.host, "-u", USER, "-p", USER)
    return run


def push_index(server: Running, name: str, images: dict[str, BuiltImage]) -> str:
    """An index of images that are in the repository, under the tag `all`."""
    entries = tuple(
        m.Descriptor(
            m.OCI_MANIFEST, i.manifest_digest, len(read_layout(i.layout).manifest_bytes), m.Platform(a)
        )
        for a, i in images.items()
    )
    data = m.Index(entries).to_bytes()
    answer = httpx.put(
        f"{server.base}/v2/{name}/manifests/all",
        content=data,
        headers={"Content-Type": m.OCI_INDEX},
        auth=(USER, USER),
        trust_env=False,
    )
    assert answer.status_code == 201, answer.text
    return sha256_of(data)


def blobs(folder: Path) -> set[str]:
    return {path.name for path in (folder / "blobs" / "sha256").iterdir()}


def test_skopeo(tmp_path: Path, server: Running, images: dict[str, BuiltImage], skopeo: Client) -> None:
    here, creds = f"docker://{server.host}", f"{USER}:{USER}"
    plain_from, plain_to = (
        ("--src-tls-verify=false", "--src-creds", creds),
        ("--dest-tls-verify=false", "--dest-creds", creds),
    )
    plain = ("--tls-verify=false", "--creds", creds)
    for architecture, image in images.items():
        skopeo("copy", *plain_to, f"oci:{image.layout}", f"{here}/sk:{architecture}")
    index = push_index(server, "sk", images)
    assert json.loads(skopeo("list-tags", *plain, f"{here}/sk"))["Tags"] == ["all", "amd64", "arm64"]
    found = json.loads(skopeo("inspect", *plain, f"{here}/sk:arm64"))
    assert (found["Digest"], found["Architecture"]) == (images["arm64"].manifest_digest, "arm64")
    everything = ("copy", "--multi-arch", "all", *plain_from)
    skopeo(*everything, *plain_to, f"{here}/sk:all", f"{here}/copy/sk:all")
    assert sha256_of(skopeo("inspect", "--raw", *plain, f"{here}/copy/sk:all").encode()) == index
    skopeo(*everything, f"{here}/copy/sk@{index}", f"oci:{tmp_path / 'back'}:all")
    assert blobs(tmp_path / "back") == {index[7:]}.union(*(blobs(image.layout) for image in images.values()))
    skopeo("delete", *plain, f"{here}/copy/sk@{index}")
    assert "manifest unknown" in skopeo("inspect", *plain, f"{here}/copy/sk:all", fails=True)
    wrong = ("--tls-verify=false", "--creds", f"{USER}:wrong")
    skopeo("list-tags", *wrong, f"{here}/sk", fails=True)


def test_skopeo_in_dockers_format(server: Running, images: dict[str, BuiltImage], skopeo: Client) -> None:
    creds = ("--dest-tls-verify=false", "--dest-creds", f"{USER}:{USER}")
    target = f"docker://{server.host}/v2s2:1"
    skopeo("copy", "--format", "v2s2", *creds, f"oci:{images['amd64'].layout}", target)
    raw = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", "--creds", f"{USER}:{USER}", target))
    assert raw["mediaType"] == m.DOCKER_MANIFEST


def test_crane(tmp_path: Path, server: Running, images: dict[str, BuiltImage], crane: Client) -> None:
    here = server.host
    for architecture, image in images.items():
        crane("push", "--insecure", str(image.layout), f"{here}/cr:{architecture}")
    index = push_index(server, "cr", images)
    assert crane("ls", f"{here}/cr").split() == ["all", "amd64", "arm64"]
    crane("copy", f"{here}/cr:all", f"{here}/copy/cr:all")
    assert crane("digest", f"{here}/copy/cr:all").strip() == index
    digest = crane("digest", "--platform", "linux/arm64", f"{here}/copy/cr:all").strip()
    assert digest == images["arm64"].manifest_digest
    config = json.loads(crane("config", f"{here}/copy/cr@{digest}"))
    assert config["architecture"] == "arm64"
    crane("pull", "--format", "oci", f"{here}/copy/cr:all", str(tmp_path / "back"))
    assert {index[7:], digest[7:]} <= blobs(tmp_path / "back")
    crane("tag", f"{here}/cr:all", "latest")
    assert crane("digest", f"{here}/cr:latest").strip() == index
    crane("delete", f"{here}/cr@{index}")
    assert "MANIFEST_UNKNOWN" in crane("manifest", f"{here}/cr:latest", fails=True)
    assert crane("ls", f"{here}/cr").split() == ["amd64", "arm64"]
