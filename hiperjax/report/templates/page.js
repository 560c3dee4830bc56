"use strict";
// Text of worlds and models enters the page by textContent alone.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const STREAMS = ["low", "high", "term"];

function make(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined && text !== null) {
    const inner = document.createElement("bdi");
    inner.textContent = String(text);
    node.append(inner);
  }
  return node;
}

// -- charts: what stands under the pointer ------------------------------------------------------

function readPath(path) {
  return (path.getAttribute("d").match(/-?[\d.]+,-?[\d.]+/g) || []).map((p) => p.split(",").map(Number));
}

function round(value) {
  const size = Math.abs(value);
  return size && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function describe(svg, event) {
  const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
  const at = (event.clientX - box.left) / box.width * view.width;
  const [left, top, right, bottom] = svg.dataset.frame.split(" ").map(Number);
  const [x0, x1, y0, y1] = svg.dataset.window.split(" ").map(Number);
  let nearest = null;
  const found = [];
  for (const path of svg.querySelectorAll("path.line:not(.faint)")) {
    const points = readPath(path);
    if (!points.length) continue;
    const p = points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a);
    if (nearest === null || Math.abs(p[0] - at) < Math.abs(nearest - at)) nearest = p[0];
    found.push([path.dataset.label, p]);
  }
  if (nearest === null) return "";
  const x = x0 + (nearest - left) / (right - left) * (x1 - x0);
  const lines = found.filter(([, p]) => Math.abs(p[0] - nearest) < 1)
    .map(([label, p]) => `${label}  ${round(y0 + (bottom - p[1]) / (bottom - top) * (y1 - y0))}`);
  return [`iteration ${Math.round(x)}`, ...lines].join("\n");
}

const tip = make("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);
for (const svg of document.querySelectorAll(".chart svg[data-frame]")) {
  svg.addEventListener("pointermove", (event) => {
    tip.textContent = describe(svg, event);
    tip.hidden = !tip.textContent;
    tip.style.left = Math.min(event.clientX + 14, innerWidth - 200) + "px";
    tip.style.top = event.clientY + 14 + "px";
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; });
}

// -- episodes -----------------------------------------------------------------------------------

const items = [];
let current = -1;

function shade(value, largest) {
  if (value === null || !largest) return "";
  const level = Math.ceil(Math.min(1, Math.abs(value) / largest) * 3);
  return level ? (value > 0 ? "p" : "n") + level : "";
}

function number(value) {
  return value === null || value === undefined ? "" : value.toFixed(Math.abs(value) >= 100 ? 0 : 3);
}

function row(table, name, turns, fill) {
  const line = table.insertRow(), head = make("th", "", name);
  head.scope = "row";
  line.append(head);
  turns.forEach((turn, n) => {
    const cell = line.insertCell();
    cell.dataset.turn = n;
    fill(cell, turn, n);
  });
  return line;
}

function textRow(table, name, turns, read) {
  return row(table, name, turns, (cell, turn) => cell.append(make("div", "", read(turn))));
}

function numberRow(table, name, turns, read, colored) {
  const values = turns.map(read);
  if (values.every((v) => v === null || v === undefined)) return null;
  const largest = Math.max(...values.map((v) => Math.abs(v || 0)));
  const line = row(table, name, turns, (cell, turn, n) => {
    cell.textContent = number(values[n]);
    if (colored) cell.className = shade(values[n] === undefined ? null : values[n], largest);
  });
  line.className = "numbers";
  return line;
}

function segmentRow(table, turns) {
  const line = table.insertRow(), head = make("th", "", "segment");
  head.scope = "row";
  line.append(head);
  let number = -1, cell = null;
  turns.forEach((turn) => {
    if (cell === null || turn.boundary) {
      number += 1;
      cell = make("td", `segment s${number % 6}`, turn.subgoal || "(no subgoal)");
      cell.colSpan = 1;
      line.append(cell);
    } else {
      cell.colSpan += 1;
    }
  });
}

function turnRow(table, turns) {
  const line = table.insertRow(), head = make("th", "", "turn");
  head.scope = "row";
  line.append(head);
  turns.forEach((turn, n) => {
    const cell = make("th", "", `${n + 1}  ${turn.switch ? "SWITCH" : "keep"}`);
    cell.scope = "col";
    cell.dataset.turn = n;
    for (const mark of turn.marks) cell.append(" ", make("span", "mark", mark));
    line.append(cell);
  });
}

function timeline(episode) {
  const box = make("div", "timeline"), table = make("table"), turns = episode.turns;
  for (const note of episode.notes) box.append(make("p", "note", note));
  segmentRow(table, turns);
  turnRow(table, turns);
  textRow(table, "seen", turns, (t) => t.seen);
  textRow(table, "said", turns, (t) => t.said);
  textRow(table, "done", turns, (t) => t.done);
  numberRow(table, "reward", turns, (t) => t.reward, true);
  if (turns.some((t) => t.shaped !== null && t.shaped !== t.reward)) {
    numberRow(table, "shaped reward", turns, (t) => t.shaped, true);
  }
  STREAMS.forEach((s, n) => numberRow(table, `value ${s}`, turns, (t) => t.values ? t.values[n] : null));
  for (const name of episode.estimators) {
    STREAMS.forEach((s, n) => numberRow(table, `${name}: advantage ${s}`, turns,
      (t) => t.advantages[name] ? t.advantages[name][n] : null, true));
  }
  const context = textRow(table, "context", turns, (t) => t.context);
  context.hidden = true;
  context.className = "context";
  box.append(table);
  return box;
}

function setOpen(item, open) {
  if (open && !item.body) {
    item.body = timeline(item.episode);
    item.node.append(item.body);
  }
  if (item.body) item.body.hidden = !open;
  item.button.setAttribute("aria-expanded", String(open));
}

function isOpen(item) {
  return item.button.getAttribute("aria-expanded") === "true";
}

function addEpisode(episode) {
  const node = make("li"), button = make("button", "head");
  button.type = "button";
  const solved = episode.solved ? "solved" : "unsolved";
  button.append(make("span", "why", episode.why.join(", ")), make("span", solved, episode.solved ? "solved" : "not solved"),
    make("span", "soft", `iteration ${episode.iteration}`), make("span", "", episode.task),
    make("span", "soft", `${episode.turns.length} turns, ${episode.ending}`));
  if (episode.run) button.append(make("span", "soft", episode.run));
  const item = { episode, node, button, body: null, text: null };
  button.addEventListener("click", () => { current = items.indexOf(item); setOpen(item, !isOpen(item)); });
  node.append(button);
  setOpen(item, false);
  items.push(item);
  $("list").append(node);
}

function haystack(item) {
  if (item.text === null) {
    const e = item.episode;
    const turns = e.turns.flatMap((t) => [t.seen, t.said, t.done, t.subgoal, ...t.marks]);
    item.text = [e.task, e.kind, e.run, ...e.why, ...turns].join("\n").toLowerCase();
  }
  return item.text;
}

function matches(item) {
  const e = item.episode, words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  return (!$("why").value || e.why.includes($("why").value))
    && (!$("outcome").value || e.solved === ($("outcome").value === "solved"))
    && (!$("kind").value || e.kind === $("kind").value)
    && (!$("run").value || e.run === $("run").value)
    && words.every((word) => haystack(item).includes(word));
}

function filter() {
  let shown = 0;
  for (const item of items) {
    item.node.hidden = !matches(item);
    shown += item.node.hidden ? 0 : 1;
  }
  $("count").textContent = `${shown} of ${items.length} episodes`;
}

function fillSelect(id, values) {
  const names = [...new Set(values.filter(Boolean))].sort();
  for (const name of names) {
    const option = make("option");
    option.value = option.textContent = name;
    $(id).append(option);
  }
  $(id).hidden = names.length < 2 && id !== "why";
}

function move(by) {
  let next = current + by;
  while (items[next] && items[next].node.hidden) next += by;
  if (!items[next]) return;
  current = next;
  items[current].button.focus();
  items[current].node.scrollIntoView({ block: "nearest" });
}

function moveTurn(by) {
  const item = items[current];
  if (!item || !item.body || !isOpen(item)) return false;
  const last = item.episode.turns.length - 1;
  item.turn = item.turn === undefined ? (by > 0 ? 0 : last) : Math.max(0, Math.min(last, item.turn + by));
  for (const cell of item.body.querySelectorAll("[data-turn]")) {
    cell.classList.toggle("at", Number(cell.dataset.turn) === item.turn);
  }
  item.body.querySelector(`th[data-turn="${item.turn}"]`).scrollIntoView({ block: "nearest", inline: "center" });
  return true;
}

function toggleContext() {
  for (const line of document.querySelectorAll("tr.context")) line.hidden = !line.hidden;
}

const KEYS = {
  "/": () => $("search").focus(),
  j: () => move(1),
  k: () => move(-1),
  c: toggleContext,
  ArrowRight: () => moveTurn(1),
  ArrowLeft: () => moveTurn(-1),
  Escape: () => items.forEach((item) => setOpen(item, false)),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const action = KEYS[event.key];
  if (action && action() !== false) event.preventDefault();
});

if ($("filter")) {
  data.episodes.forEach(addEpisode);
  fillSelect("why", data.episodes.flatMap((e) => e.why));
  fillSelect("kind", data.episodes.map((e) => e.kind));
  fillSelect("run", data.episodes.map((e) => e.run));
  $("outcome").hidden = new Set(data.episodes.map((e) => e.solved)).size < 2;
  $("filter").addEventListener("input", filter);
  $("filter").addEventListener("submit", (event) => event.preventDefault());
}

// -- live: ask for news, keep what the reader had open ------------------------------------------

const FIELDS = ["search", "why", "outcome", "kind", "run"];

function keepView() {
  const open = items.filter(isOpen).map((item) => item.episode.key);
  const fields = $("filter") ? FIELDS.map((id) => $(id).value) : [];
  sessionStorage.setItem("view", JSON.stringify({ open, fields }));
}

function restoreView() {
  const view = JSON.parse(sessionStorage.getItem("view") || "null");
  if (!view || !$("filter")) return;
  view.fields.forEach((value, n) => { $(FIELDS[n]).value = value; });
  items.filter((item) => view.open.includes(item.episode.key)).forEach((item) => setOpen(item, true));
}

async function askForNews(version) {
  let next = version, text = "";
  try {
    const answer = await (await fetch("state")).json();
    next = answer.version;
    text = answer.line;
  } catch (error) {
    text = "the server has stopped; this page shows what it last saw";
  }
  $("news").textContent = text;
  const busy = document.activeElement && document.activeElement.matches("input, select");
  if (version !== null && next !== version && !busy) {
    keepView();
    location.reload();
    return;
  }
  setTimeout(askForNews, 2000, version === null ? next : version);
}

if (data.live) {
  $("news").hidden = false;
  restoreView();
  askForNews(null);
}
if ($("filter")) filter();
