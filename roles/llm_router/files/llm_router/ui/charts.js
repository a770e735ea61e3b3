// Ten minutes of figures, drawn by uPlot; what each says now stands beside its title in text.

import { h, onceAFrame, Text } from "./dom.js";
import { duration, gigabytes, rate } from "./format.js";
import { now, on, state } from "./store.js";

const HEIGHT = 92;
const SPAN = 600;
const place = document.querySelector("#charts .body");
const [TIME, TOKENS, TTFT, WAITING, ANSWERING, MEMORY, USE] = [0, 1, 2, 3, 4, 5, 6];
const charts = [];
const column = (index) => state.points.map((point) => point[index]);
const byGpu = (index) => state.gpus.map((_, gpu) => state.points.map((point) => point[index][gpu] ?? null));
const last = (index) => state.points.at(-1)?.[index];

const FIXED = [
  { title: "Tokens a second", lines: () => [column(TOKENS)], value: () => rate(last(TOKENS) ?? 0), fill: true },
  { title: "Time to the first token", lines: () => [column(TTFT)], points: true, value: lastTtft, unit: " s" },
  {
    title: "Requests",
    lines: () => [column(ANSWERING), column(WAITING)],
    names: ["answered", "waiting"],
    value: () => `${last(ANSWERING) ?? 0} answered, ${last(WAITING) ?? 0} waiting`,
    fill: true,
    whole: true,
  },
];
const OF_GPUS = [
  { title: "GPU memory", lines: () => byGpu(MEMORY), names: [], top: 100, unit: "%", value: memoryNow },
  { title: "GPU use", lines: () => byGpu(USE), names: [], top: 100, unit: "%", value: useNow },
];

function lastTtft() {
  const found = state.points.findLast((point) => point[TTFT] !== null);
  return found ? duration(found[TTFT]) : "–";
}

function memoryNow() {
  return state.gpus.map((gpu) => `${gigabytes(gpu.memory_used)} of ${gigabytes(gpu.memory_total)} GiB`).join(" · ");
}

function useNow() {
  return state.gpus.map((gpu) => (gpu.utilization === null ? "–" : `${gpu.utilization} %`)).join(" · ");
}

export function start() {
  const draw = onceAFrame(() => charts.forEach((chart) => chart.draw()));
  const all = () => {
    build();
    draw();
  };
  let gpus = -1;
  on(["gpus"], () => {
    if (gpus === state.gpus.length) return;
    gpus = state.gpus.length;
    all();
  });
  on(["points"], draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  document.addEventListener("themechange", all);
  new ResizeObserver(onceAFrame(() => charts.forEach((chart) => chart.resize()))).observe(place);
}

function build() {
  charts.splice(0).forEach((chart) => chart.plot.destroy());
  place.replaceChildren();
  for (const about of [...FIXED, ...(state.gpus.length ? OF_GPUS : [])]) charts.push(makeChart(about));
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function makeChart(about) {
  const value = new Text("span", { class: "value" });
  const canvas = h("div.canvas", { role: "img", "aria-label": about.title });
  const keys = (about.names ?? []).map((name, index) => h("span", { class: `key line${index}` }, name));
  place.append(h("div.chart", {}, h("div.line", {}, h("h3", {}, about.title), ...keys, value.element), canvas));
  const lines = about.lines().length || 1;
  const font = "11px system-ui, sans-serif";
  const axis = { stroke: colour("--muted"), font, ticks: { show: false }, grid: { stroke: colour("--grid"), width: 1 } };
  const plot = new uPlot(
    {
      width: Math.max(200, place.clientWidth - 24),
      height: HEIGHT,
      padding: [6, 4, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      select: { show: false },
      scales: {
        x: { range: () => [now() - SPAN, now()] },
        y: { range: (_, min, max) => [0, about.top ?? Math.max(about.whole ? 4 : 0.1, (max ?? 0) * 1.15)] },
      },
      axes: [
        { ...axis, size: 20, gap: 2, space: 70, values: (_, ticks) => ticks.map((at) => minutesAgo(at)), splits: () => minutes() },
        { ...axis, size: 40, gap: 4, space: 26, values: (_, ticks) => ticks.map((tick) => tickText(tick, about)) },
      ],
      series: [{}, ...Array.from({ length: lines }, (_, index) => serie(about, index))],
    },
    [[], ...Array.from({ length: lines }, () => [])],
    canvas,
  );
  return {
    plot,
    draw() {
      const text = about.value();
      value.set(text);
      canvas.setAttribute("aria-label", `${about.title}: ${text}`);
      const data = about.lines();
      plot.setData([column(TIME), ...(data.length ? data : [[]])]);
    },
    resize() {
      plot.setSize({ width: Math.max(200, place.clientWidth - 24), height: HEIGHT });
    },
  };
}

function serie(about, index) {
  const stroke = colour(`--line${index % 4}`);
  const base = { stroke, width: 1.5, spanGaps: Boolean(about.points), points: { show: false } };
  if (about.points) return { ...base, width: 1, points: { show: true, size: 4, fill: stroke } };
  return about.fill && index === 0 ? { ...base, fill: colour("--fill") } : base;
}

function minutes() {
  const end = now();
  return [10, 8, 6, 4, 2].map((ago) => end - ago * 60 + (ago === 10 ? 1 : 0));
}

function minutesAgo(at) {
  const ago = Math.round((now() - at) / 60);
  return ago === 10 ? "" : `−${ago} min`;
}

function tickText(tick, about) {
  if (about.whole && tick % 1) return "";
  const text = tick >= 1000 ? `${tick / 1000}k` : String(tick);
  return text + (about.unit ?? "");
}
