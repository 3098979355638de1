"use strict";
// The page asks for a user's list once a second and shows what has changed. A click goes to the stream that the run
// learns from; it is answered when a list of a newer version knows of it and is another one.

const POLL_MS = 1000;
const LENGTH = 10;
const byId = (id) => document.getElementById(id);

let user = null; // as the service takes it: a number or a text
let token = null;
let canClick = false;
let titles = new Map(); // of items that were seen on this page
let requests = new Map(); // item -> the request id under which it is shown now
let skipped = new Set();
let waiting = null; // the last click, until a list knows of it
let last = null; // the last answer
let round = 0; // of the user that is asked for: answers of another are dropped

async function ask(path, body) {
  const headers = { "content-type": "application/json" };
  if (token !== null) headers.authorization = `Bearer ${token}`;
  const options = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  const answer = await fetch(path, options);
  const said = await answer.json();
  if (answer.status === 401) byId("login").hidden = false;
  if (!answer.ok) throw new Error(said.error);
  return said;
}

function say(text) {
  if (byId("said").textContent !== text) byId("said").textContent = text;
}

function made(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

// Digits are a number, anything else is a text: as in the address of /v1/recommend.
function idOf(text) {
  const number = Number(text);
  return Number.isSafeInteger(number) && String(number) === text ? number : text;
}

async function start() {
  const { users, can_click: clicks } = await ask("v1/users");
  canClick = clicks;
  byId("users").replaceChildren(...users.map((id) => new Option(String(id), String(id))));
  if (user === null && users.length) choose(users[0]);
}

function choose(id) {
  user = id;
  round += 1;
  requests = new Map();
  skipped = new Set();
  waiting = null;
  last = null;
  byId("user").value = String(id);
  byId("list").replaceChildren();
  say(`Asking for user ${id} …`);
  refresh();
}

async function refresh() {
  if (user === null) return;
  const asked = round;
  try {
    const k = LENGTH + skipped.size;
    const answer = await ask("v1/recommend", { user, k, why: true });
    if (asked !== round) return;
    await show(answer, asked);
  } catch (error) {
    say(error.message);
  }
}

async function show(answer, asked) {
  const first = last === null;
  last = answer;
  answer.liked.forEach((item, at) => titles.set(item, answer.liked_titles[at]));
  answer.items.forEach((item, at) => titles.set(item, answer.titles[at]));
  const shown = answer.items.map((item, at) => ({ item, at })).filter(({ item }) => !skipped.has(item)).slice(0, LENGTH);
  await request(shown.map(({ item }) => item), asked);
  if (asked !== round) return;
  const focus = focused();
  const items = new Map([...byId("list").children].map((li) => [li.dataset.item, li]));
  const lines = shown.map(({ item, at }) => line(items.get(String(item)), item, at, answer));
  byId("list").replaceChildren(...lines);
  refocus(focus);
  byId("likes").replaceChildren(...answer.liked.slice(0, 5).map((item) => made("li", "", titles.get(item))));
  const { run, version, time_ms: time } = answer.versions;
  byId("versions").textContent = `version ${version} of ${run}, as of ${day(time)}`;
  if (first) say(`${shown.length} recommended for user ${user}.`);
  settle(answer);
}

// What comes into the list is shown: it gets a request id, under which it can be acted on.
async function request(items, asked) {
  if (!canClick) return;
  const fresh = items.filter((item) => !requests.has(item));
  if (fresh.length) {
    const { requests: ids } = await ask("v1/impressions", { user, items: fresh });
    if (asked !== round) return;
    fresh.forEach((item, at) => requests.set(item, ids[at]));
  }
  requests = new Map([...requests].filter(([item]) => items.includes(item)));
}

function line(li, item, at, answer) {
  if (li === undefined) {
    li = document.createElement("li");
    li.dataset.item = String(item);
    li.append(made("span", "title", answer.titles[at]), made("span", "score", ""), made("p", "why", ""));
    const buttons = made("div", "buttons", "");
    if (canClick) buttons.append(...["like", "skip"].map((kind) => button(item, kind)));
    li.append(buttons);
  }
  li.querySelector(".score").textContent = answer.scores[at].toFixed(3);
  const because = answer.because[at];
  li.querySelector(".why").textContent = because.length ? `because of ${because.join(" and ")}` : "";
  return li;
}

function button(item, kind) {
  const made_ = made("button", kind, kind);
  made_.type = "button";
  made_.dataset.kind = kind;
  made_.setAttribute("aria-label", `${kind} ${titles.get(item)}`);
  made_.addEventListener("click", () => act(item, kind, made_.closest("li")));
  return made_;
}

async function act(item, kind, li) {
  const request = requests.get(item);
  if (request === undefined || last === null) return;
  const before = last;
  const clickedAt = performance.now();
  li.querySelectorAll("button").forEach((one) => { one.disabled = true; });
  try {
    await ask("v1/actions", { request_id: request, kind });
  } catch (error) {
    li.querySelectorAll("button").forEach((one) => { one.disabled = false; });
    say(error.message);
    return;
  }
  waiting = { item, kind, clickedAt, before, round };
  byId("delay").textContent = `waiting for “${titles.get(item)}” to be learned …`;
  say(`${kind === "like" ? "Liked" : "Skipped"} ${titles.get(item)}.`);
  const next = li.nextElementSibling ?? li.previousElementSibling;
  next?.querySelector(`[data-kind="${kind}"]`)?.focus({ preventScroll: true });
  if (kind === "skip") {
    skipped.add(item);
    li.remove();
  }
}

function settle(answer) {
  if (waiting === null || waiting.round !== round) return;
  const { item, kind, clickedAt, before } = waiting;
  const newer = answer.versions.version > before.versions.version;
  const knows = kind === "like" ? answer.liked.includes(item) : String(answer.shown) !== String(before.shown);
  if (!newer || !knows || String(answer.items) === String(before.items)) return;
  const seconds = (performance.now() - clickedAt) / 1000;
  const text = `${seconds.toFixed(1)} s after you ${kind === "like" ? "liked" : "skipped"} “${titles.get(item)}”`;
  byId("delay").textContent = `${text} (version ${before.versions.version} → ${answer.versions.version})`;
  byId("delay").dataset.seconds = seconds.toFixed(3);
  say(`The list has changed, ${text}.`);
  waiting = null;
}

function focused() {
  const active = document.activeElement;
  const li = active?.closest?.("#list li");
  if (!li) return null;
  return { item: li.dataset.item, kind: active.dataset.kind, at: [...byId("list").children].indexOf(li) };
}

// Who works by keyboard stays on the item they were on, or where it was.
function refocus(focus) {
  if (focus === null) return;
  const lines = [...byId("list").children];
  const li = lines.find((one) => one.dataset.item === focus.item) ?? lines[Math.min(focus.at, lines.length - 1)];
  li?.querySelector(`[data-kind="${focus.kind}"]`)?.focus({ preventScroll: true });
}

function day(time) {
  return time < 0 ? "the beginning" : new Date(time).toISOString().slice(0, 16).replace("T", " ");
}

const number = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits });
const FIGURES = [
  ["auc", "AUC, predicted before learned", (value) => value.toFixed(4)],
  ["calibration", "calibration", (value) => value.toFixed(3)],
  ["examples", "examples learned", (value) => number(value, 0)],
  ["events_per_second", "events a second", (value) => number(value, 0)],
  ["lag_events", "lag, events", (value) => number(value, 0)],
  ["lag_seconds", "lag, seconds", (value) => number(value, 1)],
  ["rows", "rows", (value) => number(value, 0)],
  ["delay_ms", "read to readable, seconds", (value) => number(value / 1000, 1)],
  ["problem", "problem", (value) => value],
];

async function progress() {
  try {
    const { progress: look } = await ask("v1/progress");
    const known = look === null ? [] : FIGURES.filter(([name]) => look[name] != null && look[name] !== "");
    const pairs = known.flatMap(([name, label, shown]) => {
      const value = made("dd", "", shown(look[name]));
      value.dataset.name = name;
      return [made("dt", "", label), value];
    });
    byId("run").replaceChildren(...(look === null ? [made("dt", "", "No run is learning now.")] : pairs));
  } catch (error) {
    say(error.message);
  }
}

// One question at a time, however long an answer takes.
async function poll() {
  if (byId("live").checked && !document.hidden) {
    if (user === null) await start().catch((error) => say(error.message));
    await Promise.all([refresh(), progress()]);
  }
  setTimeout(poll, POLL_MS);
}

byId("who").addEventListener("submit", (event) => {
  event.preventDefault();
  choose(idOf(byId("user").value.trim()));
});

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
  byId("login").hidden = true;
  say("");
});

poll();
