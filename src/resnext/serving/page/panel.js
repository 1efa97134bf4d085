// The panel of one model: the picture with what the model saw in it, the answer as a table, and the timings.

import { build, copyText, formatCount, formatMilliseconds, formatPercent } from "./dom.js";
import { describePeak, drawBoxes, drawHeatMap, drawScale, findScale, pickClassColor } from "./overlay.js";

const GHOST_ROWS = 5; // rows that hold the table's place while the answer is on its way
const FEW = 5; // classes shown at first

/** What the reader has chosen to see; all panels share it. */
export const options = { strength: 0.75, signed: false, minScore: 0.5, rows: FEW };

/** Return what a reader wants to know of a model at a glance. */
export function listFacts({ architecture, engine, classes, image_size: side, channels }) {
  const input = side ? `${side} × ${side} px${channels === 1 ? ", grey" : ""}` : "";
  return [architecture, engine, formatCount(classes, "class", "classes"), input].filter(Boolean);
}

export class Panel {
  /** onChange is called when an option changes, for the other panels; onRetry when the reader wants another try. */
  constructor(model, { onChange, onRetry }) {
    this.model = model;
    this.onChange = onChange;
    this.onRetry = onRetry;
    this.id = `panel-${Math.random().toString(36).slice(2)}`;
    this.element = build("article", { class: "panel card", "aria-labelledby": this.id });
    this.image = build("img", { decoding: "async", draggable: false });
    this.canvas = build("canvas", { role: "img" });
    this.frame = build("div", { class: "frame" }, this.image, this.canvas);
    this.caption = build("figcaption", { class: "quiet" });
    this.controls = build("div", { class: "options" });
    this.verdict = build("h3", { class: "verdict", tabIndex: -1 });
    this.notice = build("div", { class: "notice", hidden: true });
    this.body = build("div", { class: "answer" });
    this.element.append(
      this.#buildHeader(),
      build("div", { class: "panel-body" },
        build("div", { class: "verdict-cell" }, this.verdict, this.notice),
        build("figure", { class: "picture" }, this.frame, this.caption, this.controls),
        this.body),
    );
  }

  #buildHeader() {
    const { name, provenance } = this.model;
    const header = build("header", { class: "panel-head" }, build("h2", { id: this.id }, name),
      build("p", { class: "quiet facts" }, listFacts(this.model).join(" · ")));
    const known = Object.entries(provenance ?? {}).filter(([, value]) => value !== null && value !== "");
    if (known.length) {
      const list = build("dl", {});
      for (const [key, value] of known) {
        const text = typeof value === "object" ? JSON.stringify(value) : String(value);
        list.append(build("dt", {}, key.replaceAll("_", " ")), build("dd", {}, text));
      }
      header.append(build("details", { class: "provenance" }, build("summary", {}, "Where it comes from"), list));
    }
    return header;
  }

  /** Show a picture with the answer about it, in whatever state that is. */
  show(picture, answer) {
    const fresh = this.picture !== picture || this.answer !== answer || this.state !== answer.state;
    [this.picture, this.answer, this.state] = [picture, answer, answer.state];
    this.#showPicture();
    this.#showNotice();
    if (fresh) this.#showAnswer();
    this.draw();
  }

  #showPicture() {
    const { picture, answer } = this;
    const size = answer.prediction?.size ?? picture.size ?? [4, 3];
    if (this.image.src !== picture.url) this.image.src = picture.url;
    this.image.alt = picture.file.name;
    const turned = picture.size && size[0] === picture.size[1] && size[1] === picture.size[0] && size[0] !== size[1];
    this.image.classList.toggle("as-stored", turned); // the model takes pictures as stored, without EXIF
    this.frame.classList.toggle("tiny", Math.max(...size) <= 96);
    this.frame.classList.toggle("undisplayable", picture.undisplayable === true);
    this.frame.style.setProperty("--width", size[0]);
    this.frame.style.setProperty("--height", size[1]);
    this.size = size;
  }

  #showNotice() {
    const { state, message, seconds } = this.answer;
    const words = message && (state === "waiting" || state === "failed" || state === "gone");
    this.notice.hidden = !words;
    if (!words) return void this.notice.replaceChildren();
    this.notice.className = `notice ${state === "waiting" ? "wait" : "failure"}`;
    const text = state === "waiting" ? `${message} Trying again in ${formatCount(seconds, "second")}.` : message;
    if (this.notice.firstChild && this.noticeState === state) return void (this.notice.firstChild.textContent = text);
    this.noticeState = state;
    const retry = build("button", { type: "button", onclick: () => this.onRetry(this) },
      state === "waiting" ? "Try now" : "Try again");
    this.notice.replaceChildren(build("p", {}, text), retry);
  }

  #showAnswer() {
    const { prediction, state } = this.answer;
    const broken = state === "failed" || state === "gone";
    this.element.setAttribute("aria-busy", String(!broken && state !== "done"));
    this.verdict.classList.toggle("pending", !prediction);
    this.controls.replaceChildren();
    this.body.replaceChildren();
    this.canvas.hidden = !prediction;
    if (!prediction) {
      this.verdict.textContent = broken ? "No answer" : state === "waiting" ? "Waiting" : "Looking…";
      if (!broken) this.body.append(buildGhosts());
      return;
    }
    this.chosen = this.answer.chosen ?? null;
    if (this.model.task === "detection") this.#showDetections(prediction);
    else this.#showClasses(prediction);
    this.body.append(this.#buildExtras(prediction));
  }

  #showClasses({ top, cam }) {
    this.chosen ??= 0;
    this.verdict.replaceChildren(top[0].class, build("span", { class: "share" }, formatPercent(top[0].probability)));
    this.table = build("table", { class: "classes" },
      build("caption", { class: "unseen" }, cam ? "Most probable classes; choose one to see where it is" : "Most probable classes"),
      build("thead", {}, build("tr", {}, build("th", { scope: "col" }, "Class"),
        build("th", { scope: "col", class: "number" }, "Probability"))));
    this.rows = build("tbody", {});
    this.table.append(this.rows);
    this.rest = build("p", { class: "quiet rest" });
    this.body.append(this.table, this.rest);
    if (top.length > FEW) {
      this.more = build("button", { class: "plain", type: "button", onclick: () => {
        options.rows = options.rows > FEW ? FEW : top.length;
        this.onChange();
      } });
      this.body.append(this.more);
    }
    for (const [i, entry] of top.entries()) this.rows.append(this.#buildClassRow(entry, i, Boolean(cam)));
    if (cam) {
      this.scale = build("canvas", { class: "scale", "aria-hidden": "true" });
      this.scaleWords = [build("span", {}), build("span", {})];
      this.controls.append(
        this.#buildSlider("Heat map", "strength", (value) => `${Math.round(100 * value)} %`),
        this.#buildSwitch("Evidence against, too", "signed"),
        build("span", { class: "legend", "aria-hidden": "true" }, this.scaleWords[0], this.scale, this.scaleWords[1]));
    }
  }

  #buildClassRow(entry, i, hasMap) {
    const choose = () => {
      this.answer.chosen = this.chosen = i;
      this.draw();
    };
    const name = hasMap
      ? build("button", { class: "class", type: "button", onclick: choose, onkeydown: moveBetweenRows }, entry.class)
      : build("span", { class: "class" }, entry.class);
    const row = build("tr", hasMap ? { onclick: choose, class: "choice" } : {},
      build("th", { scope: "row" }, name, buildBar(entry.probability)),
      build("td", { class: "number" }, formatPercent(entry.probability)));
    return row;
  }

  #showDetections({ boxes }) {
    this.table = build("table", { class: "classes" }, build("caption", { class: "unseen" }, "Boxes found, best score first"),
      build("thead", {}, build("tr", {}, build("th", { scope: "col" }, "Class"),
        build("th", { scope: "col", class: "number" }, "Box: left, top, size"),
        build("th", { scope: "col", class: "number" }, "Score"))));
    this.rows = build("tbody", {});
    this.table.append(this.rows);
    this.body.append(build("div", { class: "scroll", tabIndex: 0, role: "group", "aria-label": "Boxes" }, this.table));
    for (const box of boxes) this.rows.append(this.#buildBoxRow(box));
    this.controls.append(this.#buildSlider("Score at least", "minScore", (value) => value.toFixed(2), 0.05));
  }

  #buildBoxRow(box) {
    const focus = (value) => () => {
      this.focus = value;
      this.draw();
    };
    const choose = () => {
      this.answer.chosen = this.chosen = this.chosen === box ? null : box;
      this.draw();
    };
    const [x0, y0, x1, y1] = box.box.map(Math.round);
    const swatch = build("span", { class: "swatch" });
    swatch.style.backgroundColor = pickClassColor(box.index);
    const name = build("button", { class: "class", type: "button", onclick: choose, onkeydown: moveBetweenRows,
      onfocus: focus(box), onblur: focus(null) }, swatch, box.class);
    return build("tr", { class: "choice", onpointerenter: focus(box), onpointerleave: focus(null) },
      build("th", { scope: "row" }, name, buildBar(box.score, pickClassColor(box.index))),
      build("td", { class: "number quiet" }, `${x0}, ${y0}, ${x1 - x0} × ${y1 - y0}`),
      build("td", { class: "number" }, box.score.toFixed(2)));
  }

  #buildSlider(label, key, format, low = 0) {
    const output = build("output", {}, format(options[key]));
    const input = build("input", { type: "range", min: low, max: 1, step: 0.05, value: options[key], oninput: () => {
      options[key] = Number(input.value);
      this.onChange();
    } });
    this.sync = () => {
      input.value = options[key];
      output.textContent = format(options[key]);
    };
    return build("label", { class: "slider" }, build("span", {}, label), input, output);
  }

  #buildSwitch(label, key) {
    const input = build("input", { type: "checkbox", checked: options[key], onchange: () => {
      options[key] = input.checked;
      this.onChange();
    } });
    this.syncSwitch = () => (input.checked = options[key]);
    return build("label", { class: "switch" }, input, label);
  }

  #buildExtras(prediction) {
    const extras = build("div", { class: "extras" });
    if (prediction.view) {
      extras.append(build("figure", { class: "view" },
        build("img", { src: prediction.view, alt: "The picture as the network got it", width: 96, height: 96 }),
        build("figcaption", { class: "quiet" }, "What the network saw")));
    }
    extras.append(buildTimings(this.answer));
    const copy = build("button", { class: "plain", type: "button", onclick: () => copyText(this.#writeJson(), copy) }, "Copy as JSON");
    extras.append(copy);
    return extras;
  }

  #writeJson() {
    const { view: _, ...prediction } = this.answer.prediction;
    return JSON.stringify({ ...this.answer.response, predictions: [{ ...prediction, name: this.picture.file.name }] }, null, 2);
  }

  /** Draw the overlay and mark the rows anew, after an option or the choice has changed. */
  draw() {
    const prediction = this.answer?.prediction;
    if (!prediction) return void (this.caption.textContent = "");
    this.sync?.();
    this.syncSwitch?.();
    if (this.model.task === "detection") this.#drawDetections(prediction);
    else this.#drawClasses(prediction);
  }

  #drawClasses({ top, cam }) {
    const shown = top.slice(0, options.rows);
    if (this.chosen >= shown.length) this.chosen = 0;
    for (const [i, row] of [...this.rows.children].entries()) {
      row.hidden = i >= shown.length;
      row.classList.toggle("chosen", Boolean(cam) && i === this.chosen);
      row.querySelector("button")?.setAttribute("aria-pressed", String(i === this.chosen));
    }
    const others = this.model.classes - shown.length;
    const share = Math.max(0, 1 - shown.reduce((sum, entry) => sum + entry.probability, 0));
    this.rest.textContent = others > 0 ? `All ${formatCount(others, "other class", "other classes")} together: ${formatPercent(share)}` : "";
    if (this.more) this.more.textContent = options.rows > FEW ? "Show fewer" : `Show ${top.length}`;
    this.canvas.hidden = !cam;
    if (!cam) return void (this.caption.textContent = "");
    const { strength, signed } = options;
    const map = cam.maps[this.chosen];
    const scale = findScale(cam.maps.slice(0, shown.length), signed);
    drawHeatMap(this.canvas, cam, map, { size: this.size, strength, signed, scale });
    drawScale(this.scale, signed);
    [this.scaleWords[0].textContent, this.scaleWords[1].textContent] = signed ? ["against", "for"] : ["weak", "strong"];
    this.caption.textContent = `Evidence for ${top[this.chosen].class}: ${describePeak(cam, map, this.size)}`;
    this.canvas.setAttribute("aria-label", this.caption.textContent);
  }

  #drawDetections({ boxes }) {
    const shown = boxes.filter((box) => box.score >= options.minScore);
    for (const [i, row] of [...this.rows.children].entries()) {
      row.hidden = !shown.includes(boxes[i]);
      row.classList.toggle("chosen", this.chosen === boxes[i]);
      row.querySelector("button").setAttribute("aria-pressed", String(this.chosen === boxes[i]));
    }
    const focus = [this.focus, this.chosen].find((box) => shown.includes(box));
    drawBoxes(this.canvas, shown, { size: this.size, focus });
    this.verdict.textContent = shown.length ? formatCount(shown.length, "object") : "Nothing found";
    const counts = new Map();
    for (const box of shown) counts.set(box.class, (counts.get(box.class) ?? 0) + 1);
    const words = [...counts].map(([name, count]) => `${name}: ${count}`).join(", ");
    const below = boxes.length - shown.length;
    this.caption.textContent = [words, below ? `${formatCount(below, "box", "boxes")} below the score` : ""].filter(Boolean).join(" · ");
    this.canvas.setAttribute("aria-label", `Boxes. ${this.caption.textContent}`);
  }

  /** Return the answer as one sentence, for readers who listen. */
  describe() {
    if (!this.answer.prediction) return `${this.model.name}: ${this.answer.message ?? "no answer yet"}`;
    const share = this.model.task === "detection" ? this.caption.textContent : formatPercent(this.answer.prediction.top[0].probability);
    return `${this.model.name}: ${this.verdict.firstChild.textContent}, ${share}`;
  }
}

function moveBetweenRows(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const buttons = [...event.target.closest("tbody").querySelectorAll("tr:not([hidden]) button")];
  buttons[buttons.indexOf(event.target) + step]?.focus();
}

function buildBar(share, color) {
  const fill = build("span", { class: "fill" });
  fill.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
  if (color) fill.style.backgroundColor = color;
  return build("span", { class: "bar", "aria-hidden": "true" }, fill);
}

function buildGhosts() {
  const ghosts = build("div", { class: "ghosts", "aria-hidden": "true" });
  for (let i = 0; i < GHOST_ROWS; i++) ghosts.append(build("span", {}));
  return ghosts;
}

function buildTimings({ milliseconds, roundTrip }) {
  const list = build("dl", { class: "timings" });
  const bar = build("div", { class: "shares", "aria-hidden": "true" });
  for (const key of ["decode", "queue", "network", "total"]) {
    const value = milliseconds?.[key];
    if (typeof value !== "number") continue;
    list.append(build("div", { class: key }, build("dt", {}, key), build("dd", {}, formatMilliseconds(value))));
    if (key === "total") continue;
    const share = build("span", { class: key });
    share.style.flexGrow = String(value);
    bar.append(share);
  }
  list.append(build("div", {}, build("dt", {}, "with transfer"), build("dd", {}, formatMilliseconds(roundTrip))));
  return build("div", { class: "time" }, bar, list);
}
