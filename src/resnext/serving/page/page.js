// The page: pictures come in, are sent as they are to the chosen models, and each model's panel shows the answer.

import { build, copyText, formatBytes } from "./dom.js";
import { Panel, listFacts } from "./panel.js";
import { BusyError, GoneError, TokenError, hasRuns, listModels, predict, storeToken } from "./server.js";

const AT_ONCE = 3; // requests under way
const MANY_BYTES = 15e6; // a server may close the connection on larger pictures before it answers

const find = (id) => document.getElementById(id);
const pictures = [];
const chosen = new Set(); // names of models
const panels = new Map(); // name of a model -> Panel
const pauses = new Map(); // name of a model -> time until which the server asked us to wait
let models = [];
let current = null; // the picture on show
let underWay = 0;
let locked = false; // the server wants a token
let focusWanted = false; // the reader has just added a picture: the focus goes to the answer

// Pictures

async function addFiles(files) {
  const good = [...files].filter((file) => file.size > 0 && (!file.type || file.type.startsWith("image/")));
  const bad = [...files].filter((file) => !good.includes(file)).map((file) => file.name);
  find("refusal").textContent = bad.length ? `Not a picture: ${bad.join(", ")}` : "";
  if (!good.length) return;
  const added = good.map((file) => ({ file, url: URL.createObjectURL(file), answers: new Map(), stop: new AbortController() }));
  pictures.push(...added);
  document.body.classList.add("has-pictures");
  focusWanted = true;
  showPicture(added[0]);
  sendNext();
  for (const picture of added) await measurePicture(picture);
}

/** Find the size of the upright picture and draw its thumbnail. The file itself is sent as it is. */
async function measurePicture(picture) {
  const image = build("img", { src: picture.url });
  try {
    await image.decode();
    picture.size = [image.naturalWidth, image.naturalHeight];
    const side = Math.min(...picture.size);
    const canvas = build("canvas", { width: 96, height: 96 });
    const [x, y] = picture.size.map((length) => (length - side) / 2);
    canvas.getContext("2d").drawImage(image, x, y, side, side, 0, 0, 96, 96);
    picture.thumbnail = canvas;
  } catch {
    picture.undisplayable = true; // the server may read it all the same
  }
  showStrip();
  if (picture === current) showPanels();
}

function removePicture(picture) {
  picture.stop.abort();
  URL.revokeObjectURL(picture.url);
  const at = pictures.indexOf(picture);
  pictures.splice(at, 1);
  if (picture === current) showPicture(pictures[Math.min(at, pictures.length - 1)]);
  else showStrip();
  find("strip").querySelector("[aria-current] ")?.focus();
}

function showPicture(picture) {
  current = picture;
  showStrip();
  showPanels();
}

function showStrip() {
  const strip = find("strip");
  strip.hidden = pictures.length < 2;
  const known = new Map([...strip.children].map((item) => [item.picture, item]));
  strip.replaceChildren(...pictures.map((picture) => {
    const item = known.get(picture) ?? buildThumbnail(picture);
    const [button] = item.children;
    if (picture.thumbnail && !button.contains(picture.thumbnail)) button.replaceChildren(picture.thumbnail);
    const states = [...chosen].map((name) => picture.answers.get(name)?.state ?? "pending");
    const state = states.find((s) => s === "failed" || s === "gone") ?? states.find((s) => s !== "done") ?? "done";
    const words = { done: "", failed: ", failed", gone: ", not sent" }[state] ?? ", waiting";
    item.dataset.state = state;
    button.setAttribute("aria-label", picture.file.name + words);
    if (picture === current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    return item;
  }));
}

function buildThumbnail(picture) {
  const item = build("li", {},
    build("button", { type: "button", class: "thumbnail", title: picture.file.name, onclick: () => showPicture(picture) }),
    build("button", { type: "button", class: "remove", "aria-label": `Remove ${picture.file.name}`,
      onclick: () => removePicture(picture) }, "×"));
  item.picture = picture;
  return item;
}

// Models and their panels

async function start() {
  find("server-notice").hidden = true;
  try {
    models = await listModels();
  } catch (error) {
    return showServerError(error);
  }
  locked = false;
  const wanted = new URLSearchParams(location.search).getAll("model");
  const first = models.filter((model) => wanted.includes(model.name));
  for (const model of first.length ? first : models.slice(0, 1)) chosen.add(model.name);
  if (!models.length) showServerError(new Error("The server serves no model."));
  showModels();
  showSnippets();
  showPanels();
  sendNext();
  hasRuns().then((has) => (find("runs-link").hidden = !has));
}

function showServerError(error) {
  const token = error instanceof TokenError;
  locked ||= token;
  const busy = error instanceof BusyError;
  find("server-words").textContent = busy ? `${error.message} Trying again in ${error.seconds} s.` : error.message;
  find("token-form").hidden = !token;
  find("server-retry").hidden = token;
  find("server-notice").hidden = false;
  if (busy) setTimeout(start, 1000 * error.seconds);
  if (token) find("token").focus();
  say(find("server-words").textContent);
}

function showModels() {
  find("models").hidden = models.length < 2;
  find("model-list").replaceChildren(...models.map((model) => {
    const box = build("input", { type: "checkbox", checked: chosen.has(model.name), onchange: () => {
      if (box.checked) chosen.add(model.name);
      else if (chosen.size > 1) chosen.delete(model.name);
      else box.checked = true; // one stays
      const query = new URLSearchParams([...chosen].map((name) => ["model", name]));
      history.replaceState(null, "", `?${query}`);
      showSnippets();
      showPanels();
      showStrip();
      sendNext();
    } });
    return build("label", { class: "chip" }, box, build("span", {}, model.name));
  }));
}

function listChosen() {
  return models.filter((model) => chosen.has(model.name));
}

/** Show a panel for each chosen model, with what is known about the current picture. */
function showPanels() {
  document.body.classList.toggle("has-pictures", Boolean(current));
  const results = find("results");
  results.classList.toggle("several", chosen.size > 1);
  const file = current?.file;
  find("current").textContent = !file ? ""
    : [file.name, current.size?.join(" × "), formatBytes(file.size)].filter(Boolean).join(" · ");
  find("asked").textContent = listChosen().map((model) => `${model.name}: ${listFacts(model).join(" · ")}`).join("\n");
  const list = current ? listChosen() : [];
  for (const model of list) {
    if (!panels.has(model.name)) panels.set(model.name, new Panel(model, { onChange: redraw, onRetry: retry }));
    panels.get(model.name).show(current, findAnswer(current, model));
  }
  const elements = list.map((model) => panels.get(model.name).element);
  const same = elements.length === results.children.length && elements.every((element, i) => element === results.children[i]);
  if (!same) results.replaceChildren(...elements);
}

function redraw() {
  for (const model of listChosen()) panels.get(model.name)?.draw();
}

function findAnswer(picture, model) {
  if (!picture.answers.has(model.name)) picture.answers.set(model.name, { state: "pending" });
  return picture.answers.get(model.name);
}

// Requests

/** Send what is still to be sent, the picture on show first, a few requests at a time. */
function sendNext() {
  if (locked) return;
  for (const picture of new Set([current, ...pictures])) {
    for (const model of picture ? listChosen() : []) {
      if (underWay >= AT_ONCE) return;
      const answer = findAnswer(picture, model);
      if ((answer.state === "pending" || answer.state === "waiting") && !pauses.has(model.name)) send(picture, model, answer);
    }
  }
}

async function send(picture, model, answer) {
  underWay += 1;
  answer.state = "sent";
  const started = performance.now();
  try {
    await readFirstByte(picture.file);
    const response = await predict(model, picture.file, picture.stop.signal);
    const [prediction] = response.predictions;
    const done = !prediction.error;
    Object.assign(answer, { response, milliseconds: response.milliseconds, roundTrip: performance.now() - started,
      state: done ? "done" : "failed", message: prediction.error, prediction: done ? prediction : undefined });
  } catch (error) {
    if (picture.stop.signal.aborted) return;
    handleFailure(error, picture, model, answer);
  } finally {
    underWay -= 1;
    showPanels();
    showStrip();
    if (picture === current) announce(model, answer);
    sendNext();
  }
}

/** A file that is gone from the disk would look like a server that is gone. */
async function readFirstByte(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Error("The file can no longer be read: it was moved or changed after it was chosen.");
  }
}

function handleFailure(error, picture, model, answer) {
  answer.message = error.message;
  if (error instanceof BusyError) {
    answer.state = "waiting";
    return pause(model, error);
  }
  if (error instanceof TokenError) {
    answer.state = "pending";
    return showServerError(error);
  }
  answer.state = error instanceof GoneError ? "gone" : "failed";
  if (answer.state !== "gone") return;
  if (picture.file.size > MANY_BYTES) answer.message += " Or the picture is larger than the server takes.";
  for (const other of pictures) { // what waits would fail in the same way
    for (const waiting of other.answers.values()) {
      if (waiting.state === "pending") Object.assign(waiting, { state: "gone", message: answer.message });
    }
  }
}

/** Wait as long as the server asked, counting down, then send what waits for this model. */
function pause(model, { message, seconds }) {
  clearInterval(pauses.get(model.name)?.timer);
  const until = performance.now() + 1000 * seconds;
  const tick = () => {
    const left = Math.ceil((until - performance.now()) / 1000);
    for (const picture of pictures) {
      const answer = findAnswer(picture, model);
      if (answer.state === "pending" || answer.state === "waiting") Object.assign(answer, { state: "waiting", message, seconds: left });
    }
    if (left <= 0) return endPause(model);
    showPanels();
  };
  pauses.set(model.name, { timer: setInterval(tick, 1000) });
  tick();
}

function endPause(model) {
  clearInterval(pauses.get(model.name)?.timer);
  pauses.delete(model.name);
  sendNext();
  showPanels();
}

function retry(panel) {
  for (const picture of pictures) {
    for (const answer of picture.answers.values()) {
      if (answer.state === "gone" || (picture === current && answer === panel.answer)) answer.state = "pending";
    }
  }
  focusWanted = true;
  endPause(panel.model);
}

// What is said aloud, and where the focus goes

function say(words) {
  find("status").textContent = words;
}

function announce(model, answer) {
  const panel = panels.get(model.name);
  if (!panel || panel.answer !== answer) return;
  const waits = answer.state === "waiting";
  say(waits ? `${answer.message} Trying again in ${answer.seconds} seconds.` : panel.describe());
  const from = document.activeElement;
  const free = !from || from === document.body || find("drop").contains(from) || panel.element.contains(from);
  if (waits || answer.state === "pending" || !focusWanted || !free) return;
  focusWanted = false;
  panel.verdict.focus({ focusVisible: false });
}

// How to do the same from code

function showSnippets() {
  const [model] = listChosen();
  if (!model) return;
  const address = new URL("v1/predict", document.baseURI).href;
  const query = model.task === "detection" ? { score: 0.5 } : { top: 5 };
  const search = new URLSearchParams({ model: model.name, ...query });
  const token = locked ? " -H 'Authorization: Bearer TOKEN'" : "";
  const parameters = Object.entries(query).map(([key, value]) => `, "${key}": ${value}`).join("");
  const curl = `curl -F file=@picture.jpg${token} '${address}?${search.toString().replaceAll("'", "%27")}'`;
  const python = `import requests\n\nwith open("picture.jpg", "rb") as file:\n    answer = requests.post(\n        ${JSON.stringify(address)},\n`
    + `        params={"model": ${JSON.stringify(model.name)}${parameters}},\n        files={"file": file},\n    ).json()`;
  find("snippets").replaceChildren(...Object.entries({ curl, Python: python }).map(([title, text]) => {
    const copy = build("button", { class: "plain", type: "button", "aria-label": `Copy the ${title} lines`,
      onclick: () => copyText(text, copy) }, "Copy");
    return build("div", { class: "snippet" }, build("h3", {}, title), copy,
      build("pre", { tabIndex: 0, role: "group", "aria-label": title }, build("code", {}, text)));
  }));
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
  const folders = [...event.dataTransfer.items].some((item) => item.webkitGetAsEntry?.()?.isDirectory);
  if (folders) find("refusal").textContent = "A folder cannot be dropped here; drop the pictures in it.";
  else addFiles([...event.dataTransfer.files]);
});

find("strip").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const item = event.target.closest("li");
  if (event.key === "Delete" && item) removePicture(item.picture);
  if (!step || !item) return;
  event.preventDefault();
  (step > 0 ? item.nextElementSibling : item.previousElementSibling)?.firstElementChild.focus();
});

find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  storeToken(find("token").value.trim());
  find("token").value = "";
  locked = false;
  start();
});

find("server-retry").addEventListener("click", start);

start();
