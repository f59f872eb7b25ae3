// Building DOM without ever parsing HTML: whatever an app or a person wrote stays text.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list" && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

// A link that can only lead to the web or to mail; anything else is shown as its label.
export function link(url, label) {
  const safe = /^(https?:\/\/|mailto:)/i.test(url);
  return safe ? el("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, label) : el("span", {}, label);
}

// The page's own signs, drawn here so that they look the same on every machine.
const SIGNS = {
  lock: "M5 7V5a3 3 0 0 1 6 0v2M4 7h8v6H4z",
  eye: "M1.5 8S4 3.8 8 3.8 14.5 8 14.5 8 12 12.2 8 12.2 1.5 8 1.5 8zM8 6.4a1.6 1.6 0 1 0 0 3.2 1.6 1.6 0 0 0 0-3.2z",
  reply: "M2.5 3.5h11v7h-6l-3 2.7v-2.7h-2z",
  edit: "M3 13l.6-2.8 7-7 2.2 2.2-7 7z",
  trash: "M3 4.5h10M6 4.5V3h4v1.5M4.3 4.5l.6 8.5h6.2l.6-8.5",
  bolt: "M9 1.8 3.8 9h3.6L7 14.2 12.2 7H8.6z",
  close: "M4 4l8 8M12 4l-8 8",
  send: "M2.5 2.8 14 8 2.5 13.2 4.3 8zM4.3 8H9",
  attach: "M8 3v10M3 8h10",
};

export function sign(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", "sign");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", SIGNS[name]);
  svg.append(path);
  return svg;
}

const EMOJI = {
  "+1": "👍", thumbsup: "👍", "-1": "👎", eyes: "👀", white_check_mark: "✅", heavy_check_mark: "✔️", x: "❌",
  warning: "⚠️", hourglass: "⌛", hourglass_flowing_sand: "⏳", rocket: "🚀", tada: "🎉", heart: "❤️", wave: "👋",
  fire: "🔥", bulb: "💡", zzz: "💤", octagonal_sign: "🛑", raised_hand: "✋", stop_button: "⏹️", thinking_face: "🤔", robot_face: "🤖",
  gear: "⚙️", wrench: "🔧", memo: "📝", mag: "🔍", page_facing_up: "📄", file_folder: "📁", computer: "💻",
  sparkles: "✨", clock1: "🕐", lock: "🔒", key: "🔑", bug: "🐛", package: "📦", whale: "🐳", zap: "⚡",
  speech_balloon: "💬", information_source: "ℹ️", question: "❓", exclamation: "❗", green_circle: "🟢",
  red_circle: "🔴", large_yellow_circle: "🟡", large_blue_circle: "🔵", white_circle: "⚪", smile: "😄", joy: "😂",
};

export function emoji(name) {
  return EMOJI[name.split("::")[0]] ?? `:${name}:`;
}

export function emojify(text) {
  return text.replace(/:([a-z0-9_+-]+):/g, (whole, name) => EMOJI[name] ?? whole);
}

export function clockTime(ts) {
  return new Date(Number(ts.split(".")[0]) * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}
