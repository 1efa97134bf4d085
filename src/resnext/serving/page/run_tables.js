// Tables and pictures under the charts: results, settings that differ, worst images, reports.

import { build } from "./dom.js";
import { formatNumber } from "./run_chart.js";
import { fetchFile } from "./runs_server.js";
import { readToken } from "./server.js";

const SHOWN_FIRST = ["worst.png", "images.png"]; // pictures shown at once; the others wait behind a button
const MAX_VALUE = 80; // characters of a setting

/** Return the table of what the runs reached, a row a run. */
export function buildResults(runs, colorOf) {
  const names = [...new Set(runs.map((run) => run.metric?.name).filter(Boolean))];
  const labels = names.map((name) => runs.find((run) => run.metric?.name === name).metric.label);
  const head = ["Run", "Model", "Epochs", ...labels.flatMap((label) => [`Best ${label}`, `Last ${label}`]), "Evaluated", "Time", "Images/s"];
  const rows = runs.map((run) => [
    nameCell(run, colorOf(run.id)),
    [run.model, run.data].filter(Boolean).join(" on ") || "–",
    `${run.epoch}${run.epochs ? ` of ${run.epochs}` : ""}`,
    ...names.flatMap((name) => (run.metric?.name === name ? [run.metric.best, run.metric.last] : [null, null])).map(formatNumber),
    describeEvaluation(run.detail?.evaluation),
    formatDuration(sum(run.series?.speed.seconds)),
    formatNumber(middle(run.series?.speed.images_per_second)),
  ]);
  return buildTable(head, rows, 2);
}

/** Return the table of settings in which the runs differ, a column a run; null if there are none. */
export function buildDifferences(runs, colorOf) {
  const known = runs.filter((run) => run.detail && Object.keys(run.detail.settings).length);
  if (known.length < 2) return null;
  const keys = [...new Set(known.flatMap((run) => Object.keys(run.detail.settings)))];
  const differing = keys.filter((key) => new Set(known.map((run) => JSON.stringify(run.detail.settings[key] ?? null))).size > 1);
  if (!differing.length) return build("p", { class: "quiet" }, "These runs have the same settings.");
  const rows = differing.map((key) => [build("code", {}, key), ...known.map((run) => formatSetting(run.detail.settings[key]))]);
  return buildTable(["Setting", ...known.map((run) => nameCell(run, colorOf(run.id)))], rows);
}

function buildTable(head, rows, firstNumber = Infinity) {
  const number = (i) => (i >= firstNumber ? { class: "number" } : {});
  return build(
    "table",
    {},
    build("thead", {}, build("tr", {}, ...head.map((cell, i) => build("th", { scope: "col", ...number(i) }, cell)))),
    build(
      "tbody",
      {},
      ...rows.map((row) =>
        build("tr", {}, ...row.map((cell, i) => build(i ? "td" : "th", { ...(i ? number(i) : { scope: "row", class: "name" }) }, cell))),
      ),
    ),
  );
}

function nameCell(run, color) {
  const swatch = build("span", { class: "swatch", "aria-hidden": "true" });
  swatch.style.setProperty("--swatch", color);
  return build("span", { class: "run-name" }, swatch, run.name);
}

function formatSetting(value) {
  if (value === undefined || value === null) return "–";
  const text = typeof value === "number" ? formatNumber(value) : typeof value === "string" ? value : JSON.stringify(value);
  return text.length > MAX_VALUE ? `${text.slice(0, MAX_VALUE)}…` : text;
}

function describeEvaluation(evaluation) {
  if (typeof evaluation?.top1_error === "number") {
    const interval = evaluation.top1_error_interval95;
    const words = Array.isArray(interval) ? ` (${formatNumber(interval[0])} to ${formatNumber(interval[1])})` : "";
    return `${formatNumber(evaluation.top1_error)} %${words}`;
  }
  return typeof evaluation?.ap === "number" ? `AP ${formatNumber(evaluation.ap)}` : "–";
}

function sum(values) {
  return values?.length ? values.reduce((total, value) => total + (value ?? 0), 0) : NaN;
}

function formatDuration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function middle(values) {
  const known = (values ?? []).filter((value) => value !== null).sort((a, b) => a - b);
  return known.length ? known[known.length >> 1] : NaN;
}

/** The card of one run: report, worst images and other pictures, whole recipe. Built once, updated when files appear. */
export class RunDetail {
  #shown = "";
  #urls = [];

  constructor(id) {
    this.id = id;
    this.element = build("section", { class: "card detail" });
  }

  update(run, color) {
    const detail = run.detail;
    const known = JSON.stringify([detail.links, detail.recipe, run.name, color, detail.evaluation, detail.state === "running"]);
    if (known === this.#shown) return;
    this.#shown = known;
    this.#forget();
    const heading = build("h2", {}, nameCell(run, color));
    const actions = build("p", { class: "actions" });
    if (detail.links.report) actions.append(this.#linkReport(detail.links.report, run.name));
    const first = detail.links.pictures.filter((picture) => SHOWN_FIRST.includes(picture.name));
    const others = detail.links.pictures.filter((picture) => !SHOWN_FIRST.includes(picture.name));
    const parts = [build("div", { class: "detail-head" }, heading, actions)];
    parts.push(...first.map((picture) => this.#buildPicture(picture, run.name)));
    if (!first.length) {
      parts.push(build("p", { class: "quiet" }, "The worst images appear here once the run has been evaluated."));
    }
    if (others.length) parts.push(this.#buildFold("Plots", () => others.map((picture) => this.#buildPicture(picture, run.name))));
    if (detail.recipe) parts.push(this.#buildFold("Recipe", () => [build("pre", { tabIndex: 0 }, detail.recipe)]));
    if (detail.environment) {
      const facts = Object.entries(detail.environment).flatMap(([key, value]) => [build("dt", {}, key), build("dd", {}, formatSetting(value))]);
      parts.push(this.#buildFold("Environment", () => [build("dl", {}, ...facts)]));
    }
    this.element.replaceChildren(...parts);
  }

  remove() {
    this.#forget();
    this.element.remove();
  }

  #forget() {
    this.#urls.forEach((url) => URL.revokeObjectURL(url));
    this.#urls = [];
  }

  #buildFold(title, fill) {
    const fold = build("details", {}, build("summary", {}, title));
    fold.addEventListener("toggle", () => fold.append(...fill()), { once: true });
    return fold;
  }

  #buildPicture({ title, url }, name) {
    const image = build("img", { alt: `${title} of ${name}`, loading: "lazy" });
    const figure = build("figure", {}, build("figcaption", {}, title), image);
    fetchFile(url).then(
      (blob) => {
        const local = URL.createObjectURL(blob);
        this.#urls.push(local);
        image.src = local;
      },
      (error) => image.replaceWith(build("p", { class: "quiet" }, error.message)),
    );
    return figure;
  }

  /** Without a token the report opens beside this page; with one, which a link cannot carry, it is downloaded. */
  #linkReport(url, name) {
    if (!readToken()) return build("a", { class: "button", href: url, target: "_blank", rel: "noopener" }, "Report");
    const button = build("button", { type: "button" }, "Download the report");
    button.addEventListener("click", async () => {
      try {
        const local = URL.createObjectURL(await fetchFile(url));
        build("a", { href: local, download: `${name.replaceAll("/", "-")}-report.html` }).click();
        setTimeout(() => URL.revokeObjectURL(local), 60_000);
      } catch (error) {
        button.textContent = error.message;
      }
    });
    return button;
  }
}
