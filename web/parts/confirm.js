/** Asks before something goes for good. */

import { el } from "./elements.js";

/** Resolves to null (no), or to whether the box was ticked. */
export function confirmDelete({ title, text, box }) {
  return new Promise((resolve) => {
    const ticked = el("input", { type: "checkbox", checked: true });
    const choice = box && el("label", { class: "db-check" }, ticked, el("span", {}, box));
    const no = el("button", { type: "button", class: "db-button" }, "Keep it");
    const yes = el("button", { type: "button", class: "db-button db-danger" }, "Delete");
    const dialog = el("dialog", { class: "db-root db-ask" });
    dialog.setAttribute("aria-label", title);
    const end = (answer) => {
      dialog.remove();
      resolve(answer);
    };
    no.addEventListener("click", () => end(null));
    yes.addEventListener("click", () => end(ticked.checked));
    dialog.addEventListener("close", () => end(null));
    dialog.addEventListener("keydown", (event) => event.stopPropagation());
    dialog.append(el("h2", {}, title), el("p", {}, text));
    if (choice) dialog.append(choice);
    dialog.append(el("div", { class: "db-row" }, no, yes));
    document.body.append(dialog);
    dialog.showModal();
    no.focus();
  });
}
