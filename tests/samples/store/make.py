#!/usr/bin/env python3
"""Makes the data folders of this directory with a real build of an earlier format; see README.md.

    make.py NAME path/to/holdline "what build that is"

makes NAME-stopped.tar.gz, NAME-killed.tar.gz, NAME.backup.gz, and for each folder a JSON file that says what is in it.
The build is asked by its admin API before it ends: every id, state and body of the JSON file is its own answer.
"""
import concurrent.futures
import gzip
import http.client
import http.server
import io
import json
import pathlib
import shutil
import sys
import tarfile
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "rigs"))
import common  # noqa: E402

BULK = 64           # events, sent by eight senders at once so that pages hold several
CONFIG = """
alert = [{{ url = "http://127.0.0.1:{sink}/alert", on = ["dead_letter"] }}]
[intake]
listen = "127.0.0.1:{intake}"
disk_reserve = "1MiB"
[admin]
listen = "127.0.0.1:{admin}"
[store]
path = "{data}"
[[source]]
name = "calls"
profile = "interaction"
to = ["crm", "bi"]
on_unparsable = "quarantine"
[[source]]
name = "strict"
profile = "interaction"
to = ["strict"]
[[source]]
name = "slow"
profile = "interaction"
to = ["slow"]
[[source]]
name = "bulk"
profile = "interaction"
to = ["bulk"]
[[destination]]
name = "crm"
url = "http://127.0.0.1:{sink}/crm"
[[destination]]
name = "bi"
url = "http://127.0.0.1:{sink}/bi"
retry = {{ base = "1h", max = "24h", jitter = "none" }}
[[destination]]
name = "strict"
url = "http://127.0.0.1:{sink}/strict"
ordering = {{ on_dead_letter = "hold" }}
[[destination]]
name = "slow"
url = "http://127.0.0.1:{sink}/slow"
[[destination]]
name = "bulk"
url = "http://127.0.0.1:{sink}/bulk"
"""
# In the first life only.
REMOVED = """
[[source]]
name = "legacy"
profile = "interaction"
to = ["legacy"]
[[destination]]
name = "legacy"
"""
PLACES = {"queued": "waiting", "held": "waiting", "blocked": "waiting"}


class Sink(http.server.BaseHTTPRequestHandler):
    """The destinations: `bi` fails for interaction c1, `strict` and `slow` refuse whatever says so."""
    protocol_version = "HTTP/1.1"
    forgiving = False

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = 200
        if self.path == "/bi" and b'"c1"' in body:
            status = 503
        elif self.path in ("/strict", "/slow") and b"refuse" in body and not Sink.forgiving:
            status = 422
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Maker:
    def __init__(self, binary, work):
        self.work, self.intake, self.admin = work, *common.free_ports(2)
        self.sink = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
        threading.Thread(target=self.sink.serve_forever, daemon=True).start()
        self.data, self.config = work / "data", work / "holdline.toml"
        self.log, self.lives = work / "log", 0
        self.daemon = common.Daemon(binary, ["--config", self.config], self.data, self.admin, self.log)
        self.events = []    # in the order of acceptance

    def open(self, extra=""):
        self.config.write_text(CONFIG.format(sink=self.sink.server_port, intake=self.intake, admin=self.admin,
                                             data=self.data) + extra)
        self.daemon.start()
        self.lives += 1
        end = time.monotonic() + 60     # /readyz says 503 for as long as intake is closed
        while not self.log.exists() or self.log.read_text().count("holdline is ready") < self.lives:
            self.daemon.check_alive()
            assert time.monotonic() < end, self.daemon.last_words()
            time.sleep(0.02)

    def post(self, source, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.intake, timeout=10)
        connection.request("POST", f"/in/{source}", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 202, (answer.status, answer.read())
        return json.loads(answer.read())

    def accept(self, source, interaction, sender_id, note=""):
        """Sends an event and waits for its acknowledgement."""
        # written by hand, with spaces that no JSON library would write, so that a body is kept byte for byte or not at all
        at = 1715634000000 + len(self.events)
        body = (f'{{"eventType" : "interaction.updated", "eventId": "{sender_id}",  "timestamp": {at},'
                f' "data": {{"interactionId":"{interaction}", "note": "{note} zażółć \\u00e9"}}}}').encode()
        event = {"source": source, "interaction": interaction, "sender_id": sender_id, "body": body.decode()}
        self.unacknowledged = event | {"deliveries": {"bulk": "waiting"}}
        answer = self.post(source, body)
        assert answer["status"] == "queued", answer
        self.unacknowledged = None
        self.events.append({"id": answer["id"], **event})
        return answer["id"]

    def ask(self, path, wish=None):
        status, body = self.daemon.ask(path, wish=wish)
        assert status == 200, (path, status, body)
        return json.loads(body)

    def delete(self, event):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        token = (self.data / "admin.token").read_text().strip()
        connection.request("DELETE", f"/v1/events/{event}", headers={"Authorization": f"Bearer {token}"})
        assert connection.getresponse().status == 200

    def states(self, event):
        deliveries = self.ask(f"/v1/events/{event}")["deliveries"]
        return {d["destination"]: PLACES.get(d["state"], d["state"]) for d in deliveries}

    def until(self, event, **wanted):
        end = time.monotonic() + 30
        while (found := self.states(event)) != wanted:
            assert time.monotonic() < end, f"{event}: {found}, not {wanted}"
            time.sleep(0.02)

    def first_life(self):
        self.open(REMOVED)
        ids = [self.accept("calls", "c1", f"c1-{n}") for n in (1, 2, 3)]
        for event, at_bi in zip(ids, ("delayed", "waiting", "waiting")):
            self.until(event, crm="delivered", bi=at_bi)
        for n in (1, 2):
            self.until(self.accept("calls", "c2", f"c2-{n}"), crm="delivered", bi="delivered")
        assert self.post("calls", self.events[-1]["body"].encode())["status"] == "duplicate"
        self.until(self.accept("calls", "c2", "c2-1", "other body, same id"), crm="delivered", bi="delivered")
        self.letters()
        for n in range(3):
            self.accept("legacy", f"l{n % 2}", f"l-{n}")
        self.post("calls", b'{"eventId": "cut off')
        self.ask("/v1/destinations/crm/pause", {"reason": "new release of the CRM"})
        self.ask("/v1/destinations/bi/breaker", {"state": "open", "reason": "maintenance"})
        self.ask("/v1/destinations/bulk/pause", {"reason": "to be imported by night"})
        for interaction, n in (("c1", 4), ("c3", 1), ("c3", 2), ("c4", 1)):
            self.accept("calls", interaction, f"{interaction}-{n}")
        with concurrent.futures.ThreadPoolExecutor(8) as senders:
            for done in [senders.submit(self.accept, "bulk", f"b{n % 10}", f"b-{n}", common.PADDING[n * 64:n * 64 + 16])
                         for n in range(BULK)]:
                done.result()
        erased = self.accept("bulk", "erased", "erased-1")
        self.ask("/v1/interactions/erased/erase", {})
        self.events = [e for e in self.events if e["id"] != erased]

    def letters(self):
        """Dead letters, one that keeps a later event back, one discarded, and a redrive that has only begun."""
        dead = self.accept("strict", "s1", "s1-1", "refuse")
        self.until(dead, strict="dead")
        self.accept("strict", "s1", "s1-2")
        self.until(self.accept("strict", "s2", "s2-1", "refuse"), strict="dead")
        self.until(self.accept("strict", "s3", "s3-1"), strict="delivered")
        gone = self.accept("strict", "s4", "s4-1", "refuse")
        self.until(gone, strict="dead")
        self.delete(gone)
        slow = [self.accept("slow", f"x{n}", f"x-{n}", "refuse") for n in range(8)]
        for event in slow:
            self.until(event, slow="dead")
        Sink.forgiving = True
        self.ask("/v1/dlq/redrive", {"filter": {"destination": "slow"}, "rate": "1/d"})
        self.until(slow[0], slow="delivered")
        Sink.forgiving = False

    def second_life(self):
        self.open()
        assert self.ask("/v1/gaps")["items"], "the time between the lives is a gap"
        assert len(self.ask("/v1/quarantine")["items"]) == 1
        self.ask("/v1/intake/close", {"reason": "cutover"})

    def told(self, build):
        """What the build says of its data."""
        time.sleep(1)       # the redrive sends one letter at each start
        status = self.ask("/v1/status")
        for event in self.events:
            event["sequence"] = self.ask(f"/v1/events/{event['id']}")["sequence"]
            event["deliveries"] = self.states(event["id"])
            if set(event["deliveries"].values()) & {"waiting", "delayed", "dead"}:
                assert self.daemon.ask(f"/v1/events/{event['id']}/body") == (200, event["body"].encode())
        return {
            "made_by": build, "made_at": time.time_ns() // 1_000_000,
            "accepted": status["counters"]["accepted"], "waiting": status["queue"]["depth"], "dead": status["dlq"]["depth"],
            "delivered": status["counters"]["delivered"],
            "outages": [gap["from"] for gap in self.ask("/v1/gaps")["items"]],
            "audit": [[entry["who"], entry["what"]] for entry in self.ask("/v1/audit")["items"]],
            "events": sorted(self.events, key=lambda event: event.pop("sequence")),
        }

    def killed(self, build):
        """Intake is open again, and a sender is at work when it dies; the event that was not acknowledged may be there."""
        told = self.told(build)
        self.ask("/v1/intake/open", {})
        threading.Timer(0.5, self.daemon.kill).start()
        while True:
            try:
                self.accept("bulk", "late", f"late-{len(self.events)}")
                time.sleep(0.01)
            except (OSError, http.client.HTTPException):
                break
        self.daemon.process.wait()
        late = [event for event in self.events if event["interaction"] == "late"]
        for event in late:
            event["deliveries"] = {"bulk": "waiting"}
        told["accepted"] += len(late)
        told["waiting"] += len(late)
        return told | {"made_at": time.time_ns() // 1_000_000, "unacknowledged": self.unacknowledged,
                       "events": told["events"] + late}


def write(told, path):
    """JSON with a line for each event."""
    events = ",\n".join("  " + json.dumps(event, ensure_ascii=False) for event in told["events"])
    head = json.dumps({name: value for name, value in told.items() if name != "events"}, indent=1)
    path.write_text(head[:-2] + ',\n "events": [\n' + events + "\n ]\n}\n")


def pack(data, path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for file in sorted(data.rglob("*")):
            if file.is_file() and file.name not in ("lock", "admin.token") and not file.name.startswith("ballast"):
                info = tarfile.TarInfo(str(file.relative_to(data)))
                info.size = file.stat().st_size
                archive.addfile(info, file.open("rb"))
    path.write_bytes(gzip.compress(buffer.getvalue(), 9, mtime=0))


def main(name, binary, build):
    work = pathlib.Path(tempfile.mkdtemp(prefix="holdline-fixture-"))
    maker = Maker(common.find_binary(binary), work)
    try:
        make(maker, name, build)
    finally:
        maker.daemon.kill()
    shutil.rmtree(work)


def make(maker, name, build):
    maker.first_life()
    assert maker.daemon.stop() == 0
    time.sleep(1.5)
    maker.second_life()
    told = maker.told(build)
    (HERE / f"{name}.backup.gz").write_bytes(gzip.compress(maker.daemon.ask("/v1/backup")[1], 9, mtime=0))
    assert maker.daemon.stop() == 0
    write(told, HERE / f"{name}-stopped.json")
    pack(maker.data, HERE / f"{name}-stopped.tar.gz")
    maker.open()
    told = maker.killed(build)
    write(told, HERE / f"{name}-killed.json")
    pack(maker.data, HERE / f"{name}-killed.tar.gz")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
