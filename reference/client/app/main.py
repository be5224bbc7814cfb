"""The OPC Core Client: collects samples into a file on its volume and says over HTTP how it is.

Run as `python -I -S /app/main.py`: standard library only, one file, few imports, raw sockets, because the time to the
first answer is the downtime of an update. It reads /etc/opc-client/config.json:

    {"port": 8080, "host": "127.0.0.1", "interval_ms": 20, "source": {"kind": "simulated", "seed": 1},
     "cloud": {"host": "broker", "port": 8883} | null}

and appends to /data/samples.log one JSON object a line: seq, value, version, at (ms since 1970). `seq` goes on where the
file ends, so no restart, kill or update repeats or skips one. GET /healthz answers 200 or 503 with
{status, version, checks, seq}. Exit codes: 0 told to stop, 1 failed, 2 the configuration is wrong.

With BLACKSTART_STANDBY it may overlap with another version: who has the lock on /data/lease works on the volume. One that
finds it taken stands by: it touches nothing, answers GET /healthz on the abstract unix socket of that name, has the other
one's listening socket passed on, and takes over, accept queue and all, the moment the lock is free. Told to stop, the one
that works writes its last sample, lets go of the lock, and answers whom it has accepted.

Where there are no real mounts, BLACKSTART_MOUNTS (JSON: path here -> path on the device) says where things lie.
"""

import json
import os
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # the typing module costs milliseconds
    from typing import Any, NoReturn

HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
CONFIG, DATA = "/etc/opc-client/config.json", "/data"
ROTATE_BYTES = 64 << 20
"""samples.log is renamed to samples.log.1 at this size: the disk stays bounded."""
BIND_S, CLIENT_S, MAX_CLIENTS, MAX_REQUEST = 10.0, 2.0, 64, 8192
CLOUD_EVERY_S, CLOUD_TIMEOUT_S = 2.0, 1.0
LEAVE_S, ASK_S = 0.5, 0.02
"""How long whom it has accepted is answered after the lease has passed on; how often a standby asks for the socket."""
FORMAT = "1"
"""Of what is on the volume; `format` there names another one, which this version must not touch."""


def leave(code: int, message: str) -> "NoReturn":
    sys.stderr.write(f"opc-client: {message}\n")
    sys.stderr.flush()
    os._exit(code)


def beside(name: str) -> "Any":
    """The module of that name in this folder. What most starts do not need is not read by them."""
    sys.dont_write_bytecode = True  # The image is not ours to write into.
    if HERE not in sys.path:
        sys.path.insert(0, HERE)
    return __import__(name)


def mapped(path: str) -> str:
    """The path on the device of a path in the container: the longest mount that covers it."""
    try:
        mounts = json.loads(os.environ.get("BLACKSTART_MOUNTS") or "{}")
        for inside in sorted(mounts, key=len, reverse=True):
            if path == inside or path.startswith(inside.rstrip("/") + "/"):
                return str(mounts[inside]) + path[len(inside.rstrip("/")) :]
    except (ValueError, TypeError, AttributeError):
        leave(2, "BLACKSTART_MOUNTS is not a JSON object of paths")
    return path


# ---- configuration


class Config:
    """Read once at the start; every wrong field is named."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - pathlib costs milliseconds
                found = json.loads(file.read())
        except OSError as error:
            leave(2, f"{path}: cannot be read: {error.strerror}")
        except ValueError as error:
            leave(2, f"{path}: is not JSON: {error}")
        if not isinstance(found, dict):
            leave(2, f"{path}: is not a JSON object")
        self.port = self.number(found, "port", None, 1, 65535)
        self.interval_ms = self.number(found, "interval_ms", 20, 1, 3_600_000)
        self.host = self.text(found, "host", "127.0.0.1")
        source = self.part(found, "source") or {"kind": "simulated"}
        if source.get("kind") != "simulated":
            leave(2, f"{path}: source.kind is {source.get('kind')!r}; known: 'simulated'")
        self.seed = self.number(source, "seed", 0, 0, 2**63, "source.")
        self.cloud = None
        cloud = self.part(found, "cloud")
        if cloud is not None:
            address = self.text(cloud, "host", None, "cloud.")
            self.cloud = (address, self.number(cloud, "port", None, 1, 65535, "cloud."))

    def number(
        self,
        fields: "dict[str, object]",
        key: str,
        default: "int | None",
        low: int,
        high: int,
        where: str = "",
    ) -> int:
        value = fields.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            leave(2, f"{self.path}: {where}{key} is {value!r}; it must be a whole number, {low} to {high}")
        return value

    def text(self, fields: "dict[str, object]", key: str, default: "str | None", where: str = "") -> str:
        value = fields.get(key, default)
        if not isinstance(value, str) or not value:
            leave(2, f"{self.path}: {where}{key} is {value!r}; it must be text")
        return value

    def part(self, fields: "dict[str, object]", key: str) -> "dict[str, object] | None":
        value = fields.get(key)
        if value is not None and not isinstance(value, dict):
            leave(2, f"{self.path}: {key} is {value!r}; it must be an object")
        return value


# ---- where samples come from, and where they go


class SimulatedSource:
    """The seam for a real OPC UA source: `read` gives the value for a sequence number, `good` the state of the way."""

    good = True

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def read(self, seq: int) -> float:
        """Reproducible: the same seed and number, the same value."""
        mixed = ((seq + self.seed) * 0x9E3779B97F4A7C15) & (2**64 - 1)
        return 20 + (mixed >> 40) % 1000 / 100


class SampleLog:
    """Samples on the volume. The last whole line says where to go on; what is torn after it is cut off."""

    def __init__(self, folder: str) -> None:
        self.path = folder + "/samples.log"
        self.good = True
        try:
            self.check_format(folder + "/format")
            self.fd = self.open()
            self.size, self.seq = self.repair()
        except OSError as error:
            leave(1, f"{self.path}: cannot be written: {error.strerror}")

    @staticmethod
    def check_format(path: str) -> None:
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                found = file.read(64).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return
        if found != FORMAT:
            leave(1, f"{path}: the volume has format {found!r}; this version reads {FORMAT!r}")

    def open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def repair(self) -> "tuple[int, int]":
        end, seq = self.last(self.fd)
        if end < os.fstat(self.fd).st_size:
            os.ftruncate(self.fd, end)
        if seq == 0 and os.access(self.path + ".1", os.R_OK):
            old = os.open(self.path + ".1", os.O_RDONLY | os.O_CLOEXEC)
            seq = self.last(old)[1]
            os.close(old)
        return end, seq

    @staticmethod
    def last(fd: int) -> "tuple[int, int]":
        """Where the last whole line ends, and its number; looks back ever further until there is one."""
        size, window = os.fstat(fd).st_size, 4096
        while True:
            start = max(0, size - window)
            data = os.pread(fd, size - start, start)
            end = len(data)
            while (newline := data.rfind(b"\n", 0, end)) >= 0:
                begin = data.rfind(b"\n", 0, newline) + 1
                if begin == 0 and start > 0:
                    break  # the line may begin before the window
                try:
                    return start + newline + 1, int(json.loads(data[begin:newline])["seq"])
                except (ValueError, KeyError, TypeError):
                    end = newline
            if start == 0:
                return 0, 0
            window *= 4

    def append(self, value: float, version: str) -> None:
        """Write the next sample. On a full disk nothing of it stays, and the number is used by the next try."""
        sample = {"seq": self.seq + 1, "value": value, "version": version, "at": time.time_ns() // 1_000_000}
        line = json.dumps(sample, separators=(",", ":")).encode() + b"\n"
        try:
            if self.size >= ROTATE_BYTES:
                os.rename(self.path, self.path + ".1")  # noqa: PTH104
                os.close(self.fd)
                self.fd, self.size = self.open(), 0
            if os.write(self.fd, line) != len(line):
                os.ftruncate(self.fd, self.size)
                self.good = False
                return
        except OSError:
            self.good = False
            return
        self.good, self.size, self.seq = True, self.size + len(line), self.seq + 1


class CloudCheck:
    """Whether the broker takes TCP connections: tried now and then, never waited for."""

    def __init__(self, address: "tuple[str, int]") -> None:
        self.address = address
        self.good = False
        self.attempt: socket.socket | None = None
        self.next_s = self.deadline_s = 0.0

    def step(self, now_s: float) -> None:
        """Go on with the attempt under way, or begin one when it is time."""
        if self.attempt is None:
            if now_s < self.next_s:
                return
            self.deadline_s = now_s + CLOUD_TIMEOUT_S
            try:
                # A name is looked up here, which may block; devices name their broker by address or in /etc/hosts.
                family, kind, number, _, address = socket.getaddrinfo(*self.address, type=socket.SOCK_STREAM)[
                    0
                ]
                self.attempt = socket.socket(family, kind, number)
                self.attempt.setblocking(False)
                self.attempt.connect(address)
            except BlockingIOError:
                return
            except OSError:
                self.end(False, now_s)
                return
        if select.select([], [self.attempt], [], 0)[1]:
            self.end(self.attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0, now_s)
        elif now_s > self.deadline_s:
            self.end(False, now_s)

    def end(self, good: bool, now_s: float) -> None:
        self.good = good
        self.next_s = now_s + (CLOUD_EVERY_S if good else CLOUD_EVERY_S / 10)
        if self.attempt is not None:
            self.attempt.close()
            self.attempt = None


# ---- defects that test images declare beside this file


class Sound:
    """What a real image has in a defect's place."""

    name = ""

    def step(self, age_ms: float) -> None:
        """So long it has worked."""

    def migrate(self, folder: str) -> None:
        """Before the volume is used."""


def declared_defect() -> Sound:
    if not os.path.exists(HERE + "/defect.json"):  # noqa: PTH110
        return Sound()
    found: Sound = beside("defects").Defect(HERE, leave)
    return found


# ---- the client


def listen(config: Config) -> socket.socket:
    """Bind, trying again while the predecessor's socket is still there."""
    deadline_s = time.monotonic() + BIND_S
    while True:
        server = socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((config.host, config.port))
            server.listen(128)
            server.setblocking(False)
            return server
        except OSError as error:
            server.close()
            if time.monotonic() > deadline_s or error.errno != 98:  # EADDRINUSE
                leave(1, f"cannot listen on {config.host}:{config.port}: {error.strerror or error}")
        time.sleep(0.002)


class Desk:
    """Answers requests on one listening socket."""

    def __init__(self, poll: select.poll, server: socket.socket) -> None:
        self.poll, self.server = poll, server
        self.clients: dict[int, tuple[socket.socket, bytes, float]] = {}
        poll.register(server, select.POLLIN)

    def close(self) -> None:
        self.poll.unregister(self.server)
        self.server.close()

    def handle(self, fd: int, state: "tuple[bool, dict[str, object]]") -> None:
        if fd == self.server.fileno():
            self.accept(time.monotonic())
        elif fd in self.clients:
            self.serve(fd, state)

    def accept(self, now_s: float) -> None:
        try:
            client, _ = self.server.accept()
        except OSError:
            return
        if len(self.clients) >= MAX_CLIENTS:
            client.close()
            return
        client.setblocking(False)
        self.clients[client.fileno()] = (client, b"", now_s)
        self.poll.register(client, select.POLLIN)

    def serve(self, fd: int, state: "tuple[bool, dict[str, object]]") -> None:
        client, data, since_s = self.clients[fd]
        try:
            chunk = client.recv(MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        data += chunk
        if chunk and b"\r\n\r\n" not in data and len(data) < MAX_REQUEST:
            self.clients[fd] = (client, data, since_s)
            return
        if chunk:
            try:
                client.sendall(answer(data, *state))
                client.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        self.drop(fd)

    def drop(self, fd: int) -> None:
        self.poll.unregister(fd)
        self.clients.pop(fd)[0].close()

    def drop_idle(self, now_s: float) -> None:
        for fd in [fd for fd, (_, _, since_s) in self.clients.items() if now_s - since_s > CLIENT_S]:
            self.drop(fd)


class Client:
    """One loop over samples, checks and requests. `lease`: who has it works; a client that overlaps with no other has none."""

    def __init__(self, config: Config, defect: Sound) -> None:
        self.config, self.defect = config, defect
        self.version = os.environ.get("OPC_VERSION") or "unknown"
        self.source = SimulatedSource(config.seed)
        self.cloud = CloudCheck(config.cloud) if config.cloud else None
        self.poll = select.poll()
        self.lease: Any = None
        server = None
        if os.environ.get("BLACKSTART_STANDBY"):
            self.lease = beside("overlap").Lease(mapped(DATA), leave)
            server = None if self.lease.held else self.stand_by()
        self.desk = Desk(self.poll, server or listen(config))
        defect.migrate(mapped(DATA))
        # Only now: the port, or the lease, is also what keeps a predecessor and this one from writing at once.
        self.samples = SampleLog(mapped(DATA))

    def stand_by(self) -> "socket.socket | None":
        """Until the lease is ours. Nothing is touched; what could go wrong later is looked at now."""
        data = mapped(DATA)
        SampleLog.check_format(data + "/format")
        waiting = Desk(self.poll, self.lease.stand_by(os.environ["BLACKSTART_STANDBY"], self.poll))
        while not self.lease.held:
            now_s = time.monotonic()
            if self.cloud is not None:
                self.cloud.step(now_s)
            waiting.drop_idle(now_s)
            asks = self.lease.asks()
            checks = {"configuration": True, "source": self.source.good, "buffer": os.access(data, os.W_OK)}
            checks["port"] = self.lease.ready
            for fd, _ in self.poll.poll(ASK_S * 1000 if asks or self.cloud else 500):
                waiting.handle(fd, self.state(checks, {"standby": True}))
        waiting.close()
        server: socket.socket | None = self.lease.passed_on(self.config.port)
        return server

    def state(self, checks: "dict[str, bool]", more: "dict[str, object]") -> "tuple[bool, dict[str, object]]":
        if self.cloud is not None:
            checks["broker"] = self.cloud.good
        sick = ("never-healthy",) if "standby" in more else ("never-healthy", "sick-alone")
        good = all(checks.values()) and self.defect.name not in sick
        word = "ok" if good else "failing"
        return good, {"status": word, "version": self.version, "checks": checks, **more}

    def now(self) -> "tuple[bool, dict[str, object]]":
        checks = {"configuration": True, "source": self.source.good, "buffer": self.samples.good}
        return self.state(checks, {"seq": self.samples.seq})

    def run(self) -> "NoReturn":
        interval_s = self.config.interval_ms / 1000
        started_s = time.monotonic()
        next_s = (self.lease and self.lease.next_s(10 * interval_s)) or started_s
        door = self.lease.open_door(self.poll) if self.lease is not None else -1
        while True:
            now_s = time.monotonic()
            self.defect.step((now_s - started_s) * 1000)
            if now_s >= next_s:
                self.samples.append(self.source.read(self.samples.seq + 1), self.version)
                next_s = next_s + interval_s if now_s - next_s < 10 * interval_s else now_s + interval_s
            if self.cloud is not None:
                self.cloud.step(now_s)
            self.desk.drop_idle(now_s)
            pause_s = next_s - now_s if self.cloud is None else min(next_s - now_s, 0.02)
            for fd, _ in self.poll.poll(max(0, min(pause_s, 0.5)) * 1000):
                if fd == door:
                    self.lease.give(self.desk.server)
                elif self.lease is not None and fd == self.lease.wake:
                    self.pass_on(next_s)
                else:
                    self.desk.handle(fd, self.now())

    def pass_on(self, next_s: float) -> "NoReturn":
        """To whoever stands by. The last sample is written: the lease goes first, then whoever waits here is answered."""
        state, until_s = self.now(), time.monotonic() + LEAVE_S
        os.close(self.samples.fd)
        self.lease.free(self.poll, next_s)
        self.desk.close()
        while self.desk.clients and time.monotonic() < until_s:
            for fd, _ in self.poll.poll(LEAVE_S * 1000):
                self.desk.handle(fd, state)
        os._exit(0)


def answer(request: bytes, good: bool, body: "dict[str, object]") -> bytes:
    words = request.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or b"\r\n\r\n" not in request:
        return response("400 Bad Request", {"status": "bad request"})
    if words[1].split(b"?")[0] != b"/healthz":
        return response("404 Not Found", {"status": "not found; there is /healthz"})
    if words[0] != b"GET":
        return response("405 Method Not Allowed", {"status": "only GET"})
    return response("200 OK" if good else "503 Service Unavailable", body)


def response(status: str, body: "dict[str, object]") -> bytes:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"Cache-Control: no-store\r\nConnection: close\r\n\r\n" + content


def main() -> None:
    # A handler, because the kernel ignores unhandled signals to PID 1. A line is written by one system call and
    # handlers run between those, so leaving at once tears nothing.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    defect = declared_defect()
    Client(Config(mapped(CONFIG)), defect).run()


if __name__ == "__main__":
    main()
