// One message as a DOM node: author, content, files, reactions, thread line, what can be done with it.

import { blockNodes } from "./blocks.js";
import { clockTime, el, emoji, sign } from "./dom.js";
import { mrkdwn } from "./mrkdwn.js";

const QUICK = ["+1", "eyes", "white_check_mark", "octagonal_sign"];

// `desk` knows the workspace and acts for the person; `options`: thread (bool), compact (bool), replies (array).
export function messageNode(message, desk, options = {}) {
  const node = el("article", { class: "message", "data-testid": "message", "data-ts": message.ts, "data-channel": message.channel });
  if (options.compact) node.classList.add("compact");
  if (message.is_ephemeral) node.classList.add("ephemeral");
  if (message.streaming_state === "in_progress") node.classList.add("streaming");
  const author = desk.user(message.user);
  node.append(
    options.compact ? el("time", { class: "side" }, clockTime(message.ts)) : avatar(author),
    el("div", { class: "content" },
      options.compact ? "" : headline(message, author),
      message.is_ephemeral ? el("div", { class: "only-you" }, sign("eye"), " Only visible to you") : "",
      el("div", { class: "body", "data-testid": "body" }, body(message, desk)),
      (message.files ?? []).map(fileCard),
      reactions(message, desk),
      options.thread || message.is_ephemeral ? "" : threadLine(message, desk, options.replies ?? [])),
    message.is_ephemeral || message.subtype === "tombstone" ? "" : toolbar(message, desk, options));
  return node;
}

function avatar(author) {
  const letters = author.real_name.split(/\s+/).map((part) => part[0] ?? "").join("").slice(0, 2).toUpperCase();
  const mark = el("div", { class: author.is_bot ? "avatar bot" : "avatar", "aria-hidden": "true" }, letters);
  mark.style.setProperty("--mark", "#" + author.color);
  return mark;
}

function headline(message, author) {
  const badge = author.is_bot ? el("span", { class: "badge" }, "APP") : "";
  return el("div", { class: "headline" }, el("b", {}, author.is_bot ? author.real_name : author.name), badge, el("time", {}, clockTime(message.ts)));
}

function body(message, desk) {
  const act = async (press) => desk.act({ do: "click", ts: message.ts, ...press });
  const context = { names: desk.names(), users: desk.state.users, channels: desk.state.channels, act };
  // What a person typed is read as its text: its block says the same without the markup.
  const blocks = message.bot_id && message.blocks?.length ? blockNodes(message.blocks, context) : [];
  const text = blocks.length || !message.text ? [] : [mrkdwn(message.text, context.names)];
  const edited = message.edited ? [el("span", { class: "edited" }, "(edited)")] : [];
  const broken = message.expired ? [el("div", { class: "edited" }, "⚠ This answer broke off.")] : [];
  const attachments = (message.attachments ?? []).map((each) =>
    el("div", { class: "attachment" }, each.text ? mrkdwn(each.text, context.names) : "", blockNodes(each.blocks, context)));
  return [...blocks, ...text, ...attachments, ...edited, ...broken];
}

const PICTURES = ["image/png", "image/jpeg", "image/gif", "image/webp"];

function fileCard(file) {
  if (file.mode === "tombstone") return el("div", { class: "file" }, "This file was deleted.");
  if (file.mode === "file_access") return el("div", { class: "file" }, "A file from another workspace.");
  if (PICTURES.includes(file.mimetype)) {
    return el("figure", { class: "picture" }, el("figcaption", {}, file.title || file.name),
      el("a", { href: `/page/files/${file.id}`, download: file.name },
        el("img", { src: `/page/files/${file.id}`, alt: file.title || file.name })));
  }
  return el("a", { class: "file", href: `/page/files/${file.id}`, download: file.name },
    el("b", {}, file.title || file.name), el("span", {}, `${file.filetype} · ${size(file.size)}`));
}

const size = (bytes) => (bytes < 1024 ? `${bytes} B` : bytes < 1048576 ? `${Math.round(bytes / 1024)} kB` : `${(bytes / 1048576).toFixed(1)} MB`);

function reactions(message, desk) {
  if (!message.reactions?.length) return "";
  return el("div", { class: "reactions" }, message.reactions.map((reaction) =>
    el("button", {
      class: reaction.users.includes(desk.state.me) ? "reaction mine" : "reaction",
      title: reaction.users.map((id) => desk.user(id).name).join(", "),
      onclick: () => desk.act({ do: "react", ts: message.ts, name: reaction.name }),
    }, `${emoji(reaction.name)} ${reaction.count}`)));
}

function threadLine(message, desk, replies) {
  if (!replies.length) return "";
  const people = [...new Set(replies.map((reply) => reply.user))].slice(0, 3);
  return el("button", { class: "thread-line", "data-testid": "open-thread", onclick: () => desk.openThread(message) },
    people.map((id) => avatar(desk.user(id))), el("b", {}, replies.length === 1 ? "1 reply" : `${replies.length} replies`),
    el("span", {}, `Last at ${clockTime(replies[replies.length - 1].ts)}`));
}

function toolbar(message, desk, options) {
  const tool = (label, title, onclick, testid) => el("button", { title, "aria-label": title, onclick, "data-testid": testid }, label);
  const tools = QUICK.map((name) => tool(emoji(name), `React with :${name}:`, () => desk.act({ do: "react", ts: message.ts, name })));
  if (!options.thread) {
    const testid = options.replies?.length ? "reply" : "open-thread";
    tools.push(tool(sign("reply"), "Reply in thread", () => desk.openThread(message), testid));
  }
  for (const shortcut of desk.shortcuts()) {
    tools.push(tool([sign("bolt"), " " + shortcut.name], shortcut.name, () => desk.act({ do: "shortcut", callback_id: shortcut.callback_id, ts: message.ts }), "shortcut"));
  }
  if (message.user === desk.state.me) {
    tools.push(tool(sign("edit"), "Edit", () => desk.editMessage(message), "edit"));
    tools.push(tool(sign("trash"), "Delete", () => desk.act({ do: "delete", ts: message.ts }), "delete"));
  }
  return el("div", { class: "toolbar" }, tools);
}
