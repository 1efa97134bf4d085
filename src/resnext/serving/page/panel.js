// The panel of one model: the picture, what is drawn over it, the answer, and the timings.

import { BoxAnswer, ClassAnswer } from "./answers.js";
import { build, copyText, formatCount, formatMilliseconds } from "./dom.js";

const GHOST_ROWS = 5; // rows that hold the table's place while the answer is on its way
const TINY = 96; // pixels of pictures that are enlarged without smoothing

/** Return what a reader wants to know of a model at a glance. */
export function listFacts({ architecture, engine, classes, image_size: side, channels }) {
  const input = side ? `${side}\u00a0×\u00a0${side}\u00a0px${channels === 1 ? ", grey" : ""}` : "";
  return [architecture, engine, formatCount(classes, "class", "classes"), input].filter(Boolean);
}

export class Panel {
  /** onChange is called when the reader chooses something to see; onRetry for another try to get the answer. */
  constructor(model, { onChange, onRetry }) {
    this.model = model;
    this.onChange = onChange;
    this.onRetry = onRetry;
    const title = build("h2", { id: `panel-${Math.random().toString(36).slice(2)}` }, model.name);
    this.image = build("img", { decoding: "async", draggable: false });
    this.canvas = build("canvas", { role: "img" });
    this.frame = build("div", { class: "frame" }, this.image, this.canvas);
    this.caption = build("figcaption", { class: "quiet" });
    this.controls = build("div", { class: "options" });
    this.verdict = build("h3", { class: "verdict", tabIndex: -1 });
    this.notice = build("div", { hidden: true });
    this.body = build("div", { class: "answer" });
    this.element = build("article", { class: "panel card", "aria-labelledby": title.id },
      build("header", { class: "panel-head" }, title, build("p", { class: "quiet facts" }, listFacts(model).join(" · ")),
        ...buildProvenance(model)),
      build("div", { class: "panel-body" },
        build("div", { class: "verdict-cell" }, this.verdict, this.notice),
        build("figure", { class: "picture" }, this.frame, this.caption, this.controls),
        this.body));
    new ResizeObserver(() => this.draw()).observe(this.frame); // lines keep their width on the screen
  }

  /** Show a picture with the answer about it, in whatever state that is. */
  show(picture, answer) {
    const fresh = this.answer !== answer || this.state !== answer.state;
    [this.picture, this.answer, this.state] = [picture, answer, answer.state];
    this.#showPicture();
    this.#showNotice(fresh);
    if (fresh) this.#showAnswer();
    this.draw();
  }

  #showPicture() {
    const { picture, answer } = this;
    const size = answer.prediction?.size ?? picture.size ?? [4, 3];
    if (this.image.src !== picture.url) this.image.src = picture.url;
    this.image.alt = picture.file.name;
    const turned = picture.size && size[0] === picture.size[1] && size[1] === picture.size[0] && size[0] !== size[1];
    this.image.classList.toggle("as-stored", Boolean(turned)); // this model takes pictures as stored, without EXIF
    this.frame.classList.toggle("tiny", Math.max(...size) <= TINY);
    this.frame.classList.toggle("undisplayable", picture.undisplayable === true);
    this.frame.style.setProperty("--width", size[0]);
    this.frame.style.setProperty("--height", size[1]);
    this.size = size;
  }

  #showNotice(fresh) {
    const { state, message, seconds } = this.answer;
    const waits = state === "waiting";
    this.notice.hidden = !waits && state !== "failed" && state !== "gone";
    if (this.notice.hidden) return;
    const text = waits ? `${message} Trying again in ${formatCount(seconds, "second")}.` : message;
    if (!fresh) return void (this.notice.firstChild.textContent = text);
    this.notice.className = `notice ${waits ? "wait" : "failure"}`;
    const retry = build("button", { type: "button", onclick: () => this.onRetry(this) }, waits ? "Try now" : "Try again");
    this.notice.replaceChildren(build("p", {}, text), retry);
  }

  #showAnswer() {
    const { prediction, state } = this.answer;
    const broken = state === "failed" || state === "gone";
    this.element.setAttribute("aria-busy", String(!broken && state !== "done"));
    this.verdict.classList.toggle("pending", !prediction);
    this.canvas.hidden = !prediction;
    if (!prediction) {
      this.shown = null;
      this.verdict.textContent = broken ? "No answer" : state === "waiting" ? "Waiting" : "Looking…";
      this.controls.replaceChildren();
      this.body.replaceChildren(...(broken ? [] : [buildGhosts()]));
      return;
    }
    const Answer = this.model.task === "detection" ? BoxAnswer : ClassAnswer;
    this.shown = new Answer(this.model, this.answer, this.onChange);
    this.controls.replaceChildren(...this.shown.controls);
    this.body.replaceChildren(...this.shown.elements, this.#buildExtras(prediction));
    this.draw();
    this.verdict.replaceChildren(...this.shown.title);
  }

  #buildExtras({ view }) {
    const extras = build("div", { class: "extras" });
    if (view) {
      const small = this.model.image_size <= TINY ? "pixels" : "";
      extras.append(build("figure", { class: "view" },
        build("img", { src: view, class: small, alt: "The picture as the network got it", width: 96, height: 96 }),
        build("figcaption", { class: "quiet" }, "What the network saw")));
    }
    const copy = build("button", { class: "plain", type: "button", onclick: () => copyText(this.#writeJson(), copy) }, "Copy as JSON");
    extras.append(buildTimings(this.answer), copy);
    return extras;
  }

  #writeJson() {
    const { view: _, ...prediction } = this.answer.prediction;
    return JSON.stringify({ ...this.answer.response, predictions: [{ ...prediction, name: this.picture.file.name }] }, null, 2);
  }

  /** Draw the overlay and mark the rows anew, after something else was chosen to be seen. */
  draw() {
    const words = this.shown?.draw(this.canvas, this.size) ?? "";
    this.caption.textContent = words;
    this.canvas.setAttribute("aria-label", words || "Nothing is drawn over the picture");
    if (this.model.task === "detection" && this.shown) this.verdict.replaceChildren(...this.shown.title);
  }

  /** Return the answer as one sentence, for readers who listen. */
  describe() {
    return `${this.model.name}: ${this.shown?.summary ?? this.answer.message ?? "no answer yet"}`;
  }
}

function buildProvenance({ provenance }) {
  const known = Object.entries(provenance ?? {}).filter(([, value]) => value !== null && value !== "");
  if (!known.length) return [];
  const list = build("dl", {});
  for (const [key, value] of known) {
    const text = typeof value === "object" ? JSON.stringify(value) : String(value);
    list.append(build("dt", {}, key.replaceAll("_", " ")), build("dd", {}, text));
  }
  return [build("details", { class: "provenance" }, build("summary", {}, "Where it comes from"), list)];
}

function buildGhosts() {
  const ghosts = Array.from({ length: GHOST_ROWS }, () => build("span", {}));
  return build("div", { class: "ghosts", "aria-hidden": "true" }, ...ghosts);
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
  list.append(build("div", {}, build("dt", {}, "round trip"), build("dd", {}, formatMilliseconds(roundTrip))));
  return build("div", { class: "time" }, bar, list);
}
