"""A layer with Python, so that an image runs on a real engine: copied from this machine, no engine and no registry.

The interpreter, its standard library as bytecode (a start that has to compile takes three times as long), and the shared
libraries that these need; test suites, tools for developers and installed packages are left out. The same interpreter
gives the same bytes. It is made once, in about two seconds, and kept in the cache.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reference.core.errors import InputError
from reference.oci.digests import sha256_of_file
from reference.oci.durable import write_durably
from reference.oci.fields import load_object

FORMAT = 1
"""Changes when the same interpreter gives another layer."""
HOME = "usr/local"
"""Where Python is in the image: on every engine's default PATH."""
ENTRYPOINT = ("python3", "-I", "-S", "/app/main.py")
"""How a program on this base is started: without the user's site, which is not there, it starts sooner."""
OLDEST = (3, 11)
LIMIT_S = 300

_LEFT_OUT = frozenset(
    {
        "__pycache__", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "dist-packages", "test",
        "tests", "tkinter", "turtledemo",
    }
)  # fmt: skip
_NOT_LOADED = re.compile(
    r"_?(ctypes_)?test|_tkinter|_curses|readline|xxlimited|_xxtest|nis\.|ossaudiodev|audioop"
)
"""Extension modules of test suites, of terminals and of old sound cards."""

# Runs under the interpreter that is packed: only it makes the bytecode that it reads. A fresh process with a fixed order
# gives the same bytes each time (what marshal writes depends on what was interned before).
_COMPILE = """
import json, pathlib, py_compile, sys
source, target, shown = sys.argv[1:4]
for name in json.load(sys.stdin):
    made = pathlib.Path(target, name + "c")
    made.parent.mkdir(parents=True, exist_ok=True)
    try:
        py_compile.compile(pathlib.Path(source, name), made, f"{shown}/{name}", doraise=True,
                           invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    except py_compile.PyCompileError:
        pass  # templates of code, which nothing imports
"""
_FACTS = """
import json, sys, sysconfig
paths = sysconfig.get_paths()
print(json.dumps({"executable": sys.executable, "version": "%d.%d" % sys.version_info[:2], "libdir": sys.platlibdir,
                  "stdlib": paths["stdlib"], "extensions": paths["platstdlib"] + "/lib-dynload"}))
"""


@dataclass(frozen=True, slots=True)
class BaseLayer:
    """A layer that lies ready in a file. Sizes in bytes; `diff_id` is the digest of its content unpacked."""

    path: Path
    digest: str
    size: int
    diff_id: str


@dataclass(frozen=True, slots=True)
class _Python:
    executable: Path
    version: str
    libdir: str
    stdlib: Path
    extensions: Path

    @property
    def home(self) -> str:
        """Where its standard library is in the image."""
        return f"{HOME}/{self.libdir}/python{self.version}"


def cache_folder() -> Path:
    """Where what is costly to make is kept: BLACKSTART_CACHE, else the user's cache."""
    if given := os.environ.get("BLACKSTART_CACHE", "").strip():
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blackstart"


def python_base(cache: Path | None = None) -> BaseLayer:
    """The layer with this machine's Python, from the cache when it is there. Raises InputError."""
    python = _find_python()
    sources, extensions = list(_modules(python)), _extensions(python)
    libraries = _libraries([python.executable, *extensions])
    folder = (cache or cache_folder()) / "base"
    name = _key(python, [python.stdlib / source for source in sources], [*extensions, *libraries.values()])
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if (found := _cached(folder, name)) is not None:
            return found
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as work:
            compiled = Path(work) / "stdlib"
            _compile(python, sources, compiled)
            files = dict(_placed(python, compiled, extensions, libraries))
            return _pack(files, Path(work), folder, name)


def _find_python() -> _Python:
    """The system's own when it is new enough and whole (it is the smaller one), else the one that runs this."""
    for candidate in ("/usr/bin/python3", getattr(sys, "_base_executable", sys.executable)):
        found = _facts(str(candidate))
        if (
            found is not None
            and tuple(int(part) for part in found.version.split(".")) >= OLDEST
            and all((found.stdlib / name).exists() for name in ("os.py", "json", "http", "asyncio"))
        ):
            return found
    raise InputError(
        "no Python 3.11 or newer with its whole standard library is here",
        where="python3",
        todo="Install it (Debian: apt-get install python3), or build the image with an engine: deploy/client.Dockerfile.",
    )


def _facts(executable: str) -> _Python | None:
    if not Path(executable).exists():
        return None
    done = subprocess.run(
        [executable, "-I", "-S", "-c", _FACTS], capture_output=True, check=False, timeout=LIMIT_S
    )
    if done.returncode != 0:
        return None
    said = load_object(done.stdout, executable, limit_bytes=1 << 16, error=InputError)
    return _Python(
        Path(said.text("executable")).resolve(), said.text("version"), said.text("libdir"),
        Path(said.text("stdlib")), Path(said.text("extensions")),
    )  # fmt: skip


def _modules(python: _Python) -> Iterator[str]:
    """The standard library's modules, sorted, relative to it."""
    for top, folders, files in os.walk(python.stdlib):
        folders[:] = sorted(n for n in folders if n not in _LEFT_OUT and not n.startswith("config-"))
        for name in sorted(files):
            if name.endswith(".py"):
                yield str((Path(top) / name).relative_to(python.stdlib))


def _extensions(python: _Python) -> list[Path]:
    if not python.extensions.is_dir():
        return []
    return sorted(p for p in python.extensions.glob("*.so") if not _NOT_LOADED.match(p.name))


def _libraries(programs: list[Path]) -> dict[str, Path]:
    """What the loader maps for them: name in the image -> file here. All beside libc, where the loader looks."""
    done = subprocess.run(
        ["ldd", *map(str, programs)], capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    mapped = dict(re.findall(r"^\s+(\S+) => (/\S+) \(0x", done.stdout, re.MULTILINE))
    loaders = set(re.findall(r"^\s+(/\S+) \(0x", done.stdout, re.MULTILINE))
    libc = next((path for name, path in mapped.items() if name.startswith("libc.")), None)
    if libc is None or not loaders:
        raise InputError(
            "the libraries that Python needs cannot be told",
            where="ldd",
            todo="Build the image with an engine: deploy/client.Dockerfile.",
        )
    beside = str(Path(libc).parent).lstrip("/")
    found = {f"{beside}/{name}": Path(path).resolve() for name, path in mapped.items()}
    return found | {loader.lstrip("/"): Path(loader).resolve() for loader in loaders}


def _key(python: _Python, sources: list[Path], others: list[Path]) -> str:
    """Names what the layer is made of, by size and time of change: reading it all would take as long as packing it."""
    hasher = hashlib.sha256(f"{FORMAT} {python}".encode())
    for path in [python.executable, *sources, *others]:
        found = path.stat()
        hasher.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    return hasher.hexdigest()[:32]


def _cached(folder: Path, name: str) -> BaseLayer | None:
    try:
        noted = json.loads((folder / f"{name}.json").read_bytes())
        layer = BaseLayer(
            folder / f"{name}.tar.gz", str(noted["digest"]), int(noted["size"]), str(noted["diffId"])
        )
        whole = sha256_of_file(layer.path) == (layer.digest, layer.size)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return layer if whole else None


def _compile(python: _Python, sources: list[str], target: Path) -> None:
    done = subprocess.run(
        [str(python.executable), "-I", "-S", "-c", _COMPILE, str(python.stdlib), str(target), f"/{python.home}"],
        input=json.dumps(sources), capture_output=True, text=True, check=False, timeout=LIMIT_S,
        env={"PYTHONHASHSEED": "0"},
    )  # fmt: skip
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise InputError(f"its standard library cannot be compiled: {last}", where=str(python.executable))


def _placed(
    python: _Python, compiled: Path, extensions: list[Path], libraries: Mapping[str, Path]
) -> Iterator[tuple[str, Path | str]]:
    """Name in the image -> file here, or the target of a link."""
    yield f"{HOME}/bin/python{python.version}", python.executable
    for name in ("python3", "python"):
        yield f"{HOME}/bin/{name}", f"python{python.version}"
    for path in compiled.rglob("*.pyc"):
        yield f"{python.home}/{path.relative_to(compiled)}", path
    for path in extensions:
        yield f"{python.home}/lib-dynload/{path.name}", path
    yield from libraries.items()


class _Tee:
    """Hashes what passes."""

    def __init__(self, sink: gzip.GzipFile) -> None:
        self.sink = sink
        self.hasher = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hasher.update(data)
        return self.sink.write(data)


def _pack(files: Mapping[str, Path | str], work: Path, folder: Path, name: str) -> BaseLayer:
    staged = work / "layer"
    with staged.open("wb") as raw:
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as packed:
            tee = _Tee(packed)
            with tarfile.open(mode="w|", fileobj=tee, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
                for folder_name, mode in _folders(files).items():
                    tar.addfile(_member(folder_name, tarfile.DIRTYPE, mode))
                for file_name in sorted(files):
                    _add(tar, file_name, files[file_name])
        raw.flush()
        os.fsync(raw.fileno())
    digest, size = sha256_of_file(staged)
    layer = BaseLayer(folder / f"{name}.tar.gz", digest, size, f"sha256:{tee.hasher.hexdigest()}")
    staged.replace(layer.path)
    noted = {"digest": layer.digest, "size": layer.size, "diffId": layer.diff_id}
    write_durably(folder / f"{name}.json", json.dumps(noted).encode())
    return layer


def _folders(files: Mapping[str, Path | str]) -> dict[str, int]:
    """Every folder with its mode, outer ones first; and /tmp, which programs expect."""
    found = {str(parent): 0o755 for name in files for parent in Path(name).parents if str(parent) != "."}
    return dict(sorted({**found, "tmp": 0o1777}.items()))


def _add(tar: tarfile.TarFile, name: str, source: Path | str) -> None:
    if isinstance(source, str):
        member = _member(name, tarfile.SYMTYPE, 0o777)
        member.linkname = source
        tar.addfile(member)
        return
    with source.open("rb") as file:
        member = _member(name, tarfile.REGTYPE, 0o644 if name.endswith(".pyc") else 0o755)
        member.size = os.fstat(file.fileno()).st_size
        tar.addfile(member, file)


def _member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, 0
    return info


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the layer with Python cannot be made: {error.strerror or error}",
            where=str(error.filename or folder),
            todo="Name another folder: BLACKSTART_CACHE.",
        ) from error


def place(layer: BaseLayer, target: Path) -> None:
    """Put its file there as well: the same file where the disk allows, else a copy. Raises OSError."""
    try:
        os.link(layer.path, target)
    except OSError:
        shutil.copyfile(layer.path, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
