// Talks to the gateway: keeps the key for this tab alone, asks politely, and says when nobody answers.

const KEY = "gdsolver-key";
const LONGEST_PAUSE_S = 30;

/** Tells the page about the connection: `up`, or `away` with {reason, seconds} until the next try. */
export const link = new EventTarget();

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (text) => sessionStorage.setItem(KEY, text),
  forget: () => sessionStorage.removeItem(KEY),
};

/** What a job's id looks like: its first twelve digits are the time of its submission. */
export const JOB_ID = /^[0-9a-f]{32}$/;

/** A refusal: the problem's status and words, and how many seconds to stay away, where the gateway says so. */
export class Refusal extends Error {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
  /** Whether the same request may work a little later. */
  get passes() {
    return this.status === 429 || this.status >= 500;
  }
}

let behind = 0;
/** The gateway's clock in milliseconds: this machine's may be wrong. */
export const now = () => Date.now() + behind;

async function call(path, { signal, method = "GET", headers = {}, body } = {}) {
  const token = key.get();
  const response = await fetch(path, {
    method,
    signal,
    body,
    headers: token ? { ...headers, Authorization: `Bearer ${token}` } : headers,
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
  }).catch(cutOff);
  const date = Date.parse(response.headers.get("date"));
  // The header has whole seconds: only a clock that is clearly off is corrected.
  if (Number.isFinite(date)) behind = Math.abs(date - Date.now()) > 3000 ? date - Date.now() : 0;
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const wait = Number(response.headers.get("retry-after")) || null;
  throw new Refusal(response.status, problem.detail ?? `the gateway answered ${response.status}`, wait);
}

/** Name the browser's many words for a lost connection; leaving a view, or hiding it, is none. */
function cutOff(error) {
  throw error.name === "AbortError" ? error : new Refusal(503, "no connection", null);
}

export async function get(path, signal) {
  return (await call(path, { signal })).json().catch(cutOff);
}

export async function text(path, signal) {
  return (await call(path, { signal })).text().catch(cutOff);
}

export const cancel = async (id) => (await call(`v1/jobs/${id}`, { method: "DELETE" })).json();

/** Send a job's spec again. It supersedes nothing, and its token makes a request that is sent twice one job. */
export async function resubmit(job, token) {
  const body = JSON.stringify({ ...job.spec, snapshot: job.snapshot, supersede: false });
  const headers = { "Content-Type": "application/json", "Idempotency-Key": token };
  return (await call("v1/jobs", { method: "POST", headers, body })).json();
}

export function newToken() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Do the task again and again, one at a time, while somebody looks; end when it gives false or is refused for good. */
export async function poll(signal, everyS, task) {
  let failures = 0;
  while (!signal.aborted) {
    await visible(signal);
    let pause = everyS;
    try {
      if (signal.aborted) return;
      const again = await task();
      failures = 0;
      link.dispatchEvent(new Event("up"));
      if (again === false) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error.name === "AbortError") continue; // the tab was hidden: wait until it is seen again
      if (!error.passes) throw error;
      failures += 1;
      pause = error.retryAfter ?? Math.min(LONGEST_PAUSE_S, 2 ** failures);
      link.dispatchEvent(new CustomEvent("away", { detail: { reason: error.message, seconds: pause } }));
    }
    await sleep(pause, signal);
  }
}

/** Hand over a job's events in the batches in which they come, until it has ended; a lost connection is resumed. */
export async function follow(id, signal, heard) {
  let last = null;
  await poll(signal, 1, async () => {
    // EventSource cannot send the key, so the stream is read by hand. A tab that nobody sees keeps no connection.
    const hidden = new AbortController();
    const onChange = () => document.hidden && hidden.abort();
    document.addEventListener("visibilitychange", onChange);
    try {
      const headers = last === null ? {} : { "Last-Event-ID": last };
      const response = await call(`v1/jobs/${id}/events`, {
        headers,
        signal: AbortSignal.any([signal, hidden.signal]),
      });
      if (response.status === 204) return false;
      link.dispatchEvent(new Event("up"));
      for await (const events of read(response.body)) {
        last = events.findLast((event) => event.id)?.id ?? last;
        await heard(events);
        if (events.some((event) => event.kind === "state" && ended(event.data.state))) return false;
      }
    } finally {
      document.removeEventListener("visibilitychange", onChange);
    }
  });
}

export const ended = (state) => state !== "queued" && state !== "running";

/** The events in a stream's bytes: blocks of `field: value` lines with an empty line behind each. */
async function* read(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(cutOff);
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    const events = blocks.map(parse).filter((event) => event.data !== undefined);
    if (events.length) yield events;
  }
}

function parse(block) {
  const event = {};
  for (const line of block.split("\n")) {
    const [, name, value] = /^(id|event|data): ?(.*)$/.exec(line) ?? [];
    if (name === "data") event.data = JSON.parse(value);
    else if (name) event[name === "event" ? "kind" : name] = value;
  }
  return event;
}

export function sleep(seconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

function visible(signal) {
  if (!document.hidden) return undefined;
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", resolve, { once: true, signal });
    signal.addEventListener("abort", resolve, { once: true });
  });
}
