// Standard Markdown (with tables and task lists) as DOM nodes. HTML in the source is shown as text, never parsed.

import { el, emojify, link } from "./dom.js";
import { reference } from "./mrkdwn.js";

const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,})$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+|$)(.*)$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

export function markdown(source, names) {
  return el("div", { class: "text markdown" }, blocks(source.replace(/\r\n?/g, "\n").split("\n"), names));
}

function blocks(lines, names) {
  const nodes = [];
  for (let at = 0; at < lines.length; ) {
    const read = lines[at].trim() === "" ? { end: at + 1 } : block(lines, at, names);
    if (read.node) nodes.push(read.node);
    at = read.end;
  }
  return nodes;
}

// The block that starts at line `at`: its node and the line after it.
function block(lines, at, names) {
  const line = lines[at];
  if (FENCE.test(line)) return fence(lines, at);
  const heading = HEADING.exec(line);
  if (heading) return { node: el("h" + Math.min(heading[1].length + 1, 6), {}, inline(heading[2], names)), end: at + 1 };
  if (RULE.test(line)) return { node: el("hr"), end: at + 1 };
  if (/^ {0,3}>/.test(line)) return quote(lines, at, names);
  if (ITEM.test(line)) return list(lines, at, names);
  if (line.includes("|") && at + 1 < lines.length && DIVIDER.test(lines[at + 1]) && lines[at + 1].includes("-")) {
    return table(lines, at, names);
  }
  return paragraph(lines, at, names);
}

function fence(lines, at) {
  const [, indent, mark, info] = FENCE.exec(lines[at]);
  const close = new RegExp(`^ {0,3}\\${mark[0]}{${mark.length},}\\s*$`);
  const body = [];
  let end = at + 1;
  while (end < lines.length && !close.test(lines[end])) body.push(lines[end++].replace(new RegExp(`^ {0,${indent.length}}`), ""));
  const language = info.trim().split(/\s/)[0];
  return { node: el("pre", { "data-language": language || null }, el("code", {}, body.join("\n"))), end: end + 1 };
}

function quote(lines, at, names) {
  const body = [];
  let end = at;
  while (end < lines.length && lines[end].trim() !== "" && (/^ {0,3}>/.test(lines[end]) || body.length)) {
    body.push(lines[end++].replace(/^ {0,3}> ?/, ""));
  }
  return { node: el("blockquote", {}, blocks(body, names)), end };
}

function list(lines, at, names) {
  const [, lead, firstMark] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(firstMark);
  const node = el(ordered ? "ol" : "ul", ordered ? { start: String(parseInt(firstMark, 10)) } : {});
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || item[1].length > lead.length + 1 || /\d/.test(item[2]) !== ordered || RULE.test(lines[end])) break;
    const width = item[1].length + item[2].length + Math.min(Math.max(item[3].length, 1), 4);
    const body = [item[4]];
    end += 1;
    while (end < lines.length && belongs(lines, end, width, item[1].length)) body.push(dedent(lines[end++], width));
    while (body.length && body[body.length - 1].trim() === "") body.pop();
    node.append(listItem(body, names));
  }
  return { node, end };
}

// Whether a line goes on with the list item whose text starts at column `width`.
function belongs(lines, at, width, lead) {
  const line = lines[at];
  if (line.trim() === "") return lines.slice(at).some((l, i, all) => l.trim() && all.slice(0, i).every((p) => !p.trim()) && indentOf(l) > lead);
  if (indentOf(line) >= Math.min(width, lead + 2)) return true;
  return !ITEM.test(line) && !HEADING.test(line) && !FENCE.test(line) && !RULE.test(line) && !/^ {0,3}>/.test(line) && lines[at - 1].trim() !== "";
}

const indentOf = (line) => /^\s*/.exec(line)[0].length;
const dedent = (line, width) => line.slice(Math.min(width, indentOf(line)));

function listItem(body, names) {
  const task = /^\[([ xX])\]\s+(.*)$/.exec(body[0]);
  const text = task ? [task[2], ...body.slice(1)] : body;
  const inner = blocks(text, names);
  // A tight item: its first paragraph stands on the line of the bullet.
  const content = inner.length && inner[0].tagName === "P" ? [...inner[0].childNodes, ...inner.slice(1)] : inner;
  return el("li", { class: task ? "task" : null }, task ? el("input", { type: "checkbox", disabled: true, checked: task[1] !== " " }) : "", content);
}

function cells(line) {
  return line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "").split(/(?<!\\)\|(?=(?:[^`]*`[^`]*`)*[^`]*$)/).map((cell) => cell.trim().replace(/\\\|/g, "|"));
}

function table(lines, at, names) {
  const align = cells(lines[at + 1]).map((c) => (/^:-+:$/.test(c) ? "center" : /-:$/.test(c) ? "right" : null));
  const row = (line, tag) => el("tr", {}, cells(line).map((cell, i) => el(tag, { class: align[i] }, inline(cell, names))));
  const body = el("tbody");
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && lines[end].trim() !== "") body.append(row(lines[end++], "td"));
  return { node: el("div", { class: "table" }, el("table", {}, el("thead", {}, row(lines[at], "th")), body)), end };
}

function paragraph(lines, at, names) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() !== "" && !FENCE.test(lines[end]) && !HEADING.test(lines[end]) && !RULE.test(lines[end]) && !/^ {0,3}>/.test(lines[end]) && !ITEM.test(lines[end])) end += 1;
  return { node: el("p", {}, inline(lines.slice(at, end).join("\n"), names)), end };
}

const INLINE = [
  { find: /\\([\\`*_{}[\]()#+\-.!|~<>&])/, make: (m) => m[1] },
  { find: /(`+)([\s\S]*?[^`])\1(?!`)/, make: (m) => el("code", {}, m[2].replace(/\n/g, " ")) },
  { find: /<([@#!][A-Za-z0-9^|_-]+|(?:https?:\/\/|mailto:)[^<>\s]+(?:\|[^<>\n]+)?)>/, make: (m, names) => reference(m[1], names) },
  { find: /!?\[([^\]\n]*)\]\(((?:[^()\s]|\([^()\s]*\))+)(?:\s+"[^"]*")?\)/, make: (m, names) => link(m[2], inline(m[1] || m[2], names)) },
  { find: /\*\*\*(\S(?:[\s\S]*?\S)?)\*\*\*/, make: (m, names) => el("strong", {}, el("em", {}, inline(m[1], names))) },
  { find: /\*\*(\S(?:[\s\S]*?\S)?)\*\*/, make: (m, names) => el("strong", {}, inline(m[1], names)) },
  { find: /(?<![\p{L}\p{N}_])__(\S(?:[\s\S]*?\S)?)__(?![\p{L}\p{N}_])/u, make: (m, names) => el("strong", {}, inline(m[1], names)) },
  { find: /(?<!\*)\*([^\s*](?:[^*]*[^\s*])?)\*(?!\*)/, make: (m, names) => el("em", {}, inline(m[1], names)) },
  { find: /(?<![\p{L}\p{N}_])_([^\s_](?:[^_]*[^\s_])?)_(?![\p{L}\p{N}_])/u, make: (m, names) => el("em", {}, inline(m[1], names)) },
  { find: /~~(\S(?:[\s\S]*?\S)?)~~/, make: (m, names) => el("del", {}, inline(m[1], names)) },
  { find: /https?:\/\/[^\s<>`]*[^\s<>`.,;:!?'")\]]/, make: (m) => link(m[0], m[0]) },
  { find: / {2,}\n|\n/, make: () => el("br") },
];

const decode = (text) => emojify(text.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&quot;/g, '"').replace(/&amp;/g, "&"));

function inline(text, names) {
  const nodes = [];
  let rest = text;
  while (rest) {
    let first = null;
    for (const rule of INLINE) {
      const match = rule.find.exec(rest);
      if (match && (!first || match.index < first.match.index)) first = { rule, match };
    }
    if (!first) break;
    nodes.push(decode(rest.slice(0, first.match.index)), first.rule.make(first.match, names));
    rest = rest.slice(first.match.index + first.match[0].length);
  }
  return [...nodes, decode(rest)];
}
