/** The page of ComfyUI-DreamBooth: what Train and Instance Images show, and a tab with all runs. */

import { app } from "../../scripts/app.js";
import { idOf, nodeOf } from "./parts/graph.js";
import { translate } from "./parts/language.js";
import { TrainPanel } from "./parts/panel.js";
import { PhotoGrid } from "./parts/photos.js";
import { RunsTab } from "./parts/sidebar.js";

const TRAIN = "DreamBoothTrain";
const PHOTOS = "DreamBoothInstanceImages";
const WIDTH = 420;
const HEIGHT = 450;
const PHOTOS_HEIGHT = 300;

function addStyle() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./dreambooth.css", import.meta.url).href;
  document.head.append(link);
}

/** The name as it stands on the node; null where it comes over a wire. */
function nameOn(node) {
  if (node.inputs?.some((input) => input.name === "name" && input.link != null)) return null;
  const value = node.widgets?.find((widget) => widget.name === "name")?.value;
  return typeof value === "string" ? value.trim() : null;
}

function addPanel(node) {
  const isMine = (status) => {
    const name = nameOn(node);
    return nodeOf(status.node) === node && (name === null || name === status.asked);
  };
  const panel = new TrainPanel(() => ({ node: idOf(node), name: nameOn(node) }), isMine);
  place(node, panel.element, HEIGHT);
  node.dreambooth = panel;
  followName(node, panel);
  const removed = node.onRemoved;
  node.onRemoved = function (...args) {
    panel.remove();
    return removed?.apply(this, args);
  };
}

/** Puts an element at the node's end; the host's own pictures and words would say it twice. */
function place(node, element, height) {
  const options = { serialize: false, hideOnZoom: false, getMinHeight: () => height };
  const widget = node.addDOMWidget("dreambooth_panel", "dreambooth_panel", element, options);
  widget.serialize = false;
  node.setSize([Math.max(node.size[0], WIDTH), Math.max(node.size[1], node.computeSize()[1])]);
  node.onDrawBackground = () => hideText(node);
}

/** The photos, when the node has read them. */
function addPhotos(node) {
  const valueOf = (name) => node.widgets?.find((widget) => widget.name === name)?.value ?? "";
  const isWired = () => node.inputs?.some((input) => input.name === "images" && input.link != null);
  const source = () => (isWired() ? "(wire)" : String(valueOf("path")).trim() || valueOf("folder"));
  const grid = new PhotoGrid(() => ({ node: idOf(node), source: source() }));
  place(node, grid.element, PHOTOS_HEIGHT);
  node.dreambooth = grid;
  const executed = node.onExecuted;
  node.onExecuted = function (...args) {
    grid.refresh();
    return executed?.apply(this, args);
  };
}

/** The host's line of text under the node. */
function hideText(node) {
  const line = node.widgets?.find((widget) => widget.name === "$$node-text-preview");
  if (!line || line.hidden) return;
  line.hidden = true;
  line.computeLayoutSize = () => ({ minHeight: 0, maxHeight: 0, minWidth: 0 });
}

/** Another name is about another run. */
function followName(node, panel) {
  const widget = node.widgets?.find((other) => other.name === "name");
  if (!widget) return;
  const before = widget.callback;
  let waiting;
  widget.callback = function (...args) {
    clearTimeout(waiting);
    waiting = setTimeout(() => panel.refresh(), 300);
    return before?.apply(this, args);
  };
}

function addTab() {
  const tabs = app.extensionManager?.sidebarTab ?? app.extensionManager;
  let tab;
  tabs?.registerSidebarTab?.({
    id: "dreambooth",
    icon: "pi pi-graduation-cap",
    title: "DreamBooth",
    tooltip: "DreamBooth: what was trained",
    type: "custom",
    render(element) {
      tab?.remove();
      tab = new RunsTab();
      element.replaceChildren(tab.element);
    },
    destroy() {
      tab?.remove();
      tab = undefined;
    },
  });
}

app.registerExtension({
  name: "DreamBooth",
  addCustomNodeDefs: (definitions) => translate(definitions).catch(console.warn),
  setup() {
    addStyle();
    addTab();
  },
  nodeCreated(node) {
    if (!node.addDOMWidget) return;
    if (node.comfyClass === TRAIN) addPanel(node);
    else if (node.comfyClass === PHOTOS) addPhotos(node);
    else return;
    // its id and its widgets' values come with the graph, a moment later
    setTimeout(() => node.graph && node.dreambooth.refresh());
  },
});
