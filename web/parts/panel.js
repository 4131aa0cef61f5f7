/** What DreamBooth Train shows while it trains, and afterwards. */

import { LossChart } from "./chart.js";
import { button, el } from "./elements.js";
import { bytes, clock, isNumber, pace, plural, short } from "./format.js";
import { complain, listen, onReconnected, order, showLog, showNode } from "./server.js";
import { STATES } from "./states.js";
import { PictureStrip } from "./strip.js";

const QUIET = 10000; // ms without a word after which a run that trains is asked for
const ORDERS = [
  ["preview", "Preview now", "image", "Painting soon", "A picture from the weights as they are, after this step"],
  ["save", "Save now", "save", "Saving soon", "A checkpoint of the steps so far, after this step"],
  ["keep", "Stop and keep", "stop-circle", "Stopping", "Ends the training here; the graph goes on with what was learned"],
];

export class TrainPanel {
  /**
   * @param identify () → {node, name}: who this panel is about; name null if it is not known here
   * @param isMine (status) → whether a message is about that node
   */
  constructor(identify, isMine) {
    this.identify = identify;
    this.status = null;
    this.run = null;
    this.chart = new LossChart();
    this.strip = new PictureStrip();
    this.title = el("span", { class: "db-title" });
    this.pace = el("span", { class: "db-pace" });
    this.bar = el("progress", { class: "db-bar", max: 1, value: 0 });
    this.facts = el("div", { class: "db-facts" });
    this.empty = el("p", { class: "db-empty" }, "Losses and pictures appear here while it trains.");
    this.notes = el("div", { class: "db-notes", role: "log", hidden: true });
    this.buttons = ORDERS.map(([what, label, icon, , title]) =>
      button(label, icon, () => this.send(what), { title, disabled: true }),
    );
    const head = el("div", { class: "db-head" }, this.title, this.pace);
    const orders = el("div", { class: "db-row db-orders" }, ...this.buttons);
    const parts = [head, this.bar, this.facts, this.empty, this.chart.element, this.strip.element];
    this.element = el("div", { class: "db-root db-panel" }, ...parts, this.notes, orders);
    this.leave = [
      listen((status) => isMine(status) && this.take(status)),
      onReconnected(() => this.refresh()),
    ];
    this.clock = setInterval(() => this.wake(), QUIET / 2);
    this.draw();
  }

  /** The whole state from the server: after a reload, a lost socket, another name. */
  async refresh() {
    const asked = this.identify();
    try {
      const status = await showNode(asked.node, asked.name);
      this.heard = Date.now();
      this.status = status;
      await this.loadLog();
    } catch (error) {
      console.warn("DreamBooth: the state of the training is not known:", error.message);
    }
    this.draw();
  }

  /** A message: draw it at once; fetch the curve where this one does not join on. */
  take(status) {
    const gap = status.points.length && status.points[0][0] > this.chart.lastStep + 1;
    this.heard = Date.now();
    this.status = status;
    if (status.run !== this.run || gap) this.loadLog().catch(() => {});
    else this.chart.add(status.points, status.total);
    this.draw();
  }

  async loadLog() {
    const run = this.status?.run ?? null;
    if (this.loading === run && run !== null) return;
    this.loading = run;
    try {
      const points = run ? await showLog(run) : [];
      if (run !== (this.status?.run ?? null)) return; // another one began meanwhile
      this.run = run;
      this.chart.set(points, this.status?.total ?? 0);
    } finally {
      this.loading = null;
    }
  }

  wake() {
    const busy = ["preparing", "training"].includes(this.status?.state);
    if (busy && Date.now() - this.heard > QUIET) this.refresh();
  }

  async send(what) {
    try {
      this.status = { ...this.status, wishes: [...this.status.wishes, what] };
      this.draw();
      await order(this.status.run, what);
    } catch (error) {
      complain("DreamBooth", error);
      this.refresh();
    }
  }

  draw() {
    const status = this.status;
    this.element.dataset.state = status?.state ?? "none";
    this.title.textContent = status ? this.describe(status) : "Not trained yet";
    const pieces = [pace(status?.speed), status?.left ? `${clock(status.left)} left` : ""];
    this.pace.textContent = status?.state === "training" ? pieces.filter(Boolean).join(" · ") : "";
    this.drawBar(status);
    this.facts.replaceChildren(...this.factsOf(status).map((text) => el("span", {}, text)));
    this.empty.hidden = Boolean(status?.run);
    this.chart.element.hidden = !status?.run;
    this.strip.set(status?.run ?? null, status?.pictures ?? [], status?.prompts ?? []);
    this.drawNotes(status);
    this.drawButtons(status);
  }

  describe(status) {
    const steps = status.total ? `${status.step} / ${status.total}` : "";
    if (status.phase) return status.of > 1 ? `${status.phase} ${status.done} / ${status.of}` : status.phase;
    return [STATES[status.state] ?? status.state, steps].filter(Boolean).join(" · ");
  }

  drawBar(status) {
    const preparing = status?.state === "preparing";
    const [done, of] = preparing ? [status.done, status.of] : [status?.step ?? 0, status?.total ?? 0];
    this.bar.hidden = !status;
    this.bar.value = of ? Math.min(done / of, 1) : 0;
    this.bar.setAttribute("aria-label", preparing ? status.phase : "steps");
  }

  factsOf(status) {
    if (!status?.run) return [];
    const facts = [status.run];
    if (isNumber(status.instanceLoss)) facts.push(`photos ${short(status.instanceLoss)}`);
    if (isNumber(status.classLoss)) facts.push(`class ${short(status.classLoss)}`);
    if (isNumber(status.rate)) facts.push(`rate ${short(status.rate)}`);
    const { used, total } = status.memory;
    if (status.state === "training" && isNumber(used)) facts.push(`memory ${bytes(used)} of ${bytes(total)}`);
    return facts;
  }

  drawNotes(status) {
    const saved = (status?.saved ?? []).filter((entry) => isNumber(entry[0]));
    const last = saved[saved.length - 1];
    const said = status?.notes ?? [];
    const kept = last ? [`saved ${last[1]} (${plural(last[0], "step")})`] : [];
    const over = status && status.state !== "training";
    // over: how it ended comes first; on the way: what came last is seen
    const lines = over ? [...said].reverse() : [...said, ...kept];
    const text = lines.join("\n");
    if (text === this.notes.textContent) return;
    this.notes.textContent = text;
    this.notes.hidden = !text;
    this.notes.scrollTop = status?.state === "training" ? this.notes.scrollHeight : 0;
  }

  drawButtons(status) {
    const going = status?.state === "training" && Boolean(status.run);
    ORDERS.forEach(([what, label, , soon], index) => {
      const wished = going && status.wishes.includes(what);
      this.buttons[index].disabled = !going || wished;
      this.buttons[index].lastChild.textContent = wished ? soon : label;
    });
  }

  remove() {
    clearInterval(this.clock);
    this.leave.forEach((stop) => stop());
    this.chart.remove();
  }
}
