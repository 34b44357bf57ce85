// Says in words what a job or a run has come to: whether it works, what it has found, what that is worth.

import { ended } from "./api.js";
import { ago, gained, make, number, percent, plural, runLink, seconds, standing, took } from "./parts.js";

export const words = (name) => name.replaceAll("_", " ");

/** Where a job comes from and where it is: the line below its title. */
export function context({ run, step, created, worker }) {
  const at = step === null ? "" : ` at step ${number(step)}`;
  const of = run === null ? [] : ["of the run ", runLink(run), at, ", "];
  return [...of, "sent ", ago(created), worker ? `, on ${worker}` : ""];
}

export function jobStory(job) {
  return [outcome(job), " ", judged(job)];
}

function outcome(job) {
  switch (job.state) {
    case "queued":
      return job.attempt ? "Waits for another worker." : "Waits for a worker.";
    case "running":
      return `Has been at it for ${seconds(took(job))}, and may take ${seconds(job.spec.limits.time_s)}. ${soFar(job)}`;
    case "succeeded":
      return `${found(job)} ${proof(job)}`;
    case "cancelled":
      return job.result ? `Cancelled; the best so far is kept. ${found(job)}` : "Cancelled before anything was found.";
    case "failed":
      return `Failed: ${job.error?.detail ?? "the pool does not say why"}.`;
    default:
      return "No worker began it within its time to live.";
  }
}

function soFar(job) {
  const { best } = standing(job);
  return Number.isFinite(best) ? `Best so far: ${number(best)}. ${proof(job)}` : "Nothing found yet.";
}

function found(job) {
  const { start, best } = standing(job);
  if (!job.result.improved) return `Found nothing better than the weights had: ${number(start)}.`;
  const less = gained(job) === null ? "" : `: ${percent(gained(job))} less`;
  return `Found ${number(best)} where the weights had ${number(start)}${less}.`;
}

function proof(job) {
  const { bound, gap } = standing(job);
  if (gap <= 0 || job.result?.status === "optimal") return "Proven: nothing better is possible within the radius.";
  // All objectives are at least zero, so that a bound of zero says nothing.
  if (!(bound > 0)) return "Nothing is proven beyond zero.";
  return `Proven: nothing below ${number(bound)} is possible, a gap of ${percent(gap)}.`;
}

function judged({ feedback, result, state }) {
  if (feedback === null) {
    return ended(state) && result?.improved && make("span.muted", "No trainer has judged it yet.");
  }
  const { accepted, metric, before, after } = feedback;
  const figures = Number.isFinite(before) && Number.isFinite(after);
  const why = figures ? ` (${metric ?? "metric"}: ${number(before)} → ${number(after)})` : "";
  return make(accepted ? "strong.good" : "strong.muted", `The trainer ${accepted ? "adopted" : "declined"} it${why}.`);
}

/** A `state` event as a line of the log. */
export function stateLine({ state, worker, attempt, status, error }) {
  const by = state === "running" ? ` on ${worker}, attempt ${attempt}` : "";
  return `${state}${by}${status ? `: ${words(status)}` : ""}${error ? `: ${error.detail}` : ""}`;
}

export function runStory(stalls, jobs) {
  const solved = jobs.filter((job) => job.result);
  const adopted = jobs.filter((job) => job.feedback?.accepted);
  const better = solved.filter((job) => job.result.improved);
  const worth = changes(adopted).map(([metric, change]) => {
    return `${metric} changed by ${change > 0 ? "+" : ""}${number(change)} in all at these adoptions.`;
  });
  const counts = [
    `${plural(jobs.length, "job")} sent`,
    `${number(solved.length)} solved`,
    `${number(better.length)} found better weights`,
    `${number(adopted.length)} adopted`,
  ];
  const cost = `It took ${seconds(workersTime(jobs))} of workers' time.`;
  return [`${plural(stalls.length, "stall")}: ${counts.join(", ")}.`, ...worth, cost].join(" ");
}

export const workersTime = (jobs) => jobs.reduce((sum, job) => sum + (job.result?.timings.total_s ?? 0), 0);

/** What adoptions did to each metric, summed: [name, after - before]. */
function changes(adopted) {
  const sums = new Map();
  for (const { feedback } of adopted) {
    if (!Number.isFinite(feedback.before) || !Number.isFinite(feedback.after)) continue;
    const name = feedback.metric ?? "The validation metric";
    sums.set(name, (sums.get(name) ?? 0) + feedback.after - feedback.before);
  }
  return [...sums];
}
