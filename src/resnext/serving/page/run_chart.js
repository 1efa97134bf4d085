// A chart of several runs over each other: zoom by dragging, values under the pointer, arrow keys.

import { build } from "./dom.js";

const HEIGHT = 250, TALL = 320; // pixels
const AXIS_WORDS = { step: "step", epoch: "epoch", time: "hours" };

export class RunChart {
  #plot = null;
  #shape = ""; // what needs a new plot when it changes
  #lines = [];

  /** `zoom(range | null)` is called with the chosen part of the x axis, `control` is an element beside the title. */
  constructor(title, { isTall = false, unit = "", zoom, control = null }) {
    this.title = title;
    this.unit = unit;
    this.zoom = zoom;
    this.isTall = isTall;
    this.heading = build("h2", {}, title);
    this.position = build("span", { class: "position quiet" });
    this.readout = build("ul", { class: "readout" });
    this.area = build("div", { class: "plot", tabIndex: 0, role: "group", onkeydown: (event) => this.#press(event) });
    this.area.addEventListener("dblclick", () => this.zoom(null));
    this.spoken = build("p", { class: "unseen", role: "status" });
    const head = build("div", { class: "chart-head" }, this.heading, ...(control ? [control] : []), this.position);
    this.element = build("section", { class: `card chart${isTall ? " tall" : ""}` }, head, this.readout, this.area, this.spoken);
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(this.area);
  }

  rename(title) {
    this.title = title;
    if (this.heading.textContent !== title) this.heading.textContent = title;
    this.element.setAttribute("aria-label", title);
    this.area.setAttribute("aria-label", `${title}. Arrow keys read values, plus and minus zoom, 0 shows all.`);
  }

  /**
   * Draw lines {run, label, color, points: [xs, ys], dash, isFaint}; faint ones have no values under the pointer.
   * `range` is the shown part of the x axis or null, `axis` its unit.
   */
  draw(lines, { axis, range, isLog, note = "" }) {
    this.#lines = lines.filter((line) => line.points[0].length > 0);
    this.element.hidden = this.#lines.length === 0 && !note;
    this.range = range;
    this.axis = axis;
    this.note = note;
    if (this.element.hidden) return;
    this.rename(this.title);
    const data = joinLines(this.#lines, isLog);
    const style = getComputedStyle(document.documentElement);
    const colors = ["--quiet", "--line", "--ink"].map((name) => style.getPropertyValue(name).trim());
    const shape = JSON.stringify([axis, isLog, colors, this.#lines.map((l) => [l.label, l.color, l.dash, l.isFaint])]);
    if (this.#plot && shape === this.#shape) {
      this.#plot.setData(data);
    } else {
      this.#plot?.destroy();
      this.#shape = shape;
      this.#plot = new window.uPlot(this.#makeOptions(isLog, colors), data, this.area);
    }
    this.#writeValues();
  }

  remove() {
    this.observer.disconnect();
    this.#plot?.destroy();
    this.element.remove();
  }

  #resize() {
    const width = this.area.clientWidth;
    if (this.#plot && width > 0 && width !== this.#plot.width) this.#plot.setSize({ width, height: this.#plot.height });
  }

  #makeOptions(isLog, [quiet, line, ink]) {
    const axis = { stroke: quiet, font: "12px system-ui, sans-serif", grid: { stroke: line, width: 1 }, ticks: { show: false } };
    const format = (plot, values) => values.map((value) => (value === null ? "" : formatNumber(value)));
    return {
      width: Math.max(this.area.clientWidth, 200),
      height: this.isTall ? TALL : HEIGHT,
      legend: { show: false },
      padding: [10, 14, 0, 0],
      cursor: {
        y: false,
        drag: { x: true, y: false, setScale: false },
        sync: { key: "runs" },
        bind: { dblclick: () => null },
        points: { show: (plot, i) => !this.#lines[i - 1].isFaint && undefined, size: 7, fill: (plot, i) => plot.series[i].stroke() },
        dataIdx: (plot, series, closest) => findNear(plot.data[series], closest),
      },
      scales: {
        x: { time: false, range: (plot, min, max) => this.#findRange(min, max) },
        y: isLog ? { distr: 3 } : { range: (plot, min, max) => padRange(min, max) },
      },
      axes: [
        { ...axis, values: format, space: 60, size: 30 },
        { ...axis, values: format, size: (plot, values) => 16 + 7 * Math.max(3, ...(values ?? []).map((v) => v?.length ?? 0)) },
      ],
      series: [
        {},
        ...this.#lines.map(({ label, color, dash, isFaint }) => ({
          label,
          stroke: isFaint ? fade(color) : color,
          width: isFaint ? 1 : 2,
          dash,
          spanGaps: false,
          points: isFaint ? { show: false } : { size: 5, fill: color },
        })),
      ],
      hooks: {
        setSelect: [(plot) => this.#select(plot)],
        setCursor: [() => this.#writeValues()],
      },
      focus: { alpha: 1 },
      ink,
    };
  }

  #findRange(min, max) {
    if (this.range) return this.range;
    return min === max ? [min - 0.5, max + 0.5] : [min, max];
  }

  #select(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const range = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.zoom(range);
  }

  /** Write the values under the pointer, or the last ones, for each run. */
  #writeValues() {
    const plot = this.#plot;
    const at = plot?.cursor.idx ?? null;
    const isOver = at !== null && plot.cursor.left >= 0;
    this.position.textContent = isOver ? `${AXIS_WORDS[this.axis]} ${formatNumber(plot.data[0][at])}` : this.note;
    const entries = this.#lines.filter((line) => !line.isFaint).map((line) => {
      const ys = line.points[1];
      const column = this.#plot?.data[this.#lines.indexOf(line) + 1];
      const near = isOver && column ? column[findNear(column, at)] : ys[ys.length - 1];
      const swatch = build("span", { class: `swatch${line.dash ? " dashed" : ""}`, "aria-hidden": "true" });
      swatch.style.setProperty("--swatch", line.color);
      return build("li", {}, swatch, build("span", { class: "label" }, line.label), build("b", {}, formatNumber(near)));
    });
    this.readout.replaceChildren(...entries);
  }

  #press(event) {
    const plot = this.#plot;
    if (!plot || event.altKey || event.ctrlKey || event.metaKey) return;
    const { min, max } = plot.scales.x;
    const centre = plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : (min + max) / 2;
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    if (event.key in moves) {
      const width = plot.over.clientWidth;
      const from = plot.cursor.left >= 0 ? plot.cursor.left : width;
      const left = Math.min(Math.max(from + moves[event.key] * (event.shiftKey ? width / 10 : width / 100), 0), width);
      plot.setCursor({ left, top: 10 });
      this.spoken.textContent = `${this.position.textContent}: ${[...this.readout.children].map((e) => e.textContent).join(", ")}`;
    } else if (event.key === "+" || event.key === "=") {
      this.zoom([centre - (centre - min) / 2, centre + (max - centre) / 2]);
    } else if (event.key === "-") {
      this.zoom([centre - (centre - min) * 2, centre + (max - centre) * 2]);
    } else if (event.key === "0" || event.key === "Escape") {
      this.zoom(null);
    } else return;
    event.preventDefault();
  }
}

/** Put all lines on common x values, as uPlot draws them. A log scale has no place for zero. */
function joinLines(lines, isLog) {
  if (!lines.length) return [[]];
  return window.uPlot.join(
    lines.map(({ points: [xs, ys] }) => [xs, isLog ? ys.map((y) => (y > 0 ? y : null)) : ys]),
  );
}

/** Return the index of the value nearest to an index; other runs have values at other steps. */
function findNear(values, index) {
  for (let away = 0; away < values.length; away++) {
    if (values[index - away] != null) return index - away;
    if (values[index + away] != null) return index + away;
  }
  return index;
}

function padRange(min, max) {
  if (min === null || max === null) return [0, 1];
  const pad = 0.06 * (max - min || Math.abs(max) || 1);
  return [min >= 0 ? Math.max(min - pad, 0) : min - pad, max + pad]; // errors and speeds are not below zero
}

function fade(color) {
  return `${color}3d`; // #rrggbb with a quarter of the opacity
}

/** Write a number with four digits, for people. */
export function formatNumber(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  let text;
  if (size !== 0 && (size >= 1e15 || size < 1e-4)) text = value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  else if (Number.isInteger(value) || size >= 10_000) text = Math.round(value).toLocaleString("en");
  else text = String(Number(value.toPrecision(4)));
  return text.replaceAll("-", "−");
}
