// Which charts the chosen runs have, and what each draws.

import { build } from "./dom.js";
import { RunChart } from "./run_chart.js";

const COLUMN_WORDS = {
  val_loss: "Held-out loss",
  train_loss: "Training loss",
  train_error: "Training error, %",
  top5_error: "Top-5 error, %",
  bad_images: "Bad images",
  loss_classifier: "Loss: classes",
  loss_box_reg: "Loss: boxes",
  loss_objectness: "Loss: objectness",
  loss_rpn_box_reg: "Loss: boxes of the RPN",
  ap75: "AP75",
  ap_small: "AP of small objects",
  ap_medium: "AP of medium objects",
  ap_large: "AP of large objects",
  ar100: "AR100",
};
const PLOTTED = ["epoch", "step", "lr", "top1_error", "ap", "ap50"]; // columns with a chart of their own
const DASH = [6, 4];

export class RunCharts {
  #column = "val_loss";

  /** `zoom(range | null)` is called when a part of the x axis is chosen in any chart. */
  constructor(host, zoom) {
    this.select = build("select", { "aria-label": "Value of the epochs" });
    this.select.addEventListener("change", () => {
      this.#column = this.select.value;
      this.#draw?.();
    });
    this.loss = new RunChart("Training loss", { isTall: true, zoom });
    this.error = new RunChart("Error, %", { zoom });
    this.precision = new RunChart("Average precision", { zoom });
    this.other = new RunChart("Held-out loss", { zoom, control: this.select });
    this.rate = new RunChart("Learning rate", { zoom });
    this.speed = new RunChart("Images per second", { zoom });
    host.append(...[this.loss, this.error, this.precision, this.other, this.rate, this.speed].map((chart) => chart.element));
  }

  #draw = null;

  /** Draw runs {name, color, series} by options {axis, range, smooth, isLog}. */
  draw(runs, options) {
    this.#draw = () => this.draw(runs, options);
    const { axis } = options;
    const unknown = runs.filter((run) => run.series.convertSteps(axis) === null).map((run) => run.name);
    const note = unknown.length ? `${unknown.join(", ")}: after the first epoch` : "";
    const draw = (chart, lines, more = {}) => chart.draw(lines, { ...options, isLog: false, ...more });
    const draws = (list, more = {}) => runs.map((run) => ({ label: run.name, color: run.color, points: list(run.series), ...more }));
    const columns = (name, more) => draws((series) => series.listEpochs(name, axis), more);

    const raw = draws((series) => series.listLosses(axis));
    const smoothed = draws((series) => series.listSmoothLosses(axis, options.smooth));
    const losses = options.smooth ? [...raw.map((line) => ({ ...line, isFaint: true })), ...smoothed] : raw;
    draw(this.loss, losses, { isLog: options.isLog, note });
    draw(this.error, [...columns("top1_error"), ...label(columns("top5_error", { dash: DASH }), "top-5")]);
    draw(this.precision, [...columns("ap"), ...label(columns("ap50", { dash: DASH }), "AP50")]);
    this.#fillSelect(runs);
    draw(this.other, columns(this.#column), { isLog: options.isLog && this.#column.includes("loss") });
    draw(this.rate, draws((series) => series.listRates(axis)));
    draw(this.speed, draws((series) => series.listSpeeds(axis)));
  }

  /** Offer the columns that any of the runs has a value of. */
  #fillSelect(runs) {
    const found = new Set();
    for (const { series } of runs) {
      for (const [name, values] of Object.entries(series.epochs)) {
        if (!PLOTTED.includes(name) && values.some((value) => value !== null)) found.add(name);
      }
    }
    const names = [...found].sort((a, b) => order(a) - order(b) || a.localeCompare(b));
    if (names.length && !names.includes(this.#column)) this.#column = names[0];
    this.other.rename(COLUMN_WORDS[this.#column] ?? this.#column);
    this.select.hidden = names.length < 2;
    this.other.heading.classList.toggle("unseen", !this.select.hidden); // the choice says it
    if (names.join() === [...this.select.options].map((option) => option.value).join()) return;
    this.select.replaceChildren(...names.map((name) => build("option", { value: name }, COLUMN_WORDS[name] ?? name)));
    this.select.value = this.#column;
  }
}

function order(name) {
  const place = Object.keys(COLUMN_WORDS).indexOf(name);
  return place < 0 ? Infinity : place;
}

function label(lines, words) {
  return lines.map((line) => ({ ...line, label: `${line.label}, ${words}` }));
}
