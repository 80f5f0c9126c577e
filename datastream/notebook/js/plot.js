// Numbers over time: what the kernel sends is kept for the window, and drawn as steps.
import { connect, element, everySecond, setText, standing } from "./live.js";

// Of a lightness that shows on light and dark pages.
const COLOURS = [
  "#3b82f6", "#f97316", "#22c55e", "#e11d48", "#a855f7", "#06b6d4", "#ca8a04", "#ec4899",
];
const HEIGHT = 240;
const LEFT = 64;
const BOTTOM = 22;
const LEAST = 10000;

/** Add points to those that are kept, and let go of what the window has left behind. */
export function extended(points, more, from) {
  const all = points.concat(more);
  let first = 0;
  // One older point stays: it says what held where the window begins.
  while (first + 1 < all.length && all[first + 1][0] <= from) first += 1;
  return first ? all.slice(first) : all;
}

/** The least and the greatest value, with room around; null if there is none. */
export function extent(series) {
  let low = Infinity;
  let high = -Infinity;
  for (const points of Object.values(series)) {
    for (const [, value] of points) {
      if (value === null) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  if (low > high) return null;
  const room = (high - low) * 0.05 || Math.abs(high) * 0.01 || 1;
  return [low - room, high + room];
}

/** Round numbers between two: about as many as wanted. */
export function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high; at += 1) {
    found.push(Number((at * step).toPrecision(12)));
  }
  return found;
}

/** The corners of a line of steps: a value holds until the next one comes. */
export function steps(points, end) {
  const corners = [];
  let before = null;
  for (const [time, value] of points) {
    if (before !== null) corners.push([time, before]);
    corners.push([time, value]);
    before = value;
  }
  if (before !== null) corners.push([end, before]);
  return corners;
}

/** Where the time axis begins: with the window, or with the first point if that is later. */
export function begin(series, span, now) {
  const firsts = Object.values(series).flatMap((points) => points.slice(0, 1).map(([time]) => time));
  return Math.max(now - span, Math.min(now - LEAST, ...firsts));
}

function draw(canvas, series, span, now) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  if (!width) return;
  canvas.width = width * scale;
  canvas.height = HEIGHT * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const ink = getComputedStyle(canvas).color;
  const range = extent(series);
  if (range === null) return;
  const [low, high] = range;
  const from = begin(series, span, now);
  const x = (time) => LEFT + ((time - from) / (now - from)) * (width - LEFT - 4);
  const y = (value) => 4 + ((high - value) / (high - low)) * (HEIGHT - BOTTOM - 8);
  pen.font = "11px sans-serif";
  pen.fillStyle = ink;
  pen.strokeStyle = "rgba(128,128,128,.35)";
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const value of ticks(low, high, 5)) {
    pen.fillText(String(value), LEFT - 6, y(value));
    pen.beginPath();
    pen.moveTo(LEFT, y(value));
    pen.lineTo(width - 4, y(value));
    pen.stroke();
  }
  pen.textBaseline = "alphabetic";
  pen.textAlign = "center";
  for (const part of [0.25, 0.5, 0.75]) {
    const time = from + (now - from) * part;
    pen.fillText(new Date(time).toLocaleTimeString(), x(time), HEIGHT - 6);
  }
  pen.beginPath();
  pen.rect(LEFT, 0, width - LEFT, HEIGHT - BOTTOM);
  pen.clip();
  Object.values(series).forEach((points, at) => {
    pen.strokeStyle = COLOURS[at % COLOURS.length];
    pen.lineWidth = 1.5;
    pen.beginPath();
    let drawing = false;
    for (const [time, value] of steps(points, now)) {
      if (value === null) drawing = false;
      else if (drawing) pen.lineTo(x(time), y(value));
      else {
        pen.moveTo(x(time), y(value));
        drawing = true;
      }
    }
    pen.stroke();
  });
}

function render({ model, el }) {
  const root = element("div", "ds-live ds-plot");
  const state = standing();
  const canvas = element("canvas");
  const legend = element("div", "ds-legend");
  root.append(state.line, canvas, legend);
  el.append(root);
  let series = {};
  let span = 1;
  let waiting = false;

  const redraw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw(canvas, series, span, Date.now());
    });
  };
  const name = () => {
    const keys = Object.keys(series);
    while (legend.children.length < keys.length) {
      const swatch = element("span", "ds-swatch");
      swatch.style.background = COLOURS[legend.children.length % COLOURS.length];
      legend.append(element("span", "ds-series", "", swatch, element("span")));
    }
    while (legend.children.length > keys.length) legend.lastChild.remove();
    keys.forEach((key, at) => {
      const value = series[key].at(-1)?.[1];
      setText(legend.children[at].lastChild, `${key} ${value ?? "–"}`);
    });
  };
  const show = (message) => {
    span = message.span;
    if (message.whole) series = {};
    const from = Date.now() - span;
    for (const key of message.keys) {
      series[key] = extended(series[key] ?? [], message.points[key] ?? [], from);
    }
    state.show(message, message.remark);
    name();
    redraw();
  };
  const page = connect(model, root, show);
  const quiet = everySecond(redraw);
  return () => {
    quiet();
    page.leave();
  };
}

export default { render };
