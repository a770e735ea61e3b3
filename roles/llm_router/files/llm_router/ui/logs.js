// The log of a model's unit, followed while it is open.

import { ApiError, call } from "./api.js";

const EVERY = 1500;
const dialog = document.getElementById("log");
const lines = document.getElementById("log-lines");
const title = document.getElementById("log-title");
let timer = null;

export function start() {
  document.getElementById("log-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    clearTimeout(timer);
    timer = null;
  });
}

/** Open it, and read it again and again until it is closed. */
export function showLog(model) {
  title.textContent = `Log of ${model}`;
  lines.textContent = "";
  dialog.showModal();
  const read = async () => {
    let text;
    try {
      const query = new URLSearchParams({ model, lines: 200 });
      text = (await call("GET", `admin/logs?${query}`)).lines.join("\n") || "The unit has written nothing.";
    } catch (error) {
      text = error instanceof ApiError ? error.message : "The router does not answer.";
    }
    if (!dialog.open || title.textContent !== `Log of ${model}`) return;
    if (lines.textContent !== text) {
      const atEnd = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 4;
      lines.textContent = text;
      if (atEnd) lines.scrollTop = lines.scrollHeight;
    }
    timer = setTimeout(read, EVERY);
  };
  read();
}
