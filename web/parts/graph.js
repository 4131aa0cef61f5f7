/** Nodes of the graph that is open: by the ids that messages carry, and new ones. */

import { app } from "../../../scripts/app.js";

const root = () => app.rootGraph ?? app.graph;

/** The node of an id like "5", or "12:5" inside a subgraph; null if it is not here. */
export function nodeOf(id) {
  let graph = root();
  let node = null;
  for (const piece of String(id).split(":")) {
    node = graph?.getNodeById?.(/^\d+$/.test(piece) ? Number(piece) : piece) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/** The id that messages carry for a node; "" if it is in no graph that is open. */
export function idOf(node, graph = root(), prefix = "") {
  for (const other of graph?.nodes ?? graph?._nodes ?? []) {
    if (other === node) return `${prefix}${node.id}`;
    const inside = other.subgraph && idOf(node, other.subgraph, `${prefix}${other.id}:`);
    if (inside) return inside;
  }
  return "";
}

const LOADERS = {
  checkpoint: ["CheckpointLoaderSimple", "ckpt_name"],
  lora: ["LoraLoader", "lora_name"],
};

/** Drops a Load Checkpoint, or Load LoRA, with this file into the middle of what is seen. */
export async function addLoader(kind, name) {
  const [type, input] = LOADERS[kind];
  const node = LiteGraph.createNode(type);
  const widget = node.widgets.find((other) => other.name === input);
  const { canvas } = app;
  const [x, y, width, height] = canvas.visible_area;
  node.pos = [x + width / 2 - node.size[0] / 2, y + height / 2 - node.size[1] / 2];
  (canvas.graph ?? root()).add(node);
  if (!widget.options.values.includes?.(name)) await app.refreshComboInNodes();
  widget.value = name;
  widget.callback?.(name);
  canvas.selectNode?.(node);
  canvas.setDirty(true, true);
  return node;
}
