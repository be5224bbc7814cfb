"""Child processes that are known to be ready, whose output is kept, and that end when told."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reference.core.errors import ServiceError

ROOT = Path(__file__).resolve().parents[2]
"""The folder that contains the `reference` package."""
LOG_TAIL_BYTES = 2_000
DEFAULT_GRACE_S = 5.0
DRAIN_S = 0.2
"""How long the output of a process that has ended is waited for."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Ready = dict[str, object]
"""What a part says on its first line, a JSON object: at least `{"ready": true}`, mostly its `port`."""


class ProcessError(ServiceError):
    """A child process could not be started, died, or never became ready. The message ends with its log."""


def tail(log_path: Path, limit_bytes: int = LOG_TAIL_BYTES) -> str:
    """The end of a log, for a message; empty when there is none."""
    try:
        with log_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit_bytes))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class _Output:
    """The reading end of a child's standard output."""

    reader: asyncio.StreamReader
    transport: asyncio.ReadTransport

    @classmethod
    async def open(cls) -> tuple[_Output, int]:
        """A pipe: its reading end, and the descriptor of its writing end, for the caller to close.

        A pipe of our own: with asyncio's, wait() lasts until every grandchild that inherited it has ended, too.
        """
        reading, writing = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
        )
        return cls(reader, transport), writing


class ManagedProcess:
    """One running `python -m MODULE`, in a session of its own. Made by `start_module`."""

    def __init__(
        self, module: str, process: asyncio.subprocess.Process, output: _Output, log_path: Path
    ) -> None:
        self.module = module
        self.log_path = log_path
        self._process = process
        self._first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        # Kept: the loop holds tasks only weakly, and a pipe that nobody reads blocks the child.
        self._pump = asyncio.create_task(self._pump_output(output))

    @property
    def pid(self) -> int:
        """Its process id; means nothing to anyone once `alive` is false."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it is known to run still."""
        return self._process.returncode is None

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus the signal's number when one ended it; None while it runs."""
        return self._process.returncode

    async def _pump_output(self, output: _Output) -> None:
        """All of standard output goes to the log, and its first line to `ready`."""
        try:
            try:
                first = await output.reader.readline()
            except ValueError:  # longer than the reader's limit: no ready line
                first = b"(a first line without an end)"
            with self.log_path.open("ab", buffering=0) as log:
                log.write(first)
                if not self._first.done():
                    self._first.set_result(first)
                while chunk := await output.reader.read(65_536):
                    log.write(chunk)
        finally:
            output.transport.close()

    def _failure(self, what: str) -> ProcessError:
        log = tail(self.log_path)
        return ProcessError(
            f"{self.module} {what}" + (f"; the end of its log:\n{log}" if log else "; its log is empty"),
            where=str(self.log_path),
        )

    async def ready(self, timeout_s: float = 15.0) -> Ready:
        """The object on its first line of output.

        Raises `ProcessError` when it dies first, says something else, or says nothing for `timeout_s` seconds;
        it is left running then, for the caller to stop.
        """
        try:
            # Not wait_for(): before Python 3.12 it swallows a cancellation that meets the answer.
            async with asyncio.timeout(timeout_s):
                line = await asyncio.shield(self._first)
        except TimeoutError:
            raise self._failure(f"was not ready after {timeout_s:g} s") from None
        if not line.strip():
            # Its output has ended; give the exit code a moment to arrive, it says more.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await self._process.wait()
            ended = f"with exit code {self.returncode}" if self.returncode is not None else "its output"
            raise self._failure(f"ended {ended} before it was ready")
        try:
            said: object = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict) or said.get("ready") is not True:
            raise self._failure(
                f"said {line[:200].decode('utf-8', 'replace').strip()!r} instead of being ready"
            )
        return {str(key): value for key, value in said.items()}

    async def wait(self) -> int:
        """Its exit code, once it has ended and all it said is in the log."""
        code = await self._process.wait()
        # Bounded: a grandchild that inherited the pipe may hold it open for ever.
        await asyncio.wait({self._pump}, timeout=DRAIN_S)
        return code

    async def stop(self, grace_s: float = DEFAULT_GRACE_S) -> int:
        """Ask it to end (SIGTERM), and end it (SIGKILL) when it has not after `grace_s` seconds. Its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            return await self.kill()
        return await self._end()

    async def kill(self) -> int:
        """End it at once (SIGKILL), and only it: what it started lives on. Its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        return await self._end()

    async def _end(self) -> int:
        code = await self.wait()
        self._pump.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._pump
        return code


def ends_with_us(with_signal: signal.Signals = signal.SIGTERM) -> Callable[[], None] | None:
    """What a child runs before its exec so that it gets `with_signal` when we die, even of SIGKILL.

    The kernel forgets it when the child changes its user afterwards: let the child be started as the other user.
    None where there is no prctl(2), which is everywhere but on Linux. The kernel counts the thread that forks as
    the parent: the loop's, which lasts as long as the children are of use.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        # Loaded here: between fork and exec nothing may be imported, nor any lock be waited for.
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    parent, wanted = os.getpid(), int(with_signal)

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, wanted, 0, 0, 0)
        if os.getppid() != parent:  # We died in between: nobody will tell it any more.
            os._exit(1)

    return before_exec


async def start_module(
    module: str,
    *args: str,
    env_extra: Mapping[str, str] | None = None,
    log_path: Path,
    keep_open: Sequence[int] = (),
) -> ManagedProcess:
    """Start `python -m module args...` with this interpreter; its output is appended to `log_path`.

    It gets SIGTERM when this process dies, however it dies (Linux). `keep_open`: descriptors that it inherits.
    `await` its `ready()` before using it, and always `stop()` or `kill()` it. Raises `ProcessError` when it cannot
    be started at all.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    environment = {"PYTHONUNBUFFERED": "1", **os.environ, "PYTHONPATH": path, **(env_extra or {})}
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        output, writing = await _Output.open()
        try:
            with log_path.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    module,
                    *args,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=writing,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                    pass_fds=tuple(keep_open),
                    preexec_fn=ends_with_us(),
                )
        except BaseException:
            output.transport.close()
            raise
        finally:
            os.close(writing)
    except OSError as error:
        raise ProcessError(f"{module} cannot be started: {error}", where=str(log_path)) from error
    return ManagedProcess(module, process, output, log_path)
