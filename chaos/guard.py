"""The blast radius: only parts that this run started, only loopback. Faults ask before they hurt."""

from __future__ import annotations

import ipaddress
import os
import signal
from pathlib import Path

from chaos.faults.base import FaultError

_STANDS_IN = (b"PWD=", b"OLDPWD=")


class Guard:
    """Knows the run's folder; whatever is not of it is refused."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def process(self, pid: int) -> int:
        """The pid, when it is of this run: a descendant of ours, or it names the run's folder on its command line or in
        its environment. Raises FaultError, and nothing was touched."""
        if pid <= 1 or pid == os.getpid():
            raise FaultError(f"process {pid} is not to be hurt", todo="This is a defect of the fault.")
        if self._descends(pid) or self._names_us(pid):
            return pid
        raise FaultError(f"process {pid} is not of this run", todo="This is a defect of the fault.")

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process of this run. Raises FaultError; ProcessLookupError when it is gone."""
        if not Path(f"/proc/{pid}").exists():
            raise ProcessLookupError(pid)
        os.kill(self.process(pid), number)

    def path(self, path: Path) -> Path:
        """The path, when it lies in the run's folder. Raises FaultError."""
        if self.folder not in (path.resolve(), *path.resolve().parents):
            raise FaultError(f"{path} is not of this run", todo="This is a defect of the fault.")
        return path

    def address(self, host: str) -> str:
        """The host, when it is this machine's loopback. Raises FaultError."""
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = host == "localhost"
        if not loopback:
            raise FaultError(f"{host} is not loopback", todo="Faults are for parts of this machine only.")
        return host

    def _descends(self, pid: int) -> bool:
        for _ in range(64):
            try:
                stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
            except OSError:
                return False
            pid = int(stat.rpartition(")")[2].split()[1])
            if pid == os.getpid():
                return True
            if pid <= 1:
                return False
        return False

    def _names_us(self, pid: int) -> bool:
        """On its command line or in its environment; where a shell happens to stand makes it nobody's."""
        marker = os.fsencode(f"{self.folder}")
        for name in ("cmdline", "environ"):
            try:
                words = Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0")
            except OSError:
                continue
            words = [word for word in words if name != "environ" or not word.startswith(_STANDS_IN)]
            named = (part for word in words for part in (word, word.partition(b"=")[2]))
            if any(part == marker or part.startswith(marker + b"/") for part in named):
                return True
        return False
