// The page: keeps what the simulator tells it, draws it, and acts for the person chosen.

import { blockNodes } from "./blocks.js";
import { composer } from "./composer.js";
import { el, sign } from "./dom.js";
import { messageNode } from "./message.js";
import { modalNode } from "./modal.js";

const $ = (id) => document.getElementById(id);
const RETRY = 1000;
const CLOSE_IN_TIME = 300; // seconds between two messages of one author that are drawn as one group
const EXPECTING = 30_000; // how long a person's own /flow may take to start its thread

const desk = {
  state: { users: {}, channels: [], apps: [], ephemerals: [], views: [], statuses: [], people: [], me: "" },
  messages: new Map(), // channel → Map(ts → message)
  unread: new Map(),
  person: sessionStorage.getItem("person") ?? "maya",
  channel: sessionStorage.getItem("channel") ?? "",
  thread: null,
  tab: "messages",
  expected: null,

  user: (id) => desk.state.users[id] ?? { name: "Slackbot", real_name: "Slackbot", color: "616061", is_bot: true },
  names: () => Object.fromEntries([
    ...Object.entries(desk.state.users).map(([id, user]) => [id, user.is_bot ? user.real_name : user.name]),
    ...desk.state.channels.map((channel) => [channel.id, channel.name]),
  ]),
  shortcuts: () => desk.state.apps.flatMap((app) => app.shortcuts),
  act,
  openThread: (message) => openThread(message.channel, message.thread_ts ?? message.ts),
  editMessage,
};
const current = () => desk.state.channels.find((channel) => channel.id === desk.channel);
const of = (channel) => desk.messages.get(channel) ?? desk.messages.set(channel, new Map()).get(channel);
const inOrder = (messages) => [...messages].sort((a, b) => (a.ts < b.ts ? -1 : 1));
const isReply = (message) => message.thread_ts && message.thread_ts !== message.ts && message.subtype !== "thread_broadcast";
const repliesOf = (channel, ts) => inOrder([...of(channel).values()].filter((m) => m.thread_ts === ts && m.ts !== ts));
const ephemeralsIn = (channel, thread) => desk.state.ephemerals.filter((m) => m.channel === channel && (m.thread_ts ?? null) === thread);

// --- talking to the simulator

async function act(wish) {
  const body = JSON.stringify({ as: desk.person, ...wish });
  const response = await fetch("/page/act", { method: "POST", headers: { "Content-Type": "application/json" }, body }).catch(() => null);
  if (!response) return { ok: false, error: "the simulator does not answer" };
  return response.ok ? response.json() : { ok: false, error: await response.text() };
}

let socket = null;

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const mine = (socket = new WebSocket(`${scheme}://${location.host}/page/live?as=${encodeURIComponent(desk.person)}`));
  mine.onmessage = (event) => mine === socket && take(JSON.parse(event.data));
  mine.onclose = () => {
    if (mine !== socket) return;
    $("offline").hidden = false;
    setTimeout(() => mine === socket && connect(), RETRY);
  };
}

function take(frame) {
  if (frame.type === "snapshot") {
    const before = desk.messages;
    desk.messages = new Map();
    desk.unread.clear();
    for (const message of frame.messages) if (!message.gone) of(message.channel).set(message.ts, message);
    desk.state = { ...desk.state, ...frame };
    if (!current()) desk.channel = desk.state.channels[0]?.id ?? "";
    // What one's own /flow started while there was no connection: this is the first that is heard of it.
    for (const message of frame.messages) if (!message.gone && !before.get(message.channel)?.has(message.ts)) startsExpected(message);
    writable(true);
    $("offline").hidden = true;
    $("team-name").textContent = frame.team;
    document.title = frame.team;
    if (follow(location.href)) history.replaceState(null, "", "/");
    later("all");
  } else if (frame.type === "personal") {
    desk.state = { ...desk.state, ...frame };
    later("personal");
  } else if (frame.type === "message") takeMessage(frame.message);
}

function takeMessage(message) {
  const known = of(message.channel).has(message.ts);
  if (message.gone) of(message.channel).delete(message.ts);
  else of(message.channel).set(message.ts, message);
  if (!known && !message.gone && message.user !== desk.state.me) arrived(message);
  later("message", message);
}

function arrived(message) {
  if (message.channel !== desk.channel || document.hidden) desk.unread.set(message.channel, (desk.unread.get(message.channel) ?? 0) + 1);
  startsExpected(message);
}

function startsExpected(message) {
  const { expected } = desk;
  const starts = expected && expected.channel === message.channel && !isReply(message) && message.bot_id && Date.now() < expected.until;
  if (starts && desk.channel === message.channel) {
    desk.expected = null;
    openThread(message.channel, message.ts);
  }
}

// --- drawing: everything that changed since the last frame, once

let due = null;

function later(what, message) {
  if (!due) {
    due = { all: false, personal: false, messages: new Map() };
    setTimeout(draw, 16);
  }
  if (what === "message") due.messages.set(message.ts, message);
  else due[what] = true;
}

function draw() {
  const work = due;
  due = null;
  if (work.all || work.personal) {
    drawSidebar();
    drawBar();
    drawModals();
    drawHome();
  }
  if (work.all || work.personal) {
    drawChannel();
    drawThread();
  } else {
    drawSidebar();
    for (const message of work.messages.values()) drawOne(message);
  }
}

// A known message is replaced in place, so that reading, selecting and scrolling go on undisturbed.
function drawOne(message) {
  const shown = message.channel === desk.channel;
  if (!shown) return;
  const root = isReply(message) ? of(message.channel).get(message.thread_ts) : message;
  if (!replaceIn($("messages"), root, false)) drawChannel();
  const inThread = desk.thread && (message.ts === desk.thread.ts || message.thread_ts === desk.thread.ts);
  if (inThread && !replaceIn($("replies"), message, true)) drawThread();
}

function replaceIn(list, message, thread) {
  if (!message || message.gone) return false;
  const old = list.querySelector(`[data-ts="${message.ts}"]`);
  if (!old) return false;
  const follow = atEnd(list);
  const options = { thread, compact: old.classList.contains("compact"), replies: thread ? [] : repliesOf(message.channel, message.ts) };
  old.replaceWith(messageNode(message, desk, options));
  if (follow) list.scrollTop = list.scrollHeight;
  return true;
}

const atEnd = (list) => list.scrollHeight - list.scrollTop - list.clientHeight < 80;

// Pictures get their height when they have come: whoever was at the end stays there.
for (const list of [$("messages"), $("replies")]) {
  let followed = true;
  list.addEventListener("scroll", () => { followed = atEnd(list); });
  list.addEventListener("load", () => { if (followed) list.scrollTop = list.scrollHeight; }, true);
}

function fill(list, messages, thread) {
  const last = messages.at(-1);
  const spoke = last && last.user === desk.state.me && !list.querySelector(`[data-ts="${last.ts}"]`);
  const follow = spoke || atEnd(list) || list.dataset.of !== `${desk.channel}/${thread ?? ""}`;
  list.dataset.of = `${desk.channel}/${thread ?? ""}`;
  let before = null;
  list.replaceChildren(...messages.map((message) => {
    const close = before && before.user === message.user && Number(message.ts) - Number(before.ts) < CLOSE_IN_TIME;
    const compact = Boolean(close && !message.is_ephemeral && !before.is_ephemeral);
    before = message;
    return messageNode(message, desk, { thread: Boolean(thread), compact, replies: thread ? [] : repliesOf(message.channel, message.ts) });
  }));
  if (follow) list.scrollTop = list.scrollHeight;
}

function drawChannel() {
  if (!desk.channel) return;
  const shown = [...of(desk.channel).values()].filter((message) => !isReply(message));
  fill($("messages"), inOrder([...shown, ...ephemeralsIn(desk.channel, null)]), null);
  if (!$("messages").children.length) $("messages").append(welcome());
  desk.unread.delete(desk.channel);
}

function welcome() {
  const channel = current();
  const bot = desk.state.apps[0];
  const here = bot && channel?.members.includes(bot.bot);
  const command = bot?.commands[0]?.name ?? "";
  const hint = here ? `Write ${command} and what you want, or mention @${bot.name}.` : bot ? `@${bot.name} is not here yet: /invite @${bot.name}` : "";
  return el("div", { class: "welcome" }, el("h2", {}, channel?.kind === "im" ? channel.name : `# ${channel?.name ?? ""}`), el("p", {}, hint));
}

function drawThread() {
  const thread = desk.thread;
  $("thread").hidden = !thread;
  document.body.classList.toggle("with-thread", Boolean(thread));
  if (!thread) return;
  const parent = of(thread.channel).get(thread.ts);
  const replies = repliesOf(thread.channel, thread.ts);
  fill($("replies"), inOrder([...(parent ? [parent] : []), ...replies, ...ephemeralsIn(thread.channel, thread.ts)]), thread.ts);
  $("thread-where").textContent = current()?.kind === "im" ? "" : `#${current()?.name ?? ""}`;
  const status = desk.state.statuses.find((each) => each.channel === thread.channel && each.thread_ts === thread.ts);
  $("thread-status").textContent = status ? `${desk.user(status.user).real_name} ${status.status || "is working…"}` : "";
}

let drawnSidebar = "";

function drawSidebar() {
  const { channels, people } = desk.state;
  const key = JSON.stringify([channels, people, desk.channel, desk.person, [...desk.unread]]);
  if (key === drawnSidebar) return;
  drawnSidebar = key;
  const kinds = [["Channels", (c) => c.kind === "channel" || c.kind === "group"], ["Direct messages", (c) => c.kind === "im" || c.kind === "mpim"]];
  $("channels").replaceChildren(...kinds.map(([title, belongs]) =>
    el("section", {}, el("h3", {}, title), desk.state.channels.filter(belongs).map(channelLink))));
  $("people").replaceChildren(...desk.state.people.map((name) => {
    const user = Object.values(desk.state.users).find((each) => each.name === name) ?? desk.user("");
    const dot = el("span", { class: "dot" });
    dot.style.setProperty("--mark", "#" + user.color);
    return el("button", { role: "radio", "aria-checked": String(name === desk.person), class: name === desk.person ? "person chosen" : "person", "data-testid": `person-${name}`, onclick: () => switchPerson(name) }, dot, name);
  }));
}

function channelLink(channel) {
  const unread = desk.unread.get(channel.id);
  const direct = channel.kind === "im" || channel.kind === "mpim";
  const mark = channel.kind === "group" ? sign("lock") : direct ? "●" : "#";
  const classes = ["channel-link", channel.id === desk.channel ? "chosen" : "", unread ? "unread" : ""].join(" ");
  return el("button", { class: classes, "data-testid": `channel-${channel.name}`, onclick: () => openChannel(channel.id) },
    el("span", { class: direct ? "mark direct" : "mark" }, mark), el("span", { class: "name" }, channel.name), unread ? el("span", { class: "count" }, String(unread)) : "");
}

function drawBar() {
  const channel = current();
  if (!channel) return;
  const direct = channel.kind === "im";
  $("channel-title").replaceChildren(direct ? "" : channel.kind === "group" ? sign("lock") : "#", " " + channel.name);
  $("channel-about").textContent = direct ? "" : `${channel.members.length} members`;
  const app = desk.state.apps.find((each) => each.bot === channel.other);
  $("tabs").hidden = !app?.home_tab;
  $("tabs").replaceChildren(...["messages", "home"].map((tab) =>
    el("button", { role: "tab", "aria-selected": String(desk.tab === tab), "data-testid": `tab-${tab}`, onclick: () => openTab(tab, app) }, tab === "home" ? "Home" : "Messages")));
  const label = direct ? `Message ${channel.name}` : `Message #${channel.name}`;
  channelBox.label(label);
}

function drawHome() {
  const app = desk.state.apps.find((each) => each.bot === current()?.other);
  const home = desk.tab === "home" && app;
  $("home").hidden = !home;
  $("messages").hidden = $("channel-composer").hidden = Boolean(home);
  if (!home) return;
  const context = { names: desk.names(), users: desk.state.users, channels: desk.state.channels, act: (press) => act({ do: "click", home: app.id, ...press }) };
  $("home").replaceChildren(...(app.home ? blockNodes(app.home.blocks, context) : [el("div", { class: "welcome" }, `${app.name} shows nothing here yet.`)]));
}

function drawModals() {
  const shown = [...$("modals").querySelectorAll("[data-view]")].map((node) => node.dataset.key).join();
  const wanted = desk.state.views.slice(-1);
  const keys = wanted.map((view) => `${view.id}:${view.hash}`).join();
  if (shown === keys) return;
  $("modals").replaceChildren(...wanted.map((view) => modalNode(view, desk)));
  $("modals").querySelectorAll("[data-view]").forEach((node, index) => { node.dataset.key = `${wanted[index].id}:${wanted[index].hash}`; });
  $("modals").querySelector("input, textarea, select")?.focus();
}

// --- moving about

function openChannel(id) {
  if (id !== desk.channel) desk.thread = null;
  desk.channel = id;
  desk.tab = "messages";
  sessionStorage.setItem("channel", id);
  const app = desk.state.apps.find((each) => each.bot === current()?.other);
  if (app) act({ do: "home", app: app.id, tab: "messages" });
  later("all");
  channelBox.focus();
}

function openTab(tab, app) {
  desk.tab = tab;
  if (tab === "home") desk.thread = null;
  act({ do: "home", app: app.id, tab });
  later("all");
}

function openThread(channel, ts) {
  desk.thread = { channel, ts };
  drawThread();
  threadBox.focus();
}

// A message's permalink, as chat.getPermalink gives it: opens its thread. False: it is none, or not to be seen.
function follow(address) {
  const url = new URL(address, location.href);
  const [, channel, seconds, rest] = url.pathname.match(/^\/archives\/(\w+)\/p(\d{10})(\d{6})$/) ?? [];
  if (url.origin !== location.origin || !desk.state.channels.some((each) => each.id === channel)) return false;
  const message = of(channel).get(`${seconds}.${rest}`);
  if (!message) return false;
  openChannel(channel);
  openThread(channel, message.thread_ts ?? message.ts);
  return true;
}

document.addEventListener("click", (event) => {
  const link = event.target instanceof Element ? event.target.closest("a[href]") : null;
  if (link && !event.metaKey && !event.ctrlKey && follow(link.href)) event.preventDefault();
});

function closeThread() {
  desk.thread = null;
  drawThread();
}

function switchPerson(name) {
  desk.person = name;
  desk.expected = null;
  sessionStorage.setItem("person", name);
  drawSidebar();
  const old = socket;
  connect();
  old?.close();
}

function editMessage(message) {
  const text = window.prompt("Edit the message", message.text.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&"));
  if (text !== null && text.trim()) act({ do: "edit", ts: message.ts, text });
}

// --- writing

function note(thread, text) {
  const ts = `${Math.floor(Date.now() / 1000)}.${String(Date.now() % 1000).padStart(3, "0")}000`;
  desk.state.ephemerals.push({ ts, channel: desk.channel, thread_ts: thread ?? undefined, user: "USLACKBOT", text, is_ephemeral: true });
  later("personal");
}

async function send(text, files, thread) {
  const slash = /^(\/\S+)\s*([\s\S]*)$/.exec(text);
  if (slash && thread) {
    note(thread, `${slash[1]} is not supported in threads. Sorry!`);
    return false;
  }
  if (slash?.[1] === "/invite") return told(await act({ do: "invite", channel: desk.channel, name: slash[2] }), thread);
  if (slash) {
    desk.expected = { channel: desk.channel, until: Date.now() + EXPECTING };
    const answer = await act({ do: "command", channel: desk.channel, command: slash[1], text: slash[2] });
    if (!answer.ok) desk.expected = null;
    return "errors" in answer || told(answer, null); // an app's failure is told by Slackbot
  }
  return told(await act({ do: "post", channel: desk.channel, text, files, thread_ts: thread ?? undefined }), thread);
}

// Before the workspace is known, what is written would belong to no channel.
function writable(yes) {
  for (const box of [channelBox, threadBox]) box.writable(yes);
}

function told(answer, thread) {
  if (!answer.ok) note(thread, `That did not work: ${answer.error}`);
  return answer.ok;
}

function suggest(token) {
  const wanted = token.slice(1).toLowerCase();
  if (token[0] === "/") {
    const commands = [...desk.state.apps.flatMap((app) => app.commands), { name: "/invite", description: "Bring an app into this channel" }];
    return commands.filter((each) => each.name.startsWith(token)).map((each) => ({ label: each.name, about: each.description, insert: each.name }));
  }
  return Object.entries(desk.state.users)
    .filter(([id, user]) => id !== desk.state.me && (user.name.startsWith(wanted) || user.real_name.toLowerCase().startsWith(wanted)))
    .map(([, user]) => ({ label: "@" + (user.is_bot ? user.real_name : user.name), about: user.is_bot ? "App" : user.real_name, insert: "@" + (user.is_bot ? user.real_name : user.name) }));
}

const channelBox = composer({ prefix: "", label: "Message", suggest, send: (text, files) => send(text, files, null) });
const threadBox = composer({ prefix: "thread", label: "Reply…", suggest: (token) => (token[0] === "@" ? suggest(token) : []), send: (text, files) => send(text, files, desk.thread?.ts) });
$("channel-composer").append(channelBox.node);
$("thread-composer").append(threadBox.node);
writable(false);
$("close-thread").append(sign("close"));
$("close-thread").addEventListener("click", closeThread);
document.addEventListener("keydown", (event) => {
  const top = desk.state.views.at(-1);
  if (event.key !== "Escape") return;
  if (top) act({ do: "close", view: top.id });
  else if (desk.thread && event.target === document.body) closeThread();
});
connect();
