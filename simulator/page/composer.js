// The writing box: mentions, slash commands, files.

import { el, sign } from "./dom.js";

const SUGGESTIONS = 6;

// `prefix` names the test ids; `send(text, files)` returns whether the text was taken.
export function composer({ prefix, label, suggest, send }) {
  const id = (name) => (prefix ? `${prefix}-${name}` : name);
  const box = el("textarea", { "data-testid": id("composer"), rows: "1", "aria-label": label, placeholder: label });
  const menu = el("div", { class: "suggestions", role: "listbox", hidden: true });
  const chips = el("div", { class: "chips" });
  const picker = el("input", { type: "file", multiple: true, hidden: true, "data-testid": id("file") });
  const button = el("button", { class: "send", "data-testid": id("send"), type: "button", "aria-label": "Send", disabled: true }, sign("send"));
  let files = [];
  let picked = 0;

  const resize = () => {
    box.style.height = "auto";
    box.style.height = `${Math.min(box.scrollHeight, 220)}px`;
    button.disabled = !box.value.trim() && !files.length;
  };
  const show = () => chips.replaceChildren(...files.map((file) => el("span", { class: "chip" }, file.name)));
  const options = () => [...menu.children];
  const hide = () => menu.replaceChildren() ?? (menu.hidden = true);
  const mark = () => options().forEach((option, index) => option.setAttribute("aria-selected", String(index === picked)));

  function accept(item, token) {
    const at = box.selectionStart;
    const before = box.value.slice(0, at - token.length) + item.insert + " ";
    box.value = before + box.value.slice(at).trimStart();
    box.setSelectionRange(before.length, before.length);
    hide();
    resize();
    box.focus();
  }

  function offer() {
    const token = /(^\/\S*|(?<=^|\s)@\S*)$/.exec(box.value.slice(0, box.selectionStart))?.[0] ?? "";
    const items = token ? suggest(token).slice(0, SUGGESTIONS) : [];
    picked = 0;
    menu.replaceChildren(...items.map((item) =>
      el("div", { class: "suggestion", role: "option", onmousedown: (event) => { event.preventDefault(); accept(item, token); } },
        el("b", {}, item.label), el("span", {}, item.about))));
    options().forEach((option, index) => { option.accept = () => accept(items[index], token); option.exact = items[index].insert === token; });
    menu.hidden = !items.length;
    mark();
  }

  async function submit() {
    const text = box.value.trim();
    if (!text && !files.length) return;
    const carried = files;
    box.value = "";
    files = [];
    show();
    hide();
    resize();
    if (!(await send(text, carried))) {
      box.value = box.value || text;
      files = [...carried, ...files];
      show();
    }
    resize();
    box.focus();
  }

  box.addEventListener("input", () => { resize(); offer(); });
  box.addEventListener("blur", hide);
  box.addEventListener("keydown", (event) => {
    const open = !menu.hidden;
    if (open && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      picked = (picked + (event.key === "ArrowDown" ? 1 : -1) + menu.children.length) % menu.children.length;
      mark();
    } else if (open && (event.key === "Tab" || (event.key === "Enter" && !options()[picked].exact))) options()[picked].accept();
    else if (open && event.key === "Escape") hide();
    else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit();
    else return;
    event.preventDefault();
  });
  button.addEventListener("click", submit);
  picker.addEventListener("change", async () => {
    for (const file of picker.files) {
      const bytes = new Uint8Array(await file.arrayBuffer());
      let binary = "";
      for (let at = 0; at < bytes.length; at += 32768) binary += String.fromCharCode(...bytes.subarray(at, at + 32768));
      files.push({ name: file.name, content: btoa(binary) });
    }
    show();
    picker.value = "";
    resize();
  });
  const attach = el("button", { class: "attach", type: "button", title: "Attach a file", "aria-label": "Attach a file", onclick: () => picker.click() }, sign("attach"));
  return { node: el("div", { class: "composer" }, menu, chips, el("div", { class: "writing" }, attach, picker, box, button)), focus: () => box.focus(), writable: (yes) => { box.disabled = attach.disabled = picker.disabled = !yes; }, label: (text) => { box.placeholder = text; box.setAttribute("aria-label", text); } };
}
