/** DOM elements in one call. Text is only ever text: a name with HTML in it shows as it is. */

const SVG = "http://www.w3.org/2000/svg";

function fill(node, properties, children) {
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node && key !== "class" && !(node instanceof SVGElement)) node[key] = value;
    else if (value !== undefined && value !== null) {
      node.setAttribute(key, value);
    }
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An element; `onclick: f` listens, other properties are set. Children: elements and texts. */
export function el(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same for SVG. */
export function svg(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

/** An icon of the host's font, unseen by readers of text. */
export function icon(name) {
  return el("i", { class: `pi pi-${name}`, "aria-hidden": "true" });
}

/** A button with a word and an icon. */
export function button(text, iconName, onclick, properties = {}) {
  const inside = [icon(iconName), el("span", {}, text)];
  return el("button", { type: "button", class: "db-button", onclick, ...properties }, ...inside);
}

/** Keys that act here must not act on the canvas, too. */
export function handled(event) {
  event.preventDefault();
  event.stopPropagation();
}
