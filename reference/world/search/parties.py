"""The service's rows of one client, and a device: what each holds, and what it forgets."""

from __future__ import annotations

from typing import NamedTuple

from reference.world.machine import State
from reference.world.search.wire import Answer, Flight, Ordered


class Row(NamedTuple):
    """The outbox of the service: a command (its number), or a cancel (None)."""

    command: int | None
    expires_at_ms: int
    sends: int = 0
    due_ms: int = 0


class Client:
    """What the service holds of one client. A backup holds the same."""

    __slots__ = ("created", "expires", "kept", "named", "rows", "told")

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.rows: dict[tuple[str, int], Row] = {}
        """By job and generation; a cancel has the generation below zero."""
        self.created: dict[str, int] = {}
        self.expires: dict[str, int] = {}
        self.told: dict[str, int] = {}
        self.named = 0
        """Highest generation that this database has issued, or heard of."""

    def copy(self) -> Client:
        """For a backup."""
        copy = Client(self.kept)
        copy.rows, copy.created, copy.told = dict(self.rows), dict(self.created), dict(self.told)
        copy.expires, copy.named = dict(self.expires), self.named
        return copy


class Device:
    """One device. What a process or a connection forgets is forgotten by `disconnect`."""

    __slots__ = (
        "answers",
        "asleep",
        "born",
        "calm",
        "clock_ms",
        "commands",
        "cuts",
        "down",
        "drifted_at",
        "ends",
        "epochs",
        "heartbeat",
        "journals_lost",
        "link_at",
        "nonce",
        "nonces",
        "number",
        "online",
        "open",
        "power_at",
        "sends",
        "sent",
        "sent_at",
        "state",
        "told_at",
        "told_digest",
        "top_command",
        "up",
    )  # fmt: skip

    def __init__(self, number: int, state: State) -> None:
        self.number, self.state = number, state
        self.open, self.online, self.asleep = True, False, False
        self.calm = False
        """It has nothing to say until its next heartbeat."""
        self.link_at = self.power_at = 0
        self.clock_ms = 0
        self.nonce: int | None = None
        self.nonces, self.born, self.heartbeat, self.told_at, self.sent_at = 0, -99, 0, 0, -99
        self.told_digest: str | None = None
        self.drifted_at: int | None = None
        self.sent: dict[int, int] = {}
        self.sends: dict[int, int] = {}
        self.down: list[Flight] = []
        self.up: list[Flight] = []
        self.commands: list[Ordered] = []
        self.answers: list[Answer] = []
        self.top_command = 0
        self.epochs, self.journals_lost, self.cuts = 1, 0, 0
        self.ends: dict[tuple[str, str, int], tuple[object, ...]] = {}
        """What was told of the end of a job: by epoch, job and generation."""
