"use strict";
// Everything that comes from the API is put into the page as text, never as markup.
const $ = (id) => document.getElementById(id);
const POLL_MS = 2000;
const SPARK_POINTS = 60;

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((c) => c !== null && c !== undefined));
  return element;
}

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// ---- words ----
const count = (n) => Number(n ?? 0).toLocaleString("en-GB");
const rate = (n) => (n === undefined || n === null ? "–" : `${n < 10 ? n.toFixed(1) : count(Math.round(n))}/s`);

function age(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 1) return `${Math.round(ms)} ms`;
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} m ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s / 60) % 60)} m`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s / 3600) % 24)} h`;
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${bytes < 100 && unit > 0 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

function when(rfc3339) {
  const from = Date.parse(rfc3339) - Date.now();
  return from > 0 ? `in ${age(from)}` : `${age(-from)} ago`;
}

function blocker(h) {
  const parts = [h.blocker];
  if (h.reason) parts.push(`(${h.reason})`);
  if (h.until) parts.push(`until ${h.until} (${when(h.until)})`);
  if (h.behind) parts.push(`behind ${h.behind}`);
  parts.push(`set by ${h.set_by}`);
  return parts.join(" ");
}

// ---- the API ----
let token = sessionStorage.getItem("token") ?? "";

async function api(method, path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store" });
  if (answer.ok) return answer;
  const refused = await answer.json().catch(() => null);
  const error = new Error(refused?.error?.message ?? `status ${answer.status}`);
  error.status = answer.status;
  throw error;
}
const get = async (path) => (await api("GET", path)).json();
const post = async (path, body) => (await api("POST", path, body)).json();

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = text === "";
}

/// Says what went wrong; where the token is not taken, asks for another.
async function failed(e) {
  if (e.status === 401) await enter("The token is not accepted any more.");
  else trouble(e.message);
}

/// Does something that was clicked, and says what came of it.
async function attempt(what) {
  try { trouble(""); await what(); await refresh(); await lists(); } catch (e) { await failed(e); }
}

/// The question that is open: who waits for its answer, and what must hold before it is taken.
let asking = null;

function answer(yes) {
  const { resolve } = asking ?? {};
  asking = null;
  if ($("ask").open) $("ask").close();
  resolve?.(yes);
}

function complain(text) {
  $("ask-error").textContent = text;
  $("ask-error").hidden = text === "";
}

/// Asks in a dialog. `check` answers what is wrong with what was written, or nothing.
function ask(title, body, yes = "OK", check = null) {
  answer(false);
  $("ask-title").textContent = title;
  $("ask-body").replaceChildren(...body);
  $("ask-yes").textContent = yes;
  $("ask-yes").disabled = false;
  $("ask-no").hidden = yes === "Close";
  complain("");
  $("ask").showModal();
  return new Promise((resolve) => { asking = { resolve, check }; });
}

async function submitted(e) {
  e.preventDefault();
  const mine = asking;
  if (mine?.check) {
    $("ask-yes").disabled = true;
    const wrong = await mine.check();
    if (asking !== mine) return;
    $("ask-yes").disabled = false;
    complain(wrong);
    if (wrong) return $("ask-body").querySelector("input")?.focus();
  }
  answer(true);
}

/// Why a token is not taken; nothing where it is.
async function tried(given) {
  if (!given) return "Write the token.";
  if (!/^[!-~]+$/.test(given)) return "This is not a token: it has blanks or signs that no token has.";
  const before = token;
  token = given;
  try { await get("/v1/status"); } catch (e) {
    token = before;
    if (e.status === 401) return "This token is not accepted.";
    return e.status === undefined ? "The daemon does not answer." : e.message;
  }
  return "";
}

let entering = null;
function enter(why = "") {
  entering ??= (async () => {
    const field = make("input", { type: "password", autocomplete: "off", id: "token-field", name: "token" });
    const where = make("p", { class: "quiet" }, "It lies in admin.token in the data folder, or where the configuration says. With the package: ", make("code", {}, "sudo cat /var/lib/holdline/admin.token"));
    token = "";
    sessionStorage.removeItem("token");
    const given = ask("holdline wants its token", [make("label", {}, "Token", field), where], "Enter", () => tried(field.value.trim()));
    complain(why);
    const entered = await given;
    entering = null;
    $("leave").textContent = entered ? "Forget token" : "Enter token";
    document.querySelector("main").hidden = !entered;
    if (!entered) return trouble("Without a token nothing is shown.");
    sessionStorage.setItem("token", token);
    trouble("");
    await refresh();
    await lists();
  })();
  return entering;
}

// ---- now ----
const history = { in: [], out: [] };

function tile(name, value, style = "", points = null) {
  const box = make("div", { class: "tile" }, make("div", { class: "name" }, name), make("div", { class: `value ${style}` }, value));
  if (points && points.length > 1) {
    const top = Math.max(...points, 1);
    const line = points.map((p, i) => `${((i + SPARK_POINTS - points.length) / (SPARK_POINTS - 1)) * 100},${27 - (p / top) * 25}`).join(" ");
    const chart = svg("svg", { viewBox: "0 0 100 28", preserveAspectRatio: "none", "aria-hidden": "true" });
    chart.append(svg("polyline", { points: line }));
    box.append(chart);
  }
  return box;
}

function showNow(s) {
  const state = s.state === "running" ? (s.intake.open ? ["running", "good"] : [`intake closed: ${s.intake.reason}`, "bad"]) : [s.state, "warn"];
  $("state").textContent = state[0];
  $("state").className = `pill ${state[1]}`;
  $("about").textContent = `${s.version} · durability ${s.durability} · up ${age(Date.now() - Date.parse(s.started_at))}`;
  for (const [name, value] of [["in", s.rates?.accepted_per_s], ["out", s.rates?.delivered_per_s]]) {
    history[name].push(value ?? 0);
    if (history[name].length > SPARK_POINTS) history[name].shift();
  }
  const oldest = s.queue.depth > 0 ? age(s.queue.oldest_age_ms) : "–";
  const drain = s.forecast?.drained_in_s, full = s.forecast?.disk_full_in_s;
  $("tiles").replaceChildren(
    tile("In", rate(s.rates?.accepted_per_s), "", history.in),
    tile("Out", rate(s.rates?.delivered_per_s), "", history.out),
    tile(drain ? `Waiting · drained in ${age(drain * 1000)}` : "Waiting", count(s.queue.depth), s.queue.depth > 10000 ? "warn" : ""),
    tile("Oldest", oldest, s.queue.oldest_age_ms > 300000 ? "warn" : ""),
    tile("In flight · delayed · blocked", `${count(s.queue.in_flight)} · ${count(s.queue.delayed)} · ${count(s.queue.blocked)}`),
    tile("Dead letters", count(s.dlq.depth), s.dlq.depth > 0 ? "bad" : ""),
    tile(full ? `Disk free · full in ${age(full * 1000)}` : "Disk free", size(s.disk.free_bytes), full ? "warn" : ""),
  );
  const ending = (s.certificates ?? []).filter((c) => c.ends_in_s < 14 * 86400).map((c) => `The certificate of ${c.of} (${c.role}) ends ${when(c.ends_at)}.`);
  if (s.history?.forgotten_early) ending.push(`${count(s.history.forgotten_early)} events were forgotten before their time: history.max_bytes is reached.`);
  $("notice").textContent = ending.join(" ");
  $("notice").hidden = ending.length === 0;
  const closed = s.intake.reason === "intake_closed";
  const door = closed ? make("button", { onclick: () => attempt(() => post("/v1/intake/open")) }, "Open intake") : make("button", { onclick: closeDoor }, "Close intake");
  if ($("door").firstChild?.textContent !== door.textContent) $("door").replaceChildren(door);
}

/// What a change is for, and how long it is to last.
async function asked(title, yes, more = []) {
  const reason = make("input", { id: "reason-field", maxLength: 500 });
  const within = make("input", { id: "for-field", placeholder: "30m", pattern: "[1-9][0-9]{0,3}(s|m|h)" });
  const fields = [...more, make("label", {}, "Reason", reason), make("label", {}, "For (empty: until it is undone)", within)];
  if (!(await ask(title, fields, yes))) return null;
  return { reason: reason.value, ...(within.value ? { for: within.value } : {}) };
}

async function closeDoor() {
  const wish = await asked("Answer 503 to every event?", "Close intake");
  if (wish) await attempt(() => post("/v1/intake/close", wish));
}

// ---- destinations ----
/// What each choice means stands with it, since a wrong one sends to a system in trouble, or keeps a sound one waiting.
const BREAKER = [["open", "open: nothing passes"], ["closed", "closed: all passes, whatever the calls say"], ["half_open", "by itself: a few requests decide (takes no time)"]];

async function setBreaker(name, path) {
  const state = make("select", { id: "state-field" }, ...BREAKER.map(([value, text]) => make("option", { value }, text)));
  const wish = await asked(`Breaker of ${name}`, "Set", [make("label", {}, "State", state)]);
  if (wish) await attempt(() => post(`${path}/breaker`, { state: state.value, ...wish }));
}

function condition(d) {
  if (d.paused) return ["paused", "warn"];
  if (d.breaker && d.breaker.state !== "closed") return [`breaker ${d.breaker.state.replace("_", " ")}`, "bad"];
  if (d.blocked_by.length > 0) return ["blocked", "warn"];
  if (d.queue.behind_dead_letters?.deliveries > 0) return ["blocked by dead letters", "bad"];
  if (d.queue.delayed > 0) return ["retrying", "warn"];
  return ["ok", "good"];
}

function destination(d) {
  const [word, style] = condition(d);
  const pair = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
  const path = `/v1/destinations/${encodeURIComponent(d.name)}`;
  const card = make("article", { class: "card", "data-destination": d.name },
    make("h3", {}, d.name, make("span", { class: `pill ${style}` }, word)),
    make("div", { class: "quiet" }, d.url ?? "no url: events wait"),
    make("dl", {},
      pair("Waiting", count(d.queue.depth)),
      pair("Oldest", d.queue.depth > 0 ? age(d.queue.oldest_age_ms) : "–"),
      pair("Out", rate(d.rates?.delivered_per_s)),
      pair("In flight", `${count(d.concurrency.in_flight)} of ${count(d.concurrency.limit)}`),
      pair("Delayed · blocked", `${count(d.queue.delayed)} · ${count(d.queue.blocked)}`),
      pair("Dead", count(d.counters.dead))));
  if (d.blocked_by.length > 0) card.append(make("ul", { class: "blockers" }, ...d.blocked_by.map((h) => make("li", {}, blocker(h)))));
  const behind = d.queue.behind_dead_letters;
  if (behind?.deliveries > 0) card.append(make("p", { class: "bad behind" }, `${count(behind.deliveries)} waiting in ${count(behind.interactions)} interaction${behind.interactions === 1 ? "" : "s"} behind dead letters, the oldest for ${age(behind.oldest_age_ms)}: redrive or purge those.`));
  if ("paused" in d) {
    const button = d.paused
      ? make("button", { onclick: () => attempt(() => post(`${path}/resume`, {})) }, "Resume")
      : make("button", { onclick: async () => { const wish = await asked(`Pause ${d.name}?`, "Pause"); if (wish) await attempt(() => post(`${path}/pause`, wish)); } }, "Pause");
    card.append(make("div", { class: "bar" }, button, make("button", { class: "plain", onclick: () => setBreaker(d.name, path) }, "Breaker")));
  }
  return card;
}

let destinationsShown = "";
function showDestinations(all) {
  const shown = JSON.stringify(all);
  if (shown === destinationsShown) return;
  destinationsShown = shown;
  const focused = document.activeElement?.closest?.("[data-destination]")?.dataset.destination;
  $("destination-list").replaceChildren(...all.map(destination));
  if (focused) [...document.querySelectorAll("[data-destination]")].find((c) => c.dataset.destination === focused)?.querySelector("button")?.focus();
  const select = document.forms["dlq-filter"].elements.destination;
  const names = all.map((d) => d.name);
  if ([...select.options].slice(1).map((o) => o.value).join("\n") !== names.join("\n")) {
    const chosen = select.value;
    select.replaceChildren(make("option", { value: "" }, "any"), ...names.map((n) => make("option", { value: n }, n)));
    select.value = chosen;
  }
}

// ---- where is it? ----
const isOpen = (e) => e.deliveries.some((d) => !["delivered", "discarded"].includes(d.state));

/// What a delivery waits for, every blocker of it; or how it ended, or since when it is under way.
function stands(d) {
  const blockers = [d.blocked_by, ...(d.also_blocked_by ?? [])].filter(Boolean).map(blocker);
  if (blockers.length) return blockers.join(", and by ");
  if (d.since) return `begun ${when(d.since)}, ends ${d.until} at the latest (${when(d.until)})`;
  const last = [d.outcome !== "answered" && d.outcome, d.status && `answer ${d.status}`, d.error].filter(Boolean).join(", ");
  return [d.reason, last, d.settled_at && `since ${d.settled_at} (${when(d.settled_at)})`].filter(Boolean).join(" · ") || "–";
}

/// Does something to deliveries of an event: those that are ticked, each by its destination, and no other.
async function actOn(e, word, method, tail) {
  await attempt(async () => {
    const path = `/v1/events/${encodeURIComponent(e.id)}${tail}`;
    const { destinations } = await (await api(method, `${path}?dry_run=true`)).json();
    const boxes = Object.keys(destinations).map((name) => [name, make("input", { type: "checkbox", checked: true, name })]);
    const state = (name) => e.deliveries.find((d) => d.destination === name)?.state.replace("_", " ") ?? "";
    const reason = make("input", { id: "reason-field", maxLength: 500 });
    const fields = [make("p", {}, make("code", {}, e.id)),
      ...boxes.map(([name, box]) => make("label", { class: "tick" }, box, `for ${name}: ${state(name)}`)),
      make("label", {}, "Reason", reason)];
    const check = () => (boxes.some(([, box]) => box.checked) ? "" : "No delivery is ticked.");
    const style = method === "DELETE" ? [make("p", { class: "bad" }, "What is ticked is discarded for good.")] : [];
    if (!(await ask(`${word} these deliveries?`, [...style, ...fields], word, check))) return;
    const wrong = [];
    for (const [destination, box] of boxes) {
      if (!box.checked) continue;
      const query = new URLSearchParams({ destination, ...(reason.value ? { reason: reason.value } : {}) });
      try { await api(method, `${path}?${query}`); } catch (e) { if (e.status !== 409) throw e; wrong.push(`${destination}: ${e.message}`); }
    }
    Object.assign(explained, { known: "", told: "" });
    await explainAgain();
    if (wrong.length) throw new Error(wrong.join("; "));
  });
}

function eventStory(e) {
  const rows = e.deliveries.map((d) => [
    d.destination, d.state.replace("_", " "), Array.isArray(d.attempts) ? d.attempts.length : (d.attempts ?? "–"), stands(d),
  ]);
  const act = (word, method, tail, style = "") => make("button", { class: style, onclick: () => actOn(e, word, method, tail) }, word);
  const whole = e.interaction && explained.key !== e.interaction ? [make("button", { class: "plain", onclick: () => explain(e.interaction) }, "Whole interaction")] : [];
  return make("article", { class: "card" },
    make("h3", {}, make("code", {}, e.id)),
    make("div", { class: "quiet" }, `${e.type || "no type"} · interaction ${e.interaction ?? "–"} · from ${e.source} · received ${e.received_at} (${when(e.received_at)}) · ${size(e.size)}`),
    table(["Destination", "State", "Attempts", "How it stands"], rows),
    ...e.deliveries.filter((d) => d.state === "dead").map((d) => make("div", { class: "bar" }, make("button", { class: "link", onclick: () => showLetter(e.id, d.destination) }, `Dead letter for ${d.destination}`))),
    make("div", { class: "bar" }, ...(isOpen(e) ? [act("Retry now", "POST", "/retry"), act("Discard", "DELETE", "", "danger")] : []),
      make("button", { class: "plain", onclick: () => showBody(`/v1/events/${encodeURIComponent(e.id)}/body`) }, "Body"), ...whole));
}

const STATE_STYLE = { delivered: "good", in_flight: "good", queued: "warn", delayed: "warn", blocked: "warn", dead: "bad", discarded: "quiet" };
const STATE_ORDER = Object.keys(STATE_STYLE);

/// An event in its interaction: one line, and all that is known of it behind that.
function moment(e) {
  const pills = e.deliveries.map((d) => make("span", { class: `pill ${STATE_STYLE[d.state] ?? "quiet"}` },
    e.deliveries.length > 1 ? `${d.destination}: ${d.state.replace("_", " ")}` : d.state.replace("_", " ")));
  const open = explained.unfolded.has(e.id);
  const line = make("summary", {}, make("span", { class: "sequence" }, `#${e.sequence}`), make("span", {}, e.type || "no type"), ...pills,
    make("span", { class: "quiet" }, when(e.received_at)));
  const details = make("details", { "data-event": e.id, open }, line, ...(open ? [eventStory(e)] : []));
  details.addEventListener("toggle", () => {
    if (details.open) { explained.unfolded.add(e.id); if (details.children.length === 1) details.append(eventStory(e)); }
    else explained.unfolded.delete(e.id);
  });
  return make("li", {}, details);
}

/// All of an interaction in the order in which it was accepted, whatever the state.
function timeline(key, events, more) {
  const states = events.flatMap((e) => e.deliveries.map((d) => d.state));
  const sums = STATE_ORDER.map((state) => [state, states.filter((s) => s === state).length]).filter(([, n]) => n > 0);
  const about = `${count(events.length)} event${events.length === 1 ? "" : "s"}${more ? ", and more behind them" : ""} · ${sums.map(([state, n]) => `${count(n)} ${state.replace("_", " ")}`).join(", ")}`;
  return [
    make("div", { class: "bar" }, make("span", {}, `Interaction ${key}`), make("span", { class: "quiet" }, about), make("span", { class: "gap" }),
      make("button", { class: "danger", onclick: () => erase(key) }, "Erase")),
    make("ol", { class: "timeline" }, ...events.map(moment)),
  ];
}

/// What is explained, so that it is asked for again while it is shown.
const explained = { key: "", known: "", told: "", unfolded: new Set() };
/// So many events of an interaction are shown.
const TIMELINE_MAX = 500;

async function explain(key) {
  Object.assign(explained, { key, known: "", told: "", unfolded: new Set() });
  $("explain-key").value = key;
  if (!key) return $("explained").replaceChildren();
  await explainAgain();
}

/// Puts what is known now in place of what was; nothing is touched where it is the same, or while it is in use.
async function explainAgain() {
  const key = explained.key;
  if (!key) return;
  let events, shown;
  try {
    try {
      events = [await get(`/v1/events/${encodeURIComponent(key)}`)];
      shown = () => events.map(eventStory);
    } catch (e) {
      if (e.status !== 400 && e.status !== 404) throw e;
      const found = await looked("/v1/events", { interaction: key }, TIMELINE_MAX);
      events = found.items.sort((a, b) => a.sequence - b.sequence);
      shown = () => timeline(key, events, found.more);
    }
    const known = JSON.stringify(events);
    // what is known can be the same while times pass
    const told = JSON.stringify(events.map((e) => [when(e.received_at), ...e.deliveries.map(stands)]));
    const chosen = document.getSelection();
    const copied = !chosen.isCollapsed && $("explained").contains(chosen.anchorNode);
    if (key !== explained.key || (explained.known === known && (explained.told === told || copied))) return;
    const inside = document.activeElement?.closest?.("#explained") ? document.activeElement : null;
    const used = inside && [inside.closest("[data-event]")?.dataset.event, inside.textContent];
    $("explained").setAttribute("aria-live", explained.known === known ? "off" : "polite");
    Object.assign(explained, { known, told });
    $("explained").replaceChildren(...(events.length ? shown() : [make("p", { class: "none" }, "Neither an event nor an interaction is known by this. It was never accepted, or has ended longer ago than is remembered.")]));
    if (used) {
      const again = [...$("explained").querySelectorAll("button, summary")].filter((b) => b.closest("[data-event]")?.dataset.event === used[0]);
      (again.find((b) => b.textContent === used[1]) ?? again.find((b) => b.tagName === inside.tagName))?.focus();
    }
  } catch (e) { await failed(e); }
}

/// Items of a list. The daemon looks at so much at once and then answers with what it found; here it is asked on.
async function looked(path, filter, limit) {
  const items = [];
  let after = "";
  for (let asks = 0; after !== null && items.length < limit && asks < 100; asks += 1) {
    const page = await get(`${path}?${new URLSearchParams({ ...filter, limit: limit - items.length, ...(after ? { after } : {}) })}`);
    items.push(...page.items);
    after = page.next;
  }
  return { items, more: after !== null };
}

/// Takes out all that lies here of an interaction.
async function erase(key) {
  await attempt(async () => {
    const path = `/v1/interactions/${encodeURIComponent(key)}/erase`;
    const there = await post(path, { dry_run: true });
    const reason = make("input", { id: "reason-field", maxLength: 500 });
    const about = `${count(there.waiting)} waiting, ${count(there.dead)} dead, ${count(there.remembered)} remembered, ${count(there.quarantined)} kept apart. They are gone for good.`;
    const fields = [make("p", { class: "bad" }, about), make("label", {}, "Reason (it stays in the audit, so no names)", reason)];
    if (!(await ask(`Erase interaction ${key}?`, fields, "Erase"))) return;
    const done = await post(path, { reason: reason.value });
    explained.key = "";
    $("explained").replaceChildren(none(`Erased: ${count(done.waiting)} waiting, ${count(done.dead)} dead, ${count(done.remembered)} remembered.`),
      ...Object.values(done.remains).map((text) => make("p", { class: "quiet" }, `Not reached: ${text}.`)));
  });
}

async function showBody(path) {
  try {
    const bytes = new Uint8Array(await (await api("GET", path)).arrayBuffer());
    await ask("Body", [make("pre", {}, new TextDecoder().decode(bytes))], "Close");
  } catch (e) { await failed(e); }
}

function table(names, rows) {
  return make("table", {},
    make("thead", {}, make("tr", {}, ...names.map((n) => make("th", { scope: "col" }, n)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell, i) => make("td", { "data-name": names[i] }, cell instanceof Node ? cell : String(cell)))))));
}
const none = (text) => make("p", { class: "none" }, text);

// ---- dead letters ----
// What is ticked are pairs of event and destination. The filter is the one that was applied, not what stands in its fields.
const dlq = { filter: {}, after: null, next: null, shown: [], chosen: new Map(), everything: false, depth: 0 };
const nameOf = (l) => `${l.id}/${l.destination}`;

function writtenFilter() {
  const form = new FormData(document.forms["dlq-filter"]);
  return Object.fromEntries([...form].filter(([, value]) => value !== ""));
}

const filterText = () => Object.entries(dlq.filter).map(([name, value]) => `${name} ${value}`).join(", ");

function showScope() {
  const shown = filterText() ? `Shown: ${filterText()}.` : "Shown: all dead letters.";
  const applied = JSON.stringify(writtenFilter()) === JSON.stringify(dlq.filter);
  $("dlq-scope").textContent = applied ? shown : `${shown} What stands in the filter is not applied until you press Filter.`;
}

function letterStory(l) {
  const attempts = l.attempts.map((a) => [a.number, `${a.at} (${when(a.at)})`, a.status ?? a.outcome, `${count(a.latency_ms)} ms`, a.error || a.answer || "–"]);
  const path = `/v1/dlq/${encodeURIComponent(l.id)}/body?destination=${encodeURIComponent(l.destination)}`;
  return [
    make("p", {}, `For ${l.destination}: ${l.reason}, died ${l.dead_at} (${when(l.dead_at)}). ${l.type || "No type"}, interaction ${l.interaction ?? "–"}, sender's id ${l.sender_id ?? "–"}, ${size(l.size)}.`),
    table(["#", "At", "Answer", "Took", "Said"], attempts),
    make("div", { class: "bar" }, make("button", { type: "button", onclick: async (e) => {
      const pre = make("pre", {});
      e.target.replaceWith(pre);
      try { pre.textContent = new TextDecoder().decode(new Uint8Array(await (await api("GET", path)).arrayBuffer())); } catch (error) { pre.textContent = error.message; }
    } }, "Show body")),
  ];
}

async function showLetter(id, destination) {
  try {
    const letter = await get(`/v1/dlq/${encodeURIComponent(id)}?${new URLSearchParams({ destination })}`);
    await ask(`Dead letter ${id}`, letterStory(letter), "Close");
  } catch (e) { await failed(e); }
}

const byDestination = (counts) => Object.entries(counts).map(([name, n]) => `${name} ${count(n)}`).join(", ");

function showChosen() {
  const counts = {};
  for (const l of dlq.chosen.values()) counts[l.destination] = (counts[l.destination] ?? 0) + 1;
  const n = dlq.chosen.size;
  const all = filterText() ? `all that fit: ${filterText()}` : `all ${count(dlq.depth)} dead letters`;
  $("chosen").textContent = dlq.everything ? `${all}, on every page` : n ? `${count(n)} chosen (${byDestination(counts)})` : "none chosen";
  $("choose-all").setAttribute("aria-pressed", String(dlq.everything));
  $("choose-all").textContent = dlq.everything || n ? "Choose none" : "Choose all found";
  $("redrive").disabled = $("purge").disabled = !dlq.everything && n === 0;
  for (const box of document.querySelectorAll("#dlq-list input[data-letter]")) box.checked = dlq.everything || dlq.chosen.has(box.dataset.letter);
  const boxes = [...document.querySelectorAll("#dlq-list input[data-letter]")];
  const page = document.querySelector("#dlq-list input[data-page]");
  if (page) page.checked = boxes.length > 0 && boxes.every((box) => box.checked);
}

/// Ticks or unticks letters; what was meant as a whole then is what is ticked of this page.
function choose(letters, on) {
  if (dlq.everything) { dlq.everything = false; dlq.shown.forEach((l) => dlq.chosen.set(nameOf(l), l)); }
  for (const l of letters) { if (on) dlq.chosen.set(nameOf(l), l); else dlq.chosen.delete(nameOf(l)); }
  showChosen();
}

function letterRow(l) {
  const last = l.attempts?.at(-1);
  const box = make("input", { type: "checkbox", "aria-label": `choose ${l.id} for ${l.destination}`, "data-letter": nameOf(l), onchange: (e) => choose([l], e.target.checked) });
  const more = make("button", { type: "button", class: "plain more", "aria-expanded": "false", "aria-label": `more of ${l.id}`, onclick: () => {
    const open = more.closest("tr").classList.toggle("open");
    more.setAttribute("aria-expanded", String(open));
    more.textContent = open ? "Less" : "More";
  } }, "More");
  return [box, make("button", { class: "link", onclick: () => showLetter(l.id, l.destination) }, l.id),
    l.destination, l.reason, last ? String(last.status ?? last.outcome) : "–", when(l.dead_at), l.type || "–", l.interaction ?? "–", more];
}

async function showLetters() {
  const query = new URLSearchParams({ ...dlq.filter, limit: "50", ...(dlq.after ? { after: dlq.after } : {}) });
  let page = await get(`/v1/dlq?${query}`);
  for (let asks = 0; page.items.length === 0 && page.next && asks < 100; asks += 1) {
    query.set("after", page.next);
    page = await get(`/v1/dlq?${query}`);
  }
  dlq.next = page.next;
  dlq.shown = page.items;
  $("dlq-next").disabled = !page.next;
  $("dlq-first").disabled = !dlq.after;
  const whole = make("input", { type: "checkbox", "aria-label": "choose this page", "data-page": "", onchange: (e) => choose(dlq.shown, e.target.checked) });
  const list = page.items.length ? table(["", "Id", "Destination", "Reason", "Last", "Died", "Type", "Interaction", ""], page.items.map(letterRow)) : none("No dead letters.");
  list.querySelector?.("thead th")?.append(whole);
  list.classList.add("letters");
  $("dlq-list").replaceChildren(list);
  showScope();
  showChosen();
}

async function changeLetters(what, yes, style) {
  const { everything } = dlq;
  const chosen = [...dlq.chosen.keys()];
  const selection = !everything ? { ids: chosen } : filterText() ? { filter: { ...dlq.filter } } : { all: true };
  const said = !everything ? `Those that you ticked: ${count(chosen.length)}.` : filterText() ? `All that fit the filter, on every page: ${filterText()}.` : "All dead letters there are; no filter is applied.";
  await attempt(async () => {
    const there = await post(`/v1/dlq/${what}`, { ...selection, dry_run: true });
    if (there.matched === 0) { dlq.chosen.clear(); dlq.everything = false; throw new Error("None of what was chosen is a dead letter any more."); }
    const about = what === "purge" ? "They are discarded for good." : "They go ahead of later events of their interactions.";
    const gone = !everything && chosen.length > there.matched ? [make("p", { class: "warn" }, `${count(chosen.length - there.matched)} of them cannot be ${what === "purge" ? "purged" : "redriven"} any more, and are left out.`)] : [];
    const body = [make("p", {}, said), make("ul", {}, ...Object.entries(there.destinations).map(([name, n]) => make("li", {}, `${count(n)} for ${name}`))), ...gone, make("p", { class: style }, about)];
    if (!(await ask(`${yes} ${count(there.matched)} dead letter${there.matched === 1 ? "" : "s"}?`, body, yes))) return;
    const { done } = await post(`/v1/dlq/${what}`, { ...selection, as_of: there.as_of });
    dlq.chosen.clear();
    dlq.everything = false;
    dlq.after = null;
    if (done < there.matched) throw new Error(`${count(done)} of ${count(there.matched)}: the others were no longer there.`);
  });
}

// ---- notes ----
async function showNotes() {
  const [outages, audit] = await Promise.all([get("/v1/outages?limit=10"), get("/v1/audit?limit=10")]);
  const outage = (g) => [g.reason.replace("_", " "), g.from, g.until ? `${g.until} (${age(Date.parse(g.until) - Date.parse(g.from))})` : "still", count(g.refused)];
  $("outage-list").replaceChildren(outages.items.length ? table(["Reason", "From", "Until", "Refused"], outages.items.map(outage)) : none("None: events could always be accepted."));
  $("audit-list").replaceChildren(audit.items.length ? table(["When", "Who", "What", "How many"], audit.items.map((a) => [`${a.at} (${when(a.at)})`, a.who, a.what, a.since ? `${count(a.count)} since ${a.since}` : count(a.count)])) : none("Nothing was changed."));
}

// ---- going on ----
async function refresh() {
  const s = await get("/v1/status");
  showNow(s);
  showDestinations(s.destinations);
  dlq.depth = s.dlq.depth;
  $("dlq-count").textContent = s.dlq.depth ? `${count(s.dlq.depth)}, ${size(s.dlq.bytes)}` : "";
}

async function lists() {
  await showLetters();
  await showNotes();
}

let dlqSeen = null;
let polls = 0;
async function poll() {
  if (!document.hidden && !entering && token) {
    try {
      await refresh();
      if (!$("ask").open) await explainAgain();
      const seen = $("dlq-count").textContent;
      if (seen !== dlqSeen && !$("ask").open) { dlqSeen = seen; await lists(); }
      else if (++polls % 3 === 0) await showNotes();
      if ($("trouble").dataset.lost) { delete $("trouble").dataset.lost; trouble(""); }
    } catch (e) {
      if (e.status === 401) enter("The token is not accepted any more.");
      else { $("trouble").dataset.lost = "1"; trouble(`The daemon does not answer: ${e.message}`); $("state").textContent = "not reachable"; $("state").className = "pill bad"; }
    }
  }
  setTimeout(poll, POLL_MS);
}

$("explain-form").addEventListener("submit", (e) => { e.preventDefault(); explain($("explain-key").value.trim()); });
$("dlq-filter").addEventListener("submit", (e) => { e.preventDefault(); Object.assign(dlq, { filter: writtenFilter(), after: null, everything: false }); dlq.chosen.clear(); attempt(async () => {}); });
$("dlq-filter").addEventListener("input", showScope);
$("choose-all").addEventListener("click", () => { dlq.everything = !dlq.everything && dlq.chosen.size === 0; dlq.chosen.clear(); showChosen(); });
$("ask-form").addEventListener("submit", submitted);
$("ask-no").addEventListener("click", () => answer(false));
// it also closes by the Escape key; where the next question is open already, that was the last one
$("ask").addEventListener("close", () => { if (!$("ask").open) answer(false); });
$("dlq-next").addEventListener("click", () => { dlq.after = dlq.next; attempt(async () => {}); });
$("dlq-first").addEventListener("click", () => { dlq.after = null; attempt(async () => {}); });
$("redrive").addEventListener("click", () => changeLetters("redrive", "Redrive", ""));
$("purge").addEventListener("click", () => changeLetters("purge", "Purge", "bad"));
$("leave").addEventListener("click", () => enter());
document.addEventListener("keydown", (e) => {
  if (e.key === "/" && !/^(input|select|textarea)$/i.test(document.activeElement?.tagName ?? "")) { e.preventDefault(); $("explain-key").focus(); }
});
if (token) poll(); else { enter(); setTimeout(poll, POLL_MS); }
