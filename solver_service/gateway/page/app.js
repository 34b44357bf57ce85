// The page itself: which view an address shows, the key when one is needed, and the list of jobs with the pool above it.

import { get, key, link, poll, Refusal } from "./api.js";
import { jobPage } from "./job.js";
import * as parts from "./parts.js";
import { make, number, percent, seconds } from "./parts.js";
import { runPage } from "./run.js";

const EVERY_S = 2;
const A_PAGE = 50;
const STATES = ["queued", "running", "succeeded", "failed", "cancelled", "expired"];
const SEARCHED_PAGES = 5;
const JOB_ID = /^[0-9a-f]{32}$/;

const main = document.getElementById("main");
const away = document.getElementById("away");
const forget = document.getElementById("forget");
let leaving = new AbortController();

/** Addresses are fragments, so that the gateway needs no route for them. */
function route() {
  const [path, query] = location.hash.replace(/^#/, "").split("?");
  const [, kind, name] = /^\/(job|run)\/(.+)$/.exec(path) ?? [];
  if (kind === "job") return [jobPage, { id: decodeURIComponent(name) }];
  if (kind === "run") return [runPage, { run: decodeURIComponent(name) }];
  return [overview, Object.fromEntries(new URLSearchParams(query))];
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  away.hidden = true;
  forget.hidden = key.get() === null;
  main.replaceChildren(make("div"));
  document.title = "GDSolver pool";
  try {
    const [view, wanted] = route();
    await view(main.firstChild, signal, wanted);
  } catch (error) {
    if (!signal.aborted) failed(error);
  }
}

function failed(error) {
  if (error instanceof Refusal && error.status === 401) {
    askForKey(key.get() === null ? "This pool needs an API key." : `${error.message}.`);
    return;
  }
  main.replaceChildren(
    make("h1", {}, "This cannot be shown"),
    make("p", { role: "alert" }, error.message),
    make("p", { class: "buttons" }, make("button", { type: "button", onclick: show }, "Try again"), " ", make("a", { href: "#/" }, "All jobs")),
  );
}

function askForKey(why) {
  key.forget();
  forget.hidden = true;
  const field = make("input", { id: "key", type: "password", autocomplete: "off", required: true, spellcheck: "false" });
  const form = make("form", { class: "key" },
    make("h1", {}, "Who is asking?"),
    make("p", { role: "alert" }, why),
    make("label", { for: "key" }, "API key"), field,
    make("button", { type: "submit" }, "Show the pool"),
    make("p", { class: "muted" }, "It is kept in this tab alone, until the tab is closed. Make one with ", make("code", {}, "gdsolver-pool keys add NAME"), "."));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    key.set(field.value.trim());
    show();
  });
  main.replaceChildren(form);
  field.focus();
}

// --- the pool and its jobs ---------------------------------------------------------------------------------------

async function overview(place, signal, wanted) {
  const [top, list] = [make("div"), make("div")];
  place.append(make("h1", {}, "Pool"), top, make("h2", {}, "Jobs"), filters(wanted, signal), list);
  const query = new URLSearchParams({ limit: A_PAGE });
  for (const name of ["state", "run", "cursor"]) if (wanted[name]) query.set(name, wanted[name]);
  let mayAsk = true; // stats and workers are for keys with `admin`
  await poll(signal, EVERY_S, async () => {
    const pool = mayAsk ? await ofThePool(signal) : null;
    mayAsk = pool !== null;
    const found = await get(`v1/jobs?${query}`, signal);
    parts.morph(top, make("div", {}, pool === null ? notYours() : [tiles(pool.stats), workers(pool.workers)]));
    parts.morph(list, make("div", {}, jobs(found, wanted)));
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

const notYours = () => make("p", { class: "muted" }, "Workers and the pool's numbers are for keys with the scope ", make("code", {}, "admin"), "; these are this key's own jobs.");

function tiles(stats) {
  const busy = stats.slots ? `${number(Math.min(stats.running, stats.slots))} of ${number(stats.slots)} busy` : "none is alive: nothing will be solved";
  const states = STATES.map((state) => ["a", { href: `#/?state=${state}` }, state, stats.states[state] ?? 0]);
  return make("div", { class: "tiles" },
    make("div", { class: stats.workers ? "tile" : "tile bad" }, make("b", {}, number(stats.workers)), ` ${stats.workers === 1 ? "worker" : "workers"}`, make("small", {}, busy)),
    states.map(([tag, properties, state, count]) => make(tag, { class: "tile", ...properties }, make("b", {}, number(count)), ` ${state}`)));
}

function workers(alive) {
  const rows = alive.map((worker) => ({
    key: worker.name,
    cells: [
      worker.name,
      `${worker.host}, process ${worker.pid}`,
      worker.jobs.length ? make("span", { class: "list" }, worker.jobs.map((id) => [parts.jobLink(id), " "])) : make("span", { class: "muted" }, "idle"),
      number(worker.solved),
      parts.ago(worker.seen),
    ],
  }));
  return make("details", { open: alive.length < 9 }, make("summary", {}, "Workers"), parts.table("Workers", ["name", "machine", "at work on", "solved", "seen"], rows));
}

function filters(wanted, signal) {
  const state = make("select", { id: "state" }, make("option", { value: "" }, "any"), STATES.map((one) => make("option", { value: one, selected: wanted.state === one }, one)));
  const run = make("input", { id: "run", type: "search", value: wanted.run ?? "", placeholder: "whole name", maxlength: 200 });
  const id = make("input", { id: "id", type: "search", placeholder: "id, or how it begins", maxlength: 32, spellcheck: "false" });
  const said = make("span", { role: "status" });
  const form = make("form", { class: "filters", role: "search" },
    make("label", {}, "State ", state), make("label", {}, "Run ", run), make("label", {}, "Job ", id),
    make("button", { type: "submit" }, "Show"), said);
  const go = async (event) => {
    event?.preventDefault();
    const begins = id.value.trim().toLowerCase();
    if (!begins) {
      const query = new URLSearchParams(Object.entries({ state: state.value, run: run.value.trim() }).filter(([, value]) => value));
      location.hash = `#/${query.size ? `?${query}` : ""}`;
      return;
    }
    said.textContent = "Looking …";
    const found = await search(begins, signal).catch((error) => (said.textContent = error.message, null));
    if (found) location.hash = `#/job/${found}`;
    else if (said.textContent === "Looking …") said.textContent = `None of this key's newest ${number(200 * SEARCHED_PAGES)} jobs begins so.`;
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
    const found = await get(`v1/jobs?limit=200${cursor ? `&cursor=${cursor}` : ""}`, signal);
    const job = found.jobs.find((one) => one.id.startsWith(begins));
    if (job) return job.id;
    ({ cursor } = found);
  }
  return null;
}

function jobs(found, wanted) {
  const narrowed = wanted.state || wanted.run || wanted.cursor;
  const here = (more) => `#/?${new URLSearchParams({ ...(wanted.state ? { state: wanted.state } : {}), ...(wanted.run ? { run: wanted.run } : {}), ...more })}`;
  const heads = ["state", "job", "run", "step", "objective", "so far", "gained", "gap", "trainer", "took", "sent"];
  const none = narrowed
    ? make("p", { class: "empty" }, "No such jobs. ", make("a", { href: "#/" }, "Show all"))
    : make("p", { class: "empty" }, "No jobs yet. A training loop with a ", make("code", {}, "Tunneller"), " sends one at each stall; ", make("code", {}, "gdsolver submit"), " sends one by hand.");
  return [
    found.jobs.length ? parts.table("Jobs, newest first", heads, found.jobs.map(row)) : none,
    make("p", { class: "buttons" },
      wanted.cursor ? make("a", { href: here({}) }, "Newest jobs") : null,
      found.cursor ? make("a", { href: here({ cursor: found.cursor }) }, "Older jobs") : null),
  ];
}

function row(job) {
  const { start, best, gap } = parts.standing(job);
  const value = Number.isFinite(best) ? `${Number.isFinite(start) ? `${number(start)} → ` : ""}${number(best)}` : "–";
  return {
    key: job.id,
    cells: [
      parts.chip(job.state),
      parts.jobLink(job.id, { class: "id whole-row" }),
      parts.runLink(job.run),
      job.step === null ? "–" : number(job.step),
      job.spec.objective,
      value,
      parts.gained(job) === null ? "–" : percent(parts.gained(job)),
      Number.isFinite(gap) ? percent(gap) : "–",
      parts.verdictOf(job),
      seconds(parts.took(job)),
      parts.ago(job.created),
    ],
  };
}

link.addEventListener("up", () => {
  away.hidden = true;
  main.classList.remove("stale");
});
link.addEventListener("away", ({ detail }) => {
  away.textContent = `The gateway cannot be asked: ${detail.reason}. Trying again in ${seconds(detail.seconds)}; what you see is from before.`;
  away.hidden = false;
  main.classList.add("stale");
});
forget.addEventListener("click", () => {
  key.forget();
  show();
});
window.addEventListener("hashchange", () => {
  show();
  main.focus({ preventScroll: true });
  window.scrollTo(0, 0);
});
show();
