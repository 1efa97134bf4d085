// The page of runs: asks every two seconds while its tab is visible, and only for what is new.

import { RunCharts } from "./run_charts.js";
import { RunList } from "./run_list.js";
import { RunSeries } from "./run_series.js";
import { buildDifferences, buildResults, RunDetail } from "./run_tables.js";
import { Polled } from "./runs_server.js";
import { BusyError, GoneError, storeToken, TokenError } from "./server.js";

const INTERVAL = 2000; // milliseconds between polls
const MAX_CHOSEN = 8; // as many as there are colours
const SHARES = { half: 0.5, tenth: 0.1 };

const $ = (id) => document.getElementById(id);
const chosen = new Map(); // id -> {place: of its colour, series, log: Polled, detail, asked, card}
const listed = new Polled();
let runs = [];
let clockSkew = 0; // the server's clock minus this one, in seconds
let zoomed = null; // the chosen part of the x axis
let timer = 0;
let isPolling = false;
let isAgain = false;
let isLocked = false; // the server wants a token: nothing is asked
let hasChosen = false; // by the address or by hand

const list = new RunList((id, isChosen) => choose(id, isChosen));
const charts = new RunCharts($("charts"), (range) => zoom(range));

function colorOf(id) {
  const place = chosen.get(id)?.place;
  return place === undefined ? "" : getComputedStyle(document.documentElement).getPropertyValue(`--run-${place}`).trim();
}

function choose(id, isChosen) {
  hasChosen = true;
  $("limit").textContent = "";
  if (isChosen && chosen.size >= MAX_CHOSEN) {
    $("limit").textContent = `At most ${MAX_CHOSEN} runs at a time: clear another one first.`;
  } else if (isChosen) {
    add(id);
  } else {
    chosen.get(id)?.card.remove();
    chosen.delete(id);
  }
  writeAddress();
  draw();
  poll();
}

function add(id) {
  const taken = new Set([...chosen.values()].map((run) => run.place));
  const place = [...Array(MAX_CHOSEN).keys()].find((number) => !taken.has(number));
  chosen.set(id, { place, series: new RunSeries(id), log: new Polled(), details: new Polled(), asked: "", card: new RunDetail(id) });
}

/** Ask for the list, then for what the chosen runs have that is not here yet. */
async function poll() {
  if (isPolling) {
    isAgain = true;
    return;
  }
  clearTimeout(timer);
  isPolling = true;
  try {
    do {
      isAgain = false;
      await askList();
      const answers = await Promise.allSettled([...chosen.keys()].map(askRun));
      const failed = answers.find((answer) => answer.status === "rejected" && answer.reason.status !== 404);
      if (failed) throw failed.reason;
    } while (isAgain);
    $("server-notice").hidden = true;
    isLocked = false;
  } catch (error) {
    showFailure(error);
  } finally {
    isPolling = false;
    schedule();
  }
}

function schedule() {
  clearTimeout(timer);
  if (!document.hidden && !isLocked) timer = setTimeout(poll, INTERVAL);
}

async function askList() {
  const answer = await listed.ask("v1/runs");
  if (answer === null) return;
  runs = answer.runs;
  clockSkew = answer.now - Date.now() / 1000;
  $("folder").textContent = answer.folder;
  const here = new Set(runs.map((run) => run.id));
  for (const [id, run] of chosen) {
    if (here.has(id)) continue;
    run.card.remove();
    chosen.delete(id);
  }
  if (!hasChosen && runs.length) {
    hasChosen = true;
    const going = runs.filter((run) => run.state === "running").slice(0, MAX_CHOSEN);
    (going.length ? going : runs.slice(0, 1)).forEach((run) => add(run.id));
  }
  draw();
}

/** Ask for the new points of a run, if it has any, and for its files, if an epoch ended or its state changed. */
async function askRun(id) {
  const run = chosen.get(id);
  const line = runs.find((one) => one.id === id);
  if (!run || !line) return;
  const about = `${line.epoch} ${line.state} ${line.metric?.last}`;
  if (run.about !== about || !run.detail) {
    run.about = about;
    run.detail = (await run.details.ask(`v1/runs/${encodeURIComponent(id)}`)) ?? run.detail;
    draw();
  }
  const news = `${line.last_point} ${line.state}`;
  if (run.asked === news && line.state !== "running") return;
  let isMore = true;
  while (isMore) {
    const answer = await run.log.ask(run.series.address);
    isMore = answer !== null && run.series.take(answer);
    if (answer !== null) draw();
    if (!chosen.has(id)) return;
  }
  run.asked = news;
  if (run.series.cursor === 0) {
    run.series.takeMetrics(run.detail?.metrics ?? {});
    draw();
  }
}

function showFailure(error) {
  isLocked = error instanceof TokenError;
  const isPassing = error instanceof GoneError || error instanceof BusyError;
  $("server-words").textContent = isPassing ? `${error.message} This page asks again.` : error.message;
  $("token-form").hidden = !isLocked;
  $("server-notice").hidden = false;
  if (isLocked) $("token").focus();
}

let isDrawing = false;

/** Draw all that changed before the next frame. */
function draw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    drawNow();
  });
}

function drawNow() {
  list.update(runs, colorOf);
  list.tick(Date.now() / 1000 + clockSkew);
  const shown = runs
    .filter((run) => chosen.has(run.id))
    .map((run) => ({ ...run, color: colorOf(run.id), series: chosen.get(run.id).series, detail: chosen.get(run.id).detail }))
    .sort((a, b) => chosen.get(a.id).place - chosen.get(b.id).place);
  $("toolbar").hidden = $("charts").hidden = shown.length === 0;
  $("hint").hidden = shown.length > 0 || runs.length === 0;
  const axis = $("axis").value;
  const smooth = Number($("smooth").value);
  $("smooth-value").textContent = smooth ? `${smooth} %` : "off";
  const folders = findCommonFolders(shown.map((run) => run.name));
  charts.draw(shown.map((run) => ({ ...run, name: run.name.slice(folders.length) })), { axis, range: findRange(shown, axis), smooth: smooth / 100, isLog: $("log").checked });
  drawTables(shown);
}

/** Return the folders that all names begin with, such as "sweep/": legends leave them out. */
function findCommonFolders(names) {
  if (names.length < 2) return "";
  let common = names[0].slice(0, names[0].lastIndexOf("/") + 1);
  while (common && !names.every((name) => name.startsWith(common))) {
    common = common.slice(0, common.lastIndexOf("/", common.length - 2) + 1);
  }
  return common;
}

/** Return the shown part of the x axis; null for all of it. */
function findRange(shown, axis) {
  if ($("range").value === "chosen") return zoomed;
  const share = SHARES[$("range").value];
  if (!share) return null;
  const last = Math.max(...shown.map((run) => run.series.listRates(axis)[0].at(-1) ?? 0));
  return last > 0 ? [last * (1 - share), last] : null;
}

function zoom(range) {
  const isValid = range !== null && range[1] > range[0] && Number.isFinite(range[1] - range[0]);
  zoomed = isValid ? [Math.max(range[0], 0), range[1]] : null;
  $("range").querySelector("[value=chosen]").hidden = zoomed === null;
  $("range").value = zoomed === null ? "all" : "chosen";
  $("show-all").hidden = zoomed === null;
  draw();
}

function drawTables(shown) {
  $("results").hidden = shown.length === 0;
  replaceTable($("results-table"), shown.length ? buildResults(shown, colorOf) : null);
  const differences = buildDifferences(shown, colorOf);
  $("settings").hidden = differences === null;
  replaceTable($("settings-table"), differences);
  let place = 0;
  for (const run of shown) {
    if (!run.detail) continue;
    const { card } = chosen.get(run.id);
    card.update(run, run.color);
    if ($("details").children[place] !== card.element) $("details").insertBefore(card.element, $("details").children[place] ?? null);
    place += 1;
  }
}

/** Replace a table unless it stays the same, so that what is selected in it stays so. */
function replaceTable(host, table) {
  if (table === null) host.replaceChildren();
  else if (host.firstElementChild?.outerHTML !== table.outerHTML) host.replaceChildren(table);
}

function writeAddress() {
  const values = new URLSearchParams();
  values.set("runs", [...chosen.keys()].join(","));
  for (const id of ["axis", "range", "smooth"]) if ($(id).value !== "chosen") values.set(id, $(id).value);
  if ($("log").checked) values.set("log", "1");
  history.replaceState(null, "", `#${values}`);
}

function readAddress() {
  const values = new URLSearchParams(location.hash.slice(1));
  for (const id of ["axis", "range"]) {
    if ([...$(id).options].some((option) => option.value === values.get(id) && !option.hidden)) $(id).value = values.get(id);
  }
  if (/^\d\d?$/.test(values.get("smooth") ?? "")) $("smooth").value = values.get("smooth");
  $("log").checked = values.get("log") === "1";
  const ids = (values.get("runs") ?? "").split(",").filter(Boolean).slice(0, MAX_CHOSEN);
  hasChosen = ids.length > 0;
  ids.forEach(add);
}

readAddress();
for (const id of ["axis", "range", "smooth", "log"]) {
  $(id).addEventListener("input", () => {
    if (id === "axis" || id === "range") {
      if (id === "axis" && $("range").value === "chosen") $("range").value = "all"; // another unit
      $("show-all").hidden = $("range").value !== "chosen";
    }
    writeAddress();
    draw();
  });
}
$("show-all").addEventListener("click", () => zoom(null));
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  storeToken($("token").value.trim());
  $("token").value = "";
  poll();
});
document.addEventListener("visibilitychange", () => (document.hidden || isLocked ? clearTimeout(timer) : poll()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
setInterval(() => list.tick(Date.now() / 1000 + clockSkew), 1000);
poll();
