/** The previews of a run in a row: small, in order, each opens large. */

import { el } from "./elements.js";
import { pictureUrl } from "./server.js";
import { openViewer } from "./viewer.js";

const SIDE = 160;
const MOST = 60; // beside each other; of more, an even choice

/** First, last, and evenly between them. */
export function choose(pictures, most) {
  if (pictures.length <= most) return pictures;
  const pace = (pictures.length - 1) / (most - 1);
  return Array.from({ length: most }, (_, n) => pictures[Math.round(n * pace)]);
}

export class PictureStrip {
  constructor() {
    this.prompt = 0;
    this.row = el("div", { class: "db-strip" });
    this.choice = el("select", { class: "db-choice", title: "Prompt of the previews" });
    this.choice.addEventListener("change", () => {
      this.prompt = Number(this.choice.value);
      this.draw();
    });
    this.element = el("div", { class: "db-pictures", hidden: true }, this.choice, this.row);
    this.set(null, [], []);
  }

  set(run, pictures, prompts) {
    const shown = JSON.stringify([run, pictures, prompts]);
    if (shown === this.shown) return;
    Object.assign(this, { shown, run, pictures, prompts });
    const numbers = [...new Set(pictures.map((pair) => pair[1]))].sort((a, b) => a - b);
    if (!numbers.includes(this.prompt)) this.prompt = numbers[0] ?? 0;
    const options = numbers.map((n) =>
      el("option", { value: n, selected: n === this.prompt }, prompts[n] || `prompt ${n + 1}`),
    );
    this.choice.replaceChildren(...options);
    this.choice.hidden = numbers.length < 2;
    this.element.hidden = !numbers.length;
    this.draw();
  }

  /** Pictures that stay keep their elements: nothing flickers while a run goes on. */
  draw() {
    const known = new Map([...this.row.children].map((child) => [child.dataset.key, child]));
    const mine = this.pictures.filter((pair) => pair[1] === this.prompt);
    const atEnd = this.row.scrollLeft + this.row.clientWidth >= this.row.scrollWidth - 40;
    const shown = choose(mine, MOST).map((pair) => {
      const key = JSON.stringify([this.run, pair]);
      return known.get(key) ?? this.entry(pair, key);
    });
    this.row.replaceChildren(...shown);
    if (atEnd) this.row.scrollLeft = this.row.scrollWidth;
  }

  entry(pair, key) {
    const label = pair[0] === 0 ? "before" : String(pair[0]);
    const image = el("img", { src: pictureUrl(this.run, pair, SIDE), loading: "lazy", alt: "" });
    const caption = el("span", {}, label);
    const made = el("button", { type: "button", class: "db-picture" }, image, caption);
    made.title = pair[0] === 0 ? "Before training" : `After ${pair[0]} steps`;
    made.setAttribute("aria-label", made.title);
    made.dataset.key = key;
    made.addEventListener("click", () => this.open(pair));
    return made;
  }

  open(pair) {
    const pictures = this.pictures.filter((other) => other[1] === pair[1]);
    const index = pictures.findIndex((other) => other[0] === pair[0]);
    const prompt = this.prompts[pair[1]] ?? "";
    openViewer({ run: this.run, prompt, pictures, index });
  }
}
