"""The outside observer of `make bench-downtime`, a process of its own: `python -I -S` runs it without anything of ours.

Every 2 ms it opens a new connection to each of its targets, whatever became of those before it, and asks for
`/healthz`. A target marked `patient` is asked by one connection at a time, which waits for as long as a program without
a timeout of its own would: a SYN that was lost costs it the second until the next. It takes orders line by line on its
standard input:

    targets HOST:PORT ... patient=HOST:PORT ...    from now on these
    begin                    forget what was seen
    steady MS                answer `steady` once all targets have answered well for so long, and at least once to a
                             probe that was sent after this order; `never` after 10 s
    end                      answer all that was seen since, as one line of JSON

An answer is [target, sent_ns, done_ns, version or null]; null: refused, reset, or not answered 200 within 100 ms (3 s
where it is patient). Times are CLOCK_MONOTONIC, the same in every process.
"""

import json
import os
import select
import socket
import sys
import time

EVERY_NS = 2_000_000
TIMEOUT_NS = 100_000_000
PATIENCE_NS = 3_000_000_000
STEADY_LIMIT_NS = 10_000_000_000
REQUEST = b"GET /healthz HTTP/1.0\r\n\r\n"


class Probe:
    """One connection: asks when it is through, and collects the answer."""

    __slots__ = ("asked", "data", "sent_ns", "socket", "target", "until_ns")

    def __init__(self, target: int, address: "tuple[str, int]", timeout_ns: int) -> None:
        self.target, self.asked, self.data = target, False, b""
        self.socket = socket.socket(
            socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        self.sent_ns = time.monotonic_ns()
        self.until_ns = self.sent_ns + timeout_ns
        self.socket.connect_ex(address)

    def step(self) -> bool:
        """Go on; answers whether it has ended."""
        try:
            if not self.asked:
                if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    return True
                self.socket.send(REQUEST)
                self.asked = True
                return False
            chunk = self.socket.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            self.data = b""
            return True
        self.data += chunk
        return not chunk

    def version(self) -> "str | None":
        """The version that answered well."""
        head, _, body = self.data.partition(b"\r\n\r\n")
        if head[9:12] != b"200":
            return None
        try:
            return str(json.loads(body)["version"])
        except (ValueError, KeyError, TypeError):
            return None


def target(name: str) -> "tuple[tuple[str, int], bool]":
    """Address, and whether it is asked patiently."""
    host, _, port = name.removeprefix("patient=").rpartition(":")
    return (host, int(port)), name.startswith("patient=")


class Observer:
    """One loop over ticks, connections and orders."""

    def __init__(self) -> None:
        self.poll = select.epoll()
        self.poll.register(0, select.EPOLLIN)
        self.targets: list[tuple[tuple[str, int], bool]] = []
        self.flying: dict[int, Probe] = {}
        self.seen: list[list[object]] = []
        self.orders = b""
        self.good_since: list[int | None] = []
        self.heard_ns: list[int] = []
        """When the newest probe was sent that has ended, of each target."""
        self.steady: tuple[int, int] | None = None
        """For how long all is to be well, and since when that is asked."""

    def run(self) -> None:
        """Until the standard input ends."""
        next_ns = time.monotonic_ns()
        while True:
            now_ns = time.monotonic_ns()
            if now_ns >= next_ns:
                self.tick(now_ns)
                next_ns = max(next_ns + EVERY_NS, now_ns)
                self.watch(now_ns)
            wait_s = max(0, next_ns - time.monotonic_ns()) / 1e9 if self.targets else 1.0
            for fd, _ in self.poll.poll(wait_s):
                if fd == 0:
                    if not self.obey():
                        return
                elif (probe := self.flying.get(fd)) is not None and probe.step():
                    self.land(fd, probe)
                elif probe is not None and probe.asked:
                    self.poll.modify(fd, select.EPOLLIN)

    def tick(self, now_ns: int) -> None:
        """A new probe for each target; the old ones that took too long are given up."""
        for fd, probe in list(self.flying.items()):
            if now_ns > probe.until_ns:
                probe.data = b""
                self.land(fd, probe)
        waiting = {probe.target for probe in self.flying.values()}
        for number, (address, patient) in enumerate(self.targets):
            if patient and number in waiting:
                continue
            probe = Probe(number, address, PATIENCE_NS if patient else TIMEOUT_NS)
            fd = probe.socket.fileno()
            self.flying[fd] = probe
            self.poll.register(fd, select.EPOLLOUT)

    def watch(self, now_ns: int) -> None:
        """Answer whoever waits until all is well."""
        if self.steady is None:
            return
        for_ns, asked_ns = self.steady
        well = all(since is not None and now_ns - since >= for_ns for since in self.good_since)
        if well and min(self.heard_ns, default=now_ns) >= asked_ns:
            self.say("steady")
        elif now_ns > asked_ns + STEADY_LIMIT_NS:
            self.say("never")
        else:
            return
        self.steady = None

    def land(self, fd: int, probe: Probe) -> None:
        """Note how it ended."""
        version, done_ns = probe.version(), time.monotonic_ns()
        self.seen.append([probe.target, probe.sent_ns, done_ns, version])
        self.heard_ns[probe.target] = max(self.heard_ns[probe.target], probe.sent_ns)
        if version is None:
            self.good_since[probe.target] = None
        elif self.good_since[probe.target] is None:
            self.good_since[probe.target] = done_ns
        self.poll.unregister(fd)
        del self.flying[fd]
        probe.socket.close()

    def obey(self) -> bool:
        """Follow what was ordered; False at the end of orders."""
        chunk = os.read(0, 65536)
        self.orders += chunk
        while b"\n" in self.orders:
            line, _, self.orders = self.orders.partition(b"\n")
            match line.decode().split():
                case ["targets", *names]:
                    self.targets = [target(name) for name in names]
                    self.good_since, self.heard_ns = [None] * len(names), [0] * len(names)
                    for fd, probe in list(self.flying.items()):
                        self.poll.unregister(fd)
                        del self.flying[fd]
                        probe.socket.close()
                case ["begin"]:
                    self.seen = []
                case ["end"]:
                    self.say(json.dumps(self.seen))
                    self.seen = []
                case ["steady", for_ms]:
                    self.steady = (int(for_ms) * 1_000_000, time.monotonic_ns())
                case _:
                    raise SystemExit(f"bench_downtime_probe: unknown order {line!r}")
        return bool(chunk)

    @staticmethod
    def say(line: str) -> None:
        """Answer an order."""
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    Observer().run()
