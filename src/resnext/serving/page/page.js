// The page: pictures come in, go to the chosen models as they are, and each model's panel shows the answer.

import { build, formatBytes } from "./dom.js";
import { Panel, listFacts } from "./panel.js";
import { Queue } from "./queue.js";
import { BusyError, TokenError, hasRuns, listModels, readToken, storeToken } from "./server.js";
import { buildSnippets, writeSnippets } from "./snippets.js";

const find = (id) => document.getElementById(id);
const pictures = [];
const chosen = new Set(); // names of models
const panels = new Map(); // name of a model -> Panel
let models = [];
let current = null; // the picture on show
let focusWanted = false; // the reader has just added a picture: the focus goes to the answer

const queue = new Queue({
  listPictures: () => new Set(current ? [current, ...pictures] : pictures),
  listModels: listChosen,
  onChange: showAll,
  onAnswer: announce,
  onToken: showServerError,
});

// Pictures

async function addFiles(files) {
  const good = [...files].filter((file) => file.size > 0 && (!file.type || file.type.startsWith("image/")));
  const bad = [...files].filter((file) => !good.includes(file)).map((file) => file.name);
  find("refusal").textContent = bad.length ? `Not a picture: ${bad.join(", ")}` : "";
  if (!good.length) return;
  const added = good.map((file) => {
    const picture = { file, url: URL.createObjectURL(file), answers: new Map(), stop: new AbortController() };
    picture.measured = measurePicture(picture);
    return picture;
  });
  pictures.push(...added);
  [current] = added;
  focusWanted = true;
  queue.sendNext();
  for (const picture of added) {
    await picture.measured;
    if (picture === added[0]) showAll();
    drawThumbnail(picture);
  }
}

/** Find the size of the upright picture. The file itself is sent as it is. */
function measurePicture(picture) {
  return new Promise((resolve) => {
    picture.image = build("img", {
      onload: ({ target }) => resolve((picture.size = [target.naturalWidth, target.naturalHeight])),
      onerror: () => resolve((picture.undisplayable = true)), // the server may read it all the same
      src: picture.url,
    });
  });
}

function drawThumbnail(picture) {
  const canvas = build("canvas", { width: 96, height: 96 });
  if (picture.size) {
    const side = Math.min(...picture.size);
    const [x, y] = picture.size.map((length) => (length - side) / 2);
    canvas.getContext("2d").drawImage(picture.image, x, y, side, side, 0, 0, 96, 96);
  }
  picture.thumbnail = canvas;
  picture.image = null;
  showStrip();
}

function removePicture(picture) {
  picture.stop.abort();
  URL.revokeObjectURL(picture.url);
  const at = pictures.indexOf(picture);
  pictures.splice(at, 1);
  if (picture === current) current = pictures[Math.min(at, pictures.length - 1)] ?? null;
  showAll();
  (find("strip").querySelector("[aria-current]") ?? find("files")).focus();
}

function showStrip() {
  const strip = find("strip");
  strip.hidden = pictures.length < 2;
  const known = new Map([...strip.children].map((item) => [item.picture, item]));
  const items = pictures.map((picture) => known.get(picture) ?? buildThumbnail(picture));
  if (items.length !== known.size || items.some((item) => !known.has(item.picture))) strip.replaceChildren(...items);
  for (const item of items) updateThumbnail(item);
}

function buildThumbnail(picture) {
  const show = build("button", { type: "button", class: "thumbnail", title: picture.file.name, onclick: () => {
    current = picture;
    showAll();
    queue.sendNext();
  } });
  const remove = build("button", { type: "button", class: "remove", "aria-label": `Remove ${picture.file.name}`,
    onclick: () => removePicture(picture) }, "×");
  const item = build("li", {}, show, remove);
  item.picture = picture;
  return item;
}

function updateThumbnail(item) {
  const { picture, firstElementChild: button } = item;
  if (picture.thumbnail && !button.firstChild) button.append(picture.thumbnail);
  const states = listChosen().map((model) => queue.findAnswer(picture, model).state);
  const state = ["failed", "gone", "waiting", "sent", "pending"].find((one) => states.includes(one)) ?? "done";
  item.dataset.state = state;
  const words = { done: "", failed: ", failed", gone: ", not sent" }[state] ?? ", waiting";
  button.setAttribute("aria-label", picture.file.name + words);
  if (picture === current) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
}

// Models and their panels

function listChosen() {
  return models.filter((model) => chosen.has(model.name));
}

async function start() {
  find("server-notice").hidden = true;
  try {
    models = await listModels();
  } catch (error) {
    return showServerError(error);
  }
  queue.locked = false;
  if (!models.length) showServerError(new Error("The server serves no model."));
  const wanted = new URLSearchParams(location.search).getAll("model");
  const named = models.filter((model) => wanted.includes(model.name));
  for (const model of named.length ? named : models.slice(0, 1)) chosen.add(model.name);
  find("models").hidden = models.length < 2;
  find("beside").checked = chosen.size > 1;
  showModels();
  showChosen();
  hasRuns().then((has) => (find("runs-link").hidden = !has));
}

/** Offer the models: one of them, or several side by side. */
function showModels() {
  const type = find("beside").checked ? "checkbox" : "radio";
  find("model-list").replaceChildren(...models.map(({ name }) => {
    const box = build("input", { type, name: "model", checked: chosen.has(name), onchange: () => chooseModel(name, box) });
    return build("label", { class: "chip" }, box, build("span", {}, name));
  }));
}

function chooseModel(name, box) {
  if (box.type === "radio") chosen.clear();
  if (box.checked) chosen.add(name);
  else if (chosen.size > 1) chosen.delete(name);
  else box.checked = true; // one stays
  history.replaceState(null, "", `?${new URLSearchParams([...chosen].map((one) => ["model", one]))}`);
  showChosen();
}

function showChosen() {
  const list = listChosen();
  find("asked").textContent = list.map((model) => `${model.name}: ${listFacts(model).join(" · ")}`).join("\n");
  find("code").hidden = !list.length;
  if (list.length) find("snippets").replaceChildren(...buildSnippets(writeSnippets(list[0], document.baseURI, Boolean(readToken()))));
  queue.sendNext();
  showAll();
}

/** Show a panel for each chosen model, with what is known about the current picture. */
function showAll() {
  document.body.classList.toggle("has-pictures", Boolean(current));
  showStrip();
  if (current && !current.size && !current.undisplayable) return; // soon: its size keeps the place from the start
  const file = current?.file;
  find("current").textContent = file ? [file.name, current.size?.join(" × "), formatBytes(file.size)].filter(Boolean).join(" · ") : "";
  const list = current ? listChosen() : [];
  for (const model of list) {
    if (!panels.has(model.name)) panels.set(model.name, new Panel(model, { onChange: redraw, onRetry: retry }));
    panels.get(model.name).show(current, queue.findAnswer(current, model));
  }
  const results = find("results");
  results.classList.toggle("several", list.length > 1);
  const elements = list.map((model) => panels.get(model.name).element);
  const same = elements.length === results.children.length && elements.every((element, i) => element === results.children[i]);
  if (!same) results.replaceChildren(...elements);
}

function redraw() {
  for (const model of listChosen()) panels.get(model.name)?.draw();
}

function retry(panel) {
  focusWanted = true;
  queue.retry(panel.model, panel.answer);
}

function showServerError(error) {
  const isToken = error instanceof TokenError;
  const isBusy = error instanceof BusyError;
  const words = isBusy ? `${error.message} Trying again in ${error.seconds} s.` : error.message;
  find("server-words").textContent = words;
  find("token-form").hidden = !isToken;
  find("server-retry").hidden = isToken;
  find("server-notice").hidden = false;
  if (isToken) find("token").focus();
  if (isBusy) setTimeout(start, 1000 * error.seconds);
  say(words);
}

// What is said aloud, and where the focus goes

function say(words) {
  find("status").textContent = words;
}

function announce(model, answer) {
  const panel = panels.get(model.name);
  if (panel?.answer !== answer) return;
  const waits = answer.state === "waiting";
  say(waits ? `${answer.message} Trying again in ${answer.seconds} seconds.` : panel.describe());
  const from = document.activeElement;
  const free = !from || from === document.body || find("drop").contains(from) || panel.element.contains(from);
  if (waits || answer.state === "pending" || !focusWanted || !free) return;
  focusWanted = false;
  panel.verdict.focus();
}

// Where pictures come from

for (const id of ["files", "camera"]) {
  find(id).addEventListener("change", ({ target }) => {
    addFiles([...target.files]);
    target.value = ""; // the same file can be chosen again
  });
}

document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (!files.length) return;
  event.preventDefault();
  addFiles(files);
});

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

document.addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "copy";
  find("veil").hidden = false;
});

document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) find("veil").hidden = true;
});

document.addEventListener("drop", (event) => {
  find("veil").hidden = true;
  if (!carriesFiles(event)) return;
  event.preventDefault();
  const folder = [...event.dataTransfer.items].some((item) => item.webkitGetAsEntry?.()?.isDirectory);
  if (folder) find("refusal").textContent = "A folder cannot be dropped here; drop the pictures in it.";
  else addFiles([...event.dataTransfer.files]);
});

find("strip").addEventListener("keydown", (event) => {
  const item = event.target.closest("li");
  const next = { ArrowRight: item?.nextElementSibling, ArrowLeft: item?.previousElementSibling }[event.key];
  if (event.key === "Delete" && item) removePicture(item.picture);
  if (!next) return;
  event.preventDefault();
  next.firstElementChild.focus();
});

find("beside").addEventListener("change", () => {
  const [first] = listChosen();
  if (first && !find("beside").checked) {
    chosen.clear();
    chosen.add(first.name);
  }
  showModels();
  showChosen();
});

find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  storeToken(find("token").value.trim());
  find("token").value = "";
  start();
});

find("server-retry").addEventListener("click", start);
find("camera-label").hidden = !navigator.maxTouchPoints;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

start();
