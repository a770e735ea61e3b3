// Ten minutes of figures, drawn by uPlot; what each says now stands beside its title in text.

import { h, onceAFrame, Text } from "./dom.js";
import { duration, gigabytes, rate } from "./format.js";
import { now, on, state } from "./store.js";

const HEIGHT = 60;
/** Of the one below all, which has the minutes. */
const WITH_MINUTES = 80;
/** GPUs that are told of one by one. */
const FEW = 2;
const SPAN = 600;
const place = document.querySelector("#charts .body");
const [TIME, TOKENS, TTFT, WAITING, ANSWERING, MEMORY, USE] = [0, 1, 2, 3, 4, 5, 6];
const charts = [];
const column = (index) => state.points.map((point) => point[index]);
const byGpu = (index) => state.gpus.map((_, gpu) => state.points.map((point) => point[index][gpu] ?? null));
const last = (index) => state.points.at(-1)?.[index];

const FIXED = [
  { title: "Tokens a second", lines: () => [column(TOKENS)], values: () => [rate(last(TOKENS) ?? 0)], fill: true },
  { title: "Time to the first token", lines: () => [column(TTFT)], points: true, values: () => [lastTtft()], unit: " s" },
  {
    title: "Requests",
    lines: () => [column(ANSWERING), column(WAITING)],
    values: () => [`${last(ANSWERING) ?? 0} answered`, `${last(WAITING) ?? 0} waiting`],
    fill: true,
    whole: true,
  },
];
const OF_GPUS = [
  { title: "GPU memory", lines: () => byGpu(MEMORY), top: 100, unit: "%", values: memoryNow },
  { title: "GPU use", lines: () => byGpu(USE), top: 100, unit: "%", values: useNow },
];

function lastTtft() {
  const found = state.points.findLast((point) => point[TTFT] !== null);
  return found ? duration(found[TTFT]) : "–";
}

function memoryNow() {
  const told = (used, total) => `${gigabytes(used)} of ${Math.round(gigabytes(total))} GiB`;
  const sum = (key) => state.gpus.reduce((before, gpu) => before + gpu[key], 0);
  if (state.gpus.length > FEW) return [`${told(sum("memory_used"), sum("memory_total"))}, ${state.gpus.length} GPUs`];
  return state.gpus.map((gpu) => told(gpu.memory_used, gpu.memory_total));
}

function useNow() {
  const known = state.gpus.map((gpu) => gpu.utilization).filter((value) => value !== null);
  if (state.gpus.length > FEW) {
    const mean = known.reduce((before, value) => before + value, 0) / known.length;
    return [known.length ? `${Math.round(mean)} % on average` : "–"];
  }
  return state.gpus.map((gpu) => (gpu.utilization === null ? "–" : `${gpu.utilization} %`));
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
  const all = [...FIXED, ...(state.gpus.length ? OF_GPUS : [])];
  for (const about of all) charts.push(makeChart(about, about === all.at(-1) ? WITH_MINUTES : HEIGHT));
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function makeChart(about, height) {
  const values = about.values().map(() => new Text());
  const shown = values.map((value, index) => h(values.length > 1 ? `span.value.line${index}` : "span.value", {}, value.element));
  const canvas = h("div.canvas", { role: "img", "aria-label": about.title });
  place.append(h("div.chart", {}, h("div.line", {}, h("h3", {}, about.title), ...shown), canvas));
  const lines = about.lines().length || 1;
  const font = "11px system-ui, sans-serif";
  const axis = { stroke: colour("--muted"), font, ticks: { show: false }, grid: { stroke: colour("--grid"), width: 1 } };
  const plot = new uPlot(
    {
      width: Math.max(200, place.clientWidth - 24),
      height,
      padding: [6, 4, height === HEIGHT ? 6 : 0, 0],
      legend: { show: false },
      cursor: { show: false },
      select: { show: false },
      scales: {
        x: { range: () => [end() - SPAN, end()] },
        y: { range: (_, min, max) => [0, about.top ?? Math.max(about.whole ? 4 : 0.1, (max ?? 0) * 1.15)] },
      },
      axes: [
        {
          ...axis,
          size: height === HEIGHT ? 0 : 20,
          gap: 2,
          splits: minutes,
          values: (_, ticks) => ticks.map((at) => (height === HEIGHT ? "" : minutesAgo(at))),
        },
        { ...axis, size: 40, gap: 4, space: 22, values: (_, ticks) => ticks.map((tick) => tickText(tick, about)) },
      ],
      series: [{}, ...Array.from({ length: lines }, (_, index) => serie(about, index))],
    },
    [[], ...Array.from({ length: lines }, () => [])],
    canvas,
  );
  return {
    plot,
    draw() {
      const texts = about.values();
      texts.forEach((text, index) => values[index].set(text));
      canvas.setAttribute("aria-label", `${about.title}: ${texts.join(", ")}`);
      const data = about.lines();
      plot.setData([column(TIME), ...(data.length ? data : [[]])]);
    },
    resize() {
      plot.setSize({ width: Math.max(200, place.clientWidth - 24), height });
    },
  };
}

function serie(about, index) {
  const stroke = colour(`--line${index % 4}`);
  const base = { stroke, width: 1.5, spanGaps: Boolean(about.points), points: { show: false } };
  if (about.points) return { ...base, width: 1, points: { show: true, size: 4, fill: stroke } };
  return about.fill && index === 0 ? { ...base, fill: colour("--fill") } : base;
}

/** The right edge: now, or the last point where the clocks are a little apart. */
function end() {
  return Math.max(now(), last(TIME) ?? 0);
}

function minutes() {
  return [8, 6, 4, 2].map((ago) => end() - ago * 60);
}

function minutesAgo(at) {
  return `−${Math.round((end() - at) / 60)} min`;
}

function tickText(tick, about) {
  if (about.whole && tick % 1) return "";
  const text = tick >= 1000 ? `${tick / 1000}k` : String(tick);
  return text + (about.unit ?? "");
}
