// One job: what it has found so far and against which bound, what that is worth, and how to stop or repeat it.

import { cancel, ended, follow, get, JOB_ID, newToken, poll, resubmit, sleep, text } from "./api.js";
import * as parts from "./parts.js";
import { facts, make, number, percent, seconds, section } from "./parts.js";
import { plot } from "./plot.js";
import { context, jobStory, stateLine, words } from "./told.js";

const MOST_LINES = 500;
const MOST_LETTERS = 400_000;
const MOST_SUSPECTS = 12;
const JUDGED_WITHIN_S = 10;

/** Show a job until the signal: its record, its events as they come, and afterwards what its trainer says of it. */
export async function jobPage(place, signal, { id }) {
  if (!JOB_ID.test(id)) throw new Error("that is no job's id, which has 32 digits from 0-9 and a-f");
  document.title = `Job ${id.slice(0, 16)} · GDSolver pool`;
  const known = { job: null, lines: [], words: "", incumbents: [], said: "", busy: false, token: newToken() };
  const draw = () =>
    known.job && !signal.aborted && parts.morph(place, make("div", page(known, place.clientWidth, act)));
  const refresh = async () => {
    known.job = await get(`v1/jobs/${id}`, signal);
    draw();
  };
  /** Do what a button says, once; what the gateway thinks of it stands beside the buttons. */
  const act = (work) => async () => {
    if (known.busy) return;
    known.busy = true;
    known.said = "";
    draw();
    try {
      known.said = (await work(known.job)) ?? "";
      await refresh();
    } catch (error) {
      known.said = error.message;
    }
    known.busy = false;
    draw();
  };
  await poll(signal, 1, async () => {
    await refresh();
    return false;
  });
  window.addEventListener("resize", draw, { signal });
  tick(signal, () => !ended(known.job.state) && draw());
  await follow(id, signal, async (events) => {
    for (const event of events) hear(known, event);
    await (events.some((event) => event.kind === "state") ? refresh() : draw());
  });
  // Whole now: of a long log, or an old one, its events have told less.
  await poll(signal, 1, async () => {
    known.words = await text(`v1/jobs/${id}/log`, signal);
    draw();
    return false;
  });
  await poll(signal, JUDGED_WITHIN_S, refresh);
}

async function tick(signal, draw) {
  while (!signal.aborted) {
    await sleep(1, signal);
    if (!document.hidden) draw();
  }
}

function hear(known, { id, kind, data }) {
  if (kind === "incumbent") {
    known.incumbents.push(data);
    return;
  }
  if (data.source === "solver") {
    known.words = (known.words + data.message).slice(-MOST_LETTERS);
    return;
  }
  if (kind === "state" && ended(data.state)) known.said = "";
  const said = kind === "log" ? data.message : stateLine(data);
  known.lines.push({ at: id ? Number(id.split("-")[0]) : NaN, kind, text: said });
  known.lines.splice(0, known.lines.length - MOST_LINES);
}

function page(known, width, act) {
  const { job } = known;
  const points = incumbents(known);
  return [
    make("h1", "Job ", make("span.id", job.id.slice(0, 16)), " ", parts.chip(job.state)),
    make("p.muted", context(job)),
    make("p.verdict", jobStory(job)),
    buttons(known, act),
    picture(job, points, width),
    make("div.columns", asked(job), sizes(job), times(job)),
    constraints(job),
    log(known.lines),
    solverLog(known.words),
    suspects(job),
    make(
      "details",
      make("summary", "The whole record"),
      make("pre", { tabindex: 0 }, `id: ${job.id}\n`, JSON.stringify(job, null, 2)),
    ),
  ];
}

function buttons({ job, said, busy, token }, act) {
  const again = async (current) => {
    location.hash = `#/job/${(await resubmit(current, token)).id}`;
  };
  const stop = async (current) => {
    const { state } = await cancel(current.id);
    return ended(state) ? "" : "The solver is being interrupted; its best so far is kept.";
  };
  return make(
    "div.buttons",
    make("button.danger", { disabled: busy || ended(job.state), onclick: act(stop) }, "Cancel"),
    make("button", { disabled: busy, onclick: act(again) }, "Submit again"),
    make("span", { role: "status" }, said),
  );
}

/** What to plot: the result's own list once there is one, before that what this attempt's events have told. */
function incumbents({ job, incumbents: heard }) {
  return job.result ? job.result.incumbents : heard.filter((one) => one.attempt === job.attempt);
}

function picture(job, points, width) {
  const { start, best, bound } = parts.standing(job);
  if (!points.length) return ended(job.state) ? null : make("p.empty", "The plot begins with the first incumbent.");
  const last = points.at(-1).t_s;
  const end = Math.max(job.result?.timings.total_s ?? (job.state === "running" ? parts.took(job) : 0), last, 1e-3);
  const objectives = points.map((one) => [one.t_s, one.objective]);
  if (Number.isFinite(start)) objectives.unshift([0, start]);
  const bounds = points.map((one) => [one.t_s, one.bound]);
  if (job.result) bounds.push([end, bound]); // the last proof may come without an incumbent
  const title = `Best objective and bound of job ${job.id.slice(0, 16)} over time`;
  const found = `${points.length} incumbents in ${seconds(end)}`;
  const description = `${found}, the best ${number(best)}, the bound ${number(bound)}.`;
  const series = [
    { name: "incumbent", kind: "incumbent", points: objectives, steps: true, dots: points.length < 60 },
    { name: "bound", kind: "bound", points: bounds, steps: true },
  ];
  const legend = [
    ["incumbent", "best so far"],
    ["bound", "proven bound"],
    Number.isFinite(start) ? ["start", `start: ${number(start)}`] : null,
  ];
  return make(
    "figure",
    plot({
      series,
      start,
      end,
      width: Math.max(280, width),
      xLabel: "seconds",
      yLabel: job.spec.objective,
      title,
      description,
      early: true,
    }),
    make(
      "figcaption",
      legend.filter(Boolean).map(([kind, text]) => make(`span.sample.${kind}`, text)),
    ),
    make(
      "details",
      make("summary", "The plot as a table"),
      parts.table(
        "Incumbents",
        ["seconds", "objective", "bound"],
        points.map((one, at) => ({ key: at, cells: [number(one.t_s), number(one.objective), number(one.bound)] })),
      ),
    ),
  );
}

function asked({ spec, priority, tags }) {
  const tail = [spec.tail_radius].flat();
  return section(
    "What was asked",
    facts([
      ["objective", spec.objective],
      ["radius", spec.radius === null ? "in the snapshot" : number(spec.radius)],
      ["radius of biases", spec.bias_radius === null ? null : number(spec.bias_radius)],
      ["radius of the tail", tail.some((radius) => radius > 0) ? tail.map(number).join(", ") : null],
      ["time limit", seconds(spec.limits.time_s)],
      ["gap that is enough", spec.limits.gap > 0 ? percent(spec.limits.gap) : null],
      ["solver", `${spec.solver.backend}, ${spec.solver.formulation}, seed ${spec.solver.seed}`],
      ["priority", priority === "normal" ? null : priority],
      [
        "tags",
        Object.keys(tags).length
          ? Object.entries(tags)
              .map(([name, value]) => `${name}: ${value}`)
              .join(", ")
          : null,
      ],
    ]),
  );
}

function sizes({ result }) {
  if (!result) return null;
  const counts = Object.entries(result.sizes).filter(([name, count]) => count > 0 || name === "rows");
  return section(
    "Model",
    facts([
      ...counts.map(([name, count]) => [words(name), number(count)]),
      ["nodes", number(result.nodes)],
      ["changed weights", number(result.changed_weights)],
      ["by", `${result.backend.name} ${result.backend.version}`],
    ]),
  );
}

function times(job) {
  if (!job.result) return null;
  const { queued_s, build_s, presolve_s, solve_s, total_s } = job.result.timings;
  return section(
    "Time",
    facts([
      ["in the queue", seconds(queued_s)],
      ["building", seconds(build_s)],
      ["presolve", seconds(presolve_s)],
      ["solver", seconds(solve_s)],
      ["in all", seconds(total_s)],
      ["ended as", words(job.result.status)],
      ["attempts", job.attempt > 1 ? number(job.attempt) : null],
    ]),
  );
}

function constraints({ spec }) {
  if (!spec.constraints.length) return null;
  const rest = (one) =>
    ["classes", "indices", "groups", "levels"]
      .filter((name) => one[name])
      .map((name) => `${name} ${shortened(one[name])}`);
  return section(
    "Constraints",
    make(
      "ul",
      spec.constraints.map((one) =>
        make(
          "li",
          [words(one.type), one.type === "levels" ? "" : number(one.value), ...rest(one)].filter(Boolean).join(", "),
        ),
      ),
    ),
  );
}

const shortened = (values) =>
  values.slice(0, 12).map(number).join(" ") + (values.length > 12 ? ` … (${values.length})` : "");

function suspects({ result }) {
  if (!result?.suspects.length) return null;
  const shown = result.suspects.slice(0, MOST_SUSPECTS);
  const more = result.suspects.length - shown.length;
  return section(
    "Suspects",
    make("p.muted", "Samples that good answers give up on: look at their labels first."),
    parts.table(
      "Suspects",
      ["sample", "margin", "given up by"],
      shown.map((one) => ({ key: one.index, cells: [String(one.index), number(one.margin), percent(one.share)] })),
    ),
    more ? make("p.muted", `and ${number(more)} more, in the whole record`) : null,
  );
}

function log(lines) {
  const at = (moment) => (Number.isFinite(moment) ? new Date(moment).toLocaleTimeString([], { hour12: false }) : "");
  return section(
    "Log",
    make(
      "ol.log",
      { role: "log", "aria-label": "The job's log", tabindex: 0 },
      lines.map((one) => make(`li.line-${one.kind}`, make("time", at(one.at)), " ", one.text)),
    ),
  );
}

/** What the solver says, as it grows; closed until somebody wants it. */
function solverLog(words) {
  return make(
    "details",
    make("summary", "The solver's log"),
    words
      ? make("div.words", { role: "log", "aria-label": "The solver's log", tabindex: 0 }, make("pre", words))
      : make("p.empty", "Nothing yet."),
  );
}
