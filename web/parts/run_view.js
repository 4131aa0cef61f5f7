/** One run in the sidebar: losses, pictures, checkpoints, settings. */

import { LossChart } from "./chart.js";
import { confirmDelete } from "./confirm.js";
import { button, el } from "./elements.js";
import { bytes, clock, date, isNumber, plural, short } from "./format.js";
import { addLoader } from "./graph.js";
import { complain, deleteRun, listen, showLog, showRun } from "./server.js";
import { STATES } from "./states.js";
import { PictureStrip } from "./strip.js";

export class RunView {
  /** @param back () → called to leave; after a deletion, too */
  constructor(name, back) {
    Object.assign(this, { name, back });
    this.chart = new LossChart();
    this.strip = new PictureStrip();
    this.facts = el("dl", { class: "db-list" });
    this.files = el("div", { class: "db-files" });
    this.settings = el("div", {});
    const title = el("h2", { class: "db-run-title" }, name);
    const leave = button("All runs", "arrow-left", () => back());
    this.remove_ = button("Delete", "trash", () => this.delete(), { class: "db-button db-danger" });
    const parts = [title, this.facts, this.chart.element, this.strip.element, this.files, this.settings];
    const head = el("div", { class: "db-row db-between" }, leave, this.remove_);
    this.element = el("div", { class: "db-run" }, head, ...parts);
    this.leave = listen((status) => status.run === name && this.onStatus(status));
    this.refresh();
  }

  async refresh() {
    try {
      const [run, points] = await Promise.all([showRun(this.name), showLog(this.name)]);
      this.run = run;
      this.chart.set(points, run.asked ?? 0);
      this.draw();
    } catch (error) {
      complain("DreamBooth", error);
      this.back();
    }
  }

  onStatus(status) {
    this.chart.add(status.points, status.total);
    this.strip.set(this.name, status.pictures, status.prompts);
    if (this.run && (status.state !== this.run.state || status.saved.length !== this.saved)) {
      this.saved = status.saved.length;
      this.refresh();
    }
  }

  draw() {
    const run = this.run;
    const loss = isNumber(run.loss) ? short(run.loss) : null;
    const rows = [
      ["Subject", run.subject],
      ["State", STATES[run.state] ?? run.state],
      ["Steps", run.asked && run.steps !== run.asked ? `${run.steps ?? 0} of ${run.asked}` : run.steps],
      ["Final loss", loss && `${loss} (photos, last 20 steps)`],
      ["Time", run.seconds ? clock(run.seconds) : null],
      ["Changed", date(run.changed)],
      ["Size", bytes(run.bytes)],
    ].filter(([, value]) => value !== null && value !== undefined && value !== "");
    this.facts.replaceChildren(...rows.flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, String(value))]));
    this.strip.set(run.name, run.pictures, run.prompts);
    this.remove_.disabled = run.state === "training";
    this.drawFiles(run.checkpoints);
    this.drawSettings(run.settings);
  }

  drawFiles(checkpoints) {
    const entries = checkpoints.map((file) => {
      const steps = file.step === null ? "the result" : plural(file.step, "step");
      const words = el("span", { class: "db-file" }, file.file, el("small", {}, `${steps} · ${bytes(file.bytes)}`));
      const use = button("Use in graph", "plus", () => this.use(file));
      use.title = `Adds a ${file.kind === "lora" ? "Load LoRA" : "Load Checkpoint"} with ${file.name}`;
      return el("div", { class: "db-row db-between" }, words, use);
    });
    const nothing = el("p", { class: "db-none" }, "No checkpoint: it was deleted, or the run kept none.");
    this.files.replaceChildren(el("h3", {}, "Checkpoints"), ...(entries.length ? entries : [nothing]));
  }

  drawSettings(settings) {
    const say = (value) => (value === "" ? "(empty)" : value === null ? "–" : String(value));
    const table = (rows) =>
      el("dl", { class: "db-list" }, ...rows.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, say(v))]));
    const changed = settings.filter(([, value, usual]) => value !== usual);
    const all = el("details", {}, el("summary", {}, `All ${settings.length} settings`), table(settings));
    const none = el("p", { class: "db-none" }, "All as they come.");
    this.settings.replaceChildren(
      el("h3", {}, "Settings that were changed"),
      changed.length ? table(changed) : none,
      all,
    );
  }

  async use(file) {
    try {
      await addLoader(file.kind, file.name);
    } catch (error) {
      complain("DreamBooth", error);
    }
  }

  async delete() {
    const files = this.run?.checkpoints ?? [];
    const size = files.reduce((sum, file) => sum + file.bytes, 0);
    const answer = await confirmDelete({
      title: `Delete ${this.name}?`,
      text: "Its pictures, losses and the state it could go on from are removed for good.",
      box: files.length ? `also its ${plural(files.length, "checkpoint")} (${bytes(size)})` : "",
    });
    if (answer === null) return;
    try {
      await deleteRun(this.name, answer && files.length > 0);
      this.back();
    } catch (error) {
      complain("DreamBooth", error);
      this.refresh();
    }
  }

  remove() {
    this.leave();
    this.chart.remove();
  }
}
