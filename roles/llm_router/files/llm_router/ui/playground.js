// A small chat, by the same API as any other client's: what is shown is what a person would read.

import { ApiError, events } from "./api.js";
import { h, onceAFrame } from "./dom.js";
import { on, state } from "./store.js";

const pick = document.getElementById("talk-model");
const talk = document.getElementById("talk");
const form = document.getElementById("talk-form");
const text = document.getElementById("talk-text");
const send = document.getElementById("talk-send");
let messages = [];
let running = null;
let names = "";
let picked = false;
const hint = h("p.empty", {}, "What is said here goes the way of any client: a model that is not loaded is switched to, and the answer tells of it.");

export function start() {
  talk.append(hint);
  on(["models"], onceAFrame(offer));
  pick.addEventListener("change", () => (picked = true));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) running.abort();
    else say();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!running) say();
  });
  document.getElementById("talk-clear").addEventListener("click", () => {
    running?.abort();
    messages = [];
    talk.replaceChildren(hint);
    text.focus();
  });
}

function offer() {
  const all = [...state.models.keys()];
  const loaded = all.find((name) => state.models.get(name).state === "loaded");
  // until somebody picks one or says something, it is the one that answers at once
  if (loaded && !picked && !messages.length) pick.value = loaded;
  if (all.join("\n") === names) return;
  names = all.join("\n");
  const before = pick.value;
  pick.replaceChildren(...all.map((name) => h("option", { value: name }, name)));
  pick.value = before && all.includes(before) ? before : (loaded ?? all[0] ?? "");
}

function add(kind, who) {
  const words = h("div.words");
  hint.remove();
  talk.append(h(`div.message.${kind}`, {}, h("p.who", {}, who), words));
  talk.scrollTop = talk.scrollHeight;
  return words;
}

async function say() {
  const said = text.value.trim();
  const model = pick.value;
  if (!said || !model) return;
  text.value = "";
  add("mine", "You").textContent = said;
  messages.push({ role: "user", content: said });
  const words = add("its", model);
  const answer = { role: "assistant", content: "" };
  running = new AbortController();
  send.textContent = "Stop";
  talk.setAttribute("aria-busy", "true");
  const write = onceAFrame(() => {
    const atEnd = talk.scrollTop + talk.clientHeight >= talk.scrollHeight - 24;
    words.textContent = answer.content;
    if (atEnd) talk.scrollTop = talk.scrollHeight;
  });
  try {
    const options = { signal: running.signal, headers: { "x-llm-router-status": "content" } };
    for await (const { event, data } of events("POST", "v1/chat/completions", { model, messages, stream: true }, options)) {
      if (event === "comment" || data === "[DONE]" || !data) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(200, chunk.error);
      answer.content += chunk.choices?.[0]?.delta?.content ?? "";
      write();
    }
    messages.push(answer);
  } catch (error) {
    const why = error.name === "AbortError" ? "Stopped." : error instanceof ApiError ? error.message : "The connection was lost.";
    words.parentElement.append(h("p.failure", {}, why));
    if (answer.content) messages.push(answer);
    else messages.pop();
    talk.scrollTop = talk.scrollHeight;
  } finally {
    running = null;
    send.textContent = "Send";
    talk.removeAttribute("aria-busy");
  }
}
