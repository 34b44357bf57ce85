// The page itself: which view an address shows, the key when one is needed, and a word when nobody answers.

import { key, link, Refusal } from "./api.js";
import { jobPage } from "./job.js";
import { make, seconds } from "./parts.js";
import { poolPage } from "./pool.js";
import { runPage } from "./run.js";

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
  return [poolPage, Object.fromEntries(new URLSearchParams(query))];
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  away.hidden = true;
  main.classList.remove("stale");
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

const sentence = (text) => text[0].toUpperCase() + text.slice(1);

function failed(error) {
  if (error instanceof Refusal && error.status === 401) {
    askForKey(key.get() === null ? "This pool needs an API key." : `${sentence(error.message)}.`);
    return;
  }
  main.replaceChildren(
    make("h1", "This cannot be shown"),
    make("p", { role: "alert" }, `${sentence(error.message)}.`),
    make("p.buttons", make("button", { onclick: show }, "Try again"), " ", make("a", { href: "#/" }, "All jobs")),
  );
}

function askForKey(why) {
  key.forget();
  forget.hidden = true;
  const field = make("input", {
    id: "key",
    type: "password",
    autocomplete: "off",
    required: true,
    spellcheck: "false",
  });
  const form = make(
    "form.key",
    make("h1", "Who is asking?"),
    make("p", { role: "alert" }, why),
    make("label", { for: "key" }, "API key"),
    field,
    make("button", { type: "submit" }, "Show the pool"),
    make(
      "p.muted",
      "It is kept in this tab alone, until the tab is closed. Make one with ",
      make("code", "gdsolver-pool keys add NAME"),
      "; with Docker Compose it is ",
      make("code", "GDSOLVER_API_KEY"),
      " in ",
      make("code", ".env"),
      ".",
    ),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    key.set(field.value.trim());
    show();
  });
  main.replaceChildren(form);
  field.focus();
}

link.addEventListener("up", () => {
  away.hidden = true;
  main.classList.remove("stale");
});
link.addEventListener("away", ({ detail }) => {
  const next = `Trying again in ${seconds(detail.seconds)}; what you see is from before.`;
  away.textContent = `The gateway cannot be asked: ${detail.reason}. ${next}`;
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
