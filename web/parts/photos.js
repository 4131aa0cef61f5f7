/** What DreamBooth Instance Images shows: every photo with its crop, its text and its marks. */

import { el } from "./elements.js";
import { plural } from "./format.js";
import { photoUrl, showPhotos } from "./server.js";

const SIDE = 192;
const TEXTS = {
  prompt: "Each trains with the concept's prompt.",
  "prompt + file": "Each trains with the concept's prompt, and its own text after it.",
};

export class PhotoGrid {
  /** @param identify () → {node, source}: who asks, and what its widgets say */
  constructor(identify) {
    this.identify = identify;
    this.said = el("p", { class: "db-none" });
    this.grid = el("div", { class: "db-photos" });
    this.skipped = el("ul", { class: "db-skipped" });
    this.element = el("div", { class: "db-root db-panel" }, this.said, this.grid, this.skipped);
    this.draw(null);
  }

  async refresh() {
    const { node, source } = this.identify();
    try {
      this.node = node;
      this.draw(await showPhotos(node, source));
    } catch (error) {
      console.warn("DreamBooth: the photos are not known:", error.message);
    }
  }

  draw(found) {
    const photos = found?.photos ?? [];
    this.version = Date.now(); // the same number may be another photo now
    const marked = photos.filter((photo) => photo.marks.length).length;
    const first = photos.length < (found?.total ?? 0) ? `, the first ${photos.length} shown` : "";
    const text = found ? (TEXTS[found.captions] ?? "") : "";
    this.said.textContent = found
      ? `${plural(found.total, "photo")}${first}, ${marked} with a remark. ${text}`
      : "Photos appear here when the graph has run.";
    this.grid.replaceChildren(...photos.map((photo, number) => this.entry(photo, number)));
    const lines = (found?.skipped ?? []).map(([name, reason]) =>
      el("li", {}, el("strong", {}, name), ` skipped: ${reason}`),
    );
    const remarks = (found?.remarks ?? []).map((remark) => el("li", {}, remark));
    this.skipped.replaceChildren(...lines, ...remarks);
    this.skipped.hidden = !lines.length && !remarks.length;
  }

  entry(photo, number) {
    const src = photoUrl(this.node, number, SIDE, this.version);
    const image = el("img", { src, loading: "lazy", alt: photo.name });
    const [left, top, width, height] = photo.crop.map((part) => `${part * 100}%`);
    const crop = el("span", { class: "db-crop" });
    Object.assign(crop.style, { left, top, width, height });
    const frame = el("div", { class: "db-frame", title: "The bright part trains" }, image, crop);
    const words = [
      el("strong", {}, photo.name),
      el("small", {}, `${photo.width} × ${photo.height}`),
      photo.caption && el("span", { class: "db-caption" }, photo.caption),
      ...photo.marks.map(([kind, text]) => {
        const mark = el("span", { class: "db-warn" }, text);
        mark.dataset.kind = kind;
        return mark;
      }),
    ];
    const caption = el("figcaption", {}, ...words.filter(Boolean));
    return el("figure", { class: "db-photo" }, frame, caption);
  }
}
