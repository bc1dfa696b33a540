"""Shared code of the rigs: the daemon as a process, its configuration, HTTP in both directions, sample bodies.

Python 3.11, standard library only. Nothing here depends on holdline's internals: the rigs use the release binary as a
sender, a destination and an operator do.
"""
import asyncio
import dataclasses
import hashlib
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
READ_LIMIT = 1 << 20


class RigError(Exception):
    """The rig cannot continue; the message says why."""


# ---- paths -----------------------------------------------------------------------------------------------------

def target_dir():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")


def find_binary(given):
    """The binary under test: --bin, or the release build."""
    path = pathlib.Path(given) if given else target_dir() / "release" / "holdline"
    if not os.access(path, os.X_OK):
        raise RigError(f"{path} is not there; build it with: cargo build --release")
    return path.resolve()


def find_load_tool(given):
    """The benchmark's binary, which is also the load generator and sink (see benches/throughput)."""
    if given:
        return pathlib.Path(given).resolve()
    built = os.environ.get("HOLDLINE_THROUGHPUT")
    if built:
        return pathlib.Path(built).resolve()
    build = subprocess.run(["cargo", "bench", "--bench", "throughput", "--no-run", "--message-format=json", "-q"],
                           cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    for line in build.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "throughput":
            return pathlib.Path(message["executable"])
    raise RigError("cargo built no benchmark called throughput")


def free_ports(count):
    """Unused ports of 127.0.0.1, below the range of ephemeral ports."""
    lowest = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(max(1025, lowest - 20000), lowest)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


def make_workdir(parent, name):
    """A new folder on a real disk: under `parent`, otherwise under the target folder."""
    base = pathlib.Path(parent) if parent else target_dir()
    base.mkdir(parents=True, exist_ok=True)
    path = base / f"rig-{name}-{os.getpid()}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path.resolve()


def build_shim(workdir):
    """Builds the preloaded library that fails calls and steps clocks (shim.c) in `workdir` -> its path, None without a
    compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return None
    library = pathlib.Path(workdir) / "shim.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, ROOT / "tests/rigs/shim.c", "-ldl"], check=True)
    return library


def disk_bytes(folder):
    """Disk space of the files in a folder in bytes, as `du` counts it."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


# ---- the daemon ------------------------------------------------------------------------------------------------

def write_config(path, *, intake, admin, data, destination=None, source=None, **extra):
    """A configuration with one source and one destination, both called `default`, or with a list of destinations.

    `intake` and `admin` are ports; `destination`, `source` and further tables are dicts of key -> TOML text.
    """
    destinations = destination if isinstance(destination, list) else [destination or {}]
    tables = [
        ("[intake]", {"listen": f'"127.0.0.1:{intake}"', **extra.pop("intake_settings", {})}),
        ("[admin]", {"listen": f'"127.0.0.1:{admin}"'}),
        ("[store]", {"path": json.dumps(str(data))}),
        ("[[source]]", {"name": '"default"', "profile": '"interaction"', **(source or {})}),
        *(("[[destination]]", {"name": '"default"', **d}) for d in destinations),
    ]
    lines = []
    for head, settings in tables:
        lines += [head, *(f"{key} = {value}" for key, value in settings.items()), ""]
    pathlib.Path(path).write_text("\n".join(lines))


class Daemon:
    """`holdline serve` as a process that can be started, queried and killed repeatedly on one data folder."""

    def __init__(self, binary, arguments, data, admin_port, log, env=None):
        self.command = [str(binary), "serve", *map(str, arguments)]
        self.data = pathlib.Path(data)
        self.admin_port = admin_port
        self.log = pathlib.Path(log)
        self.env = {**os.environ, **(env or {})}
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=self.env, start_new_session=True)

    @property
    def pid(self):
        return self.process.pid

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def kill(self):
        """kill -9, and waits until the process has ended."""
        if self.process and self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()

    def stop(self, timeout=60):
        """SIGTERM -> the exit code."""
        self.signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def check_alive(self):
        if self.process.poll() is not None:
            code = self.process.returncode
            raise RigError(f"the daemon ended by itself with {code}; its last words:\n{self.last_words()}")

    def last_words(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])

    def ask(self, path, timeout=10.0, wish=None):
        """GET from the admin API, or POST of `wish` as JSON -> (status, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=timeout)
        try:
            token = self.data / "admin.token"
            # a damaged token is sent without the bytes that a header cannot contain
            known = bytes(b for b in token.read_bytes() if 32 < b < 127) if token.exists() else b""
            headers = {"Authorization": f"Bearer {known.decode()}"} if known else {}
            body = None if wish is None else json.dumps(wish)
            connection.request("GET" if wish is None else "POST", path, body,
                               headers | ({} if wish is None else {"Content-Type": "application/json"}))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ask_json(self, path):
        status, body = self.ask(path)
        if status != 200:
            raise RigError(f"GET {path} was answered {status}: {body[:200]!r}")
        return json.loads(body)

    def status(self):
        return self.ask_json("/v1/status")

    def attempts(self, destination="default"):
        """The number of attempts since the start, by outcome."""
        _, text = self.ask("/metrics")
        found = re.findall(r'^holdline_destination_attempts_total\{(.*)\} (\d+)', text.decode(), re.M)
        labels = [(dict(re.findall(r'(\w+)="([^"]*)"', labels)), int(count)) for labels, count in found]
        return {of["outcome"]: count for of, count in labels if of["destination"] == destination}

    def is_ready(self):
        try:
            return self.ask("/readyz", timeout=1.0)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def items(self, path):
        """Every item of a list of the admin API, over all pages."""
        after = None
        while True:
            page = self.ask_json(f"{path}?limit=500" + (f"&after={after}" if after else ""))
            yield from page["items"]
            after = page.get("next")
            if not after:
                return

    def memory_bytes(self, field="VmRSS"):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise RigError(f"no {field} of process {self.pid}")

    def open_files(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def wait_ready(self, timeout=60.0):
        """Waits until /readyz answers 200 -> seconds."""
        begin = time.monotonic()
        while not self.is_ready():
            self.check_alive()
            if time.monotonic() - begin > timeout:
                raise RigError(f"not ready after {timeout:.0f} s; its last words:\n{self.last_words()}")
            time.sleep(0.01)
        return time.monotonic() - begin

    async def until_ready(self, timeout=60.0):
        return await asyncio.to_thread(self.wait_ready, timeout)

    async def until_drained(self, timeout):
        """Waits for an empty queue -> the last status, drained or not."""
        end = time.monotonic() + timeout
        while True:
            self.check_alive()
            status = await asyncio.to_thread(self.status)
            if status["queue"]["depth"] == 0 or time.monotonic() > end:
                return status
            await asyncio.sleep(0.1)


class Hands:
    """Actions of an operator: pauses, opens the breaker, closes intake, redrives, takes backups, reloads.

    A destination stays paused only briefly; `let_go` undoes everything. `paused` has the times at which nothing may be sent:
    from the answer to a pause to the request to resume.
    """
    ACTS = ("pause", "breaker", "intake", "redrive", "backup", "reload")

    def __init__(self, daemon, rng, config, rests=(0.1, 0.8)):
        self.daemon, self.rng, self.config = daemon, rng, pathlib.Path(config)
        self.rests = rests      # minimum and maximum of seconds between two actions
        self.done = {act: 0 for act in self.ACTS}
        self.paused = []

    async def wish(self, path, wish):
        """POST -> whether it was answered 200. A daemon that is stopping or has ended is no fault."""
        try:
            return (await asyncio.to_thread(self.daemon.ask, path, 10, wish))[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    async def run(self):
        while True:
            await asyncio.sleep(self.rng.uniform(*self.rests))
            act = self.rng.choice(self.ACTS)
            self.done[act] += await getattr(self, act)()

    async def pause(self):
        if not await self.wish("/v1/destinations/default/pause", {"reason": "rig"}):
            return False
        since = time.monotonic()
        await asyncio.sleep(self.rng.uniform(0.05, 0.6))
        self.paused.append((since, time.monotonic()))
        while not await self.wish("/v1/destinations/default/resume", {}):
            await asyncio.sleep(0.05)
        return True

    async def breaker(self):
        state = self.rng.choice(("open", "half_open"))
        done = await self.wish("/v1/destinations/default/breaker", {"state": state, "reason": "rig", "for": "1s"})
        await asyncio.sleep(0.3)
        await self.wish("/v1/destinations/default/breaker", {"state": "half_open"})
        return done

    async def intake(self):
        return await self.wish("/v1/intake/close", {"reason": "rig", "for": "1s"})

    async def redrive(self):
        return await self.wish("/v1/dlq/redrive", {"all": True})

    async def backup(self):
        try:
            return (await asyncio.to_thread(self.daemon.ask, "/v1/backup", 10))[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    async def reload(self):
        """Reloads with the other one of two configurations."""
        text = self.config.read_text()
        one, other = 'dedup_window = "60s"', 'dedup_window = "90s"'
        new = self.config.with_suffix(".new")
        new.write_text(text.replace(one, other) if one in text else text.replace(other, one))
        os.replace(new, self.config)
        if not await asyncio.to_thread(self.daemon.is_ready):
            return False                            # before it is ready, SIGHUP may end it
        try:
            self.daemon.signal(signal.SIGHUP)
        except ProcessLookupError:
            return False                            # killed a moment ago
        return True

    async def end(self, task):
        """Ends the task of `run` after its current request."""
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass

    async def let_go(self, redrive=True):
        """Removes everything that blocks deliveries, and redrives every dead letter."""
        for path, wish in (("/v1/destinations/default/resume", {}), ("/v1/intake/open", {}),
                           *([("/v1/dlq/redrive", {"all": True})] if redrive else []),
                           ("/v1/destinations/default/breaker", {"state": "half_open"})):
            if not await self.wish(path, wish):
                raise RigError(f"{path} was not answered 200")


def sums_fault(status):
    """The fault in the counters of a status, or None: accepted = delivered + dead + discarded + still queued."""
    c = status["counters"]
    there = {"delivered": c["delivered"], "dead": status["dlq"]["depth"], "discarded": c.get("discarded", 0),
             "queued": status["queue"]["depth"]}
    if c["accepted"] == sum(there.values()):
        return None
    return f"accepted {c['accepted']} is not the sum of {there}"


# ---- bodies ----------------------------------------------------------------------------------------------------

PADDING = hashlib.shake_256(b"holdline rigs").hexdigest(512 * 1024)


def digest(body):
    return hashlib.sha256(body).hexdigest()


def make_body(rng, event_id, interaction, n, size):
    """A body of the `interaction` shape, of about `size` bytes."""
    data = {"id": event_id, "interactionId": interaction, "n": n, "pad": ""}
    event = {"eventType": "interaction.updated", "eventId": event_id, "timestamp": 1715634000000 + n, "data": data}
    missing = size - len(json.dumps(event))
    if missing > 0:
        start = rng.randrange(len(PADDING) - missing)
        data["pad"] = PADDING[start:start + missing]
    return json.dumps(event).encode()


def pick_size(rng, smallest, largest):
    """A size whose logarithm is uniform: many small bodies, some large ones."""
    return int(smallest * (largest / smallest) ** rng.random())


class Story:
    """The events of one sender: several interactions, each with an increasing counter, replaced as they end."""

    def __init__(self, name, rng, sizes, parallel=8, length=25):
        self.name, self.rng, self.sizes, self.length = name, rng, sizes, length
        self.made = 0
        self.interactions = [self.new_interaction() for _ in range(parallel)]

    def new_interaction(self):
        self.made += 1
        return [f"call-{self.name}-{self.made}", 0]

    def next(self):
        """(event id, interaction, counter, body)"""
        slot = self.rng.randrange(len(self.interactions))
        if self.interactions[slot][1] and self.rng.random() < 1 / self.length:
            self.interactions[slot] = self.new_interaction()
        interaction = self.interactions[slot]
        interaction[1] += 1
        name, n = interaction
        event_id = f"{name}-{n}"
        return event_id, name, n, make_body(self.rng, event_id, name, n, pick_size(self.rng, *self.sizes))


# ---- HTTP ------------------------------------------------------------------------------------------------------

@dataclasses.dataclass(slots=True)
class Message:
    """A request or an answer, read completely."""
    start: str
    headers: dict
    body: bytes

    @property
    def status(self):
        return int(self.start.split(" ", 2)[1])


async def read_message(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    start, *lines = head[:-4].decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if "transfer-encoding" in headers:
        raise RigError(f"a message without Content-Length: {start}")
    length = int(headers.get("content-length", 0))
    return Message(start, headers, await reader.readexactly(length) if length else b"")


CUTS = (ConnectionError, asyncio.IncompleteReadError, OSError)


class Sender:
    """One keep-alive connection to the intake, reopened after it was cut."""

    def __init__(self, port, path="/in/default"):
        self.port, self.path = port, path
        self.reader = self.writer = None

    async def post(self, body):
        """Returns the answer; raises one of CUTS if there was none: the event may or may not have been stored."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=READ_LIMIT)
        try:
            self.writer.write(f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                              f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await self.writer.drain()
            answer = await read_message(self.reader)
        except BaseException:
            self.close()
            raise
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    async def post_until_accepted(self, body, expect_cuts=True):
        """Posts the same body until it is acknowledged, as a real sender does -> the acknowledgement's JSON."""
        while True:
            try:
                answer = await self.post(body)
            except CUTS:
                if not expect_cuts:
                    raise
                await asyncio.sleep(0.02)
                continue
            if answer.status == 202:
                return json.loads(answer.body)
            if answer.status not in (429, 503):
                raise RigError(f"the intake answered {answer.status}: {answer.body[:200]!r}")
            await asyncio.sleep(0.1)

    def close(self):
        if self.writer is not None:
            self.writer.close()
            self.reader = self.writer = None


@dataclasses.dataclass(slots=True)
class Reply:
    """How a destination answers a request. `cut`: None, "before" (no answer), "after" (answer, then a reset)."""
    status: int
    headers: tuple = ()
    delay: float = 0.0
    cut: str | None = None


class Destination:
    """An HTTP/1.1 server. `receive(request)` returns a Reply; `settled(request, reply)` is called when it is written."""

    def __init__(self, receive, settled):
        self.receive, self.settled = receive, settled
        self.connections = 0
        self.writers = set()
        self.server = None

    async def listen(self, port):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", port, limit=READ_LIMIT, backlog=1024)

    async def serve(self, reader, writer):
        self.connections += 1
        self.writers.add(writer)
        try:
            while await self.serve_one(reader, writer):
                pass
        except CUTS:
            pass
        finally:
            self.connections -= 1
            self.writers.discard(writer)
            writer.close()

    async def serve_one(self, reader, writer):
        request = await read_message(reader)
        reply = self.receive(request)
        if reply.delay:
            await asyncio.sleep(reply.delay)
        if reply.cut == "before":
            self.settled(request, reply)
            writer.transport.abort()
            return False
        lines = [f"HTTP/1.1 {reply.status} Rig", "Content-Length: 0", *reply.headers, "", ""]
        self.settled(request, reply)
        writer.write("\r\n".join(lines).encode())
        if reply.cut == "after":
            writer.transport.abort()
            return False
        await writer.drain()
        return True

    def go_away(self):
        """Accepts no connections and resets the open ones, until `listen` is called again."""
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()

    async def until_deserted(self):
        """Waits until every connection is closed: then everything that a dead daemon had sent has been read."""
        quiet = 0
        while quiet < 5:        # an accepted connection appears only after some turns of the loop
            await asyncio.sleep(0.005)
            quiet = 0 if self.connections else quiet + 1

    async def close(self):
        """Accepts no connections, and waits for the end of the open ones; their clients have ended."""
        if self.server:
            self.server.close()
            await asyncio.wait_for(self.until_deserted(), 10)


# ---- a rig as a program -----------------------------------------------------------------------------------------

def run_rig(name, run, seed):
    """Runs a rig to its end -> its exit code: the result of `run`, 1 if it cannot continue. A signal ends it gracefully."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return run()
    except RigError as e:
        print(f"{name}: FAILED, seed {seed}: {e}", flush=True)
        print_result(name, "", "FAILED", seed=seed)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", flush=True)
        return 130


# ---- reports ---------------------------------------------------------------------------------------------------

def print_row(**columns):
    """Prints one table row under its heading."""
    widths = {name: max(len(name), len(str(value))) for name, value in columns.items()}
    print(" | ".join(name.ljust(widths[name]) for name in columns))
    print("-|-".join("-" * widths[name] for name in columns))
    print(" | ".join(str(value).ljust(widths[name]) for name, value in columns.items()), flush=True)


def print_result(harness, faults_injected, verdict, **counts):
    """The last line of a rig, for machines (all.py). `verdict`: held, FAILED or skipped; of `counts`, those named n, seed,
    acknowledged, lost, duplicated and out_of_order have a column of their own."""
    print(json.dumps({"harness": harness, "faults": faults_injected, "verdict": verdict, **counts}), flush=True)


def print_table(rows):
    """Rows (dicts with the same keys) under one heading, as a Markdown table."""
    if not rows:
        return
    names = list(rows[0])
    widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in names}
    print("| " + " | ".join(name.ljust(widths[name]) for name in names) + " |")
    print("|" + "|".join("-" * (widths[name] + 2) for name in names) + "|")
    for row in rows:
        print("| " + " | ".join(str(row[name]).ljust(widths[name]) for name in names) + " |")
    print(flush=True)


def print_faults(title, faults, shown=10):
    """The first of a list of faults, and how many there are."""
    if faults:
        print(f"{title}: {len(faults)}")
        for fault in faults[:shown]:
            print(f"  {fault}")
