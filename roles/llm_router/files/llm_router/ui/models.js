// The models: what each is doing, and what can be done with it in one click.

import { ApiError, call } from "./api.js";
import { announce, h, note, onceAFrame, Rows, Text } from "./dom.js";
import { ago, count, duration } from "./format.js";
import { showLog } from "./logs.js";
import { now, on, state } from "./store.js";

const MANY = 50;
const ORDER = { loading: 0, loaded: 1, failed: 2, asleep: 3, stopped: 4 };
const section = document.getElementById("models");
const filter = document.getElementById("filter");
const body = h("div", { role: "rowgroup", class: "rows" });
const head = h(
  "div.row.heading",
  { role: "row" },
  ...["Model", "State", "Engine", "Group", "Requests", "Load", "Last used", "Actions"].map((title, index) =>
    h("span", { role: "columnheader", class: `c${index}` }, title),
  ),
);
const nothing = h("p.empty", { hidden: true }, "No model has this in its name.");

export function start() {
  const table = h("div.table", { role: "table", "aria-label": "Models" }, h("div", { role: "rowgroup" }, head), body);
  section.querySelector(".scroll").append(table, nothing);
  const draw = onceAFrame(show);
  on(["models", "groups"], draw);
  filter.addEventListener("input", draw);
  setInterval(() => !document.hidden && draw(), 5000);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, dialog");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      filter.focus();
    }
  });
}

/** By group: what ends the wait for the last switch that was asked for here. */
const waiting = new Map();
const rows = new Rows(body, ([name]) => name, makeRow);

function show() {
  const word = filter.value.trim().toLowerCase();
  const all = [...state.models];
  const shown = word ? all.filter(([name, model]) => `${name} ${model.engine} ${model.group}`.toLowerCase().includes(word)) : all;
  const rank = ([, model]) => ORDER[model.state] - (model.in_flight + model.waiting > 0 && ORDER[model.state] > 1 ? 1.5 : 0);
  shown.sort((one, other) => rank(one) - rank(other));
  section.classList.toggle("one-group", Object.keys(state.groups).length < 2);
  rows.show(shown);
  body.classList.toggle("many", shown.length > MANY);
  nothing.hidden = shown.length > 0 || all.length === 0;
  const loaded = all.filter(([, model]) => model.state === "loaded").length;
  section.querySelector(".count").textContent = `${all.length} configured, ${loaded} loaded`;
}

function makeRow([name]) {
  const cell = (index, ...children) => h("span", { role: "cell", class: `c${index}` }, ...children);
  const label = new Text("span", { class: "state" });
  const texts = [2, 3, 4, 5, 6].map(() => new Text());
  const buttons = {
    switch: button("Switch", `Switch to ${name}`, () => switchTo(name)),
    unload: button("Unload", `Unload ${name}`, () => unload(name)),
    clear: button("Clear", `Clear: forget the failures of ${name}`, () => clear(name)),
    log: button("Log", `Log of ${name}`, () => showLog(name)),
  };
  const failure = h("p.failure");
  const reason = new Text();
  const lines = h("details", { hidden: true }, h("summary", {}, "Its last log lines"), h("pre", { tabindex: "0" }));
  failure.append(reason.element);
  const trouble = h("span", { role: "cell", class: "c8", hidden: true }, failure, lines);
  const element = h(
    "div.row",
    { role: "row" },
    h("span", { role: "rowheader", class: "c0" }, h("span.name", { title: name }, name)),
    cell(1, label.element),
    ...texts.map((text, index) => cell(index + 2, text.element)),
    cell(7, buttons.switch, buttons.unload, buttons.clear, buttons.log),
    trouble,
  );
  const update = ([, model]) => {
    if (element.dataset.state !== model.state) element.dataset.state = model.state;
    label.set(model.state);
    texts[0].set(model.engine);
    texts[1].set(model.group);
    texts[2].set(traffic(model));
    texts[3].set(model.load_seconds === null ? "" : duration(model.load_seconds));
    texts[4].set(lastUsed(model));
    hide(buttons.switch, model.state === "loaded" || model.state === "loading");
    hide(buttons.unload, model.state !== "loaded");
    hide(buttons.clear, !model.failure);
    const bad = model.failure;
    hide(trouble, !bad || model.state === "loading");
    hide(lines, !bad?.log_lines.length);
    if (bad) {
      reason.set(bad.count > 1 ? `${bad.message} (${bad.count} times in a row)` : bad.message);
      const text = bad.log_lines.join("\n");
      const shown = lines.querySelector("pre");
      if (shown.textContent !== text) shown.textContent = text;
    }
  };
  return { element, update };
}

function hide(element, is) {
  if (element.hidden !== is) element.hidden = is;
}

function button(text, label, action) {
  return h("button", { type: "button", "aria-label": label, onclick: action }, text);
}

function traffic(model) {
  const parts = [];
  if (model.in_flight) parts.push(`${model.in_flight} answered`);
  if (model.waiting) parts.push(`${model.waiting} waiting`);
  return parts.join(", ");
}

function lastUsed(model) {
  if (model.in_flight) return "now";
  return model.last_used === null ? "" : ago(now() - model.last_used);
}

async function attempt(what, action) {
  try {
    await action();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ApiError)) note(`${what}: the router does not answer.`, true);
    // the switch that failed says so itself, with its steps
    else if (error.code !== "model_unavailable") note(error.message, true);
  }
}

export function switchTo(model) {
  const { group } = state.models.get(model);
  const loaded = state.models.get(state.groups[group]?.loaded);
  const others = loaded?.in_flight ? `, after ${count(loaded.in_flight, "answer")} of ${state.groups[group].loaded}` : "";
  if (others) note(`${model} is next${others}.`);
  announce(`Switching to ${model}${others}`);
  // the last word counts, and a browser has few connections: who waits still is given up
  waiting.get(group)?.abort();
  const abort = new AbortController();
  waiting.set(group, abort);
  return attempt(`Switch to ${model}`, async () => {
    const done = await call("POST", "admin/switch", { model }, { signal: abort.signal });
    note(done.changed ? `${model} is ready, after ${duration(done.seconds)}.` : `${model} is loaded already.`);
  });
}

function unload(model) {
  const { group, in_flight } = state.models.get(model);
  if (in_flight) note(`${model} is unloaded when ${count(in_flight, "answer")} ended.`);
  return attempt(`Unload ${model}`, async () => {
    await call("POST", "admin/unload", { group });
    note(`${model} is unloaded.`);
  });
}

function clear(model) {
  return attempt(`Clear ${model}`, async () => {
    await call("POST", "admin/clear", { model });
    note(`The failures of ${model} are forgotten.`);
  });
}
