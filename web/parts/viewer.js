/** One preview large, beside the base's picture of the same prompt and seed: a slider between. */

import { button, el, handled } from "./elements.js";
import { pictureUrl } from "./server.js";

/** Opens over the page. `pictures`: of one prompt, in order; `index`: the one to begin with. */
export function openViewer({ run, prompt, pictures, index }) {
  const before = el("img", { class: "db-before", alt: "before training" });
  const after = el("img", { class: "db-after" });
  const stage = el("div", { class: "db-stage" }, after, before);
  const slider = el("input", { type: "range", min: 0, max: 100, value: 50, class: "db-slider" });
  slider.setAttribute("aria-label", "before and after");
  const title = el("h2", { class: "db-viewer-title" });
  const words = el("div", { class: "db-viewer-words" }, title, el("p", {}, prompt));
  const dialog = el("dialog", { class: "db-root db-viewer", onclose: () => dialog.remove() });
  dialog.setAttribute("aria-label", "Preview");
  const labels = el("div", { class: "db-ends" }, el("span", {}, "step 0"), el("span", {}));
  const compare = el("div", { class: "db-compare" }, labels, slider);
  const move = (by) => show(Math.min(Math.max(index + by, 0), pictures.length - 1));
  const earlier = button("Earlier", "chevron-left", () => move(-1));
  const later = button("Later", "chevron-right", () => move(1));
  const close = button("Close", "times", () => dialog.close());

  function split() {
    before.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
    stage.style.setProperty("--db-split", `${slider.value}%`);
  }

  function show(next) {
    index = next;
    const [step] = pictures[index];
    const base = pictures[0][0] === 0 && step !== 0 ? pictures[0] : null;
    title.textContent = step === 0 ? "Before training" : `After ${step} steps`;
    after.src = pictureUrl(run, pictures[index]);
    after.alt = title.textContent;
    if (base) before.src = pictureUrl(run, base);
    compare.hidden = before.hidden = !base;
    stage.classList.toggle("db-split", Boolean(base));
    labels.lastChild.textContent = `step ${step}`;
    earlier.disabled = index === 0;
    later.disabled = index === pictures.length - 1;
    split();
  }

  slider.addEventListener("input", split);
  dialog.addEventListener("keydown", (event) => {
    event.stopPropagation(); // the canvas has its own idea of most keys
    if (event.target === slider || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    handled(event);
    move(event.key === "ArrowLeft" ? -1 : 1);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.append(words, stage, compare, el("div", { class: "db-row" }, earlier, later, close));
  document.body.append(dialog);
  show(index);
  dialog.showModal();
  later.disabled ? close.focus() : later.focus();
}
