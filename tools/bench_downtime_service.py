"""The device of `make bench-downtime` seen from its service: one order after the other, and when each was journaled what."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from reference.core.model import Command, Health, Image, Outcome, Phase, Policy
from reference.power import line
from reference.power.desk import CLIENT, TENANT
from reference.protocol.envelope import generate_key, sign, write_private_key, write_public_key
from reference.protocol.models import (
    Acknowledgement,
    BirthAnswer,
    Reply,
    UpdateCommand,
    parse_birth,
    parse_status,
)
from reference.protocol.topics import Kind
from reference.support.processes import ROOT, ends_with_us

ORDER_S = 60.0
_EXPIRES_MS = 4_000_000_000_000
_AGENT_GRACE_S = 10.0


class Service:
    """Keeps one agent, orders updates of it, and writes down when its journal came to which phase."""

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        self.folder = folder
        self._key = generate_key()
        write_private_key(self._key, folder / "key.pem")
        write_public_key(self._key, folder / "key.pub")
        (folder / "edge.json").write_text(json.dumps(settings, default=str), "utf-8")
        self._generation = 0
        self._command: Command | None = None
        self._ended: Outcome | None = None
        self._born = False
        self._line: socket.socket | None = None
        self._agent: subprocess.Popen[bytes] | None = None
        self.phases: list[tuple[float, Phase]] = []
        """Of the order under way: monotonic time in ms, and the phase that is on the disk."""

    # ---- the agent

    def start(self) -> None:
        """Start the agent, and wait until it has announced itself."""
        self._line, theirs = line.pair()
        with theirs, (self.folder / "agent.log").open("ab") as log:
            self._agent = subprocess.Popen(
                [sys.executable, "-m", "tools.bench_downtime_device", str(self.folder / "edge.json"),
                 str(self.folder / "key.pub"), str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(theirs.fileno(),), cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)}, preexec_fn=ends_with_us(),  # noqa: PLW1509 - it only calls prctl
            )  # fmt: skip
        self._born = False
        self._hear_until(lambda: self._born, "birth")

    def kill(self) -> None:
        """SIGKILL for the agent."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM for the agent; the client goes on."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._agent is not None:
            self._agent.send_signal(number)
            try:
                self._agent.wait(_AGENT_GRACE_S)
            except subprocess.TimeoutExpired:
                self._agent.kill()
                self._agent.wait()
        if self._line is not None:
            self._line.close()
        self._agent = self._line = None

    # ---- orders

    def order(self, image: Image, health: Health, policy: Policy | None = None) -> Outcome:
        """Have the device run it, and wait for the end. Raises SystemExit when there is none."""
        self.send(image, health, policy)
        return self.finish()

    def send(self, image: Image, health: Health, policy: Policy | None = None) -> None:
        """Order it, and do not wait."""
        self._generation += 1
        self._command = Command(
            f"job-{self._generation}", self._generation, image, health, _EXPIRES_MS, policy or Policy()
        )
        self.phases = []
        self._ended = None
        self._tell_command()

    def until(self, phase: Phase) -> None:
        """Wait until this phase of the order is on the disk."""
        self._hear_until(lambda: any(found is phase for _, found in self.phases), phase.value)

    def finish(self) -> Outcome:
        """Wait until the order has ended and the device has cleaned up after it."""
        self._hear_until(
            lambda: self._ended is not None and bool(self.phases) and self.phases[-1][1] is Phase.IDLE,
            "its end",
        )
        assert self._ended is not None, "it was waited for"
        return self._ended

    def _hear_until(self, done: Callable[[], bool], what: str) -> None:
        assert self._line is not None, "an order goes to an agent that runs"
        until = time.monotonic() + ORDER_S
        self._line.settimeout(ORDER_S)
        while not done():
            if time.monotonic() > until:
                raise SystemExit(
                    f"bench_downtime: no {what} of {self._generation}; see {self.folder}/agent.log"
                )
            try:
                data = self._line.recv(line.MAX_BYTES)
            except (TimeoutError, ConnectionResetError):
                data = b""
            if not data:
                raise SystemExit(
                    f"bench_downtime: the agent has ended or is silent; see {self.folder}/agent.log"
                )
            word, _, content = data.partition(b"\n")
            self._hear(word.decode(), content)

    def _hear(self, word: str, content: bytes) -> None:
        if word == line.PHASE:
            self.phases.append((time.monotonic() * 1000, Phase(content.decode())))
        elif word == Kind.BIRTH.value:
            birth = parse_birth(content)
            answer = BirthAnswer(nonce=birth.nonce, journal_epoch=birth.journal_epoch, floor=self._generation)
            self._reply(Reply(tenant_id=TENANT, client_id=CLIENT, birth=answer))
            self._born = True
        elif word == Kind.STATUS.value:
            status = parse_status(content)
            report = status.to_core()
            told = Acknowledgement(
                journal_epoch=status.journal_epoch, job_id=report.job_id, generation=report.generation,
                sequence=report.sequence,
            )  # fmt: skip
            self._reply(Reply(tenant_id=TENANT, client_id=CLIENT, acknowledgement=told))
            if report.generation == self._generation and report.outcome is not None:
                self._ended = report.outcome

    def _tell_command(self) -> None:
        assert self._command is not None, "there is an order"
        command = UpdateCommand.from_core(self._command, TENANT, CLIENT, issued_at_ms=0)
        self._tell(Kind.UPDATE.value, sign(command, self._key))

    def _reply(self, reply: Reply) -> None:
        self._tell(Kind.REPLIES.value, sign(reply, self._key))

    def _tell(self, word: str, content: bytes) -> None:
        assert self._line is not None, "told while the agent runs"
        line.send(self._line, word, content)
