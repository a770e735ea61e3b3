// Figures as people read them.

/** Seconds: 40 ms, 0.8 s, 12 s, 3 min, 2 h, 4 d. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const value = Math.max(0, seconds);
  if (value < 0.0995) return `${Math.round(value * 1000)} ms`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (value < 99.5) return `${Math.round(value)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  if (value < 129600) return `${Math.round(value / 3600)} h`;
  return `${Math.round(value / 86400)} d`;
}

/** Whole seconds for what counts up: 7 s, 1:05, 1:02:03. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  const pad = (value) => String(value).padStart(2, "0");
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${pad(whole % 60)}`;
  return `${Math.floor(minutes / 60)}:${pad(minutes % 60)}:${pad(whole % 60)}`;
}

export function ago(seconds) {
  if (seconds < 5) return "now";
  return `${duration(seconds)} ago`;
}

export function count(value, one, many = `${one}s`) {
  return `${value} ${value === 1 ? one : many}`;
}

export function rate(value) {
  if (value === null || value === undefined) return "–";
  return value < 100 ? value.toFixed(1) : String(Math.round(value));
}

export function gigabytes(bytes) {
  return (bytes / 2 ** 30).toFixed(1);
}

export function timeOfDay(epoch) {
  return new Date(epoch * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}
