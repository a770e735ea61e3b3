// The running switch of each group, or the last one: its plan, step by step, with the time left.

import { ApiError, call } from "./api.js";
import { announce, h, note, onceAFrame, Rows, Text } from "./dom.js";
import { ago, duration } from "./format.js";
import { now, on, state } from "./store.js";

const TOLD = {
  Drain: (model) => `Let the answers of ${model} finish`,
  Stop: (model) => `Stop ${model}`,
  Sleep: (model) => `Put ${model} to sleep`,
  Unload: (model) => `Unload ${model}`,
  WaitForMemory: () => "Wait until the memory is free",
  Activate: (model) => `Configure the engine for ${model}`,
  Start: (model) => `Start the engine of ${model}`,
  Wake: (model) => `Wake ${model}`,
  Load: (model) => `Load ${model}`,
  WaitUntilReady: (model) => `Wait until ${model} is ready`,
  WarmUp: (model) => `First token of ${model}`,
};
const section = document.getElementById("switches");
const rows = new Rows(section.querySelector(".body"), (one) => one.group, makeSwitch);
let ticking = null;
const told = new Map();

export function start() {
  const draw = onceAFrame(show);
  on(["switches"], () => {
    tellWhoCannotSee();
    draw();
  });
  setInterval(() => !document.hidden && draw(), 5000);
  function show() {
    section.hidden = state.switches.length === 0;
    rows.show(state.switches);
    const runs = state.switches.some((one) => one.running);
    if (runs && ticking === null) ticking = setInterval(draw, 200);
    if (!runs && ticking !== null) ticking = void clearInterval(ticking) ?? null;
  }
}

function title(one) {
  const target = one.model ?? "nothing";
  if (one.running) return one.model ? `Switching to ${target}` : `Unloading ${one.previous}`;
  if (one.error) return one.model ? `The switch to ${target} failed` : `${one.previous} could not be unloaded`;
  return one.model ? `Switched to ${target}` : `Unloaded ${one.previous}`;
}

const REASONS = {
  request: "for a request",
  adopt: "found loading",
  rollback: "brought back after a failure",
  idle: "it was idle",
  operator: "by an operator",
  removed: "its configuration changed",
};

function makeSwitch() {
  const texts = { title: new Text("h3"), from: new Text("span", { class: "muted" }), time: new Text("span", { class: "time" }) };
  const cancel = h("button", { type: "button" }, "Cancel the switch");
  const error = new Text("p", { class: "failure" });
  const list = h("ol.steps");
  const steps = new Rows(list, (step) => step.index, makeStep);
  const more = h("details.last", {}, h("summary", {}, "Its steps"));
  const place = h("div");
  const element = h("div.switch", {}, h("div.line", {}, texts.title.element, texts.from.element, texts.time.element, cancel), error.element, place);
  let group = "";
  let runs = null;
  cancel.addEventListener("click", async () => {
    try {
      await call("POST", "admin/cancel", { group });
    } catch (failed) {
      note(failed instanceof ApiError ? failed.message : "The router does not answer.", true);
    }
  });
  const update = (one) => {
    group = one.group;
    texts.title.set(title(one));
    const from = one.previous && one.model && one.previous !== one.model ? `from ${one.previous}, ` : "";
    const where = Object.keys(state.groups).length > 1 ? `, group ${one.group}` : "";
    texts.from.set(from + (REASONS[one.reason] ?? one.reason) + where);
    if (runs !== one.running) {
      runs = one.running;
      element.classList.toggle("running", runs);
      cancel.hidden = !runs || one.model === null;
      // what is over is there to be looked up, and takes no room
      if (runs) place.replaceChildren(list);
      else {
        more.append(list);
        more.open = Boolean(one.error);
        place.replaceChildren(more);
      }
    }
    element.classList.toggle("bad", Boolean(one.error));
    error.element.hidden = !one.error;
    error.set(one.error ?? "");
    texts.time.set(one.running ? elapsed(one) : `${duration(one.seconds)}, ${ago(now() - one.started - one.seconds)}`);
    steps.show(one.steps.map((step, index) => ({ ...step, index })));
  };
  return { element, update };
}

function elapsed(one) {
  const seconds = now() - one.started;
  const expected = one.expected_seconds;
  return expected && seconds < expected * 1.5 ? `${duration(seconds)} of about ${duration(expected)}` : duration(seconds);
}

function makeStep() {
  const name = new Text("span", { class: "what" });
  const time = new Text("span", { class: "time" });
  const bar = h("span.bar", { "aria-hidden": "true" }, h("span"));
  const element = h("li", {}, h("span.mark", { "aria-hidden": "true" }), name.element, bar, time.element);
  const update = (step) => {
    element.dataset.state = step.state;
    if (step.state === "running") element.setAttribute("aria-current", "step");
    else element.removeAttribute("aria-current");
    name.set((TOLD[step.step] ?? (() => `${step.step} ${step.model}`))(step.model));
    const seconds = step.state === "running" ? now() - step.started : step.seconds;
    time.set(timeOf(step, seconds));
    bar.hidden = step.state !== "running";
    if (!bar.hidden) {
      const whole = step.expected_seconds && seconds < step.expected_seconds ? step.expected_seconds : step.deadline;
      const part = step.progress ?? (whole ? Math.min(1, Math.max(0, seconds / whole)) : 0);
      bar.firstElementChild.style.transform = `scaleX(${part.toFixed(3)})`;
    }
  };
  return { element, update };
}

function timeOf(step, seconds) {
  if (step.state === "running") {
    const left = step.deadline === undefined ? "" : `, at most ${duration(step.deadline)}`;
    const about = step.expected_seconds ? ` of about ${duration(step.expected_seconds)}` : left;
    const loaded = step.progress == null ? "" : `, ${Math.round(step.progress * 100)} % loaded`;
    const doing = step.doing ? `, ${step.doing}` : "";
    return duration(seconds) + about + loaded + doing;
  }
  if (step.state === "waiting") return step.expected_seconds ? `about ${duration(step.expected_seconds)}` : "";
  if (step.state === "left out") return "not done";
  return duration(seconds) + (step.state === "failed" ? ", failed" : "");
}

/** Who does not see the steps hears when a switch begins and how it ends. */
function tellWhoCannotSee() {
  for (const one of state.switches) {
    const now = title(one);
    if (told.get(one.group) !== now) announce(now);
    told.set(one.group, now);
  }
}
