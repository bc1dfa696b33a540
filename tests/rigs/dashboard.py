#!/usr/bin/env python3
"""The dashboard in a headless browser: every action by click, hostile events shown as text, screenshots.

    python3 tests/rigs/dashboard.py [--bin PATH] [--pictures DIR] [--short]

A daemon delivers to a destination that the rig breaks and repairs. Each step waits until the page itself shows the expected
state. Needs Chromium with its driver and the Python package selenium; without them the rig prints that it is skipped.
`--pictures` stores screenshots of the states at 1280 and 400 pixels, light and dark.
"""
import argparse
import http.server
import json
import os
import pathlib
import shutil
import sys
import threading
import time
import urllib.request

import common

WAIT_S = 20
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>"\'`${1}'


class Receiver:
    """A destination whose answers the rig sets."""

    def __init__(self):
        self.status = 200
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = HOSTILE.encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/hooks"


def browser(tools, width, scheme):
    webdriver, service = tools
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=service(shutil.which("chromedriver")))
    sized(driver, width, 900)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    return driver


def sized(driver, width, height):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def until(what, condition):
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except Exception:  # the page is being redrawn at the moment of the query
            pass
        time.sleep(0.1)
    raise common.RigError(f"the page never showed: {what}")


class Page:
    """What a person does on the page, and reads there."""

    def __init__(self, driver, base, token):
        self.driver, self.base = driver, base
        driver.get(base + "/")
        until("the token is asked for", lambda: self.find("#token-field").is_displayed())
        for wrong, told in [("", "Write the token"), ("wrong", "not accepted"), ("two words", "not a token")]:
            self.write("#token-field", wrong)
            self.click("#ask-yes")
            until(f"that {wrong!r} is wrong", lambda: told in self.text("#ask-error"))
            if not self.find("#token-field").is_displayed():
                raise common.RigError("a wrong token has closed the form")
        self.click("#ask-no")
        until("that nothing is shown without one", lambda: "Without a token" in self.text("#trouble"))
        time.sleep(4.5)  # two polls: the page must not repeat the request
        if self.find("#ask").is_displayed() or self.find("main").is_displayed():
            raise common.RigError("after Cancel the token is asked for again, or something is shown without it")
        self.click("#leave")
        until("it is asked for again", lambda: self.find("#token-field").is_displayed())
        self.write("#token-field", token)
        self.click("#ask-yes")
        until("the state", lambda: self.text("#state") == "running")

    def find(self, css):
        return self.driver.find_element("css selector", css)

    def all(self, css):
        return self.driver.find_elements("css selector", css)

    def text(self, css):
        return self.find(css).text

    def click(self, css, word=None):
        def done():
            for element in self.all(css):
                if word is None or element.text == word:
                    element.click()
                    return True
            return False
        until(f"{css} {word or ''} to click", done)

    def write(self, css, text):
        field = self.find(css)
        field.clear()
        field.send_keys(text)

    def picture(self, folder, name, width):
        if not folder:
            return
        until("nothing is asked any more", lambda: not self.find("#ask").is_displayed())
        height = self.driver.execute_script("return document.documentElement.scrollHeight")
        sized(self.driver, width, height)
        time.sleep(0.3)  # the screenshot must show the new layout
        self.driver.save_screenshot(str(folder / f"{name}-{width}.png"))
        sized(self.driver, width, 900)

    def check(self):
        width = self.driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        faults = []
        if width[0] > width[1]:
            faults.append(f"the page is {width[0]} wide in a window of {width[1]}")
        if self.driver.title != "holdline":
            faults.append(f"an event has run a script: the title is {self.driver.title!r}")
        if self.all("main img"):
            faults.append("an event has made an element")
        console = [e["message"] for e in self.driver.get_log("browser") if "status of 40" not in e["message"]]
        faults += [f"console: {message}" for message in console]
        return faults


def send(daemon_port, interaction, number, kind="interaction.completed"):
    body = {"eventType": kind, "eventId": f"{interaction}-{number}", "data": {"interactionId": interaction}}
    request = urllib.request.Request(f"http://127.0.0.1:{daemon_port}/in/default", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=10))["id"]


class Api:
    """The state that the daemon reports, for comparison with the page."""

    def __init__(self, daemon):
        self.daemon = daemon

    def destination(self):
        return self.daemon.ask_json("/v1/destinations/default")

    def audit(self):
        return [entry["what"] for entry in self.daemon.ask_json("/v1/audit?limit=50")["items"]]


def cancel(page, api):
    """Cancel and Escape close a form with any content, and change nothing."""
    before = api.audit()
    for way in ("#ask-no", None):
        page.click("[data-destination] button", "Pause")
        page.write("#reason-field", "not meant")
        page.write("#for-field", "nonsense")
        page.click("#ask-yes")
        if not page.find("#ask").is_displayed():
            raise common.RigError("a duration that is none was taken")
        if way:
            page.click(way)
        else:
            page.find("#for-field").send_keys("\ue00c")
        until("the form is gone", lambda: not page.find("#ask").is_displayed())
    if api.audit() != before or api.destination()["paused"]:
        raise common.RigError(f"a form that was cancelled has done something: {api.audit()[:2]}")


def dead(api):
    return sorted((letter["interaction"], letter["destination"]) for letter in api.daemon.items("/v1/dlq"))


def select(page, receiver, second, intake, api, width):
    """Of an event that is dead for two destinations one dead letter is selected, and only that one is purged."""
    receiver.status = second.status = 422
    for key in ("sel-1", "sel-2", "sel-3"):
        send(intake, key, f"{width}-{key}")
    pairs = [(key, name) for key in ("sel-1", "sel-2", "sel-3") for name in ("default", "second")]
    until("they are dead", lambda: len([pair for pair in dead(api) if pair in pairs]) == 6)
    rest = [pair for pair in dead(api) if pair not in pairs]
    until("the page shows them", lambda: page.text("#dlq-list").count("sel-") == 6 or width < 640)
    if page.find("#purge").is_enabled() or page.find("#redrive").is_enabled():
        raise common.RigError("nothing is chosen, and yet it can be purged")

    def filtered(key):
        page.write("#dlq-filter input[name=interaction]", key)
        page.click("#dlq-filter button")
        until("the filter is applied", lambda: page.text("#dlq-scope") == (f"Shown: interaction {key}." if key else "Shown: all dead letters."))

    filtered("sel-1")
    until("two letters", lambda: len(page.all("#dlq-list tbody tr")) == 2)
    page.click("#dlq-list input[aria-label$='for second']")
    until("it is chosen", lambda: page.text("#chosen") == "1 chosen (second 1)")
    # text in the filter has no effect until it is applied
    page.write("#dlq-filter input[name=interaction]", "sel-2")
    until("that it is not applied", lambda: "not applied until" in page.text("#dlq-scope"))
    page.click("#purge")
    until("its scope", lambda: page.text("#ask-title") == "Purge 1 dead letter?" and "1 for second" in page.text("#ask-body"))
    page.click("#ask-yes")
    pairs.remove(("sel-1", "second"))
    until("that one is gone", lambda: dead(api) == sorted(rest + pairs))

    page.click("#choose-all")
    until("all that fit", lambda: page.text("#chosen") == "all that fit: interaction sel-1, on every page")
    page.click("#redrive")
    until("its scope", lambda: "interaction sel-1." in page.text("#ask-body") and "1 for default" in page.text("#ask-body"))
    page.click("#ask-no")
    filtered("sel-3")
    page.click("#choose-all")
    page.click("#purge")
    until("two are shown", lambda: page.text("#ask-title") == "Purge 2 dead letters?")
    # it dies while the dialog is open, and is not part of the answer
    time.sleep(0.01)
    send(intake, "sel-3", f"{width}-late")
    pairs += [("sel-3", "default"), ("sel-3", "second")]
    until("the late one is dead", lambda: dead(api) == sorted(rest + pairs))
    page.click("#ask-yes")
    pairs = [pair for pair in pairs if pair[0] != "sel-3"] + [("sel-3", "default"), ("sel-3", "second")]
    until("what was shown is gone, and no more", lambda: dead(api) == sorted(rest + pairs))

    # one of two deliveries of an event
    page.write("#explain-key", "sel-2")
    page.click("#explain-form button")
    page.click("#explained summary")
    page.click("#explained button", "Discard")
    until("both are named", lambda: "for default: dead" in page.text("#ask-body") and "for second: dead" in page.text("#ask-body"))
    page.click("#ask-body input[name=default]")
    page.click("#ask-yes")
    pairs.remove(("sel-2", "second"))
    until("the ticked one is gone", lambda: dead(api) == sorted(rest + pairs))
    filtered("")
    page.click("#choose-all")
    until("every letter", lambda: "dead letters, on every page" in page.text("#chosen"))
    page.click("#purge")
    until("that no filter is applied", lambda: "no filter is applied" in page.text("#ask-body"))
    page.click("#ask-yes")
    until("all are gone", lambda: dead(api) == [])


def collapse(page, width):
    """On a phone a dead letter has two lines, and its details are behind a button."""
    def shown():
        return [cell.is_displayed() for cell in page.all("#dlq-list tbody tr:first-child td")]
    until("the letters", lambda: len(shown()) == 9)
    if width >= 640:
        if not all(shown()[:8]) or page.find("#dlq-list .more").is_displayed():
            raise common.RigError("a wide page hides something of a letter")
        return
    if shown()[4:8] != [False] * 4:
        raise common.RigError("a letter does not collapse")
    page.click("#dlq-list tbody tr:first-child .more")
    until("the rest", lambda: all(shown()))
    page.click("#dlq-list tbody tr:first-child .more")
    until("it is folded again", lambda: not any(shown()[4:8]))


def decide(page, api):
    """Pause, resume, and each override of the breaker, by click; the API must report the same."""
    card = "[data-destination] button"
    page.click(card, "Pause")
    page.write("#reason-field", "rig")
    page.write("#for-field", "30m")
    page.click("#ask-yes")
    until("it is paused", lambda: page.text("[data-destination] .pill") == "paused")
    held = api.destination()["blocked_by"][0]
    if (held["blocker"], held["reason"], bool(held["until"])) != ("pause", "rig", True):
        raise common.RigError(f"paused by click, but the API says {held}")
    page.click(card, "Resume")
    until("it is resumed", lambda: page.text("[data-destination] .pill") != "paused" and not api.destination()["paused"])
    # with no event to send, half-open stays as it is
    for state, wanted, reason, within in [("open", {"open"}, "mending", "10m"), ("closed", {"closed"}, "sure", "10m"),
                                          ("half_open", {"open", "half_open"}, "let it find out", "")]:
        page.click(card, "Breaker")
        page.click(f"#state-field option[value={state}]")
        page.write("#reason-field", reason)
        if within:
            page.write("#for-field", within)
        page.click("#ask-yes")
        until(f"the breaker is set {state}", lambda: f"breaker default {state}: {reason}" in api.audit())
        until(f"the breaker is {state}", lambda: api.destination()["breaker"]["state"] in wanted)
    page.click(card, "Breaker")
    page.click("#state-field option[value=closed]")
    page.write("#reason-field", "as before")
    page.click("#ask-yes")
    until("the breaker is closed", lambda: api.destination()["breaker"]["state"] == "closed")
    until("the page says so", lambda: "breaker" not in page.text("[data-destination] .pill"))


def erase(page, api):
    """An interaction is erased by click; afterwards nothing about it is found."""
    page.write("#explain-key", "call-1")
    page.click("#explain-form button")
    until("the interaction", lambda: len(page.all("#explained .timeline li")) > 0)
    page.click("#explained button", "Erase")
    until("what there is", lambda: "remembered" in page.text("#ask-body"))
    page.write("#reason-field", "ticket 7")
    page.click("#ask-yes")
    until("it is erased", lambda: "Erased" in page.text("#explained") and "Not reached" in page.text("#explained"))
    left = [e["id"] for e in api.daemon.items("/v1/events") if e["interaction"] == "call-1"]
    if left or not any("erase interaction" in what and "ticket 7" in what for what in api.audit()):
        raise common.RigError(f"erased by click, but the API has {left} and tells {api.audit()[:3]}")


def ordered(page):
    """The number and the states of each event in the timeline, in the order of the page."""
    numbers = [int(n.text.lstrip("#")) for n in page.all("#explained .sequence")]
    states = [pill.text for pill in page.all("#explained .timeline .pill")]
    if numbers != sorted(numbers):
        raise common.RigError(f"the timeline is out of order: {numbers}")
    return states


def play(page, receiver, second, intake, admin, pictures, width):
    for n in range(40):
        send(intake, f"call-{n % 8}", f"{width}-{n}")
    until("all is delivered", lambda: page.text("[data-destination] .pill") == "ok")
    cancel(page, admin)
    time.sleep(4.5)  # two polls, for the curves of the rates
    page.picture(pictures, "healthy", width)

    receiver.status = 503
    last = [send(intake, f"call-{n % 3}", f"{width}-late-{n}") for n in range(9)][-1]
    until("delayed ones", lambda: "6" in page.text("#tiles"))
    page.write("#explain-key", last)
    page.click("#explain-form button")
    until("what it waits for", lambda: "order" in page.text("#explained") and "behind" in page.text("#explained"))
    page.picture(pictures, "destination-down", width)
    page.click("#explained button", "Discard")
    until("what it is about", lambda: "for default: blocked" in page.text("#ask-body"))
    page.click("#ask-yes")
    until("it is discarded", lambda: "discarded" in page.text("#explained"))
    page.write("#explain-key", "call-0")
    page.click("#explain-form button")
    until("one timeline", lambda: {"default: delayed", "default: delivered", "default: blocked"} <= set(ordered(page)))
    page.picture(pictures, "timeline", width)
    first = next(n for n, pill in enumerate(page.all("#explained .timeline li")) if "default: delayed" in pill.text)
    page.click(f"#explained .timeline li:nth-child({first + 1}) summary")
    until("what it waits for", lambda: "delay until" in page.text("#explained"))
    receiver.status = 422
    page.click("#explained button", "Retry now")
    page.click("#ask-yes")
    until("the panel says by itself how that ended", lambda: "permanent" in page.text("#explained"))
    until("it stands at its place", lambda: "default: dead" in ordered(page))

    for n in range(5):
        send(intake, HOSTILE, f"{width}-bad-{n}", HOSTILE)
    until("the dead letters", lambda: len(page.all("#dlq-list tbody tr")) >= 5)
    page.picture(pictures, "dead-letters", width)
    collapse(page, width)
    page.click("#dlq-list tbody tr:last-child button.link")
    until("the story", lambda: "422" in page.text("#ask-body"))
    page.click("#ask-body button", "Show body")
    until("the body", lambda: "onerror" in page.text("#ask-body pre:last-child"))
    page.click("#ask-yes")
    page.write("#dlq-filter input[name=interaction]", HOSTILE)
    page.click("#dlq-filter button")
    until("the filter", lambda: len(page.all("#dlq-list tbody tr")) == 5)
    page.click("#dlq-list tbody tr:first-child input")
    until("it is chosen", lambda: page.text("#chosen") == "1 chosen (default 1)")
    page.click("#purge")
    page.click("#ask-yes")
    until("it is purged", lambda: len(page.all("#dlq-list tbody tr")) == 4)
    receiver.status = 200
    page.write("#dlq-filter input[name=interaction]", "")
    page.click("#dlq-filter button")
    page.click("#choose-all")
    page.click("#redrive")
    page.click("#ask-yes")
    until("they are redriven", lambda: "No dead letters" in page.text("#dlq-list"))
    until("the audit tells it", lambda: "dlq redrive" in page.text("#audit-list"))

    select(page, receiver, second, intake, admin, width)
    receiver.status = second.status = 200
    decide(page, admin)
    erase(page, admin)

    page.click("#door button", "Close intake")
    page.write("#reason-field", "rig")
    page.click("#ask-yes")
    until("intake is closed", lambda: "intake closed" in page.text("#state"))
    page.click("#door button", "Open intake")
    until("intake is open", lambda: page.text("#state") == "running")
    until("the outage is listed", lambda: "intake closed" in page.text("#outage-list"))
    page.driver.execute_script("document.activeElement.blur()")
    page.find("body").send_keys("/")
    until("the key", lambda: page.driver.switch_to.active_element.get_attribute("id") == "explain-key")
    return page.check()


def run(options):
    try:
        os.environ.update(SE_OFFLINE="true", SE_AVOID_STATS="true")
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        print("skipped: needs the Python package selenium")
        common.print_result("dashboard", "", "skipped")
        return 0
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        print("skipped: needs chromium and chromedriver")
        common.print_result("dashboard", "", "skipped")
        return 0
    workdir = common.make_workdir(options.workdir, "dashboard")
    pictures = pathlib.Path(options.pictures) if options.pictures else None
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    faults = []
    for width, scheme in [(1280, "light")] if options.short else [(1280, "light"), (400, "dark")]:
        receiver, second = Receiver(), Receiver()
        intake, admin = common.free_ports(2)
        data = workdir / f"data-{width}"
        config = workdir / f"{width}.toml"
        retry = '{ base = "5m", max = "5m", jitter = "none" }'
        common.write_config(config, intake=intake, admin=admin, data=data, destination=[
            {"url": json.dumps(receiver.url), "retry": retry},
            {"name": '"second"', "url": json.dumps(second.url), "retry": retry}])
        daemon = common.Daemon(common.find_binary(options.bin), ["--config", config], data, admin,
                               workdir / f"{width}.log")
        daemon.start()
        daemon.wait_ready()
        driver = browser((webdriver, Service), width, scheme)
        try:
            token = (data / "admin.token").read_text().strip()
            page = Page(driver, f"http://127.0.0.1:{admin}", token)
            found = play(page, receiver, second, intake, Api(daemon), pictures, width)
        except common.RigError:
            driver.save_screenshot(str(workdir / f"failed-{width}.png"))
            raise
        finally:
            driver.quit()
            daemon.stop()
        faults += found
        common.print_row(rig="dashboard", width=width, scheme=scheme, verdict="FAILED" if found else "held")
    common.print_faults("the page", faults)
    if not faults:
        shutil.rmtree(workdir)
    common.print_result("dashboard", "hostile event data", "FAILED" if faults else "held")
    return 1 if faults else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="the dashboard in a browser (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--pictures", help="a folder for screenshots")
    p.add_argument("--short", action="store_true", help="one width")
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    return p.parse_args()


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("dashboard", lambda: run(arguments), 0))
