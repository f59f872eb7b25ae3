// Block Kit blocks as DOM nodes. `context` gives names and what to do when something is pressed.

import { el, emoji, emojify, link } from "./dom.js";
import { markdown } from "./markdown.js";
import { mrkdwn } from "./mrkdwn.js";

export function blockNodes(blocks, context) {
  return (blocks ?? []).map((block) => (KINDS[block.type] ?? unknown)(block, context));
}

const plain = (object) => (typeof object === "string" ? object : emojify(object?.text ?? ""));

function textObject(object, context) {
  if (object?.type === "mrkdwn") return mrkdwn(object.text, context.names);
  return el("div", { class: "text" }, plain(object));
}

const KINDS = {
  markdown: (block, context) => markdown(block.text, context.names),
  header: (block) => el("h3", { class: "header" }, plain(block.text)),
  divider: () => el("hr"),
  section: (block, context) =>
    el("div", { class: "section" },
      el("div", { class: "grow" },
        block.text ? textObject(block.text, context) : "",
        block.fields ? el("div", { class: "fields" }, block.fields.map((field) => textObject(field, context))) : ""),
      block.accessory ? element(block.accessory, block, context) : ""),
  context: (block, context) =>
    el("div", { class: "context" }, block.elements.map((item) => (item.type === "image" ? picture(item) : textObject(item, context)))),
  actions: (block, context) => el("div", { class: "actions" }, block.elements.map((item) => element(item, block, context))),
  context_actions: (block, context) => KINDS.actions(block, context),
  image: (block) => el("figure", {}, block.title ? el("figcaption", {}, plain(block.title)) : "", picture(block)),
  rich_text: (block, context) => el("div", { class: "text" }, block.elements.map((item) => rich(item, context))),
  plan: (block, context) =>
    el("div", { class: "plan" }, block.title ? el("div", { class: "plan-title" }, plain(block.title)) : "",
      (block.tasks ?? []).map((task) => KINDS.task_card(task, context))),
  task_card: (block, context) =>
    el("div", { class: `task-card ${block.status ?? "pending"}` },
      el("div", { class: "task-title" }, el("span", { class: "task-mark", "aria-label": block.status ?? "pending" }), plain(block.title)),
      ["details", "output"].filter((name) => block[name]).map((name) => el("div", { class: `task-${name}` }, inner(block[name], context))),
      block.sources?.length ? el("div", { class: "task-sources" }, block.sources.map((source) => link(source.url, source.text ?? source.url))) : ""),
  table: (block, context) =>
    el("div", { class: "table" }, el("table", {}, block.rows.map((row, index) =>
      el("tr", {}, row.map((cell) => el(index ? "td" : "th", {}, inner(cell, context))))))),
  alert: (block, context) => el("div", { class: "alert" }, textObject(block.text, context)),
  input: (block, context) => field(block, context),
  file: () => "",
};

const unknown = (block) => el("div", { class: "context" }, `(${block.type})`);
const inner = (value, context) => (value?.type === "rich_text" ? KINDS.rich_text(value, context) : textObject(value, context));
const picture = (item) => el("img", { src: item.image_url ?? "", alt: item.alt_text ?? "", loading: "lazy" });

// --- elements

export function element(item, block, context) {
  if (item.type === "button" || item.type === "workflow_button") return button(item, block, context);
  if (item.type === "feedback_buttons") {
    return el("span", {}, [item.positive_button, item.negative_button].filter(Boolean).map((each) =>
      button({ ...each, action_id: item.action_id }, block, context)));
  }
  if (item.type === "image") return picture(item);
  if (/^(checkboxes|radio_buttons)$/.test(item.type)) return boxes(item, block, context);
  if (/select$|^overflow$/.test(item.type)) return menu(item, block, context);
  return el("span", { class: "context" }, `(${item.type})`);
}

function button(item, block, context) {
  const press = async (event) => {
    if (item.confirm && !window.confirm(`${plain(item.confirm.title)}\n\n${plain(item.confirm.text)}`)) return;
    const pressed = event.currentTarget;
    pressed.disabled = true;
    pressed.classList.add("busy");
    await context.act({ action_id: item.action_id, block_id: block.block_id });
    pressed.disabled = false;
    pressed.classList.remove("busy");
  };
  const label = plain(item.text);
  const attributes = { class: `button ${item.style ?? ""}`, type: "button", "data-action-id": item.action_id, onclick: press };
  return item.url ? el("a", { ...attributes, href: item.url, target: "_blank", rel: "noopener noreferrer" }, label) : el("button", attributes, label);
}

const choices = (item, context) => {
  if (item.type.includes("users")) return Object.entries(context.users ?? {}).map(([id, user]) => [id, user.real_name]);
  if (/conversations|channels/.test(item.type)) return (context.channels ?? []).map((channel) => [channel.id, "#" + channel.name]);
  const groups = (item.option_groups ?? []).flatMap((group) => group.options);
  return [...(item.options ?? []), ...groups].map((option) => [option.value, plain(option.text)]);
};

function menu(item, block, context) {
  const first = item.type === "overflow" ? "⋯" : plain(item.placeholder) || "Choose…";
  const start = item.initial_option?.value ?? item.initial_user ?? item.initial_channel ?? item.initial_conversation ?? "";
  const chosen = (event) => context.act?.({ action_id: item.action_id, block_id: block.block_id, value: event.target.value });
  const node = el("select", { "data-action-id": item.action_id, name: item.action_id, onchange: chosen },
    el("option", { value: "" }, first), choices(item, context).map(([value, label]) => el("option", { value }, label)));
  node.value = start;
  return node;
}

// Check boxes and radio buttons. A hidden field holds the values, separated by commas, for the modal's form.
function boxes(item, block, context) {
  const type = item.type === "checkboxes" ? "checkbox" : "radio";
  const initial = new Set([...(item.initial_options ?? []), item.initial_option].filter(Boolean).map((option) => option.value));
  const held = el("input", { type: "hidden", name: item.action_id, value: [...initial].join(",") });
  const group = `${block.block_id}-${item.action_id}`;
  const changed = (event) => {
    event.stopPropagation();
    held.value = [...node.querySelectorAll("[data-value]")].filter((box) => box.checked).map((box) => box.dataset.value).join(",");
    context.act?.({ action_id: item.action_id, block_id: block.block_id, value: held.value });
  };
  const node = el("div", { class: "boxes", "data-action-id": item.action_id, onchange: changed }, held,
    item.options.map((option) => el("label", { class: "box" },
      el("input", { type, name: type === "radio" ? `box ${group}` : null, "data-value": option.value, checked: initial.has(option.value) }),
      el("span", {}, textObject(option.text, context), option.description ? el("span", { class: "hint" }, plain(option.description)) : ""))));
  return node;
}

// --- inputs of modals

function field(block, context) {
  const item = block.element;
  const id = `in-${block.block_id}`;
  const optional = block.optional ? el("span", { class: "optional" }, " (optional)") : "";
  const grouped = /^(checkboxes|radio_buttons)$/.test(item.type);  // each box has a label of its own
  return el(grouped ? "div" : "label", { class: "field", for: grouped ? null : id }, el("span", {}, plain(block.label), optional), control(item, block, id, context),
    block.hint ? el("span", { class: "hint" }, plain(block.hint)) : "", el("span", { class: "error", "data-error-of": block.block_id }));
}

function control(item, block, id, context) {
  const common = { id, name: item.action_id, placeholder: plain(item.placeholder), "data-action-id": item.action_id };
  if (/^(checkboxes|radio_buttons)$/.test(item.type)) return boxes(item, block, { ...context, act: undefined });
  if (item.type === "external_select") return search(item, common, context);
  if (/select$/.test(item.type)) {
    const node = menu(item, block, { ...context, act: undefined });
    node.id = id;
    return node;
  }
  if (item.type === "plain_text_input" && item.multiline) return el("textarea", { ...common, rows: "4" }, item.initial_value ?? "");
  const type = { datepicker: "date", timepicker: "time", number_input: "number", email_text_input: "email", url_text_input: "url" }[item.type] ?? "text";
  return el("input", { ...common, type, value: item.initial_value ?? item.initial_date ?? item.initial_time ?? "" });
}

// A select whose options the app answers with while somebody types. What stands in the field is an option's value.
function search(item, common, context) {
  const list = `${common.id}-options`;
  const options = el("datalist", { id: list });
  let newest = 0;
  const ask = async (event) => {
    const typed = event.target.value;
    const mine = ++newest;
    if (typed.length < (item.min_query_length ?? 3)) return;
    const answer = await context.suggest({ action_id: item.action_id, typed });
    if (mine !== newest) return;
    options.replaceChildren(...(answer.options ?? []).map((one) => el("option", { value: one.value }, plain(one.text))));
  };
  return el("span", {}, el("input", { ...common, list, autocomplete: "off", oninput: ask, onfocus: ask }), options);
}

// --- rich text

function rich(item, context) {
  const children = () => (item.elements ?? []).map((each) => rich(each, context));
  switch (item.type) {
    case "rich_text_section": return el("div", {}, children());
    case "rich_text_preformatted": return el("pre", {}, el("code", {}, children()));
    case "rich_text_quote": return el("blockquote", {}, children());
    case "rich_text_list": return el(item.style === "ordered" ? "ol" : "ul", { class: `indent-${item.indent ?? 0}` },
      (item.elements ?? []).map((each) => el("li", {}, (each.elements ?? []).map((leaf) => rich(leaf, context)))));
    case "link": return link(item.url, item.text ?? item.url);
    case "user": return el("span", { class: "mention" }, "@" + (context.names[item.user_id] ?? item.user_id));
    case "channel": return el("span", { class: "mention" }, "#" + (context.names[item.channel_id] ?? item.channel_id));
    case "broadcast": return el("span", { class: "mention broadcast" }, "@" + item.range);
    case "emoji": return emoji(item.name);
    default: return styled(item.text ?? "", item.style ?? {});
  }
}

function styled(text, style) {
  let node = style.code ? el("code", {}, text) : emojify(text);
  if (style.bold) node = el("b", {}, node);
  if (style.italic) node = el("i", {}, node);
  if (style.strike) node = el("s", {}, node);
  return node;
}
