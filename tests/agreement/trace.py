"""What `strace -f -y` wrote, as calls with the process's role in a device: agent, shim or workload."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.agreement.atoms_map import Call, relative

_CALLS = (
    "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync,syncfs,sync_file_range,"
    "rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,mknod,mknodat,"
    "truncate,ftruncate,fallocate,copy_file_range,sendfile,splice,ioctl,chmod,fchmod,fchmodat,fchmodat2,chown,fchown,"
    "lchown,fchownat,utime,utimes,utimensat,futimesat,setxattr,lsetxattr,fsetxattr,clone,clone3,fork,vfork,execve,"
    "execveat,kill,tkill,tgkill,pidfd_send_signal,sendto,sendmsg,mmap"
)
TRACED = ",".join(f"?{name}" for name in _CALLS.split(","))
"""Every call that can change a file or a folder, make or end a process, or ask somebody else; not every machine has
all of them."""

_LINE = re.compile(r"^(?P<pid>\d+) +(?P<rest>.*)$")
_BEGUN = re.compile(r"^(?P<name>\w+)\((?P<args>.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^<\.\.\. (?P<name>\w+) resumed>(?P<args>.*)$")
_WHOLE = re.compile(r"^(?P<name>\w+)\((?P<args>.*)\) += (?P<result>.*)$")
_ENDED = re.compile(r"^\+\+\+ (exited with \d+|killed by \w+.*) \+\+\+$")
_FD = re.compile(r"^(?:-?\d+|AT_FDCWD)<(?P<path>.*?)>(?:\(deleted\))?(?=, |$)")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"(?:\.\.\.)?')
_NAMED = {
    "openat": "open", "openat2": "open", "creat": "open", "pwrite64": "pwrite", "fdatasync": "fsync",
    "unlinkat": "unlink", "mkdirat": "mkdir", "linkat": "link", "symlinkat": "symlink", "renameat": "rename",
    "renameat2": "rename", "fchown": "chown", "lchown": "chown", "fchownat": "chown", "utimes": "utimensat",
    "fchmod": "chmod", "fchmodat": "chmod", "fchmodat2": "chmod", "ftruncate": "truncate",
    "clone3": "clone", "fork": "clone", "vfork": "clone",
}  # fmt: skip
"""One name for calls that do the same; what is not here keeps its own."""
_WRITES = ("write", "pwrite64")
_MAKES = re.compile(r"O_(CREAT|TRUNC)")


@dataclass(frozen=True, slots=True)
class Raw:
    """One system call that has succeeded, or the end of a process (`exit`)."""

    pid: int
    name: str
    args: str
    result: str
    line: str
    place: int
    """In the order in which calls began."""


def joined(lines: Iterable[str]) -> list[Raw]:
    """The calls in the order in which they began, those that were interrupted put together again."""
    found: list[Raw | None] = []
    open_at: dict[int, tuple[int, str, str]] = {}
    for line in lines:
        if (match := _LINE.match(line)) is None:
            continue
        pid, rest = int(match["pid"]), match["rest"]
        if (begun := _BEGUN.match(rest)) is not None:
            open_at[pid] = (len(found), begun["args"], line)
            found.append(None)
            continue
        place = len(found)
        if (resumed := _RESUMED.match(rest)) is not None:
            place, args, first = open_at.pop(pid)
            rest, line = f"{resumed['name']}({args}{resumed['args']}", f"{first} ... {line}"
        else:
            found.append(None)
        if _ENDED.match(rest) is not None:
            found[place] = Raw(pid, "exit", rest, "", line, place)
        elif (whole := _WHOLE.match(rest)) is not None and not whole["result"].startswith(("-1", "?")):
            found[place] = Raw(pid, whole["name"], whole["args"], whole["result"], line, place)
    return [raw for raw in found if raw is not None]


class Roles:
    """Who is who: a process is what its parent was, until it becomes a shim or an image's program."""

    def __init__(self, agent: int) -> None:
        self._roles = {agent: "agent"}

    def of(self, pid: int) -> str:
        """The role of a process that is alive."""
        return self._roles[pid]

    def begun(self, parent: int, child: int) -> None:
        """A process or a thread."""
        self._roles[child] = self._roles[parent]

    def became(self, pid: int, words: str) -> None:
        """It executes another program, of these arguments."""
        if "/runtimes/shim.py" in words:
            self._roles[pid] = "shim"
        elif "/rootfs/" in words:
            self._roles[pid] = "workload"


class Reader:
    """Turns raw calls into those that the table of atoms speaks of; others are left out."""

    def __init__(self, roots: Mapping[str, Path]) -> None:
        self._roots = roots
        self._written: dict[str, list[tuple[int, str]]] = {}
        """By path, when and what was written there: the calls before and after it say nothing of it."""
        self._there: set[str] = set()
        """What was made: opening it again changes nothing."""

    def calls(self, raws: Iterable[Raw]) -> Iterator[tuple[Call, Raw]]:
        """Each call, with what the trace says of it. The first process of the trace is the agent."""
        raws = list(raws)
        for raw in raws:
            if raw.name in _WRITES and (text := _TEXT.search(raw.args)) is not None:
                written = self._written.setdefault(_paths(raw.args, texts=False)[0], [])
                written.append((raw.place, text[1].replace('\\"', '"')))
        roles = Roles(raws[0].pid)
        for raw in raws:
            if (call := self._call(raw, roles)) is not None:
                yield call, raw

    def _call(self, raw: Raw, roles: Roles) -> Call | None:
        name, who = _NAMED.get(raw.name, raw.name), roles.of(raw.pid)
        match name:
            case "clone":
                roles.begun(raw.pid, int(raw.result.split()[0]))
                return None if "CLONE_THREAD" in raw.args else Call(name, who=who)
            case "execve":
                roles.became(raw.pid, raw.args)
                words = " ".join(_TEXT.findall(raw.args.partition("[")[2]))
                for root, path in self._roots.items():
                    words = words.replace(str(path), root)
                return Call(name, detail=words, who=roles.of(raw.pid))
            case "exit":
                return Call(name, detail=raw.args, who=who) if who == "workload" else None
            case "kill" | "tkill" | "tgkill" | "pidfd_send_signal":
                signal = re.search(r"SIG\w+", raw.args)
                return Call("kill", detail=signal[0] if signal else raw.args, who=who)
            case "sendto" | "sendmsg":
                request = _TEXT.search(raw.args)
                ours = request is not None and request[1].startswith("GET /v2/")
                return Call("ask", detail=request[1], who=who) if request is not None and ours else None
            case _:
                return self._change(name, who, raw)

    def _change(self, name: str, who: str, raw: Raw) -> Call | None:
        if name == "open" and _MAKES.search(raw.args) is None and raw.name != "creat":
            return None  # It only looks, or a write will follow.
        if name == "ioctl" and "FICLONE" not in raw.args:
            return None
        if name == "mmap" and not ("PROT_WRITE" in raw.args and "MAP_SHARED" in raw.args):
            return None  # What is written through a shared map is seen by nobody: there must be none.
        paths = _paths(raw.args, texts=raw.name not in _WRITES)
        path = next((found for one in reversed(paths) if (found := relative(one, self._roots))), None)
        if path is None:
            return None
        if "RENAME_EXCHANGE" in raw.args:
            name = "exchange"
        if "AT_REMOVEDIR" in raw.args:
            name = "rmdir"
        if name == "open" and path in self._there and "O_TRUNC" not in raw.args:
            return None
        self._there.discard(path) if name == "unlink" else self._there.add(path)
        return Call(name, path, self._content(name, paths[0], raw.place), who)

    def _content(self, name: str, path: str, place: int) -> str:
        """What is in the file, or, for a call that makes it, what will be written next."""
        written = self._written.get(path, [])
        if name in ("open", "chmod"):
            return next((text for when, text in written if when > place), "")
        return next((text for when, text in reversed(written) if when <= place), "")


def _paths(args: str, *, texts: bool) -> list[str]:
    """The paths that a call names: those of the descriptors that it is given and, if so, those in its texts."""
    found, folder = [], None
    for word in _words(args):
        if (descriptor := _FD.match(word)) is not None:
            folder = descriptor["path"]
            found.append(folder)
        elif (text := re.fullmatch(r'"((?:[^"\\]|\\.)*)"', word)) is not None and text[1] and texts:
            base = found.pop() if folder is not None and found and found[-1] == folder else ""
            found.append(text[1] if text[1].startswith("/") else f"{base}/{text[1]}")
            folder = None
    return found


def _words(args: str) -> Iterator[str]:
    """The arguments, split at the commas that lie in no text, bracket or path."""
    depth, inside, begin, last = 0, False, 0, ""
    for place, sign in enumerate(args):
        if sign == '"' and last != "\\":
            inside = not inside
        elif not inside and sign in "<{[":
            depth += 1
        elif not inside and sign in ">}]":
            depth -= 1
        elif not inside and depth == 0 and sign == ",":
            yield args[begin:place].strip()
            begin = place + 1
        last = "" if last == "\\" else sign
    yield args[begin:].strip()
