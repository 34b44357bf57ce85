// Draws values over time as plain SVG: incumbents come down in steps, the bound comes up to meet them.

import { make, number } from "./parts.js";

const HEIGHT = 300;
const EDGE = { left: 66, right: 18, top: 16, bottom: 44 };
/** Values that differ by so much are told apart on a logarithmic axis only. */
const FAR_APART = 50;

/**
 * Draw series of [x, y] points: {name, kind, points, steps, dots}, each a line; `start` marks a value at the left edge.
 * `end` is the right edge, to which steps reach; `early` lets a logarithmic x axis show what happened at once.
 */
export function plot({ series, start = null, end, width, xLabel, yLabel, title, description, early = false }) {
  const seen = series.map((one) => ({
    ...one,
    points: one.points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y)),
  }));
  const points = seen.flatMap((one) => one.points);
  const leading = seen[0].points.map(([, y]) => y);
  const starts = Number.isFinite(start) ? [start] : [];
  const x = horizontal(
    points.map(([at]) => at),
    end,
    early,
  );
  const y = vertical(
    [...leading, ...starts],
    points.map(([, value]) => value),
  );
  const right = width - EDGE.right;
  const bottom = HEIGHT - EDGE.bottom;
  const toX = (value) => round(EDGE.left + x.at(value) * (right - EDGE.left));
  const toY = (value) => round(bottom - y.at(value) * (bottom - EDGE.top));

  return make(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": `${title}. ${description}` },
    make("title", title),
    y.ticks.map((tick) => [
      make("line.grid", { x1: EDGE.left, x2: right, y1: toY(tick.value), y2: toY(tick.value) }),
      make("text.tick", { x: EDGE.left - 8, y: toY(tick.value) + 4, "text-anchor": "end" }, tick.text),
    ]),
    x.ticks.map((tick) => [
      make("line.axis", { x1: toX(tick.value), x2: toX(tick.value), y1: bottom, y2: bottom + 5 }),
      make("text.tick", { x: toX(tick.value), y: bottom + 18, "text-anchor": "middle" }, tick.text),
    ]),
    make("line.axis", { x1: EDGE.left, x2: right, y1: bottom, y2: bottom }),
    make("line.axis", { x1: EDGE.left, x2: EDGE.left, y1: EDGE.top, y2: bottom }),
    make("text.label", { x: (EDGE.left + right) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, xLabel + x.note),
    make(
      "text.label",
      { transform: `translate(13 ${(EDGE.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" },
      yLabel + y.note,
    ),
    starts.map((value) => [
      make("line.start", { x1: EDGE.left, x2: right, y1: toY(value), y2: toY(value) }),
      make("path.start-mark", { d: `M${EDGE.left} ${toY(value) - 6}l6 6l-6 6l-6 -6z` }),
    ]),
    seen.map((one) => [
      make(`path.line.${one.kind}`, { d: line(one, toX, toY, end) }),
      one.dots
        ? one.points.map(([at, value]) => make(`circle.${one.kind}`, { cx: toX(at), cy: toY(value), r: 3.5 }))
        : null,
    ]),
  );
}

function line({ points, steps }, toX, toY, end) {
  if (!points.length) return "";
  const [[firstX, firstY], ...rest] = points;
  const way = rest.map(([at, value]) => (steps ? `H${toX(at)}V${toY(value)}` : `L${toX(at)} ${toY(value)}`));
  return `M${toX(firstX)} ${toY(firstY)}${way.join("")}${steps ? `H${toX(end)}` : ""}`;
}

function horizontal(times, end, early) {
  const later = times.filter((time) => time > 0).sort((one, other) => one - other);
  const median = later[Math.floor(later.length / 2)];
  if (early && later.length > 1 && median < end / 20) return logarithmic(later[0] / 1.5, end, "");
  if (early) return linear(0, end);
  const first = Math.min(...times);
  const air = 0.03 * (end - first) || 1;
  return linear(first - air, end + air);
}

/** The leading series decides, for a bound may be far below all that is interesting. */
function vertical(leading, values) {
  const all = [...leading, ...values];
  if (!all.length) return linear(0, 1);
  const low = Math.min(...all);
  const high = Math.max(...all);
  const positive = all.filter((value) => value > 0);
  if (
    low >= 0 &&
    leading.length &&
    Math.max(...leading) / Math.min(...leading.filter((value) => value > 0)) >= FAR_APART
  ) {
    const least = Math.min(...positive);
    return low === 0 ? logarithmic(least / 3, high, "0") : logarithmic(least, high, "");
  }
  const span = high - low || Math.abs(high) || 1;
  // Where zero is near it is shown, so that a small gain does not look like a large one.
  const floor = low >= 0 && low < span ? 0 : low - 0.06 * span;
  return linear(floor, high + 0.06 * span);
}

function linear(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const values = [];
  for (let count = Math.ceil(low / step - 1e-9); count * step <= high + 1e-9 * step; count += 1)
    values.push(count * step);
  return {
    at: (value) => (value - low) / (high - low),
    ticks: values.map((value) => ({ value, text: number(Number(value.toPrecision(10))) })),
    note: "",
  };
}

/** An axis of powers; what is below it, such as a bound of zero, lies on its lower edge, named by `edge`. */
function logarithmic(low, high, edge) {
  const ratio = Math.log(high / low) || 1;
  const decades = Math.log10(high / low);
  const factors = decades < 2.5 ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil(decades / 6));
  const ticks = edge ? [{ value: low, text: edge }] : [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high) + 1e-9; power += every) {
    for (const factor of factors) {
      const value = factor * 10 ** power;
      if (value >= low * (edge ? 1.5 : 0.999) && value <= high * 1.001)
        ticks.push({ value, text: number(Number(value.toPrecision(3))) });
    }
  }
  return { at: (value) => Math.log(Math.max(value, low) / low) / ratio, ticks, note: " (logarithmic)" };
}

const round = (value) => Math.round(10 * value) / 10;
