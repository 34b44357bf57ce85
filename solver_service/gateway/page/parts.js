// Builds and updates the page's elements, and says numbers: every text goes in as text, never as markup.

import { now } from "./api.js";

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "path", "line", "circle", "text", "g", "title", "desc"]);

/**
 * Make an element: `make("p.muted", {title: "..."}, "text", ...)`; its classes stand behind its tag.
 * Properties become attributes, and `onclick` a listener; what is null, undefined or false is left out.
 */
export function make(kind, ...children) {
  const [tag, ...classes] = kind.split(".");
  const properties = children[0]?.constructor === Object ? children.shift() : {};
  const element = DRAWN.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  if (tag === "button") element.setAttribute("type", "button");
  for (const [name, value] of Object.entries(properties)) {
    if ((value ?? false) === false) continue;
    if (name === "onclick") element.onclick = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => (child ?? false) !== false));
  return element;
}

/** Change what is shown into what is to be shown, so that focus, selection and open details stay where they are. */
export function morph(shown, wanted) {
  for (const { name } of [...shown.attributes]) {
    if (!wanted.hasAttribute(name) && name !== "open") shown.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (shown.getAttribute(name) !== value && name !== "open") shown.setAttribute(name, value);
  }
  shown.onclick = wanted.onclick;
  const keyed = new Map([...shown.children].map((child) => [child.dataset?.key, child]));
  let place = shown.firstChild;
  for (const child of [...wanted.childNodes]) {
    const same = child.dataset?.key === undefined ? place : keyed.get(child.dataset.key);
    if (same && alike(same, child)) {
      if (same !== place)
        shown.insertBefore(same, place); // a row that has moved
      else place = place.nextSibling;
      if (child.nodeType === Node.TEXT_NODE) {
        if (same.data !== child.data) same.data = child.data;
      } else morph(same, child);
    } else shown.insertBefore(child, place);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function alike(one, other) {
  return one.nodeName === other.nodeName && one.dataset?.key === other.dataset?.key;
}

export function number(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9 || (size > 0 && size < 1e-3)) return value.toExponential(2).replace("-", "−");
  const figures = Number.isInteger(value) ? 10 : 4;
  return value.toLocaleString("en", { maximumSignificantDigits: figures }).replace("-", "−");
}

/** With a no-break space, as everywhere between a number and its unit. */
export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  return share > 0 && share < 1e-5 ? "under 0.001\u00a0%" : `${number(Number((100 * share).toPrecision(3)))}\u00a0%`;
}

export function seconds(value) {
  if (!Number.isFinite(value)) return "–";
  if (value < 0.995) return `${Number(Math.max(0, value).toFixed(2))}\u00a0s`;
  if (value < 60) return `${Number(value.toFixed(1))}\u00a0s`;
  const whole = Math.round(value);
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

export const since = (moment) => Math.max(0, (now() - Date.parse(moment)) / 1000);

export function ago(moment) {
  const age = since(moment);
  const [unit, name] =
    [
      [86400, "days"],
      [3600, "h"],
      [60, "min"],
      [1, "s"],
    ].find(([size]) => age >= (size === 86400 ? 2 * size : size)) ?? [];
  const text = age < 3 ? "just now" : `${Math.floor(age / unit)} ${name} ago`;
  return make("time", { datetime: moment, title: new Date(moment).toLocaleString() }, text);
}

export const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

/** The ids' beginnings tell the time; so many digits are enough to tell jobs apart. */
export const jobLink = (id, kind = "a.id") => make(kind, { href: `#/job/${id}`, title: id }, id.slice(0, 16));
export const runLink = (run) => {
  return run === null ? "–" : make("a.run", { href: `#/run/${encodeURIComponent(run)}` }, run);
};
export const chip = (state) => make(`span.state.${state}`, state);

/** Where a job stands: {start, best, bound, gap}, from its result or, before there is one, from its progress. */
export function standing(job) {
  const { objective } = job.result ?? {};
  if (objective) return { start: objective.start, best: objective.final, bound: objective.bound, gap: objective.gap };
  const { objective: best, bound, gap } = job.progress ?? {};
  return { best, bound, gap };
}

/** The share of the start's objective that is gone, or null where there is nothing to compare. */
export function gained(job) {
  const { start, best } = standing(job);
  return Number.isFinite(start) && Number.isFinite(best) && start > 0 ? (start - best) / start : null;
}

/** Seconds from a job's first start to its end, or to now. */
export function took(job) {
  if (!job.started) return NaN;
  return job.finished ? (Date.parse(job.finished) - Date.parse(job.started)) / 1000 : since(job.started);
}

export function verdictOf(job) {
  if (job.feedback === null) return "–";
  return job.feedback.accepted ? make("span.good", "adopted") : make("span.muted", "declined");
}

/** A table of rows [{key, cells}]; on a phone each row of a wide one is a card, where `heads` stand above the cells. */
export function table(caption, heads, rows) {
  return make(
    heads.length > 4 ? "table.wide" : "table",
    make("caption", caption),
    make(
      "thead",
      make(
        "tr",
        heads.map((head) => make("th", { scope: "col" }, head)),
      ),
    ),
    make(
      "tbody",
      rows.map(({ key, cells }) =>
        make(
          "tr",
          { "data-key": key },
          cells.map((cell, at) => make(cell === "–" ? "td.none" : "td", { "data-head": heads[at] }, cell)),
        ),
      ),
    ),
  );
}

export const section = (title, ...children) => make("section", make("h2", title), ...children);

/** Pairs of a name and a value; those without a value are left out. */
export function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined);
  return make(
    "dl",
    known.map(([name, value]) => make("div", make("dt", name), make("dd", value))),
  );
}
