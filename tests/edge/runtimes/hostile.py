"""Layers made to hurt: name -> how it is made, and what has to become of it.

`python -m tests.edge.runtimes.hostile NAME FOLDER` unpacks one of them in a process of its own and prints what became
of it and by how much the process grew.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from reference.core.errors import BlackstartError, Reason
from reference.edge.runtimes.unpack import Layer, UnpackLimits, unpack
from tests.edge.runtimes.registry import digest, entry, tar_of

INVALID, UNSAFE, LARGE = Reason.IMAGE_INVALID, Reason.IMAGE_UNSAFE, Reason.IMAGE_TOO_LARGE
HARMLESS = None
"""Strange, but it means something inside the folder: as container engines read it."""
LIMITS = UnpackLimits(entries=2_000, ratio_free_bytes=8 << 20, file_bytes=64 << 20, total_bytes=128 << 20)
MEGABYTE = 1 << 20

Kind = tuple[Callable[[], bytes], Reason | None]


def _tar(*entries: tuple[str, bytes, str]) -> Callable[[], bytes]:
    """Of (name, kind, link); a regular file holds `evil`."""

    def made() -> bytes:
        return tar_of(
            [(entry(n, k, link), b"evil" if k == tarfile.REGTYPE else b"") for n, k, link in entries]
        )

    return made


def _file(name: str) -> tuple[str, bytes, str]:
    return name, tarfile.REGTYPE, ""


def _pax(headers: dict[str, str], data: bytes = b"evil") -> Callable[[], bytes]:
    def made() -> bytes:
        info = entry("x")
        info.pax_headers = headers
        return tar_of([(info, data)])

    return made


def _said(size: int, kind: bytes = tarfile.REGTYPE, body: bytes = b"") -> Callable[[], bytes]:
    """A header that says this size, whatever follows."""

    def made() -> bytes:
        info = entry("x", kind)
        info.size = size
        return info.tobuf(tarfile.GNU_FORMAT) + body + bytes(1024)

    return made


def _bomb() -> bytes:
    """300 MB of zeros in 300 kB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    info = entry("x")
    info.size = 60 * MEGABYTE
    parts = [packer.compress(info.tobuf())]
    parts += [packer.compress(bytes(MEGABYTE)) for _ in range(300)]
    return b"".join([*parts, packer.flush()])


def _bomb_of_members() -> bytes:
    """The same in thousands of gzip members, each of them small."""
    info = entry("x")
    info.size = 60 * MEGABYTE
    return gzip.compress(info.tobuf()) + gzip.compress(bytes(MEGABYTE)) * 60


def _global_headers() -> bytes:
    """Headers that a reader has to remember until the end."""
    buffer = io.BytesIO()
    for number in range(500):
        record = f" k{number}=".encode() + b"x" * 50_000 + b"\n"
        body = str(len(record) + 5).encode() + record
        info = entry("g", tarfile.XGLTYPE)
        info.size = len(body)
        buffer.write(info.tobuf(tarfile.USTAR_FORMAT) + body.ljust(-(-len(body) // 512) * 512, b"\0"))
        buffer.write(entry(f"f{number}").tobuf())
    return buffer.getvalue() + bytes(1024)


def _cut(data: Callable[[], bytes], at: float) -> Callable[[], bytes]:
    return lambda: data()[: int(len(data()) * at)]


def _packed(data: Callable[[], bytes]) -> Callable[[], bytes]:
    return lambda: gzip.compress(data(), mtime=0)


def _sparse_old() -> bytes:
    info = entry("x", tarfile.GNUTYPE_SPARSE)
    info.size = 4
    return info.tobuf(tarfile.GNU_FORMAT) + b"evil".ljust(512, b"\0") + bytes(1024)


_GOOD = _tar(_file("a"), _file("b/c"))
_UP = "../" * 40
_LINK, _HARD = tarfile.SYMTYPE, tarfile.LNKTYPE

LAYERS: dict[str, Kind] = {
    # Names that lead out.
    **{f"name {name!r}": (_tar(_file(name)), UNSAFE)
       for name in ("../x", "a/../../x", "/etc/x", "//x", "a/..", "..", f"{_UP}etc/passwd", "a/./../../x")},
    "backslashes are no way out": (_tar(_file("..\\..\\x")), HARMLESS),
    "a name that is only dots": (_tar(_file("...")), HARMLESS),
    "the folder itself": (_tar((".", tarfile.DIRTYPE, ""), _file("x")), HARMLESS),
    # Links that lead out, and what is written through them.
    "link up": (_tar(("l", _LINK, "../outside")), UNSAFE),
    "link far up": (_tar(("l", _LINK, f"{_UP}etc")), UNSAFE),
    "link up in a folder": (_tar(("a/b/l", _LINK, "../../../outside")), UNSAFE),
    "through an absolute link": (_tar(("l", _LINK, "/"), _file("l/x")), HARMLESS),
    "through a chain": (_tar(("a", _LINK, "."), ("a/b", _LINK, "../.."), _file("a/b/x")), UNSAFE),
    "a link to itself": (_tar(("l", _LINK, "l"), _file("l/x")), INVALID),
    "a file in the place of a link": (_tar(("l", _LINK, "/outside/file"), _file("l")), HARMLESS),
    "hard link up": (_tar(("h", _HARD, "../outside/file")), UNSAFE),
    "hard link to the root of the disk": (_tar(("h", _HARD, "/etc/passwd")), UNSAFE),
    "hard link to a link": (_tar(("l", _LINK, "/etc/passwd"), ("h", _HARD, "l")), UNSAFE),
    "hard link through a link": (_tar(("l", _LINK, "/"), ("h", _HARD, "l/etc/passwd")), INVALID),
    "hard link to nothing": (_tar(("h", _HARD, "missing")), INVALID),
    "hard link to a folder": (_tar(("d", tarfile.DIRTYPE, ""), ("h", _HARD, "d")), UNSAFE),
    # What is no file.
    "character device": (_tar(("x", tarfile.CHRTYPE, "")), UNSAFE),
    "block device": (_tar(("x", tarfile.BLKTYPE, "")), UNSAFE),
    "fifo": (_tar(("x", tarfile.FIFOTYPE, "")), UNSAFE),
    "whiteout in overlayfs's own way": (_tar(("a", tarfile.CHRTYPE, "")), UNSAFE),
    # Whiteouts.
    **{f"whiteout {name!r}": (_tar(_file("a/x"), _file(name)), UNSAFE)
       for name in ("a/.wh...", "a/.wh..", "a/.wh.", ".wh...", "../.wh.outside", "a/../../.wh.outside")},
    "whiteout through a link": (_tar(("l", _LINK, "/"), _file("l/.wh.outside")), HARMLESS),
    "whiteout in capitals": (_tar(_file("a"), _file(".WH.a")), HARMLESS),
    # The same name again.
    "twice": (_tar(_file("a"), _file("a")), HARMLESS),
    "in two cases": (_tar(_file("A"), _file("a"), ("ä", _LINK, "/"), _file("Ä")), HARMLESS),
    "a folder, then a link, then below it": (_tar(_file("d/x"), ("d", _LINK, "/outside"), _file("d/y")), HARMLESS),
    "a file, then below it": (_tar(_file("a"), _file("a/x")), INVALID),
    # Names without end.
    "a name of 300": (_tar(_file("n" * 300)), INVALID),
    "a path of 100,000": (_tar(_file("/".join(["d" * 100] * 1000))), INVALID),
    "150 folders deep": (_tar(_file("/".join("d" * 150))), INVALID),
    "3,000 folders in one layer": (_tar(*((f"d{n}/x", tarfile.DIRTYPE, "") for n in range(1500))), LARGE),
    "a link of 10,000": (_tar(("l", _LINK, "x" * 10_000)), INVALID),
    "bytes that are no text": (_tar(_file("\udcff\udcfe")), HARMLESS),
    "a NUL in a name": (_pax({"path": "a\0b"}), UNSAFE),
    # Headers that lie.
    "pax path": (_pax({"path": "../x"}), UNSAFE),
    "pax size too large": (_pax({"size": "999999"}), INVALID),
    "pax size negative": (_pax({"size": "-1"}), INVALID),
    "pax size of words": (_pax({"size": "many"}), INVALID),
    "pax sparse 1.0": (_pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}), INVALID),
    "pax sparse 0.1": (_pax({"GNU.sparse.map": "0,4", "GNU.sparse.size": str(1 << 40)}), INVALID),
    "old sparse": (_sparse_old, INVALID),
    "says a terabyte": (_said(1 << 40), LARGE),
    "says more than there is": (_said(5_000, body=b"x" * 512), INVALID),
    "says a negative size": (_said(-512), UNSAFE),
    "a pax header of -512": (_said(-512, tarfile.XHDTYPE), UNSAFE),
    "a pax header of a gigabyte": (_said(1 << 30, tarfile.XHDTYPE), UNSAFE),
    "a long name of a gigabyte": (_said(1 << 30, tarfile.GNUTYPE_LONGNAME), UNSAFE),
    "an unknown kind of entry": (_said(0, b"Z"), UNSAFE),
    "500 global headers": (_global_headers, UNSAFE),
    # Streams that lie.
    "not a tar": (lambda: b"not a tar archive" * 100, INVALID),
    "cut": (_cut(_GOOD, 0.03), INVALID),
    "gzip cut": (_cut(_packed(_GOOD), 0.6), INVALID),
    "gzip without its end": (lambda: gzip.compress(_GOOD())[:-8], INVALID),
    "gzip with a wrong checksum": (lambda: gzip.compress(_GOOD())[:-8] + bytes(8), INVALID),
    "rubbish behind gzip": (lambda: gzip.compress(_GOOD()) + b"rubbish", INVALID),
    "rubbish behind the tar": (lambda: _GOOD() + b"rubbish", INVALID),
    "another tar behind the tar": (lambda: _GOOD() + _GOOD(), INVALID),
    "zeros behind the tar": (lambda: _GOOD() + bytes(50_000), HARMLESS),
    "gzip in gzip": (_packed(_packed(_GOOD)), INVALID),
    "xz": (lambda: b"\xfd7zXZ\x00" + bytes(100), INVALID),
    "bomb": (_bomb, UNSAFE),
    "bomb of many members": (_bomb_of_members, UNSAFE),
}  # fmt: skip

HEAVY = (
    "bomb", "bomb of many members", "500 global headers", "a pax header of a gigabyte", "a long name of a gigabyte",
    "says a terabyte", "a path of 100,000", "3,000 folders in one layer", "twice",
)  # fmt: skip
"""Those that want memory, and one that does not."""


def unpacked(name: str, folder: Path, data: bytes | None = None) -> Reason | None:
    """Unpack it to `folder`/root; answers how it was refused."""
    data = LAYERS[name][0]() if data is None else data
    blob = folder / "blob"
    blob.write_bytes(data)
    try:
        plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" and len(data) < 20_000 else data
    except (OSError, EOFError, zlib.error):
        plain = data
    try:
        unpack([Layer(blob, digest(plain))], folder / "root", LIMITS)
    except BlackstartError as error:
        return error.reason
    return None


def _peak_kb() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def main() -> None:
    """See the module."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    before = _peak_kb()
    reason = unpacked(name, folder, (folder / "layer").read_bytes())
    print(json.dumps({"reason": reason, "grown_kb": _peak_kb() - before}))


if __name__ == "__main__":
    main()
