// The connection to the router: kept, and taken up again when it was lost.

import { ApiError, events } from "./api.js";
import { delta, snapshot, state, tell } from "./store.js";

const SILENT_AFTER = 25000;
const FIRST_WAIT = 500;
const LONGEST_WAIT = 5000;

/** Follow for ever. `wantsKey(error)` resolves when there is a key to try. */
export async function follow(wantsKey) {
  let wait = FIRST_WAIT;
  for (;;) {
    const abort = new AbortController();
    let watchdog;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => abort.abort(), SILENT_AFTER);
    };
    try {
      alive();
      for await (const { event, data } of events("GET", "admin/live", undefined, { signal: abort.signal })) {
        alive();
        if (event === "snapshot") {
          snapshot(JSON.parse(data));
          wait = FIRST_WAIT;
          connected(true);
        } else if (event === "delta") delta(JSON.parse(data));
      }
      connected(false, "The router has ended the connection: it is being restarted.");
    } catch (error) {
      clearTimeout(watchdog);
      if (error instanceof ApiError && (error.status === 401 || error.status === 403)) {
        connected(false, error.message);
        await wantsKey(error);
        continue;
      }
      const why = error instanceof ApiError ? error.message : "The router does not answer.";
      connected(false, why);
    }
    clearTimeout(watchdog);
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(wait * 2, LONGEST_WAIT);
  }
}

function connected(is, why = "") {
  state.connected = is;
  state.why = why;
  tell("connection");
}
