// A run's story: the stalls of one training run, what was sent for each, what was found, and what was adopted.

import { cancel, ended, get, poll } from "./api.js";
import * as parts from "./parts.js";
import { make, number, percent, seconds } from "./parts.js";
import { plot } from "./plot.js";
import { runStory, workersTime } from "./told.js";

const EVERY_S = 5;
const A_PAGE = 200;
const MOST_PAGES = 5;
const MOST_ROWS = 200;

export async function runPage(place, signal, { run }) {
  document.title = `${run} · GDSolver pool`;
  const known = { jobs: new Map(), more: false, said: "" };
  const draw = () => signal.aborted || parts.morph(place, make("div", page(run, known, place.clientWidth, stop)));
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
      const found = await get(
        `v1/jobs?${new URLSearchParams({ run, limit: A_PAGE, ...(cursor ? { cursor } : {}) })}`,
        signal,
      );
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
  return jobs
    .filter((job) => parts.gained(job) !== null)
    .sort((one, other) => parts.gained(other) - parts.gained(one))[0];
}

function page(run, known, width, stop) {
  const jobs = [...known.jobs.values()];
  const stalls = stallsOf(jobs);
  const waiting = jobs.some((job) => !ended(job.state));
  const heads = ["step", "jobs", "solved", "best found", "gained", "adopted", "validation", "workers' time"];
  return [
    make("h1", "Run ", make("span.run", run)),
    jobs.length
      ? make("p.verdict", runStory(stalls, jobs))
      : make("p.empty", "No job of this run is known to this key. Records are kept for a week."),
    make(
      "div.buttons",
      make("button.danger", { disabled: !waiting, onclick: stop }, "Cancel what is unfinished"),
      make("a", { href: `#/?run=${encodeURIComponent(run)}` }, "List its jobs"),
      make("span", { role: "status" }, known.said),
    ),
    picture(run, jobs, width),
    make("h2", "Stalls"),
    parts.table("Stalls, newest first", heads, stalls.slice(0, MOST_ROWS).map(row)),
    stalls.length > MOST_ROWS &&
      make("p.muted", `The newest ${number(MOST_ROWS)} stalls; the others are counted above.`),
    known.more && make("p.muted", `Only the newest ${number(MOST_PAGES * A_PAGE)} jobs of this run are counted.`),
  ];
}

function row({ step, jobs, best: found, adopted }) {
  const judged = adopted ?? jobs.find((job) => job.feedback);
  const { start, best: objective } = found ? parts.standing(found) : {};
  const { before, after, metric } = judged?.feedback ?? {};
  const time = workersTime(jobs);
  return {
    key: step ?? jobs[0].id,
    cells: [
      step === null ? "–" : number(step),
      make(
        "span.list",
        jobs.map((job) => [parts.jobLink(job.id), " ", job.state === "succeeded" ? null : parts.chip(job.state), " "]),
      ),
      `${jobs.filter((job) => job.result).length} of ${jobs.length}`,
      found ? `${number(start)} → ${number(objective)}` : "–",
      found ? percent(parts.gained(found)) : "–",
      judged ? parts.verdictOf(judged) : "–",
      Number.isFinite(before) && Number.isFinite(after)
        ? `${metric ? `${metric} ` : ""}${number(before)} → ${number(after)}`
        : "–",
      time > 0 ? seconds(time) : "–",
    ],
  };
}

/** The metric along the run: what each adoption did to it, and what training did between them. */
function picture(run, jobs, width) {
  const adopted = jobs.filter(
    (job) =>
      job.step !== null &&
      job.feedback?.accepted &&
      Number.isFinite(job.feedback.before) &&
      Number.isFinite(job.feedback.after),
  );
  const metric = adopted[0]?.feedback.metric ?? null;
  const same = adopted.filter((job) => job.feedback.metric === metric).sort((one, other) => one.step - other.step);
  if (!same.length) return null;
  const points = same.flatMap(({ step, feedback }) => [
    [step + (feedback.staleness_steps ?? 0), feedback.before],
    [step + (feedback.staleness_steps ?? 0), feedback.after],
  ]);
  const name = metric ?? "validation metric";
  const title = `${name} at the adoptions of run ${run}`;
  const ends = [points[0][1], points.at(-1)[1]].map(number);
  const description = `From ${ends[0]} before the first to ${ends[1]} after the last of ${same.length}.`;
  const series = [
    { name, kind: "between", points },
    ...same.map((_, at) => ({
      name: "adoption",
      kind: "incumbent",
      points: points.slice(2 * at, 2 * at + 2),
      dots: true,
    })),
  ];
  return make(
    "figure",
    plot({
      series,
      end: points.at(-1)[0],
      width: Math.max(280, width),
      xLabel: "training step",
      yLabel: name,
      title,
      description,
    }),
    make(
      "figcaption",
      make("span.sample.incumbent", "an adoption"),
      make("span.sample.between", "training in between"),
    ),
  );
}
