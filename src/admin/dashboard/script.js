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

function held(h) {
  const parts = [h.gate];
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

/// Does something that was clicked, and says what came of it.
async function attempt(what) {
  try { trouble(""); await what(); await refresh(); await lists(); } catch (e) { if (e.status === 401) await enter(); else trouble(e.message); }
}

function ask(title, body, yes = "OK") {
  const dialog = $("ask");
  $("ask-title").textContent = title;
  $("ask-body").replaceChildren(...body);
  $("ask-yes").textContent = yes;
  $("ask-no").hidden = yes === "Close";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

let entering = null;
function enter() {
  entering ??= (async () => {
    const field = make("input", { type: "password", autocomplete: "off", id: "token-field", name: "token" });
    const label = make("label", {}, "Token: DATA/admin.token, or as the configuration says", field);
    const given = await ask("holdline wants its token", [label], "Enter");
    if (given) { token = field.value.trim(); sessionStorage.setItem("token", token); }
    entering = null;
    if (given) { await refresh(); await lists(); }
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
    tile("In flight · delayed · held", `${count(s.queue.in_flight)} · ${count(s.queue.delayed)} · ${count(s.queue.held)}`),
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
  if (d.holds.length > 0) return ["held back", "warn"];
  if (d.queue.behind_dead_letters?.deliveries > 0) return ["held by dead letters", "bad"];
  if (d.queue.delayed > 0) return ["retrying", "warn"];
  return ["ok", "good"];
}

function destination(d) {
  const [word, style] = condition(d);
  const pair = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
  const path = `/v1/destinations/${encodeURIComponent(d.name)}`;
  const card = make("article", { class: "card", "data-destination": d.name },
    make("h3", {}, d.name, make("span", { class: `pill ${style}` }, word)),
    make("div", { class: "quiet" }, d.url ?? "no url: events are held"),
    make("dl", {},
      pair("Waiting", count(d.queue.depth)),
      pair("Oldest", d.queue.depth > 0 ? age(d.queue.oldest_age_ms) : "–"),
      pair("Out", rate(d.rates?.delivered_per_s)),
      pair("In flight", `${count(d.concurrency.in_flight)} of ${count(d.concurrency.limit)}`),
      pair("Delayed · held", `${count(d.queue.delayed)} · ${count(d.queue.held)}`),
      pair("Dead", count(d.counters.dead))));
  if (d.holds.length > 0) card.append(make("ul", { class: "holds" }, ...d.holds.map((h) => make("li", {}, held(h)))));
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

/// What a delivery waits for, every gate of it; or how it ended, or since when it is under way.
function stands(d) {
  const gates = [d.waiting_for, ...(d.also_waiting_for ?? [])].filter(Boolean).map(held);
  if (gates.length) return gates.join(", and for ");
  if (d.since) return `begun ${when(d.since)}, ends ${d.until} at the latest (${when(d.until)})`;
  const last = [d.outcome !== "answered" && d.outcome, d.status && `answer ${d.status}`, d.error].filter(Boolean).join(", ");
  return [d.reason, last, d.settled_at && `since ${d.settled_at} (${when(d.settled_at)})`].filter(Boolean).join(" · ") || "–";
}

function eventStory(e) {
  const rows = e.deliveries.map((d) => [
    d.destination, d.state.replace("_", " "), Array.isArray(d.attempts) ? d.attempts.length : (d.attempts ?? "–"), stands(d),
  ]);
  const act = (word, method, tail, style = "") => make("button", { class: style, onclick: () => attempt(async () => {
    const path = `/v1/events/${encodeURIComponent(e.id)}${tail}`;
    const mark = await (await api(method, `${path}?dry_run=true`)).json();
    const reason = make("input", { id: "reason-field", maxLength: 500 });
    const fields = [make("p", {}, e.id), make("label", {}, "Reason", reason)];
    if (!(await ask(`${word} ${count(mark.matched)} of its deliveries?`, fields, word))) return;
    await api(method, reason.value ? `${path}?${new URLSearchParams({ reason: reason.value })}` : path);
    await explain(e.id);
  }) }, word);
  return make("article", { class: "card" },
    make("h3", {}, make("code", {}, e.id)),
    make("div", { class: "quiet" }, `${e.type || "no type"} · interaction ${e.interaction ?? "–"} · from ${e.source} · received ${e.received_at} (${when(e.received_at)}) · ${size(e.size)}`),
    table(["Destination", "State", "Attempts", "How it stands"], rows),
    ...e.deliveries.filter((d) => d.state === "dead").map((d) => make("div", { class: "bar" }, make("button", { class: "link", onclick: () => showLetter(e.id, d.destination) }, `Dead letter for ${d.destination}`))),
    make("div", { class: "bar" }, ...(isOpen(e) ? [act("Retry now", "POST", "/retry"), act("Discard", "DELETE", "", "danger")] : []),
      make("button", { class: "plain", onclick: () => showBody(`/v1/events/${encodeURIComponent(e.id)}/body`) }, "Body")));
}

/// What is explained, so that it is asked for again while it is shown.
const explained = { key: "", known: "", told: "" };

async function explain(key) {
  Object.assign(explained, { key, known: "", told: "" });
  if (!key) return $("explained").replaceChildren();
  await explainAgain();
}

/// Puts what is known now in place of what was; nothing is touched where it is the same, or while it is in use.
async function explainAgain() {
  const key = explained.key;
  if (!key) return;
  const found = [];
  let events;
  try {
    try { events = [await get(`/v1/events/${encodeURIComponent(key)}`)]; }
    catch (e) {
      if (e.status !== 400 && e.status !== 404) throw e;
      events = await looked("/v1/events", { interaction: key }, 100);
      if (events.length) found.push(interactionStory(key));
      events.sort((a, b) => Number(isOpen(b)) - Number(isOpen(a)) || a.sequence - b.sequence);
    }
    const known = JSON.stringify(events);
    // what is known can be the same while times pass
    const told = JSON.stringify(events.map((e) => [when(e.received_at), ...e.deliveries.map(stands)]));
    const chosen = document.getSelection();
    const copied = !chosen.isCollapsed && $("explained").contains(chosen.anchorNode);
    if (key !== explained.key || (explained.known === known && (explained.told === told || copied))) return;
    const used = document.activeElement?.closest?.("#explained") ? document.activeElement.textContent : null;
    $("explained").setAttribute("aria-live", explained.known === known ? "off" : "polite");
    Object.assign(explained, { known, told });
    $("explained").replaceChildren(...found, ...(events.length ? events.map(eventStory) : [make("p", { class: "none" }, "Neither an event nor an interaction is known by this. It was never accepted, or has ended longer ago than is remembered.")]));
    if (used) [...$("explained").querySelectorAll("button")].find((b) => b.textContent === used)?.focus();
  } catch (e) { if (e.status === 401) await enter(); else trouble(e.message); }
}

/// Items of a list. The daemon looks at so much at once and then answers with what it found; here it is asked on.
async function looked(path, filter, limit) {
  const items = [];
  for (let after = "", asks = 0; after !== null && items.length < limit && asks < 100; asks += 1) {
    const page = await get(`${path}?${new URLSearchParams({ ...filter, limit: limit - items.length, ...(after ? { after } : {}) })}`);
    items.push(...page.items);
    after = page.next;
  }
  return items;
}

function interactionStory(key) {
  return make("div", { class: "bar" }, make("span", { class: "quiet" }, `Interaction ${key}`), make("span", { class: "gap" }),
    make("button", { class: "danger", onclick: () => erase(key) }, "Erase"));
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
  } catch (e) { trouble(e.message); }
}

function table(names, rows) {
  return make("table", {},
    make("thead", {}, make("tr", {}, ...names.map((n) => make("th", { scope: "col" }, n)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell, i) => make("td", { "data-name": names[i] }, cell instanceof Node ? cell : String(cell)))))));
}
const none = (text) => make("p", { class: "none" }, text);

// ---- dead letters ----
const dlq = { after: null, next: null, chosen: new Set() };

function dlqFilter() {
  const form = new FormData(document.forms["dlq-filter"]);
  return Object.fromEntries([...form].filter(([, value]) => value !== ""));
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
  } catch (e) { trouble(e.message); }
}

function showChosen() {
  const n = dlq.chosen.size;
  $("chosen").textContent = n ? `${n} chosen` : "none chosen: all that the filter fits";
}

async function showLetters() {
  const query = new URLSearchParams({ ...dlqFilter(), limit: "50", ...(dlq.after ? { after: dlq.after } : {}) });
  let page = await get(`/v1/dlq?${query}`);
  for (let asks = 0; page.items.length === 0 && page.next && asks < 100; asks += 1) {
    query.set("after", page.next);
    page = await get(`/v1/dlq?${query}`);
  }
  dlq.next = page.next;
  $("dlq-next").disabled = !page.next;
  $("dlq-first").disabled = !dlq.after;
  const last = (l) => { const a = l.attempts.at(-1); return a ? String(a.status ?? a.outcome) : "–"; };
  const rows = page.items.map((l) => [
    make("input", { type: "checkbox", "aria-label": `choose ${l.id}`, checked: dlq.chosen.has(l.id), onchange: (e) => { if (e.target.checked) dlq.chosen.add(l.id); else dlq.chosen.delete(l.id); showChosen(); } }),
    make("button", { class: "link", onclick: () => ask(`Dead letter ${l.id}`, letterStory(l), "Close") }, l.id),
    l.destination, l.reason, last(l), when(l.dead_at), l.type || "–", l.interaction ?? "–",
  ]);
  $("dlq-list").replaceChildren(rows.length ? table(["", "Id", "Destination", "Reason", "Last", "Died", "Type", "Interaction"], rows) : none("No dead letters."));
  showChosen();
}

async function changeLetters(what, yes, style) {
  const selection = dlq.chosen.size ? { ids: [...dlq.chosen] } : { filter: dlqFilter() };
  await attempt(async () => {
    const { matched } = await post(`/v1/dlq/${what}`, { ...selection, dry_run: true });
    if (matched === 0) return trouble("No dead letter fits.");
    const about = what === "purge" ? "They are discarded for good." : "They go ahead of later events of their interactions.";
    if (!(await ask(`${yes} ${count(matched)} dead letter${matched === 1 ? "" : "s"}?`, [make("p", { class: style }, about)], yes))) return;
    await post(`/v1/dlq/${what}`, selection);
    dlq.chosen.clear();
    dlq.after = null;
  });
}

// ---- notes ----
async function showNotes() {
  const [gaps, audit] = await Promise.all([get("/v1/gaps?limit=10"), get("/v1/audit?limit=10")]);
  const gap = (g) => [g.reason.replace("_", " "), g.from, g.until ? `${g.until} (${age(Date.parse(g.until) - Date.parse(g.from))})` : "still", count(g.refused)];
  $("gap-list").replaceChildren(gaps.items.length ? table(["Reason", "From", "Until", "Refused"], gaps.items.map(gap)) : none("None: events could always be accepted."));
  $("audit-list").replaceChildren(audit.items.length ? table(["When", "Who", "What", "How many"], audit.items.map((a) => [`${a.at} (${when(a.at)})`, a.who, a.what, count(a.count)])) : none("Nothing was changed."));
}

// ---- going on ----
async function refresh() {
  const s = await get("/v1/status");
  showNow(s);
  showDestinations(s.destinations);
  $("dlq-count").textContent = s.dlq.depth ? `${count(s.dlq.depth)}, ${size(s.dlq.bytes)}` : "";
}

async function lists() {
  await showLetters();
  await showNotes();
}

let dlqSeen = null;
let polls = 0;
async function poll() {
  if (!document.hidden && !entering) {
    try {
      await refresh();
      if (!$("ask").open) await explainAgain();
      const seen = $("dlq-count").textContent;
      if (seen !== dlqSeen && !$("ask").open) { dlqSeen = seen; await lists(); }
      else if (++polls % 3 === 0) await showNotes();
      if ($("trouble").dataset.lost) { delete $("trouble").dataset.lost; trouble(""); }
    } catch (e) {
      if (e.status === 401) enter();
      else { $("trouble").dataset.lost = "1"; trouble(`The daemon does not answer: ${e.message}`); $("state").textContent = "not reachable"; $("state").className = "pill bad"; }
    }
  }
  setTimeout(poll, POLL_MS);
}

$("explain-form").addEventListener("submit", (e) => { e.preventDefault(); explain($("explain-key").value.trim()); });
$("dlq-filter").addEventListener("submit", (e) => { e.preventDefault(); dlq.after = null; dlq.chosen.clear(); attempt(async () => {}); });
$("dlq-next").addEventListener("click", () => { dlq.after = dlq.next; attempt(async () => {}); });
$("dlq-first").addEventListener("click", () => { dlq.after = null; attempt(async () => {}); });
$("redrive").addEventListener("click", () => changeLetters("redrive", "Redrive", ""));
$("purge").addEventListener("click", () => changeLetters("purge", "Purge", "bad"));
$("leave").addEventListener("click", () => { sessionStorage.removeItem("token"); token = ""; enter(); });
document.addEventListener("keydown", (e) => {
  if (e.key === "/" && !/^(input|select|textarea)$/i.test(document.activeElement?.tagName ?? "")) { e.preventDefault(); $("explain-key").focus(); }
});
if (token) poll(); else { enter(); setTimeout(poll, POLL_MS); }
