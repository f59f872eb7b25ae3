// Modals that an app opened: shown, filled in, submitted.

import { blockNodes } from "./blocks.js";
import { el, sign } from "./dom.js";

export function modalNode(view, desk) {
  const act = (press) => desk.act({ do: "click", view: view.id, ...press });
  const suggest = (wish) => desk.act({ do: "suggest", view: view.id, ...wish });
  const context = { names: desk.names(), users: desk.state.users, channels: desk.state.channels, act, suggest };
  const close = () => desk.act({ do: "close", view: view.id });
  const form = el("form", { class: "modal", "data-testid": "modal", "data-view": view.id, role: "dialog", "aria-modal": "true", "aria-label": view.title?.text },
    el("header", {}, el("h2", {}, view.title?.text ?? ""), el("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: close }, sign("close"))),
    el("div", { class: "modal-body" }, blockNodes(view.blocks, context)),
    el("footer", {}, el("span", { class: "error", "data-testid": "modal-error" }),
      el("button", { type: "button", class: "button", "data-testid": "modal-close", onclick: close }, view.close?.text ?? "Cancel"),
      view.submit ? el("button", { type: "submit", class: "button primary", "data-testid": "modal-submit" }, view.submit.text) : ""));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit(form, view, desk);
  });
  return el("div", { class: "veil" }, form);
}

async function submit(form, view, desk) {
  const values = Object.fromEntries([...form.querySelectorAll("[name]:not([type=radio])")].map((input) => [input.name, input.value]));
  form.querySelectorAll(".error").forEach((node) => node.replaceChildren());
  const missing = view.blocks.filter((block) => block.type === "input" && !block.optional && !values[block.element.action_id]);
  const errors = Object.fromEntries(missing.map((block) => [block.block_id, "Please fill in this field."]));
  const answer = missing.length ? { ok: false, errors } : await desk.act({ do: "submit", view: view.id, values });
  if (answer.ok) return;
  for (const [block, text] of Object.entries(answer.errors ?? {})) {
    form.querySelector(`[data-error-of="${CSS.escape(block)}"]`)?.replaceChildren(text);
  }
  if (!answer.errors) form.querySelector("[data-testid=modal-error]").replaceChildren(`That did not work: ${answer.error}`);
}
