// What the router has told: one picture, and who draws which part of it.

export const state = {
  connected: false,
  models: new Map(),
  groups: {},
  switches: [],
  requests: new Map(),
  recent: new Map(),
  points: [],
  gpus: [],
  version: "",
};

const KEPT_POINTS = 600;
const KEPT_RECENT = 200;
const listeners = new Map();
let behind = 0;

/** Have `listener` called after every change of one of these parts. */
export function on(parts, listener) {
  for (const part of parts) {
    if (!listeners.has(part)) listeners.set(part, new Set());
    listeners.get(part).add(listener);
  }
}

export function tell(...parts) {
  const called = new Set();
  for (const part of parts) for (const listener of listeners.get(part) ?? []) called.add(listener);
  for (const listener of called) listener();
}

/** The router's time now, in seconds since the epoch. */
export function now() {
  return Date.now() / 1000 + behind;
}

export function snapshot(data) {
  behind = data.now - Date.now() / 1000;
  state.version = data.version;
  state.models = new Map(Object.entries(data.models));
  state.groups = data.groups;
  state.switches = data.switches;
  state.requests = new Map(data.requests.map((one) => [one.id, one]));
  state.recent = new Map(data.recent.map((one) => [one.id, one]));
  state.points = data.series;
  state.gpus = data.gpus;
  tell(...listeners.keys());
}

export function delta(data) {
  const parts = new Set();
  for (const [name, model] of Object.entries(data.models ?? {})) {
    if (model === null) state.models.delete(name);
    else state.models.set(name, model);
    parts.add("models");
  }
  for (const part of ["groups", "switches", "gpus"]) {
    if (part in data) {
      state[part] = data[part];
      parts.add(part);
    }
  }
  for (const one of data.began ?? []) state.requests.set(one.id, one);
  for (const [id, model, served, tokens, rate] of data.progress ?? []) {
    const one = state.requests.get(id);
    if (!one) continue;
    one.model = model;
    one.state = served ? "answering" : "waiting";
    one.tokens = tokens;
    one.tokens_per_second = rate;
  }
  for (const id of data.gone ?? []) state.requests.delete(id);
  if (data.began || data.gone) parts.add("requests");
  if (data.progress) parts.add("progress");
  for (const one of data.recent ?? []) state.recent.set(one.id, one);
  if (data.recent) {
    for (const id of state.recent.keys()) {
      if (state.recent.size <= KEPT_RECENT) break;
      state.recent.delete(id);
    }
    parts.add("recent");
  }
  if (data.points) {
    const last = state.points.at(-1)?.[0] ?? 0;
    state.points.push(...data.points.filter((point) => point[0] > last));
    state.points.splice(0, state.points.length - KEPT_POINTS);
    parts.add("points");
  }
  tell(...parts);
}
