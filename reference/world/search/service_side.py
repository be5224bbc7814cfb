"""The service's side of the bench: what it stores, answers, sends again and gives up. The rules are `core`'s."""

from __future__ import annotations

from reference.core.delivery import resend_after_ms
from reference.core.invariants import Violation
from reference.core.job import Job, JobStatus
from reference.world.nouns import FAR
from reference.world.search.faults import SHORT, Kind
from reference.world.search.ground import Ground
from reference.world.search.parties import Client, Row
from reference.world.search.wire import (
    Acknowledged,
    Announced,
    Answer,
    Canceled,
    Flight,
    Ordered,
    Status,
    about,
)
from reference.world.search.world import ROUND_MS, SERVICE_LIMITS, VERSIONS

SHORTEST_MS = SERVICE_LIMITS.shortest_deadline_ms
LIFETIME = 14
"""Rounds that a command with a short life lives, at most."""


class ServiceSide(Ground):
    """One service for all devices."""

    def at_service(self, who: int, flight: Flight) -> None:
        """A message arrives at the service, and is stored and answered."""
        client, desk, message = self.clients[who], self.world.desk, flight.message
        match message:
            case Announced(nonce, epoch, floor, open_job, running):
                born = desk.born(client.kept, epoch, floor, open_job, running)
                client.kept, verdict, found = born.after, born.verdict, born.found
                client.named = max(client.named, floor or 0)
                if born.answered:
                    self._answer(who, client, nonce, epoch)
                else:
                    self.to_device(who, Answer(nonce, epoch, 0, True))
                if flight.fault is not None:
                    self.count(flight.fault)
            case Status(number, epoch, running):
                report = self.world.driver.reports[number]
                stored = desk.stored(client.kept, report, number, epoch, running)
                if flight.fault is not None and (
                    flight.fault is not Kind.STATUS_REORDERED or stored.verdict != "applied"
                ):
                    self.count(flight.fault)
                client.kept, verdict, found = stored.after, stored.verdict, stored.found
                if stored.changed:
                    client.told[report.job_id] = self.clock_ms()
                if stored.acknowledge:
                    self.to_device(who, Acknowledged(epoch, report.job_id, report.sequence))
            case _:
                raise TypeError(f"{message} is not for the service")
        if self._say is not None:
            self.say(who, f"hears {about(message, self.world.driver)}: {verdict}", at_service=True)
        self.trace.append(desk.codes[client.kept])
        if found:
            self.wrong(who, found)

    def _answer(self, who: int, client: Client, nonce: int, epoch: str) -> None:
        """A birth is answered with the floor, and with all that waits."""
        sent = self.send(who, everything=True)
        counting = self.world.desk.kept[client.kept].counting
        untaken = None
        if counting is not None and counting.status is JobStatus.QUEUED and counting.generation in sent:
            untaken = counting.generation
        self.to_device(who, Answer(nonce, epoch, self.world.desk.floor(client.kept, untaken)))

    def send(self, who: int, *, everything: bool = False) -> set[int]:
        """Commands and cancels that are due go out; answers the generations of the commands that did."""
        client, now_ms = self.clients[who], self.clock_ms()
        sent: set[int] = set()
        over = []
        for key, row in client.rows.items():
            if not everything and row.due_ms > now_ms:
                continue
            job = self.world.desk.kept[client.kept].job(key[0])
            if job is None or not self.pending(job, row, now_ms):
                over.append(key)
                continue
            sends = row.sends + 1
            wait_ms = resend_after_ms(sends, 1000, SERVICE_LIMITS)
            client.rows[key] = row._replace(sends=sends, due_ms=now_ms + wait_ms)
            if row.command is None:
                self.to_device(who, Canceled(job.id, job.generation))
            else:
                sent.add(job.generation)
                self.to_device(who, Ordered(row.command))
        for key in over:
            del client.rows[key]
        return sent

    def pending(self, job: Job, row: Row, now_ms: int) -> bool:
        if row.command is not None:
            return self.world.sides.service.command_pending(job, now_ms, row.expires_at_ms)
        return not job.status.terminal and now_ms <= row.expires_at_ms

    def order(self, who: int, version: int, life: int, *, supersede: bool) -> bool:
        """A version is ordered; answers whether it put a job aside. Without `supersede` an open job refuses it."""
        client, desk = self.clients[who], self.world.desk
        counting = desk.kept[client.kept].counting
        if counting is not None and not supersede:
            return False
        self.jobs[who] += 1
        job_id = f"job-{self.jobs[who]}"
        row = client.rows.get((counting.id, counting.generation)) if counting is not None else None
        sent = counting is not None and (row is None or row.sends > 0)
        client.kept, generation, found = desk.ordered(client.kept, job_id, sent=sent)
        if generation <= client.named:
            detail = f"generation {generation} is given, and {client.named} was before"
            found += (Violation("next_generation_is_new", detail),)
        self.wrong(who, found)
        client.named = max(client.named, generation)
        now_ms = self.clock_ms()
        expires = FAR if life % 4 != SHORT else (now_ms // 800 + 2) * 800 + LIFETIME * ROUND_MS // 2
        name = VERSIONS[version % len(VERSIONS)]
        command = self.world.command(generation, name, job_id, expires)
        client.rows[job_id, generation] = Row(command, expires, 0, now_ms)
        client.expires[job_id] = expires
        client.created[job_id] = client.told[job_id] = now_ms
        self.say(who, f"orders {name} for device {who}: {job_id}, generation {generation}", at_service=True)
        self.trace.append(generation)
        return counting is not None

    def cancel(self, who: int) -> bool:
        """The open job that counts is canceled; answers whether there is one."""
        client, desk = self.clients[who], self.world.desk
        job = desk.kept[client.kept].counting
        if job is None:
            return False
        row = client.rows.get((job.id, job.generation))
        self.say(who, f"cancels {job.id} of device {who}", at_service=True)
        if job.status is JobStatus.QUEUED and row is not None and row.sends == 0:
            client.kept, found = desk.canceled(client.kept, job.id)
            self.wrong(who, found)
        else:
            expires = row.expires_at_ms if row is not None else FAR
            client.rows.setdefault((job.id, -1), Row(None, expires, 0, self.clock_ms()))
        return True

    def look_at_the_clock(self, who: int) -> int:
        """Jobs that are overdue end; answers how many did."""
        client, desk = self.clients[who], self.world.desk
        if not desk.open[client.kept]:
            return 0
        now_ms, kept = self.clock_ms(), desk.kept[client.kept]
        oldest = min(*client.created.values(), *client.told.values())
        if now_ms - oldest <= SHORTEST_MS and not any(j.superseded_by for j in kept.jobs):
            return 0
        hearing_ms = (self.round - self.hearing_at) * ROUND_MS
        silence = self.world.sides.service.heard_silence_ms
        silent = {j.id: silence(now_ms - client.told[j.id], hearing_ms) for j in kept.jobs}
        age = {j.id: now_ms - client.created[j.id] for j in kept.jobs}
        client.kept, found = desk.overdue(client.kept, silent, age)
        self.wrong(who, found)
        ended = _timed_out(desk.kept[client.kept].jobs) - _timed_out(kept.jobs)
        if ended:
            self.say(who, f"gives up {ended} jobs of device {who}", at_service=True)
        return ended

    # ---- the service as a whole

    def restart_service(self, jump_ms: int, back_at: int) -> None:
        """It restarts: silence is counted anew, all that waits is due; its clock may have jumped."""
        self.service_ms += jump_ms
        self.service_at = self.hearing_at = back_at
        for client in self.clients:
            now_ms = self.clock_ms()
            client.rows = {k: r._replace(due_ms=min(r.due_ms, now_ms)) for k, r in client.rows.items()}
            client.told = dict.fromkeys(client.told, now_ms)

    def backup(self) -> list[Client]:
        """All that the database holds."""
        return [client.copy() for client in self.clients]

    def restore(self, backup: list[Client]) -> bool:
        """The database is an older one; answers whether that makes a difference."""
        differs = any(a.kept != b.kept for a, b in zip(backup, self.clients, strict=True))
        self.clients = [client.copy() for client in backup]
        self.restores += differs
        for who, client in enumerate(self.clients):
            open_jobs = (j.id for j in self.world.desk.kept[client.kept].jobs if not j.status.terminal)
            self.restored |= {(who, job_id) for job_id in open_jobs}
        return differs


def _timed_out(jobs: tuple[Job, ...]) -> int:
    return sum(j.status is JobStatus.TIMED_OUT for j in jobs)
