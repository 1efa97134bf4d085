// The curves of one run: what the server sent so far, and the points to draw.

const MAX_POINTS = 2000; // of a series in one answer; with many more here, all are asked for anew

export class RunSeries {
  constructor(id) {
    this.id = id;
    this.generation = "";
    this.clear();
    this.speed = {};
    this.isUneven = false; // parts of a long log are thinned more than others
  }

  /** Forget all points: the file was cut or replaced. */
  clear() {
    this.cursor = 0;
    this.steps = { step: [], loss: [] };
    this.means = { step: [], loss: [] };
    this.rate = { step: [], lr: [] };
    this.epochs = { epoch: [], step: [] };
  }

  /** Use the metrics of the epochs where there is no log, as in a run copied without it. */
  takeMetrics(metrics) {
    if (this.cursor === 0 && metrics.epoch?.length && metrics.step?.length) this.epochs = metrics;
  }

  get address() {
    const query = new URLSearchParams({ after: this.cursor, generation: this.generation });
    return `v1/runs/${encodeURIComponent(this.id)}/log?${query}`;
  }

  /** Add an answer of the server. Return whether there is more to ask for at once. */
  take(answer) {
    if (answer.generation !== this.generation || answer.after !== this.cursor || answer.after === 0) this.clear();
    this.generation = answer.generation;
    this.cursor = answer.next;
    append(this.steps, answer.steps);
    append(this.means, answer.mean ?? answer.steps);
    append(this.rate, answer.rate);
    append(this.epochs, answer.epochs);
    this.speed = answer.speed ?? {};
    this.isUneven ||= answer.more || this.steps.step.length > 2 * MAX_POINTS;
    if (answer.more) return true;
    if (!this.isUneven) return false;
    this.isUneven = false;
    this.cursor = 0; // the next answer has evenly thinned points
    return true;
  }

  /** Return what converts steps to the unit of the x axis; null while it is unknown. */
  convertSteps(axis) {
    if (axis === "step") return (step) => step;
    const per = this.epochs.step[0] / this.epochs.epoch[0];
    if (!(per > 0)) return null;
    return axis === "epoch" ? (step) => step / per : this.#convertToHours(per);
  }

  #convertToHours(per) {
    const knots = [[0, 0]];
    (this.speed.epoch ?? []).forEach((epoch, i) => {
      const [step, hours] = knots[knots.length - 1];
      if (epoch * per > step && this.speed.seconds?.[i] > 0) {
        knots.push([epoch * per, hours + (this.speed.seconds[i] / 3600) * ((epoch * per - step) / per)]);
      }
    });
    if (knots.length < 2) return null;
    return (step) => {
      let right = knots.findIndex((knot) => knot[0] >= step);
      if (right < 1) right = right === 0 ? 1 : knots.length - 1; // beyond the last epoch: at its speed
      const [[s0, h0], [s1, h1]] = [knots[right - 1], knots[right]];
      return h0 + ((step - s0) / (s1 - s0)) * (h1 - h0);
    };
  }

  /** Return [x, y] of a column of the epochs, without what was not measured. */
  listEpochs(column, axis) {
    return this.#draw(this.epochs.step, this.epochs[column] ?? [], axis);
  }

  listLosses(axis) {
    return this.#draw(this.steps.step, this.steps.loss, axis);
  }

  listRates(axis) {
    return this.#draw(this.rate.step, this.rate.lr, axis);
  }

  /** Return [x, y] of the loss as an exponential moving average; `amount` is from 0 to 0.99. */
  listSmoothLosses(axis, amount) {
    return this.#draw(this.means.step, smooth(this.means.step, this.means.loss, amount), axis);
  }

  listSpeeds(axis) {
    const per = this.epochs.step[0] / this.epochs.epoch[0];
    const epochs = this.speed.epoch ?? [];
    return this.#draw(epochs.map((epoch) => epoch * (per || 1)), this.speed.images_per_second ?? [], axis);
  }

  #draw(steps, values, axis) {
    const convert = this.convertSteps(axis);
    const xs = [], ys = [];
    if (convert === null) return [xs, ys];
    for (let i = 0; i < steps.length; i++) {
      if (values[i] === null || values[i] === undefined) continue;
      xs.push(convert(steps[i]));
      ys.push(values[i]);
    }
    return [xs, ys];
  }
}

/** Append columns to columns; what a row lacks is null. */
function append(columns, more) {
  const before = Object.values(columns)[0].length;
  const added = Object.values(more)[0]?.length ?? 0;
  for (const name of Object.keys(more)) columns[name] ??= new Array(before).fill(null);
  for (const [name, column] of Object.entries(columns)) {
    for (let i = 0; i < added; i++) column.push(more[name]?.[i] ?? null);
  }
}

/**
 * Average exponentially over steps, corrected for the start, so that the first values are not pulled to zero.
 * `amount` is what is kept over one step, or over a thousandth of a longer run: points may be uneven.
 */
export function smooth(steps, values, amount) {
  if (!amount) return values;
  const unit = Math.max(1, (steps.at(-1) - steps[0]) / 1000);
  let sum = 0, weight = 0, last = null;
  return values.map((value, i) => {
    if (value === null) return null;
    const kept = amount ** (last === null ? 1 : (steps[i] - last) / unit);
    last = steps[i];
    sum = kept * sum + (1 - kept) * value;
    weight = kept * weight + (1 - kept);
    return weight > 0 ? sum / weight : value; // a step that is there twice
  });
}
