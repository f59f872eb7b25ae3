// Slack's own light markup (`*bold*`, `<url|label>`, …) as DOM nodes.

import { el, emojify, link } from "./dom.js";

const REFERENCE = /<([@#!][^<>\n]+|(?:https?:\/\/|mailto:)[^<>\n]+)>/;

export const unescape = (text) => text.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");

// One `<…>` reference as a node; `names` maps ids of users and channels to names.
export function reference(inner, names) {
  const [target, label] = inner.split("|", 2);
  if (target[0] === "@") return el("span", { class: "mention" }, "@" + (names[target.slice(1)] ?? label ?? target.slice(1)));
  if (target[0] === "#") return el("span", { class: "mention" }, "#" + (names[target.slice(1)] ?? label ?? target.slice(1)));
  if (target[0] === "!") return el("span", { class: "mention broadcast" }, label ?? "@" + target.slice(1).split("^")[0]);
  return link(unescape(target), unescape(label ?? target));
}

const INLINE = [
  { find: /`([^`\n]+)`/, make: (m) => el("code", {}, unescape(m[1])) },
  { find: REFERENCE, make: (m, names) => reference(m[1], names) },
  { find: /(?<![\p{L}\p{N}*])\*(\S(?:[^*\n]*\S)?)\*(?![\p{L}\p{N}*])/u, make: (m, names) => el("b", {}, inline(m[1], names)) },
  { find: /(?<![\p{L}\p{N}_])_(\S(?:[^_\n]*\S)?)_(?![\p{L}\p{N}_])/u, make: (m, names) => el("i", {}, inline(m[1], names)) },
  { find: /(?<![\p{L}\p{N}~])~(\S(?:[^~\n]*\S)?)~(?![\p{L}\p{N}~])/u, make: (m, names) => el("s", {}, inline(m[1], names)) },
];

function inline(text, names) {
  let first = null;
  for (const rule of INLINE) {
    const match = rule.find.exec(text);
    if (match && (!first || match.index < first.match.index)) first = { rule, match };
  }
  if (!first) return [emojify(unescape(text))];
  const { rule, match } = first;
  const rest = text.slice(match.index + match[0].length);
  return [emojify(unescape(text.slice(0, match.index))), rule.make(match, names), ...inline(rest, names)];
}

export function mrkdwn(text, names) {
  const root = el("div", { class: "text mrkdwn" });
  for (const [index, part] of text.split(/\n?```\n?([\s\S]*?)\n?```\n?/).entries()) {
    if (index % 2) root.append(el("pre", {}, el("code", {}, unescape(part.replace(/\n$/, "")))));
    else root.append(...lines(part, names));
  }
  return root;
}

function lines(text, names) {
  const nodes = [];
  let quote = null;
  for (const line of text === "" ? [] : text.split("\n")) {
    const quoted = /^(?:&gt;|>) ?(.*)$/.exec(line);
    if (quoted) {
      if (!quote) nodes.push((quote = el("blockquote")));
      quote.append(el("div", {}, inline(quoted[1], names)));
    } else {
      quote = null;
      nodes.push(el("div", { class: line ? "" : "gap" }, inline(line, names)));
    }
  }
  return nodes;
}
