// Requests that wait or are answered now, and the last of those that have ended.

import { ApiError, call } from "./api.js";
import { h, note, onceAFrame, Rows, Text } from "./dom.js";
import { clock, duration, rate, timeOfDay } from "./format.js";
import { now, on, state } from "./store.js";

const flying = document.getElementById("requests");
const ended = document.getElementById("recent");
const MANY = 50;
const visible = new Set();
const total = new Text();
flying.querySelector(".count").append(total.element);
/** Rows that nobody sees are not written to. */
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) visible.add(target.row);
    else visible.delete(target.row);
  }
  progress();
});

function table(section, label, titles, empty) {
  const body = h("div", { role: "rowgroup", class: "rows" });
  const head = h("div.row.heading", { role: "row" }, ...titles.map((title, i) => h("span", { role: "columnheader", class: `c${i}` }, title)));
  const nothing = h("p.empty", {}, empty);
  const made = h("div.table", { role: "table", "aria-label": label }, h("div", { role: "rowgroup" }, head), body);
  section.querySelector(".scroll").append(made, nothing);
  return {
    body,
    empty(is) {
      made.hidden = is;
      nothing.hidden = !is;
    },
  };
}

function cells(number, role = (index) => (index === 0 ? "rowheader" : "cell")) {
  const texts = Array.from({ length: number }, () => new Text());
  return [texts, texts.map((text, index) => h("span", { role: role(index), class: `c${index}` }, text.element))];
}

const current = table(
  flying,
  "Requests in flight",
  ["Request", "Model", "State", "Age", "Tokens", "tok/s", "Key", "Path", "Action"],
  "Nothing is asked now.",
);
const past = table(
  ended,
  "Recent requests",
  ["Ended", "Model", "Status", "Waited", "First token", "Tokens", "tok/s", "Took", "Key", "Path"],
  "No request has ended since the router began.",
);
const currentRows = new Rows(current.body, (one) => one.id, makeCurrent);
const pastRows = new Rows(past.body, (one) => one.id, makePast);

export function start() {
  on(["requests"], onceAFrame(() => {
    const all = [...state.requests.values()];
    currentRows.show(all);
    current.body.classList.toggle("many", all.length > MANY);
    for (const row of visible) if (!state.requests.has(row.id)) visible.delete(row);
    current.empty(all.length === 0);
    progress();
  }));
  on(["progress"], onceAFrame(progress));
  on(["recent"], onceAFrame(() => {
    const all = [...state.recent.values()].reverse();
    pastRows.show(all);
    past.body.classList.toggle("many", all.length > MANY);
    past.empty(all.length === 0);
    const failed = all.filter((one) => one.status >= 400).length;
    ended.querySelector(".count").textContent = all.length ? `the last ${all.length}${failed ? `, ${failed} not answered` : ""}` : "";
  }));
  setInterval(() => !document.hidden && progress(), 1000);
}

function progress() {
  const time = now();
  for (const row of visible) {
    const one = state.requests.get(row.id);
    if (one) row.progress(one, time);
  }
  let waiting = 0;
  for (const one of state.requests.values()) if (one.state === "waiting") waiting += 1;
  const all = state.requests.size;
  total.set(all ? `${all - waiting} answered, ${waiting} waiting` : "");
}

function makeCurrent(first) {
  const [texts, spans] = cells(8);
  const cancel = h("button", { type: "button", "aria-label": `Cancel request ${first.id}`, onclick: () => cancelRequest(first.id) }, "Cancel");
  const element = h("div.row", { role: "row" }, ...spans, h("span", { role: "cell", class: "c8" }, cancel));
  texts[0].set(String(first.id));
  texts[6].set(first.key);
  texts[7].set(first.path);
  const row = {
    id: first.id,
    element,
    update() {},
    progress(one, time) {
      if (element.dataset.state !== one.state) element.dataset.state = one.state;
      texts[1].set(one.model);
      texts[2].set(one.state);
      texts[3].set(clock(time - one.began));
      texts[4].set(one.tokens === null ? "–" : String(one.tokens));
      texts[5].set(rate(one.tokens_per_second));
    },
  };
  element.row = row;
  row.progress(first, now());
  watcher.observe(element);
  return row;
}

function makePast(one) {
  const [texts, spans] = cells(10);
  const element = h("div.row", { role: "row" }, ...spans);
  const waited = (one.queue_seconds ?? 0) + (one.switch_seconds ?? 0);
  element.dataset.state = one.status < 400 ? "ok" : one.status === 499 ? "left" : "bad";
  const values = [
    timeOfDay(one.ended),
    one.model,
    one.status === 499 ? "client left" : String(one.status),
    waited >= 0.05 ? duration(waited) : "–",
    one.ttft === null ? "–" : duration(one.ttft),
    one.tokens === null ? "–" : String(one.tokens),
    rate(one.tokens_per_second),
    duration(one.seconds),
    one.key,
    one.path,
  ];
  values.forEach((value, index) => texts[index].set(value));
  if (one.request) spans[1].append(h("details", {}, h("summary", {}, "what was asked"), h("pre", { tabindex: "0" }, one.request)));
  return { element, update() {} };
}

async function cancelRequest(id) {
  try {
    await call("DELETE", `admin/requests/${id}`);
    note(`Request ${id} is cancelled.`);
  } catch (error) {
    note(error instanceof ApiError ? error.message : "The router does not answer.", true);
  }
}
