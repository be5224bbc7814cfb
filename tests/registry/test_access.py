"""Who may: accounts, the settings that are refused, TLS."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from reference.core.errors import InputError, Reason, RegistryError
from reference.oci.build import build_image
from reference.oci.push import push_image
from reference.oci.references import Reference
from reference.registry.server import RegistrySettings
from reference.registry.users import RegistryUsers, make_user
from tests.oci.samples import app_folder
from tests.registry.processes import Running, refused, registry


@pytest.fixture(scope="module")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "users.json"
    users = (make_user("builder", "pa:ss wörd", push=True), make_user("device", "secret"))
    RegistryUsers({user.name: user for user in users}).save(path)
    return path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(pem)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def closed(
    tmp_path_factory: pytest.TempPathFactory, users_file: Path, certificate: tuple[Path, Path]
) -> Iterator[Running]:
    """A registry with TLS and accounts."""
    tls = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    data = tmp_path_factory.mktemp("closed")
    with registry(data, "--users", str(users_file), *tls) as running:
        yield running


def test_push_and_pull_with_an_account_over_tls(
    tmp_path: Path, closed: Running, certificate: tuple[Path, Path]
) -> None:
    image = build_image(app_folder(tmp_path), tmp_path / "image", version="1")
    reference, trusted = Reference(closed.host, "app", "1"), certificate[0]
    for credentials, reason in (
        (None, Reason.REGISTRY_UNAUTHORIZED),
        (("builder", "wrong"), Reason.REGISTRY_UNAUTHORIZED),
        (("nobody", "secret"), Reason.REGISTRY_UNAUTHORIZED),
        (("device", "secret"), Reason.REGISTRY_DENIED),
    ):
        with pytest.raises(RegistryError) as failed:
            push_image(image.layout, reference, credentials=credentials, ca_file=trusted)
        assert failed.value.reason is reason
    with pytest.raises(RegistryError) as stranger:
        push_image(image.layout, reference, credentials=("builder", "pa:ss wörd"))
    assert stranger.value.reason is Reason.REGISTRY_UNREACHABLE
    assert list((closed.data / "temporary").iterdir()) == []
    assert not (closed.data / "repositories").exists()
    push_image(image.layout, reference, credentials=("builder", "pa:ss wörd"), ca_file=trusted)
    import ssl

    context = ssl.create_default_context(cafile=str(trusted))
    with httpx.Client(base_url=closed.base, verify=context, trust_env=False) as http:
        answer = http.get("/v2/")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"
        for header in ("Basic", "Basic !!!", "Basic bm9jb2xvbg==", "Bearer x", "Basic /w=="):
            assert http.get("/v2/", headers={"Authorization": header}).status_code == 401
        manifest = http.get("/v2/app/manifests/1", auth=("device", "secret"))
        assert manifest.headers["docker-content-digest"] == image.manifest_digest
        denied = http.post("/v2/app/blobs/uploads/", auth=("device", "secret"))
        assert denied.json()["errors"][0]["code"] == "DENIED"
        assert http.get("/v2/", auth=("device", "x" * 2000)).status_code == 401
        assert http.get("/healthz").status_code == 200


def test_the_users_file_is_private_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    RegistryUsers({"a": make_user("a", "b")}).save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    users = RegistryUsers.load(path)
    for _ in ("hashed", "remembered"):
        user = users.verify("a", "b")
        assert user is not None
        assert not user.push
        assert users.verify("a", "c") is None
    assert b'"b"' not in path.read_bytes()
    path.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        RegistryUsers.load(path)
    path.chmod(0o600)
    good = path.read_text()
    for bad in (
        "",
        "[]",
        '{"user": []}',
        good.replace('"name"', '"nom"'),
        good.replace('"no"', '"maybe"'),
        good.replace('"a"', '"a b"'),
        good.replace('"salt":"', '"salt":"AAAA'),
        good.replace('"scrypt":"', '"scrypt":"*'),
        good.replace("[", "[" + good.partition("[")[2].partition("]")[0] + ","),
    ):
        path.write_text(bad)
        with pytest.raises(InputError, match=r"users\.json"):
            RegistryUsers.load(path)
    with pytest.raises(InputError, match="cannot be read"):
        RegistryUsers.load(tmp_path / "absent")
    for name, password in (("", "x"), ("a:b", "x"), ("a", ""), ("a", "x" * 2000)):
        with pytest.raises(InputError):
            make_user(name, password)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"no_auth": True, "host": "0.0.0.0"}, "everyone who reaches"),
        ({"no_auth": True, "host": "registry.example.com"}, "everyone who reaches"),
        ({"no_auth": True, "users_file": Path("u")}, "excludes"),
        ({}, "nobody could pull"),
        ({"users_file": Path("u"), "host": "::"}, "in the clear"),
        ({"no_auth": True, "tls_cert": Path("c")}, "only one of the two"),
        ({"no_auth": True, "port": 70000}, "not a port"),
    ],
)
def test_unsafe_settings_are_refused(settings: dict[str, object], says: str) -> None:
    given: dict[str, object] = {"data": Path("data"), "port": 0, **settings}
    with pytest.raises(InputError, match=says):
        RegistrySettings(**given).check()  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_accounts(host: str) -> None:
    RegistrySettings(data=Path("data"), port=0, host=host, no_auth=True).check()


def test_what_cannot_start_says_why(tmp_path: Path, running: Running) -> None:
    assert "everyone who reaches" in refused(tmp_path / "d", "--port", "0", "--no-auth", "--host", "0.0.0.0")
    assert not (tmp_path / "d").exists()
    assert "another registry uses this folder" in refused(running.data, "--port", "0", "--no-auth")
    assert "cannot listen there" in refused(tmp_path / "e", "--port", str(running.port), "--no-auth")
    (tmp_path / "file").touch()
    assert "cannot keep images here" in refused(tmp_path / "file" / "x", "--port", "0", "--no-auth")
    tls = ("--tls-cert", str(tmp_path / "file"), "--tls-key", str(tmp_path / "file"))
    assert "cannot be used for TLS" in refused(tmp_path / "f", "--port", "0", "--no-auth", *tls)
    assert "invalid int value" in refused(tmp_path / "g", "--port", "x", "--no-auth")
