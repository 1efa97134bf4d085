// What a model answered, as a table and as an overlay: classes with their heat maps, or boxes.

import { build, buildBar, buildSlider, buildSwitch, formatCount, formatPercent } from "./dom.js";
import { describePeak, drawBoxes, drawHeatMap, drawScale, findScale, pickClassColor } from "./overlay.js";

const FEW = 5; // classes shown at first

/** What the reader has chosen to see; all panels share it. */
export const options = { strength: 0.75, signed: false, minScore: 0.5, rows: FEW };

function buildTable(caption, ...columns) {
  const rows = build("tbody", {});
  const heads = columns.map((title, i) => build("th", { scope: "col", class: i ? "number" : "" }, title));
  const table = build("table", { class: "classes" }, build("caption", { class: "unseen" }, caption),
    build("thead", {}, build("tr", {}, ...heads)), rows);
  return { table, rows };
}

/** Up and down lead from row to row. */
function moveBetweenRows(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const buttons = [...event.target.closest("tbody").querySelectorAll("tr:not([hidden]) button")];
  buttons[buttons.indexOf(event.target) + step]?.focus();
}

function markRows(rows, { isShown, isChosen }) {
  for (const [i, row] of [...rows.children].entries()) {
    row.hidden = !isShown(i);
    row.classList.toggle("chosen", isChosen(i));
    row.querySelector("button")?.setAttribute("aria-pressed", String(isChosen(i)));
  }
}

/** The most probable classes. Choosing one draws its class activation map over the picture. */
export class ClassAnswer {
  constructor(model, answer, onChange) {
    this.model = model;
    this.answer = answer; // keeps the chosen row while other pictures are on show
    this.onChange = onChange;
    const { top, cam } = answer.prediction;
    [this.top, this.cam] = [top, cam];
    this.title = [top[0].class, build("span", { class: "share" }, formatPercent(top[0].probability))];
    this.summary = `${top[0].class}, ${formatPercent(top[0].probability)}`;
    const caption = cam ? "Most probable classes; choose one to see where its evidence is" : "Most probable classes";
    const { table, rows } = buildTable(caption, "Class", "Probability");
    rows.append(...top.map((entry, i) => this.#buildRow(entry, i)));
    this.rows = rows;
    this.rest = build("p", { class: "quiet rest" });
    this.more = build("button", { class: "plain", type: "button", hidden: top.length <= FEW, onclick: () => {
      options.rows = options.rows > FEW ? FEW : Infinity;
      onChange();
    } });
    this.elements = [table, this.rest, this.more];
    this.controls = cam ? this.#buildControls() : [];
  }

  #buildRow(entry, i) {
    const choose = () => {
      this.answer.chosen = i;
      this.onChange();
    };
    const name = this.cam
      ? build("button", { class: "class", type: "button", onkeydown: moveBetweenRows }, entry.class)
      : build("span", { class: "class" }, entry.class);
    return build("tr", this.cam ? { class: "choice", onclick: choose } : {},
      build("th", { scope: "row" }, name, buildBar(entry.probability)),
      build("td", { class: "number" }, formatPercent(entry.probability)));
  }

  #buildControls() {
    this.strength = buildSlider("Heat map", options, "strength", (value) => `${Math.round(100 * value)} %`, this.onChange);
    this.signed = buildSwitch("Evidence against, too", options, "signed", this.onChange);
    this.scale = build("canvas", { class: "scale" });
    this.ends = [build("span", {}), build("span", {})];
    const legend = build("span", { class: "legend", "aria-hidden": "true" }, this.ends[0], this.scale, this.ends[1]);
    return [this.strength.element, this.signed.element, legend];
  }

  /** Draw over a picture of ``size``, and return the overlay in words. */
  draw(canvas, size) {
    const shown = this.top.slice(0, options.rows);
    const chosen = Math.min(this.answer.chosen ?? 0, shown.length - 1);
    markRows(this.rows, { isShown: (i) => i < shown.length, isChosen: (i) => Boolean(this.cam) && i === chosen });
    const others = this.model.classes - shown.length;
    const share = Math.max(0, 1 - shown.reduce((sum, entry) => sum + entry.probability, 0));
    this.rest.textContent = others > 0 ? `${formatCount(others, "other class", "other classes")} together: ${formatPercent(share)}` : "";
    this.more.textContent = options.rows > FEW ? "Show fewer" : `Show ${this.top.length}`;
    canvas.hidden = !this.cam;
    if (!this.cam) return "";
    const { strength, signed } = options;
    this.strength.sync();
    this.signed.sync();
    const scale = findScale(this.cam.maps.slice(0, shown.length), signed);
    drawHeatMap(canvas, this.cam, this.cam.maps[chosen], { size, strength, signed, scale });
    drawScale(this.scale, signed);
    const words = signed ? ["against", "for"] : ["weak", "strong"];
    for (const [i, end] of this.ends.entries()) end.textContent = words[i];
    return `Evidence for ${this.top[chosen].class}: ${describePeak(this.cam, this.cam.maps[chosen], size)}`;
  }
}

/** The boxes of a detector. Choosing one, or pointing at its row, fills it in the picture. */
export class BoxAnswer {
  constructor(model, answer, onChange) {
    this.answer = answer;
    this.onChange = onChange;
    this.boxes = answer.prediction.boxes;
    const { table, rows } = buildTable("Boxes found, best score first", "Class", "Left, top, size", "Score");
    rows.append(...this.boxes.map((box) => this.#buildRow(box)));
    this.rows = rows;
    this.elements = [build("div", { class: "scroll", tabIndex: 0, role: "group", "aria-label": "Boxes" }, table)];
    this.minScore = buildSlider("Score at least", options, "minScore", (value) => value.toFixed(2), onChange, 0.05);
    this.controls = [this.minScore.element];
  }

  #buildRow(box) {
    const point = (at) => () => {
      this.pointed = at;
      this.onChange();
    };
    const choose = () => {
      this.answer.chosen = this.answer.chosen === box ? null : box;
      this.onChange();
    };
    const [x0, y0, x1, y1] = box.box.map(Math.round);
    const swatch = build("span", { class: "swatch" });
    swatch.style.backgroundColor = pickClassColor(box.index);
    const name = build("button", { class: "class", type: "button", onkeydown: moveBetweenRows, onfocus: point(box),
      onblur: point(null) }, swatch, box.class);
    return build("tr", { class: "choice", onclick: choose, onpointerenter: point(box), onpointerleave: point(null) },
      build("th", { scope: "row" }, name, buildBar(box.score, pickClassColor(box.index))),
      build("td", { class: "number place" }, build("span", {}, `${x0}, ${y0}`), build("span", {}, `${x1 - x0} × ${y1 - y0}`)),
      build("td", { class: "number" }, box.score.toFixed(2)));
  }

  /** Draw over a picture of ``size``, and return the overlay in words. */
  draw(canvas, size) {
    this.minScore.sync();
    const shown = this.boxes.filter((box) => box.score >= options.minScore);
    const { chosen } = this.answer;
    markRows(this.rows, { isShown: (i) => shown.includes(this.boxes[i]), isChosen: (i) => chosen === this.boxes[i] });
    drawBoxes(canvas, shown, { size, focus: [this.pointed, chosen].find((box) => shown.includes(box)) });
    const counts = new Map();
    for (const box of shown) counts.set(box.class, (counts.get(box.class) ?? 0) + 1);
    const words = [...counts].map(([name, count]) => `${name}: ${count}`).join(", ");
    const below = this.boxes.length - shown.length;
    this.title = [shown.length ? formatCount(shown.length, "object") : "Nothing found"];
    this.summary = `${this.title[0]}. ${words}`;
    return [words, below ? `${formatCount(below, "box", "boxes")} below this score` : ""].filter(Boolean).join(" · ");
  }
}
