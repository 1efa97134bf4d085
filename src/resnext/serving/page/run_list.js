// The list of runs at the side: state, age of the last point, last values, spark lines; choosing runs.

import { build } from "./dom.js";
import { formatNumber } from "./run_chart.js";

const SVG = "http://www.w3.org/2000/svg";
const MANY = 8; // runs, above which they can be searched

export class RunList {
  #entries = new Map(); // id -> parts of the entry
  #filter = document.getElementById("filter");
  #list = document.getElementById("run-list");

  /** `choose(id, isChosen)` is called when a box is ticked or cleared. */
  constructor(choose) {
    this.choose = choose;
    this.#filter.addEventListener("input", () => this.#hideOthers());
  }

  /** Show the runs in this order; `colorOf(id)` is empty for those not chosen. */
  update(runs, colorOf) {
    document.getElementById("empty").hidden = runs.length > 0;
    this.#filter.hidden = runs.length <= MANY;
    const here = new Set(runs.map((run) => run.id));
    for (const [id, entry] of this.#entries) {
      if (!here.has(id)) {
        entry.element.remove();
        this.#entries.delete(id);
      }
    }
    runs.forEach((run, i) => {
      if (!this.#entries.has(run.id)) this.#entries.set(run.id, this.#makeEntry(run));
      const entry = this.#entries.get(run.id);
      this.#fill(entry, run, colorOf(run.id));
      if (this.#list.children[i] !== entry.element && !entry.element.contains(document.activeElement)) {
        this.#list.insertBefore(entry.element, this.#list.children[i] ?? null);
      }
    });
    this.#hideOthers();
  }

  /** Write how long ago the last points were; `now` is the server's time in seconds. */
  tick(now) {
    for (const { run, age } of this.#entries.values()) {
      const words = run.last_point ? `last point ${formatAge(now - run.last_point)} ago` : "no log";
      if (age.textContent !== words) age.textContent = words;
    }
  }

  #makeEntry(run) {
    const box = build("input", { type: "checkbox", onchange: () => this.choose(run.id, box.checked) });
    const parts = {
      box,
      name: build("span", { class: "run-title" }),
      pill: build("span", { class: "pill" }),
      age: build("span", { class: "age" }),
      values: build("span", { class: "values" }),
      progress: build("span", { class: "bar", "aria-hidden": "true" }, build("span", {})),
      spark: document.createElementNS(SVG, "svg"),
    };
    parts.spark.setAttribute("class", "spark");
    parts.spark.setAttribute("viewBox", "0 0 100 28");
    parts.spark.setAttribute("preserveAspectRatio", "none");
    parts.spark.setAttribute("aria-hidden", "true");
    const words = build("span", { class: "run-words" }, parts.name, build("span", { class: "line" }, parts.age, " · ", parts.pill), parts.values);
    parts.element = build("li", {}, build("label", { class: "run" }, box, words, parts.spark, parts.progress));
    return parts;
  }

  #fill(parts, run, color) {
    parts.run = run;
    parts.name.textContent = run.name;
    parts.box.setAttribute("aria-label", `${run.name}, ${run.state}`);
    parts.box.checked = color !== "";
    parts.element.style.setProperty("--swatch", color || "var(--edge)");
    parts.element.classList.toggle("chosen", color !== "");
    parts.pill.textContent = run.state;
    parts.pill.setAttribute("class", `pill ${run.state}`);
    const words = describeValues(run);
    if (parts.values.textContent !== words.join("")) {
      parts.values.replaceChildren(...words.map((word) => build("span", {}, word)));
    }
    const share = run.steps ? run.step / run.steps : run.epochs ? run.epoch / run.epochs : 0;
    parts.progress.firstChild.style.width = `${100 * Math.min(share, 1)}%`;
    drawSpark(parts.spark, run.spark);
  }

  #hideOthers() {
    const words = this.#filter.hidden ? "" : this.#filter.value.trim().toLowerCase();
    for (const { element, run } of this.#entries.values()) element.hidden = !run.name.toLowerCase().includes(words);
  }
}

function describeValues(run) {
  const parts = [];
  if (run.epochs) parts.push(`epoch ${run.epoch}/${run.epochs}`);
  else if (run.steps) parts.push(`step ${formatNumber(run.step)}/${formatNumber(run.steps)}`);
  if (run.loss !== null) parts.push(`loss ${formatNumber(run.loss)}`);
  if (run.metric) parts.push(run.metric.name === "ap" ? `AP ${run.metric.last.toFixed(3)}` : `error ${run.metric.last.toFixed(2)} %`);
  return parts.length ? parts : ["nothing logged yet"];
}

/** Draw a line of values, the least at the bottom. */
function drawSpark(svg, values) {
  if (values.length < 2) return svg.replaceChildren();
  const low = Math.min(...values), span = Math.max(...values) - low || 1;
  const points = values.map((v, i) => `${((100 * i) / (values.length - 1)).toFixed(1)},${(26 - (24 * (v - low)) / span).toFixed(1)}`).join(" ");
  const line = svg.firstChild ?? document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points);
  line.setAttribute("vector-effect", "non-scaling-stroke");
  if (!svg.firstChild) svg.append(line);
}

export function formatAge(seconds) {
  const age = Math.max(0, seconds);
  if (age < 100) return `${Math.round(age)} s`;
  if (age < 6000) return `${Math.round(age / 60)} min`;
  if (age < 48 * 3600) return `${Math.round(age / 3600)} h`;
  return `${Math.round(age / 86400)} days`;
}
