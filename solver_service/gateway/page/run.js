// A run's story: the stalls of one training run, what was sent for each, what was found, and what was adopted.

import { cancel, ended, get, poll } from "./api.js";
import * as parts from "./parts.js";
import { make, number, percent, plural, seconds } from "./parts.js";
import { plot } from "./plot.js";

const EVERY_S = 5;
const A_PAGE = 200;
const MOST_PAGES = 5;

export async function runPage(place, signal, { run }) {
  document.title = `${run} · GDSolver pool`;
  const known = { jobs: new Map(), more: false, said: "" };
  const draw = () => signal.aborted || parts.morph(place, make("div", {}, page(run, known, place.clientWidth, stop)));
  const stop = async () => {
    try {
      for (const job of known.jobs.values()) if (!ended(job.state)) await cancel(job.id);
      known.said = "Cancelled what was unfinished.";
    } catch (error) {
      known.said = error.message;
    }
    draw();
  };
  window.addEventListener("resize", draw, { signal });
  // Older jobs hardly change: after the first time only the newest page is asked for.
  let pages = MOST_PAGES;
  await poll(signal, EVERY_S, async () => {
    let cursor = null;
    for (let count = 0; count < pages && (count === 0 || cursor); count += 1) {
      const found = await get(`v1/jobs?${new URLSearchParams({ run, limit: A_PAGE, ...(cursor ? { cursor } : {}) })}`, signal);
      for (const job of found.jobs) known.jobs.set(job.id, job);
      ({ cursor } = found);
    }
    if (pages > 1) known.more = cursor !== null;
    pages = 1;
    draw();
  });
}

/** Jobs of one step are one stall's; a job without a step stands for itself. Newest first. */
export function stallsOf(jobs) {
  const stalls = new Map();
  for (const job of [...jobs].sort((one, other) => (one.id < other.id ? 1 : -1))) {
    const name = job.step ?? job.id;
    if (!stalls.has(name)) stalls.set(name, { step: job.step, jobs: [] });
    stalls.get(name).jobs.push(job);
  }
  return [...stalls.values()].map((stall) => {
    const adopted = stall.jobs.find((job) => job.feedback?.accepted);
    return { ...stall, adopted, best: adopted ?? best(stall.jobs) };
  });
}

/** The job with the largest gain; they start from the same weights, but may have different objectives. */
function best(jobs) {
  return jobs.filter((job) => parts.gained(job) !== null).sort((one, other) => parts.gained(other) - parts.gained(one))[0];
}

function page(run, known, width, stop) {
  const jobs = [...known.jobs.values()];
  const stalls = stallsOf(jobs);
  const waiting = jobs.some((job) => !ended(job.state));
  const heads = ["step", "jobs", "solved", "best found", "gained", "adopted", "validation", "workers' time"];
  return [
    make("h1", {}, "Run ", make("span", { class: "run" }, run)),
    jobs.length ? make("p", { class: "verdict" }, story(stalls, jobs)) : make("p", { class: "empty" }, "No job of this run is known to this key. Records are kept for a week."),
    make(
      "div",
      { class: "buttons" },
      make("button", { type: "button", class: "danger", disabled: !waiting, onclick: stop }, "Cancel what is unfinished"),
      make("a", { href: `#/?run=${encodeURIComponent(run)}` }, "List its jobs"),
      make("span", { role: "status" }, known.said),
    ),
    picture(run, jobs, width),
    make("h2", {}, "Stalls"),
    parts.table("Stalls, newest first", heads, stalls.map(row)),
    known.more ? make("p", { class: "muted" }, `Only the newest ${number(MOST_PAGES * A_PAGE)} jobs are shown.`) : null,
  ];
}

function story(stalls, jobs) {
  const solved = jobs.filter((job) => job.result);
  const adopted = jobs.filter((job) => job.feedback?.accepted);
  const time = jobs.reduce((sum, job) => sum + (job.result?.timings.total_s ?? 0), 0);
  const better = solved.filter((job) => job.result.improved).length;
  const worth = changes(adopted).map(([metric, change]) => ` ${metric} changed by ${change > 0 ? "+" : ""}${number(change)} in all at these adoptions.`);
  return `${plural(stalls.length, "stall")}: ${plural(jobs.length, "job")} sent, ${number(solved.length)} solved, ${number(better)} found better weights, ${number(adopted.length)} adopted.${worth.join("")} It took ${seconds(time)} of workers' time.`;
}

/** What adoptions did to each metric, summed: [name, after - before]. */
function changes(adopted) {
  const sums = new Map();
  for (const { feedback } of adopted) {
    if (!Number.isFinite(feedback.before) || !Number.isFinite(feedback.after)) continue;
    const name = feedback.metric ?? "The metric";
    sums.set(name, (sums.get(name) ?? 0) + feedback.after - feedback.before);
  }
  return [...sums];
}

function row({ step, jobs, best: found, adopted }) {
  const judged = adopted ?? jobs.find((job) => job.feedback);
  const { start, best: objective } = found ? parts.standing(found) : {};
  const { before, after, metric } = judged?.feedback ?? {};
  const time = jobs.reduce((sum, job) => sum + (job.result?.timings.total_s ?? 0), 0);
  return {
    key: step ?? jobs[0].id,
    cells: [
      step === null ? "–" : number(step),
      make("span", { class: "list" }, jobs.map((job) => [parts.jobLink(job.id), " ", job.state === "succeeded" ? null : parts.chip(job.state), " "])),
      `${jobs.filter((job) => job.result).length} of ${jobs.length}`,
      found ? `${number(start)} → ${number(objective)}` : "–",
      found ? percent(parts.gained(found)) : "–",
      judged ? parts.verdictOf(judged) : "–",
      Number.isFinite(before) && Number.isFinite(after) ? `${metric ? `${metric} ` : ""}${number(before)} → ${number(after)}` : "–",
      time > 0 ? seconds(time) : "–",
    ],
  };
}

/** The metric along the run: what each adoption did to it, and what training did between them. */
function picture(run, jobs, width) {
  const adopted = jobs.filter((job) => job.step !== null && job.feedback?.accepted && Number.isFinite(job.feedback.before) && Number.isFinite(job.feedback.after));
  const metric = adopted[0]?.feedback.metric ?? null;
  const same = adopted.filter((job) => job.feedback.metric === metric).sort((one, other) => one.step - other.step);
  if (!same.length) return null;
  const points = same.flatMap(({ step, feedback }) => [[step + (feedback.staleness_steps ?? 0), feedback.before], [step + (feedback.staleness_steps ?? 0), feedback.after]]);
  const name = metric ?? "the metric";
  const title = `${name} at the adoptions of run ${run}`;
  const description = `From ${number(points[0][1])} before the first to ${number(points.at(-1)[1])} after the last of ${same.length}.`;
  const series = [
    { name, kind: "between", points },
    ...same.map((_, at) => ({ name: "adoption", kind: "incumbent", points: points.slice(2 * at, 2 * at + 2), dots: true })),
  ];
  return make(
    "figure",
    {},
    plot({ series, end: points.at(-1)[0], width: Math.max(280, width), xLabel: "training step", yLabel: name, title, description }),
    make("figcaption", {}, make("span", { class: "sample incumbent" }, "an adoption"), make("span", { class: "sample between" }, "training in between")),
  );
}
