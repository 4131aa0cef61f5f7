/** The nodes' words in the page's language.
 *
 * Front ends before ComfyUI_frontend#7214 drop a pack's translations when the language's own
 * messages load after them. Words that stand in the definitions cannot be dropped.
 */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

/** Writes names, descriptions and tooltips into the definitions of our nodes. */
export async function translate(definitions) {
  const language = app.extensionManager?.setting?.get("Comfy.Locale");
  if (!language || language === "en") return;
  const answer = await api.fetchApi("/i18n");
  const nodes = answer.ok ? (await answer.json())[language]?.nodeDefs : null;
  for (const [kind, texts] of Object.entries(nodes ?? {})) {
    if (kind.startsWith("DreamBooth") && definitions[kind]) say(definitions[kind], texts);
  }
}

function say(definition, texts) {
  definition.display_name = texts.display_name ?? definition.display_name;
  definition.description = texts.description ?? definition.description;
  for (const group of Object.values(definition.input ?? {})) {
    for (const [name, input] of Object.entries(group)) {
      const tooltip = texts.inputs?.[name.replaceAll(".", "_")]?.tooltip;
      if (tooltip && input[1]) input[1].tooltip = tooltip;
    }
  }
  for (const [number, { tooltip }] of Object.entries(texts.outputs ?? {})) {
    if (tooltip && definition.output_tooltips) definition.output_tooltips[number] = tooltip;
  }
}
