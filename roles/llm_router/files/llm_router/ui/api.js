// Calls of the router. The key, where one is needed, goes in a header and lives in this tab alone.

const KEPT_AS = "roundhouse-key";
const BASE = new URL(".", document.baseURI);

export class ApiError extends Error {
  constructor(status, error) {
    super(error.message);
    Object.assign(this, { status, code: error.code, logLines: error.log_lines ?? [] });
  }
}

export function keep(key) {
  sessionStorage.setItem(KEPT_AS, key);
}

export function forget() {
  sessionStorage.removeItem(KEPT_AS);
}

export function hasKey() {
  return sessionStorage.getItem(KEPT_AS) !== null;
}

async function ask(method, path, body, options = {}) {
  const headers = { ...options.headers };
  const key = sessionStorage.getItem(KEPT_AS);
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const answer = await fetch(new URL(path, BASE), {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: options.signal,
    cache: "no-store",
    credentials: "omit",
  });
  if (answer.ok) return answer;
  let error = { message: `The router answered ${answer.status}.` };
  try {
    error = (await answer.json()).error ?? error;
  } catch {
    // not the router's own answer: its status has to do
  }
  throw new ApiError(answer.status, error);
}

/** A call of the router: its answer as data. Throws ApiError, TypeError when it is not there. */
export async function call(method, path, body, options) {
  return (await ask(method, path, body, options)).json();
}

/** Server-sent events, one after the other: {event, data}. Ends when the stream does. */
export async function* events(method, path, body, options) {
  const answer = await ask(method, path, body, options);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const parts = rest.split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const message = parsed(part);
        // a comment keeps the connection alive, and says so
        yield message;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(part) {
  const message = { event: "message", data: "" };
  for (const line of part.split(/\r?\n/)) {
    if (line.startsWith("event: ")) message.event = line.slice(7);
    else if (line.startsWith("data: ")) message.data += line.slice(6);
    else if (line.startsWith(":") && !message.data) message.event = "comment";
  }
  return message;
}
