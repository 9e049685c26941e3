// The page: requests the parts of a layer's derivation from the worker one by one, and shows each answer as it arrives.
import { plot } from "./plot.mjs";

const PARTS = ["result", "maps", "plot", "code", "steps", "latex", "json"];
const WAIT = 700; // milliseconds between the last key press and the derivation
const by = (id) => document.getElementById(id);
const [form, picker, text, error, place, link, said, results] =
  ["form", "picker", "text", "error", "place", "link", "said", "results"].map(by);
let worker, number = 0, begun = 0, busy = false, waiting = null, timer = 0, ready = false, copies = {}, fault = null, doing = "";

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "html") made.innerHTML = value; // formulas and sentences from Python, which escapes them
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const formula = (mathml, name = "") => element("div", { class: "formula", tabindex: 0, role: "group", "aria-label": name || "formula", html: mathml });
const section = (id, title, ...children) => element("section", { id, "aria-labelledby": `${id}-title` }, element("h2", { id: `${id}-title` }, title), ...children);
const chip = (words, kind = "") => element("span", { class: `chip ${kind}` }, words);

function copyButton(key, words) {
  return element("button", { type: "button", class: "quiet", "data-copy": key }, words);
}

const show = {
  result(told) {
    copies = {};
    const shape = { isotropic: "the same for every unit", diagonal: "different from unit to unit", full: "a full matrix over units" }[told.shape];
    const verdict = told.cancels.length
      ? `Cancelled exactly by ${told.cancels.join(" and ")}.`
      : told.within.length ? `Not cancelled as a whole; cancelled in its parts: ${told.within.join(", ").toLowerCase()}.`
      : told.constant ? "The same for every sample: nothing to cancel." : "No map of the forward pass cancels it.";
    results.replaceChildren(
      element("section", { id: "factor", class: "hero", "aria-labelledby": "factor-title" },
        element("p", { class: "kicker" }, told.title === told.name ? "Your layer" : told.name),
        element("h2", { id: "factor-title" }, told.title),
        element("p", { class: "lead" }, "A sample’s own gradient moves its output by this factor, the self factor:"),
        formula(told.factor, "self factor"),
        element("p", { class: "chips" }, chip(shape), chip(told.parameter_free ? "independent of the parameters" : "depends on the parameters"),
          chip(told.exact ? "exact at every rate" : "to first order in the rate")),
        element("p", { id: "verdict", class: told.cancels.length || told.constant ? "good" : "" }, verdict)),
      section("forward", "Forward map", ...told.forward.map((f) => formula(f, "forward map")),
        told.where.length ? element("p", { class: "small" }, "where") : null, ...told.where.map((f) => formula(f, "definition"))),
      section("kernel", "Update kernel", element("p", { class: "small" }, "How the gradient of one sample moves the output of another."), formula(told.kernel, "update kernel")),
      ...["plot", "maps", "code", "steps", "copy"].map((id) => element("div", { id: `${id}-place` })));
  },
  maps(told) {
    if (!told.maps.length && !told.refusals.length) return;
    const cards = told.maps.map((map) => element("article", {},
      element("h3", {}, `${map.name} map`, element("small", {}, map.of ? `${map.kind}, of ${map.of}` : map.kind)),
      formula(map.formula, `${map.name} map`),
      ...map.where.map((f) => formula(f, "definition")),
      element("dl", {},
        ...pair("self factor", element("span", { html: map.factor })), ...pair("residual", element("span", { html: map.residual })),
        ...map.properties.flatMap(([name, value, basis, reason]) => pair(name, element("div", {}, value, element("small", {}, `, ${basis}: `), element("small", { class: "words", html: reason })))),
        ...map.limits.flatMap(([name, value]) => pair(name, element("div", { html: value }))),
        ...map.assumes.flatMap((stated, place) => pair(place ? "" : "assumes", element("div", { html: stated }))))));
    by("maps-place").replaceWith(section("maps", "Maps that cancel it", element("div", { class: "cards" }, ...cards),
      ...told.refusals.map((words) => element("div", { class: "small", html: words }))));
  },
  plot(told) {
    const drawn = plot(told);
    if (drawn) by("plot-place").replaceWith(section("plot", "Self factor and size of the input", drawn));
  },
  code(told) {
    const names = Object.keys(told.files);
    const choice = element("select", { id: "file", "aria-label": "File" }, ...names.map((name) => element("option", {}, name)));
    const shown = element("pre", { id: "source", tabindex: 0, "aria-label": "Generated code" });
    const choose = () => { shown.textContent = copies.code = told.files[choice.value]; };
    choice.addEventListener("change", choose);
    choose();
    by("code-place").replaceWith(section("code", "PyTorch, generated",
      element("p", { class: "row" }, choice, copyButton("code", "Copy code")), shown));
  },
  steps(told) {
    const chips = (counts, what) => Object.entries(counts).map(([verdict, times]) => chip(`${times} ${what} ${verdict}`, verdict));
    by("steps-place").replaceWith(section("steps", "Steps, each with its verdict",
      element("p", { class: "chips" }, ...chips(told.steps, "steps"), ...chips(told.statements, "statements")),
      ...told.groups.map((group) => element("details", {},
        element("summary", {}, `${group.title}: ${group.steps.length} steps`),
        element("ol", {}, ...group.steps.map((step) => element("li", { id: `step-${step.id}` },
          element("p", {}, step.rule[0].toUpperCase() + step.rule.slice(1), " ", chip(step.status, step.status)),
          formula(step.formula, step.id), element("p", { class: "small" }, element("code", {}, step.id), ` ${step.method}`))))))));
  },
  latex(told) {
    copies.latex = told.text;
    by("copy-place").replaceWith(section("copy", "Take it with you",
      element("p", { class: "row" }, copyButton("latex", "Copy LaTeX"), copyButton("json", "Copy JSON"), copyButton("link", "Copy link")),
      element("details", {}, element("summary", {}, "LaTeX"), element("pre", { tabindex: 0, "aria-label": "LaTeX" }, told.text))));
  },
  json(told) {
    copies.json = told.text;
    results.dataset.json = told.text;
  },
};

const pair = (name, value) => [element("dt", {}, name), element("dd", {}, value)];

function ask(layer) {
  clearTimeout(timer);
  if (!layer.trim()) return;
  if (busy) { waiting = layer; return; }
  busy = true;
  waiting = null;
  begun = performance.now();
  number += 1;
  delete results.dataset.first;
  delete results.dataset.all;
  document.body.classList.add("busy");
  by("stop").hidden = false;
  history.replaceState(null, "", `#${encodeURIComponent(layer)}`);
  send(layer, 0);
}

function send(layer, part) {
  doing = { 0: "Deriving", 3: "Writing code", 4: "Checking every step" }[part] ?? doing;
  tick();
  worker.onmessage = ({ data }) => {
    if (data.told === undefined) return;
    const told = data.told;
    if (told.error !== undefined && part === 0) return failed(told);
    if (told.error !== undefined) note(PARTS[part], told.error);
    else show[PARTS[part]](told);
    if (part === 0) accepted();
    if (waiting !== null) finish(false);
    else if (part + 1 < PARTS.length) send(layer, part + 1);
    else finish(true);
  };
  worker.postMessage({ number, layer, part: PARTS[part] });
}

function tick() {
  const seconds = Math.round((performance.now() - begun) / 1000);
  if (busy) said.textContent = `${doing} …${seconds > 2 ? ` ${seconds} s` : ""}`;
}
setInterval(tick, 1000);

function accepted() {
  error.hidden = place.hidden = true;
  text.removeAttribute("aria-invalid");
  results.classList.remove("stale");
  results.dataset.first = String(Math.round(performance.now() - begun));
}

function failed(told) {
  fault = told;
  error.textContent = told.defect ?? told.error;
  error.hidden = false;
  place.hidden = !told.line;
  text.setAttribute("aria-invalid", "true");
  results.classList.add("stale");
  finish(false);
  said.textContent = told.defect ? "This is a bug in the playground, not in your layer." : "The layer cannot be read; the message says why.";
}

function note(part, words) {
  const home = by(`${part}-place`);
  if (home) home.replaceWith(element("p", { class: "small note" }, words));
}

function finish(whole) {
  busy = false;
  document.body.classList.remove("busy");
  by("stop").hidden = true;
  if (whole) {
    results.dataset.all = String(Math.round(performance.now() - begun));
    said.textContent = `Derived and checked in ${(Number(results.dataset.all) / 1000).toFixed(1)} s.`;
  }
  if (waiting !== null) ask(waiting);
}

place.addEventListener("click", () => {
  const lines = text.value.split("\n");
  const start = lines.slice(0, fault.line - 1).reduce((sum, line) => sum + line.length + 1, 0) + (fault.column ?? 1) - 1;
  text.focus();
  text.setSelectionRange(start, Math.min(start + 1, text.value.length));
});

form.addEventListener("submit", (event) => { event.preventDefault(); if (ready) ask(text.value); });
text.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(); });
text.addEventListener("input", () => {
  picker.value = "";
  clearTimeout(timer);
  timer = setTimeout(() => { if (ready) ask(text.value); }, WAIT);
});
picker.addEventListener("change", () => {
  text.value = picker.value;
  if (ready) ask(text.value);
});
addEventListener("hashchange", () => { if (read()) ask(text.value); });

document.addEventListener("click", async ({ target }) => {
  const key = target.dataset?.copy;
  if (!key) return;
  const words = target.dataset.words ??= target.textContent;
  try {
    await navigator.clipboard.writeText(key === "link" ? location.href : copies[key]);
    target.textContent = "Copied";
  } catch {
    target.textContent = "The browser does not allow copying";
  }
  setTimeout(() => { target.textContent = words; }, 1500);
});

function read() {
  const given = decoded(location.hash.slice(1));
  if (!given || given === text.value) return false;
  text.value = given;
  picker.value = given;
  return true;
}

function decoded(words) {
  try { return decodeURIComponent(words); } catch { return ""; }
}

async function fill() {
  const groups = await (await fetch("layers.json")).json();
  picker.append(element("option", { value: "", hidden: true }, "your own"));
  for (const { group, layers } of groups) {
    picker.append(element("optgroup", { label: group }, ...layers.map(({ title, text: own }) => element("option", { value: own }, title))));
  }
  if (!read()) {
    text.value = groups[0].layers[0].text;
    picker.value = text.value;
  }
}

const filled = fill();
function start(first) {
  worker = new Worker("worker.mjs", { type: "module" });
  worker.onmessage = async ({ data }) => {
    if (data.said) said.textContent = data.said;
    if (data.failed) { said.textContent = `Python did not start: ${data.failed}. Serve the folder with a file server, and reload.`; document.body.classList.add("failed"); }
    if (!data.ready) return;
    await filled;
    ready = true;
    by("derive").disabled = false;
    document.body.classList.remove("busy");
    said.textContent = "Ready.";
    by("python").textContent = `${data.version}.`;
    results.dataset.ready = String(Math.round(performance.now()));
    if (first) ask(text.value);
  };
  worker.onerror = (problem) => { said.textContent = `The worker stopped: ${problem.message ?? "no reason given"}.`; };
  document.body.classList.add("busy");
}

// Python cannot be interrupted from outside: its worker is terminated, and another started.
by("stop").addEventListener("click", () => {
  worker.terminate();
  waiting = null;
  ready = false;
  finish(false);
  by("derive").disabled = true;
  said.textContent = "Stopped; Python is restarting …";
  start(false);
});

start(true);
