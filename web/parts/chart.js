/** The loss chart: two smoothed lines with the raw ones as a shadow, values under the pointer. */

import { evenTicks, extend, makeScale, path, smooth } from "./curve.js";
import { button, el, handled, svg } from "./elements.js";
import { isNumber, short } from "./format.js";

const SERIES = [
  { key: "instance", column: 1, label: "your photos", short: "photos" },
  { key: "class", column: 2, label: "class images", short: "class" },
];
const EDGE = { left: 44, right: 8, top: 8, bottom: 20 };
const SCALE = "DreamBooth.logScale";

export class LossChart {
  constructor() {
    this.points = [];
    this.total = 0;
    this.cursor = null;
    this.isLog = localStorage.getItem(SCALE) === "1";
    this.svg = svg("svg", { class: "db-plot", tabindex: "0", role: "img" });
    this.readout = el("output", { class: "db-readout" });
    this.toggle = button("log", "sliders-h", () => this.switchScale(), {
      title: "Logarithmic or linear scale",
    });
    this.legend = el("div", { class: "db-legend" });
    const head = el("div", { class: "db-chart-head" }, this.legend, this.readout, this.toggle);
    this.element = el("div", { class: "db-chart" }, head, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.moveTo(null));
    this.svg.addEventListener("blur", () => this.moveTo(null));
    this.svg.addEventListener("keydown", (event) => this.onKey(event));
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.svg);
  }

  get lastStep() {
    return this.points.length ? this.points[this.points.length - 1][0] : 0;
  }

  set(points, total) {
    this.points = points;
    this.total = total;
    this.draw();
  }

  add(points, total) {
    this.set(extend(this.points, points), total);
  }

  switchScale() {
    this.isLog = !this.isLog;
    localStorage.setItem(SCALE, this.isLog ? "1" : "0");
    this.draw();
  }

  /** Everything anew: some thousand points, at most four times a second. */
  draw() {
    const { clientWidth: width, clientHeight: height } = this.svg;
    this.toggle.setAttribute("aria-pressed", String(this.isLog));
    if (width < 60 || height < 40) return;
    const span = Math.max(this.total, this.lastStep, 1);
    const present = SERIES.filter((s) => this.points.some((point) => isNumber(point[s.column])));
    const values = present.flatMap((s) => this.points.map((point) => point[s.column]));
    const scale = makeScale(values, this.isLog);
    const inner = { w: width - EDGE.left - EDGE.right, h: height - EDGE.top - EDGE.bottom };
    this.x = (step) => EDGE.left + (step / span) * inner.w;
    this.y = (value) => EDGE.top + (1 - scale.at(value)) * inner.h;
    this.span = span;
    this.smoothed = present.map((s) => smooth(this.points, s.column, Math.max(span / 25, 4)));
    this.present = present;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren(
      ...this.axes(scale.ticks, width, height),
      ...present.flatMap((s, index) => this.lines(s, this.smoothed[index])),
      (this.marks = svg("g", { class: "db-marks" })),
    );
    this.legend.replaceChildren(...present.map((s) => this.legendEntry(s)));
    this.svg.setAttribute("aria-label", this.describe());
    this.drawCursor();
  }

  axes(ticks, width, height) {
    const bottom = height - EDGE.bottom;
    const rows = ticks.flatMap((value) => {
      const y = this.y(value);
      return [
        svg("line", { class: "db-grid", x1: EDGE.left, x2: width - EDGE.right, y1: y, y2: y }),
        svg("text", { class: "db-tick", x: EDGE.left - 6, y: y + 4, "text-anchor": "end" }, short(value)),
      ];
    });
    const steps = evenTicks(0, this.span, Math.max(2, Math.min(6, width / 90)));
    const columns = steps.filter(Number.isInteger).map((step) => {
      const last = this.x(step) > width - EDGE.right - 16;
      const anchor = step === 0 ? "start" : last ? "end" : "middle";
      return svg("text", { class: "db-tick", x: this.x(step), y: bottom + 15, "text-anchor": anchor }, step);
    });
    return [...rows, ...columns];
  }

  lines(series, smoothed) {
    const raw = this.points.map((point) => point[series.column]);
    const one = raw.filter(isNumber).length === 1;
    const style = `db-line db-${series.key}${one ? " db-dot" : ""}`;
    return [
      svg("path", { class: `${style} db-raw`, d: path(this.points, raw, this.x, this.y) }),
      svg("path", { class: style, d: one ? this.dot(raw) : path(this.points, smoothed, this.x, this.y) }),
    ];
  }

  dot(raw) {
    const index = raw.findIndex(isNumber);
    return `M${this.x(this.points[index][0])} ${this.y(raw[index])}h0.01`;
  }

  legendEntry(series) {
    const mark = el("span", { class: `db-mark db-${series.key}` });
    return el("span", { class: "db-entry" }, mark, series.label);
  }

  describe() {
    if (!this.points.length) return "Loss: nothing yet";
    const said = this.present.map((s, index) => {
      const known = this.smoothed[index].filter(isNumber);
      return `${s.label} ${short(known[known.length - 1])}`;
    });
    return `Loss after ${this.lastStep} steps, smoothed: ${said.join(", ")}. Arrow keys read values.`;
  }

  /** The pointer, also where the canvas is zoomed. */
  point(event) {
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.svg.clientWidth;
    if (!this.points.length || !this.x) return;
    const step = ((x - EDGE.left) / (this.svg.clientWidth - EDGE.left - EDGE.right)) * this.span;
    let best = 0;
    this.points.forEach((point, index) => {
      if (Math.abs(point[0] - step) < Math.abs(this.points[best][0] - step)) best = index;
    });
    this.moveTo(best);
  }

  onKey(event) {
    const last = this.points.length - 1;
    const here = this.cursor ?? last + 1;
    const moves = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: last };
    if (!(event.key in moves) || last < 0) return;
    handled(event);
    this.moveTo(Math.min(Math.max(moves[event.key], 0), last));
  }

  moveTo(index) {
    this.cursor = index;
    this.drawCursor();
  }

  drawCursor() {
    const point = this.points[this.cursor ?? -1];
    this.readout.replaceChildren();
    this.marks?.replaceChildren();
    this.legend.hidden = Boolean(point);
    if (!point || !this.marks) return;
    const x = this.x(point[0]);
    const bottom = this.svg.clientHeight - EDGE.bottom;
    this.marks.append(svg("line", { class: "db-cursor", x1: x, x2: x, y1: EDGE.top, y2: bottom }));
    this.readout.append(el("span", {}, `step ${point[0]}`));
    this.readout.title = "smoothed, and of this step alone in brackets";
    this.present.forEach((series, index) => {
      const value = this.smoothed[index][this.cursor];
      if (!isNumber(value)) return;
      this.marks.append(svg("circle", { class: `db-${series.key}`, cx: x, cy: this.y(value), r: 3.5 }));
      const raw = short(point[series.column]);
      const said = `${series.short} ${short(value)} (${raw})`;
      this.readout.append(el("span", { class: `db-${series.key}` }, said));
    });
  }

  remove() {
    this.observer.disconnect();
  }
}
