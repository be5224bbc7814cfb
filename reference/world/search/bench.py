"""One service, five devices, and what is on its way between them: everything that can be done to them, by hand.

The rules are functions of `core`. What is written here is what edge and service do around them: when a message is sent
again, what a connection forgets, which rows wait in the outbox.
"""

from __future__ import annotations

from reference.core import delivery
from reference.core.invariants import Violation
from reference.core.job import Report
from reference.core.record import HOLDS
from reference.world.machine import State
from reference.world.nouns import FAR
from reference.world.search.device import Heard, Turn, end_of, in_words
from reference.world.search.faults import Kind
from reference.world.search.parties import Device
from reference.world.search.service_side import ServiceSide
from reference.world.search.wire import (
    Acknowledged,
    Announced,
    Answer,
    Canceled,
    Flight,
    Ordered,
    Status,
    about,
    code,
)
from reference.world.search.world import LIMITS, ROUND_MS

BIRTH_AGAIN = 4
"""Rounds after which an unanswered birth is sent again."""
HEARTBEAT = 36
"""Rounds between two births of a device that is connected."""
DRIFT = 2
"""Rounds after which something else that runs than what was told is news."""
UNANSWERED_SENDS = 3
REMIND = LIMITS.remind_ms // ROUND_MS


class Bench(ServiceSide):
    """`now` is a round. `found`: what did not hold, with who it was."""

    def flow(self, who: int) -> None:
        """Deliver what is due, each way."""
        device, now = self.devices[who], self.round
        if device.down and device.open and device.online:
            due = [f for f in device.down if f.due <= now]
            if due:
                device.down = [f for f in device.down if f.due > now]
                for flight in due:
                    self.at_device(who, flight)
        if device.up and self.service_at <= now:
            came = [f for f in device.up if f.due <= now]
            if came:
                device.up = [f for f in device.up if f.due > now]
                for flight in came:
                    self.at_service(who, flight)

    # ---- the device

    def at_device(self, who: int, flight: Flight) -> None:
        """A message arrives at a device."""
        device, driver, message = self.devices[who], self.world.driver, flight.message
        verdict = ""
        match message:
            case Ordered(command):
                heard = self._hear_command(who, flight, command)
                verdict = heard.verdict
            case Canceled(job_id, generation):
                heard = driver.hear_cancel(device.state, job_id, generation)
            case Answer(_, _, _, True):
                self._given_up(who, message, flight.fault)
                return
            case Answer(nonce, epoch, floor):
                expected = nonce == device.nonce
                heard = driver.hear_answer(device.state, device.nonce is not None, expected, epoch, floor)
                if flight.fault is not None:
                    self.count(flight.fault)
                if expected:
                    device.nonce = None
            case Acknowledged(epoch, job_id, sequence):
                heard = driver.hear_acknowledgement(device.state, epoch, job_id, sequence)
                if flight.fault is not None:
                    self.count(flight.fault)
            case _:
                raise TypeError(f"{message} is not for a device")
        if self._say is not None:
            self.say(who, f"hears {about(message, self.world.driver)}{f': {verdict}' if verdict else ''}")
        self.trace.append(code(message))
        if heard.after is not device.state:
            device.state, device.asleep, device.calm = heard.after, False, False
        if heard.found:
            self.wrong(who, heard.found)

    def _expired(self, who: int, expires_at_ms: int) -> bool | None:
        """Whether this device's wrong clock takes a command for expired, or not, and would not if it were right."""
        device, skew = self.devices[who], LIMITS.clock_skew_ms
        if not device.clock_ms or expires_at_ms >= FAR:
            return None
        true, false = self.round * ROUND_MS, self.round * ROUND_MS + device.clock_ms
        seems = false > expires_at_ms + skew
        return seems if seems is not (true > expires_at_ms + skew) else None

    def _count_command(self, who: int, flight: Flight, generation: int, seems: bool | None) -> None:
        device = self.devices[who]
        if seems is not None:
            self.count(Kind.CLOCK_FORWARD if seems else Kind.CLOCK_BACK)
        late = generation < device.top_command
        if flight.fault is not None and (late or flight.fault is not Kind.COMMAND_REORDERED):
            self.count(flight.fault)
        device.top_command = max(device.top_command, generation)

    def turn(self, who: int) -> Turn:
        """One turn of its updater."""
        device = self.devices[who]
        turn = self.world.driver.turn(device.state, self.round * ROUND_MS + device.clock_ms)
        if turn.found:
            self.wrong(who, turn.found)
        self.trace.append(turn.code)
        if self._say is not None and not (turn.rests and device.asleep):
            self.say(who, in_words(turn, self.world.driver.memory_of(device.state).record))
        if turn.outdated:
            self.lose_journal(who)
            return turn
        if turn.opens:
            device.open, device.link_at = True, max(device.link_at, self.round)
        device.state, device.asleep, device.calm = turn.after, turn.rests, False
        return turn

    def cut(self, who: int, after: int, branch: int) -> None:
        """The power goes after so many atoms of its next turn, and leaves one of what it may leave."""
        state = self._during(who, after)
        driver = self.world.driver
        self.wrong(who, driver.holds(state))
        left = driver.cut(state)
        label, begun = left[branch % len(left)]
        self.devices[who].cuts += 1
        self.say(who, f"THE POWER IS CUT; it boots: {label}")
        self._end(who, begun)

    def kill(self, who: int, after: int) -> None:
        """The agent is killed after so many atoms of its next turn."""
        self.say(who, "THE AGENT IS KILLED")
        self._end(who, self.world.driver.killed(self._during(who, after)))

    def _during(self, who: int, after: int) -> State:
        device = self.devices[who]
        turn = self.world.driver.turn(device.state, self.round * ROUND_MS + device.clock_ms)
        self.wrong(who, turn.found)
        atoms = after % (len(turn.way) + 1)
        return turn.way[atoms - 1] if atoms else device.state

    def _hear_command(self, who: int, flight: Flight, command: int) -> Heard:
        device, driver = self.devices[who], self.world.driver
        order = driver.commands[command]
        late_before = self._expired(who, order.expires_at_ms)
        heard = driver.hear_command(device.state, command, self.round * ROUND_MS + device.clock_ms)
        if heard.verdict == "not_ready":
            device.born = -99
        self._count_command(who, flight, order.generation, late_before)
        return heard

    def _given_up(self, who: int, answer: Answer, fault: Kind | None) -> None:
        """The service says that this journal was replaced: if that is to our birth, there is to be another one."""
        device, driver = self.devices[who], self.world.driver
        sent = None if device.nonce is None else str(device.nonce)
        self.say(who, f"hears {about(answer, driver)}")
        self.trace.append(code(answer))
        if fault is not None:
            self.count(fault)
        memory = driver.memory_of(device.state)
        if memory.record.phase in HOLDS and delivery.given_up(memory, sent, str(answer.nonce), answer.epoch):
            self.lose_journal(who)

    def lose_journal(self, who: int) -> None:
        """Its journal cannot be believed, and is made anew."""
        device = self.devices[who]
        device.epochs += 1
        device.journals_lost += 1
        self.say(who, f"ITS JOURNAL IS LOST: epoch-{device.epochs} begins")
        self._end(who, self.world.driver.lost(device.state, f"epoch-{device.epochs}"))

    def _end(self, who: int, state: State) -> None:
        device = self.devices[who]
        device.state, device.open, device.asleep, device.calm = state, False, False, False
        self.disconnect(who, self.round + 1)

    def disconnect(self, who: int, back_at: int) -> None:
        """Its connection is gone until that round."""
        device = self.devices[who]
        device.calm, device.online, device.nonce, device.link_at = (
            False,
            False,
            None,
            max(device.link_at, back_at),
        )

    def connect(self, who: int) -> None:
        """It has a new connection, and announces itself."""
        device = self.devices[who]
        device.online = True
        device.sent.clear()
        device.sent_at = -99
        self._be_born(device)
        self.say(who, "connects")

    def _be_born(self, device: Device) -> None:
        device.nonces += 1
        device.calm = False
        device.nonce, device.born = device.nonces, -99
        device.heartbeat = self.round + HEARTBEAT
        device.sends.clear()

    def tell(self, who: int) -> None:
        """A device says what it has to say: its birth until it is answered, reports until they are acknowledged."""
        device, driver = self.devices[who], self.world.driver
        if not device.open:
            return
        if not device.online:
            if self.round < device.link_at:
                return
            self.connect(who)
        self._announce(who, device)
        memory = driver.read(device.state)
        if driver.birth(memory).open_job is not None and self.round - device.told_at >= REMIND:
            device.told_at = self.round
            device.state = driver.remind(device.state)
            memory = driver.read(device.state)
        if driver.outbox(memory):
            self._report(who, device, memory)
        elif device.asleep and device.nonce is None:
            device.calm = device.told_digest == driver.runs(device.state.engine)

    def _announce(self, who: int, device: Device) -> None:
        """Also when the service cannot know us any more: it may have been restored, and wait for another epoch."""
        driver, state, now = self.world.driver, device.state, self.round
        running = driver.runs(state.engine)
        if device.nonce is None:
            drifted = self._drifted(device, running)
            if (
                drifted
                or now >= device.heartbeat
                or max(device.sends.values(), default=0) >= UNANSWERED_SENDS
            ):
                self._be_born(device)
        if device.nonce is not None and now - device.born >= BIRTH_AGAIN:
            device.born, device.told_digest = now, running
            epoch, floor, open_job = driver.birth(driver.read(state))
            self.to_service(who, Announced(device.nonce, epoch, floor, open_job, running))

    def _drifted(self, device: Device, running: str | None) -> bool:
        """Whether something else runs than what was told, for some time, and without a job."""
        driver = self.world.driver
        if running == device.told_digest or driver.birth(driver.read(device.state)).open_job is not None:
            device.drifted_at = None
        elif device.drifted_at is None:
            device.drifted_at = self.round
        return device.drifted_at is not None and self.round - device.drifted_at >= DRIFT

    def _report(self, who: int, device: Device, memory: int) -> None:
        driver, now = self.world.driver, self.round
        ago = {sequence: (now - at) * ROUND_MS for sequence, at in device.sent.items()}
        outbox = driver.outbox(memory)
        if all(ago.get(r.sequence, FAR) < LIMITS.outbox_resend_ms for r, _ in outbox):
            return
        known = driver.memories[memory]
        epoch, numbers = known.record.epoch, {id_of(r): number for r, number in outbox}
        running = driver.runs(device.state.engine)
        for report in self.world.sides.to_send(known, ago, LIMITS):
            device.sent[report.sequence] = device.told_at = now
            device.told_digest = running
            device.sends[report.sequence] = device.sends.get(report.sequence, 0) + 1
            if report.status.terminal:
                self._told_end(who, device, epoch, report)
            self.to_service(who, Status(numbers[id_of(report)], epoch, running))
        waiting = {r.sequence for r, _ in outbox}
        device.sends = {n: sends for n, sends in device.sends.items() if n in waiting}
        device.sent = {n: at for n, at in device.sent.items() if n in waiting}

    def _told_end(self, who: int, device: Device, epoch: str, report: Report) -> None:
        key, end = (epoch, report.job_id, report.generation), end_of(report)
        before = device.ends.setdefault(key, end)
        if before != end:
            detail = f"{report.job_id} was told as {before}, and is as {end}"
            self.wrong(who, (Violation("terminal_is_final", detail),))


def id_of(report: Report) -> tuple[str, int, int]:
    """Tells the reports of one outbox apart."""
    return (report.job_id, report.generation, report.sequence)
