// The pool at a glance: its numbers, its workers, and this key's jobs, to be narrowed down by state, run and id.

import { get, JOB_ID, poll, Refusal } from "./api.js";
import * as parts from "./parts.js";
import { make, number, percent, seconds } from "./parts.js";

const EVERY_S = 2;
const A_PAGE = 50;
const STATES = ["queued", "running", "succeeded", "failed", "cancelled", "expired"];
const MOST_A_PAGE = 200;
const SEARCHED_PAGES = 5;

/** Show the pool and its jobs until the signal; `wanted` may name a state, a run, and the cursor of a page. */
export async function poolPage(place, signal, wanted) {
  const [top, list] = [make("div"), make("div")];
  place.append(make("h1", "Pool"), top, make("h2", "Jobs"), filters(wanted, signal), list);
  const query = new URLSearchParams({ limit: A_PAGE });
  for (const name of ["state", "run", "cursor"]) if (wanted[name]) query.set(name, wanted[name]);
  let mayAsk = true; // stats and workers are for keys with `admin`
  await poll(signal, EVERY_S, async () => {
    const pool = mayAsk ? await ofThePool(signal) : null;
    mayAsk = pool !== null;
    const found = await get(`v1/jobs?${query}`, signal);
    parts.morph(top, make("div", pool === null ? notYours() : [tiles(pool.stats), workers(pool.workers)]));
    parts.morph(list, make("div", jobs(found, wanted)));
  });
}

/** The pool's numbers and workers, or null for a key that may not see them. */
async function ofThePool(signal) {
  try {
    return { stats: await get("v1/stats", signal), workers: (await get("v1/workers", signal)).workers };
  } catch (error) {
    if (error instanceof Refusal && error.status === 403) return null;
    throw error;
  }
}

const notYours = () =>
  make(
    "p.muted",
    "Workers and the pool's numbers are for keys with the scope ",
    make("code", "admin"),
    "; these are this key's own jobs.",
  );

function tiles(stats) {
  const busy = stats.slots
    ? `${number(Math.min(stats.running, stats.slots))} of ${number(stats.slots)} busy`
    : "none is alive: nothing will be solved";
  const name = stats.workers === 1 ? " worker" : " workers";
  return make(
    "div.tiles",
    make(stats.workers ? "div.tile" : "div.tile.bad", make("b", number(stats.workers)), name, make("small", busy)),
    STATES.map((state) =>
      make("a.tile", { href: `#/?state=${state}` }, make("b", number(stats.states[state] ?? 0)), ` ${state}`),
    ),
  );
}

function workers(alive) {
  const rows = alive.map((worker) => ({
    key: worker.name,
    cells: [
      worker.name,
      `${worker.host}, process ${worker.pid}`,
      worker.jobs.length
        ? make(
            "span.list",
            worker.jobs.map((id) => [parts.jobLink(id), " "]),
          )
        : make("span.muted", "idle"),
      number(worker.solved),
      parts.ago(worker.seen),
    ],
  }));
  return make(
    "details",
    { open: alive.length < 9 },
    make("summary", "Workers"),
    parts.table("Workers", ["name", "machine", "at work on", "solved", "seen"], rows),
  );
}

function filters(wanted, signal) {
  const state = make(
    "select",
    { id: "state" },
    make("option", { value: "" }, "any"),
    STATES.map((one) => make("option", { value: one, selected: wanted.state === one }, one)),
  );
  const field = (name, placeholder, value) => make("input", { id: name, type: "search", placeholder, value });
  const run = field("run", "whole name", wanted.run);
  const id = field("id", "id, or how it begins", null);
  const said = make("span", { role: "status" });
  const form = make(
    "form.filters",
    { role: "search" },
    make("label", "State ", state),
    make("label", "Run ", run),
    make("label", "Job ", id),
    make("button", { type: "submit" }, "Show"),
    said,
  );
  const go = async (event) => {
    event?.preventDefault();
    const begins = id.value.trim().toLowerCase();
    if (!begins) {
      location.hash = address({ state: state.value, run: run.value.trim() });
      return;
    }
    said.textContent = "Looking …";
    try {
      const found = await search(begins, signal);
      if (found) location.hash = `#/job/${found}`;
      else said.textContent = `None of the newest ${number(MOST_A_PAGE * SEARCHED_PAGES)} jobs begins so.`;
    } catch (error) {
      said.textContent = error.message;
    }
  };
  form.addEventListener("submit", go);
  state.addEventListener("change", () => go());
  return form;
}

/** The id of the newest job whose id begins so; a whole id is taken at its word. */
async function search(begins, signal) {
  if (JOB_ID.test(begins)) return begins;
  let cursor = null;
  for (let page = 0; page < SEARCHED_PAGES && (page === 0 || cursor); page += 1) {
    const found = await get(`v1/jobs?limit=${MOST_A_PAGE}${cursor ? `&cursor=${cursor}` : ""}`, signal);
    const job = found.jobs.find((one) => one.id.startsWith(begins));
    if (job) return job.id;
    ({ cursor } = found);
  }
  return null;
}

/** The address of a list of jobs; what is empty narrows nothing down. */
function address(wanted) {
  const query = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value));
  return `#/${query.size ? `?${query}` : ""}`;
}

function jobs(found, wanted) {
  const narrowed = wanted.state || wanted.run || wanted.cursor;
  const heads = ["state", "job", "run", "step", "objective", "so far", "gained", "gap", "trainer", "took", "sent"];
  const none = narrowed
    ? make("p.empty", noneHere(found, wanted), " ", make("a", { href: "#/" }, "Show all"))
    : make(
        "p.empty",
        "No jobs yet. A training loop with a ",
        make("code", "Tunneller"),
        " sends one at each stall; ",
        make("code", "gdsolver submit"),
        " sends one by hand.",
      );
  return [
    found.jobs.length ? parts.table("Jobs, newest first", heads, found.jobs.map(row)) : none,
    make(
      "p.buttons",
      wanted.cursor ? make("a", { href: address({ ...wanted, cursor: null }) }, "Newest jobs") : null,
      found.cursor ? make("a", { href: address({ ...wanted, cursor: found.cursor }) }, "Older jobs") : null,
    ),
  ];
}

/** A state may be so rare that the gateway stops looking before it finds one, and a full page may have been the last. */
function noneHere(found, wanted) {
  if (found.cursor) return "None among the newest of these jobs; there may be some among older ones.";
  return wanted.cursor ? "No older ones." : "No such jobs.";
}

function row(job) {
  const { start, best, gap } = parts.standing(job);
  const from = Number.isFinite(start) ? `${number(start)} → ` : "";
  return {
    key: job.id,
    cells: [
      parts.chip(job.state),
      parts.jobLink(job.id, "a.id.whole-row"),
      parts.runLink(job.run),
      job.step === null ? "–" : number(job.step),
      job.spec.objective,
      Number.isFinite(best) ? `${from}${number(best)}` : "–",
      parts.gained(job) === null ? "–" : percent(parts.gained(job)),
      Number.isFinite(gap) ? percent(gap) : "–",
      parts.verdictOf(job),
      seconds(parts.took(job)),
      parts.ago(job.created),
    ],
  };
}
