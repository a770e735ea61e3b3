// Puts the page together: who draws what, the key, the theme, the connection.

import { forget, hasKey, keep } from "./api.js";
import * as charts from "./charts.js";
import { count, rate } from "./format.js";
import { follow } from "./live.js";
import * as logs from "./logs.js";
import * as models from "./models.js";
import * as playground from "./playground.js";
import * as requests from "./requests.js";
import { on, state } from "./store.js";
import * as switches from "./switches.js";

const byId = (id) => document.getElementById(id);

function theme() {
  const button = byId("theme");
  const order = ["auto", "light", "dark"];
  let now = order.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "auto";
  const apply = () => {
    if (now === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = now;
    button.textContent = `Theme: ${now}`;
    document.dispatchEvent(new Event("themechange"));
  };
  button.addEventListener("click", () => {
    now = order[(order.indexOf(now) + 1) % order.length];
    localStorage.setItem("theme", now);
    apply();
  });
  apply();
}

function connection() {
  let was = null;
  on(["connection"], () => {
    byId("connection").textContent = state.connected ? "live" : was === null ? "connecting" : "connection lost";
    byId("connection").dataset.state = state.connected ? "live" : "lost";
    document.body.classList.toggle("stale", !state.connected && was !== null);
    const banner = byId("banner");
    banner.hidden = state.connected;
    if (!state.connected) banner.textContent = `${state.why} ${was === null ? "Trying again." : "What is shown is the last that was known; trying again."}`;
    byId("forget").hidden = !hasKey();
    if (state.connected) was = true;
  });
}

function summary() {
  const show = () => {
    const loaded = [...state.models].filter(([, model]) => model.state === "loaded").map(([name]) => name);
    const speed = state.points.at(-1)?.[1] ?? 0;
    const what = loaded.length > 2 ? count(loaded.length, "model") : loaded.join(", ") || "no model";
    const text = `${what} loaded` + (speed > 0 ? `, ${rate(speed)} tok/s` : "");
    if (byId("summary").textContent !== text) byId("summary").textContent = text;
  };
  on(["models", "points"], show);
}

/** Ask for a key; resolves when one was given. */
function wantsKey(error) {
  const dialog = byId("key");
  const text = byId("key-text");
  byId("key-why").textContent = hasKey() ? error.message : "";
  text.value = "";
  if (error.code === "foreign_name" || error.code === "foreign_page") {
    return new Promise((resolve) => setTimeout(resolve, 10000));
  }
  return new Promise((resolve) => {
    const given = () => {
      if (!text.value) return dialog.showModal();
      keep(text.value);
      text.value = "";
      dialog.removeEventListener("close", given);
      resolve();
    };
    dialog.addEventListener("close", given);
    dialog.showModal();
  });
}

theme();
connection();
summary();
for (const part of [models, switches, requests, charts, logs, playground]) part.start();
byId("forget").addEventListener("click", () => {
  forget();
  location.reload();
});
follow(wantsKey);
