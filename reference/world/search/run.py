"""One seed: its faults are played, then nothing more goes wrong, and everything has to come to its end."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from reference.core.invariants import Violation
from reference.world.search.bench import Bench
from reference.world.search.faults import DEVICES, MESSAGES, ROUNDS, Fault, Kind
from reference.world.search.ground import Say
from reference.world.search.judge import judged, quiet
from reference.world.search.wire import Flight
from reference.world.search.world import ROUND_MS, World

BACKUP_EVERY = 5
LOOK_EVERY = 4
TURNS = (2, 3, 2, 4, 1)
"""Turns that each device's updater takes in a round."""
MOST_ROUNDS = 400
"""After the last fault everything has to be quiet within so many."""
CALM = 20
"""Rounds until all that was held back has arrived, and every device has had a heartbeat after it: a birth that comes
late tells of what ran then, and only the next one corrects it."""
LONG = 2000
"""Rounds of silence after which every deadline of the service has passed."""


class Result(NamedTuple):
    """What came of one list of faults."""

    digest: bytes
    """Of all that happened, in its order: the same in every process."""
    violations: tuple[Violation, ...]
    fired: Counter[Kind]
    """Faults that had an effect."""
    ends: Counter[str]
    """How jobs ended at the service."""


class Run:
    """Plays a list of faults."""

    def __init__(self, world: World, faults: Sequence[Fault], say: Say | None = None) -> None:
        self.bench = Bench(world, say)
        self._todo = sorted(faults, key=lambda f: f.at, reverse=True)
        self._waiting: list[Fault] = []
        self._backups = [self.bench.backup()]
        self._jumped = False

    def play(self) -> Result:
        """To the end."""
        bench = self.bench
        for now in range(1, ROUNDS + 1):
            bench.round = now
            self._strike(now)
            self._round(now)
            if bench.found:
                return self.result()
        self.settle()
        return self.result()

    def settle(self) -> None:
        """Nothing more goes wrong from now on; everything has to come to its end."""
        bench = self.bench
        self._heal()
        began = bench.round
        for now in range(began + 1, began + MOST_ROUNDS):
            bench.round = now
            if now == began + CALM - 4:
                for device in bench.devices:
                    device.heartbeat = now
            self._round(now)
            if bench.found:
                return
            if now > began + CALM and quiet(bench):
                break
        judged(bench)
        if not bench.found:
            self._silence()

    def result(self) -> Result:
        """What has come of it so far."""
        bench, desk = self.bench, self.bench.world.desk
        trace = bench.trace
        for device, client in zip(bench.devices, bench.clients, strict=True):
            trace += [desk.codes[client.kept], device.epochs, device.nonces]
        digest = hashlib.blake2b(struct.pack(f"<{len(trace)}Q", *trace), digest_size=16).digest()
        jobs = (j for client in bench.clients for j in desk.kept[client.kept].jobs)
        ends = Counter((j.outcome or j.status).value for j in jobs)
        return Result(digest, tuple(bench.found), bench.fired, ends)

    # ---- a round

    def next_round(self) -> None:
        """The next round: everything does what it does by itself."""
        self.bench.round += 1
        self._round(self.bench.round)

    def _round(self, now: int) -> None:
        bench = self.bench
        up = bench.service_at <= now
        if up and now % BACKUP_EVERY == 0 and now <= ROUNDS:
            self._backups.append(bench.backup())
        for who in range(DEVICES):
            device, client = bench.devices[who], bench.clients[who]
            if up and client.rows:
                now_ms = bench.clock_ms()
                if any(row.due_ms <= now_ms for row in client.rows.values()):
                    bench.send(who)
            if device.down or device.up:
                bench.flow(who)
            if not device.asleep and device.power_at <= now:
                for _ in range(TURNS[who]):
                    if bench.turn(who).rests:
                        break
            if not device.calm or now >= device.heartbeat:
                bench.tell(who)
        if up and now % LOOK_EVERY == 0:
            ended = sum(bench.look_at_the_clock(who) for who in range(DEVICES))
            if ended and self._jumped:
                bench.count(Kind.SERVICE_CLOCK)
            self._jumped = False

    # ---- faults

    def _strike(self, now: int) -> None:
        while self._todo and self._todo[-1].at <= now:
            fault = self._todo.pop()
            if fault.kind in MESSAGES:
                self.bench.armed[fault.device].append(fault)
            else:
                self._waiting.append(fault)
        if self._waiting:
            self._waiting = [f for f in self._waiting if not self._struck(f)]

    def _struck(self, fault: Fault) -> bool:
        """Whether it could strike by now; if not, it waits."""
        kind = fault.kind
        if kind in _AT_THE_SERVICE:
            return self.bench.service_at <= self.bench.round and self._at_the_service(fault)
        if kind in _ON_THE_WAY:
            return self._on_the_way(fault)
        return self._at_the_device(fault)

    def _at_the_service(self, fault: Fault) -> bool:
        bench, who = self.bench, fault.device
        match fault.kind:
            case Kind.ORDER:
                bench.order(who, fault.n, fault.m, supersede=False)
            case Kind.NEW_ORDER:
                if bench.order(who, fault.n, fault.m, supersede=True):
                    bench.count(fault.kind)
            case Kind.CANCEL:
                if bench.cancel(who):
                    bench.count(fault.kind)
            case Kind.SERVICE_RESTART:
                bench.say(None, "RESTARTS")
                bench.fired[fault.kind] += any(bench.world.desk.open[c.kept] for c in bench.clients)
                bench.restart_service(0, bench.round + 1 + fault.n % 8)
            case Kind.SERVICE_RESTORED:
                backup = fault.n % len(self._backups)
                bench.say(None, f"IS RESTORED from backup {backup} of {len(self._backups)}")
                bench.fired[fault.kind] += bench.restore(self._backups[backup])
                bench.restart_service(0, bench.round + 1 + fault.m % 4)
            case _:
                self._jump(fault)
        return True

    def _jump(self, fault: Fault) -> None:
        bench = self.bench
        rounds = (20, 80, 700)[fault.m % 3]
        forward = fault.n % 2 == 0
        bench.say(None, f"RESTARTS, its clock {rounds} rounds {'ahead' if forward else 'back'}")
        bench.restart_service(rounds * ROUND_MS * (1 if forward else -1), bench.round + 1)
        self._jumped = forward
        if not forward:
            bench.fired[fault.kind] += any(bench.world.desk.open[c.kept] for c in bench.clients)

    def _on_the_way(self, fault: Fault) -> bool:
        bench, who, now = self.bench, fault.device, self.bench.round
        device = bench.devices[who]
        match fault.kind:
            case Kind.STALE_COMMAND | Kind.RETAINED_COMMAND if not device.commands:
                return False
            case Kind.ANSWER_REPLAYED if not device.answers:
                return False
            case Kind.SESSION_TAKEOVER if not (device.online and (device.down or device.up)):
                return False
            case Kind.BROKER_RESTART if not any(d.down or d.up for d in bench.devices):
                return False
            case Kind.STALE_COMMAND:
                old = device.commands[fault.n % len(device.commands)]
                device.down.append(Flight(now + fault.m % 6, old, fault.kind))
            case Kind.RETAINED_COMMAND:
                device.down.append(Flight(now + 2, device.commands[-1], fault.kind))
                bench.disconnect(who, now + 1)
            case Kind.ANSWER_REPLAYED:
                again = device.answers[fault.n % len(device.answers)]
                device.down.append(Flight(now + fault.m % 6, again, fault.kind))
            case Kind.LINK_DOWN:
                bench.fired[fault.kind] += device.online
                bench.say(who, "IS OFFLINE")
                bench.disconnect(who, now + 2 + fault.n % 24)
            case Kind.SESSION_TAKEOVER:
                bench.say(
                    who, f"IS TAKEN OVER: {len(device.down)} to it and {len(device.up)} from it are lost"
                )
                self._lose(who, now)
                bench.connect(who)
                bench.count(fault.kind)
            case _:
                bench.say(None, "THE BROKER RESTARTS: all that is on its way is lost")
                for number in range(DEVICES):
                    self._lose(number, now + 1 + fault.n % 6)
                bench.restart_service(0, now + 1)
                bench.count(fault.kind)
        return True

    def _lose(self, who: int, back_at: int) -> None:
        device = self.bench.devices[who]
        device.down, device.up = [], []
        self.bench.disconnect(who, back_at)

    def _at_the_device(self, fault: Fault) -> bool:
        bench, who = self.bench, fault.device
        device = bench.devices[who]
        match fault.kind:
            case Kind.CLOCK_BACK:
                device.clock_ms = -(20 + fault.n % 20) * ROUND_MS
                bench.say(who, f"ITS CLOCK IS {device.clock_ms} ms WRONG")
                return True
            case Kind.CLOCK_FORWARD:
                device.clock_ms = (40 + fault.n % 20) * ROUND_MS
                bench.say(who, f"ITS CLOCK IS {device.clock_ms} ms WRONG")
                return True
            case _ if device.asleep:
                return False
            case Kind.POWER_CUT:
                bench.cut(who, fault.n, fault.m)
            case Kind.AGENT_KILLED:
                bench.kill(who, fault.n)
            case _:
                bench.lose_journal(who)
        device.power_at = bench.round + 1 + fault.m % 3
        bench.count(fault.kind)
        return True

    # ---- the end

    def _heal(self) -> None:
        bench = self.bench
        bench.say(None, "---- nothing more goes wrong")
        self._waiting.clear()
        for who in range(DEVICES):
            device = bench.devices[who]
            bench.armed[who].clear()
            device.clock_ms = 0
            device.link_at = min(device.link_at, bench.round + 1)

    def _silence(self) -> None:
        """So long nothing is said that the service gives up what nobody will speak of any more."""
        bench = self.bench
        bench.round += LONG
        for who in range(DEVICES):
            bench.look_at_the_clock(who)
            jobs = bench.world.desk.kept[bench.clients[who].kept].jobs
            left = [j.id for j in jobs if not j.status.terminal]
            if left:
                bench.wrong(who, (Violation("every_job_ends", f"{left} are open for ever"),))


_AT_THE_SERVICE = frozenset({
    Kind.ORDER, Kind.NEW_ORDER, Kind.CANCEL, Kind.SERVICE_RESTART, Kind.SERVICE_RESTORED, Kind.SERVICE_CLOCK,
})  # fmt: skip
_ON_THE_WAY = frozenset({
    Kind.STALE_COMMAND, Kind.RETAINED_COMMAND, Kind.ANSWER_REPLAYED, Kind.LINK_DOWN, Kind.SESSION_TAKEOVER,
    Kind.BROKER_RESTART,
})  # fmt: skip
