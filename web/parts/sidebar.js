/** The tab with all runs on disk, newest first, and the one that is opened. */

import { button, el, icon } from "./elements.js";
import { bytes, date, isNumber, short } from "./format.js";
import { listRuns, listen, onReconnected, pictureUrl } from "./server.js";
import { RunView } from "./run_view.js";
import { STATES } from "./states.js";

const PAGE = 30;

const stepsOf = (done, asked) => `${asked && done !== asked ? `${done} of ${asked}` : done} steps`;
const lossOf = (loss) => (isNumber(loss) ? `loss ${short(loss)}` : "");

export class RunsTab {
  constructor() {
    this.list = el("div", { class: "db-runs" });
    this.more = button("More", "angle-down", () => this.load(), { hidden: true });
    this.said = el("p", { class: "db-none" });
    this.again = button("Refresh", "refresh", () => this.refresh());
    this.count = el("span", { class: "db-pace" });
    const head = el("div", { class: "db-row db-between" }, this.count, this.again);
    this.all = el("div", { class: "db-all" }, head, this.said, this.list, this.more);
    this.element = el("div", { class: "db-root db-tab" }, this.all);
    this.seen = new IntersectionObserver(([entry]) => entry.isIntersecting && this.load());
    this.seen.observe(this.more);
    this.known = new Map();
    this.leave = [listen((status) => this.onStatus(status)), onReconnected(() => this.refresh())];
    this.refresh();
  }

  /** From the top; as many as are shown now. */
  async refresh() {
    const count = Math.max(PAGE, this.list.children.length);
    await this.fetch(0, Math.min(count, 200), true);
  }

  async load() {
    if (!this.more.hidden) await this.fetch(this.list.children.length, PAGE, false);
  }

  async fetch(start, count, anew) {
    if (this.busy) return;
    this.busy = true;
    try {
      const { total, runs } = await listRuns(start, count);
      const entries = runs.map((run) => this.entry(run));
      if (anew) this.list.replaceChildren(...entries);
      else this.list.append(...entries);
      this.count.textContent = total === 1 ? "1 run" : `${total} runs`;
      this.more.hidden = !runs.length || this.list.children.length >= total;
      this.said.textContent = total ? "" : "Nothing trained yet. Queue a graph with DreamBooth Train.";
    } catch (error) {
      this.said.textContent = `The runs cannot be read: ${error.message}`;
    } finally {
      this.busy = false;
      this.said.hidden = !this.said.textContent;
    }
  }

  entry(run) {
    const image = run.picture
      ? el("img", { src: pictureUrl(run.name, run.picture, 160), loading: "lazy", alt: "" })
      : el("span", { class: "db-blank" }, icon("image"));
    const words = el(
      "span",
      { class: "db-words" },
      el("strong", {}, run.name),
      el("span", {}, run.subject),
      el("span", { class: "db-steps" }, stepsOf(run.steps ?? 0, run.asked)),
      el("small", { class: "db-loss" }, [lossOf(run.loss), bytes(run.bytes)].filter(Boolean).join(" · ")),
      el("small", {}, date(run.changed)),
    );
    const state = el("span", { class: "db-state" }, STATES[run.state] ?? run.state);
    state.dataset.state = run.state;
    const made = el("button", { type: "button", class: "db-entry-run" }, image, words, state);
    made.addEventListener("click", () => this.open(run.name));
    made.dataset.run = run.name;
    return made;
  }

  /** A run that goes on counts its steps in the list; one that begins or ends is a new list. */
  onStatus(status) {
    if (!status.run) return;
    const before = this.known.get(status.run);
    this.known.set(status.run, status.state);
    const entry = [...this.list.children].find((child) => child.dataset.run === status.run);
    if (before !== status.state || !entry) this.refresh();
    else if (entry) {
      entry.querySelector(".db-steps").textContent = stepsOf(status.step, status.total);
    }
  }

  open(name) {
    this.view?.remove();
    this.view = new RunView(name, () => this.close());
    this.element.replaceChildren(this.view.element);
    this.view.element.querySelector("button").focus();
  }

  close() {
    const name = this.view?.name;
    this.view?.remove();
    this.view = null;
    this.element.replaceChildren(this.all);
    this.refresh().then(() => {
      [...this.list.children].find((child) => child.dataset.run === name)?.focus();
    });
  }

  remove() {
    this.seen.disconnect();
    this.leave.forEach((stop) => stop());
    this.view?.remove();
  }
}
