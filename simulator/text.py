"""Text as Slack keeps it and as a reader sees it. Pure.

Slack stores message text with `&`, `<` and `>` escaped and with references in angle brackets (`<@U1>`, `<#C1|name>`,
`<https://…|label>`, `<!here>`); source: docs.slack.dev, "Formatting message text".
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

Json = dict[str, Any]

_TOKEN = re.compile(
    r"<(@[UW][A-Z0-9]+(?:\|[^<>\n]*)?|#[CGD][A-Z0-9]+(?:\|[^<>\n]*)?|![^<>\n]+|(?:https?://|mailto:|tel:)[^<>\n]+)>"
)
_URL = re.compile(r"https?://[^\s<>|`]*[^\s<>|`.,;:!?'\")\]]")
_CODE = re.compile(
    r"^ {0,3}(?P<fence>`{3,}|~{3,})[\s\S]*?(?:^ {0,3}(?P=fence)[`~]*[ \t]*$|\Z)|(?P<tick>`+)[^\n]*?[^`](?P=tick)(?!`)",
    re.MULTILINE,
)
_PING = re.compile(r"<([@!](?!date\^)[^<>|\n]+)(?:\|[^<>\n]*)?>")
_BARE_AMPERSAND = re.compile(r"&(?!(?:amp|lt|gt);)")


def normalise(text: str) -> str:
    """The text as Slack would give it back: escaped once, references kept, bare web addresses wrapped."""
    parts: list[str] = []
    end = 0
    for match in _TOKEN.finditer(text):
        parts += [_escape(text[end : match.start()]), match.group()]
        end = match.end()
    return "".join([*parts, _escape(text[end:])])


def _escape(text: str) -> str:
    escaped = _BARE_AMPERSAND.sub("&amp;", text).replace("<", "&lt;").replace(">", "&gt;")
    return _URL.sub(lambda match: f"<{match.group()}>", escaped)


def unescape(text: str) -> str:
    """Slack's three entities, decoded once."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def mentions(text: str) -> set[str]:
    """Ids of the users that the text mentions."""
    return set(re.findall(r"<@([UW][A-Z0-9]+)", text))


def pings(message: Mapping[str, Any]) -> set[str]:
    """References in a message that notify people, such as "@U1" or "!channel", also those inside Markdown code."""
    sources = [str(message.get("text") or "")]
    for block in message.get("blocks") or []:
        sources += _sources(block)
    return {match.group(1) for source in sources for match in _PING.finditer(source)}


def _sources(value: Any) -> list[str]:
    """Every text in a block that Slack reads for references: `markdown` blocks and mrkdwn objects."""
    if isinstance(value, list):
        return [source for item in value for source in _sources(item)]
    if not isinstance(value, Mapping):
        return []
    if value.get("type") in ("markdown", "mrkdwn"):
        return [str(value.get("text") or "")]
    return [source for item in value.values() for source in _sources(item)]


def plain(text: str, names: Mapping[str, str]) -> str:
    """Mrkdwn source as plain text: references become names or labels, entities characters."""

    def shown(match: re.Match[str]) -> str:
        target, _, label = match.group(1).partition("|")
        if target[0] in "@#":
            return target[0] + (names.get(target[1:]) or label or target[1:])
        if target[0] == "!":
            return label or "@" + target[1:].partition("^")[0]
        return label or target

    return unescape(_TOKEN.sub(shown, text))


def rich_text(text: str) -> Json:
    """The `rich_text` block that Slack's clients attach to what a person typed (`text` is normalised)."""
    elements: list[Json] = []
    end = 0
    for match in _TOKEN.finditer(text):
        _add_text(elements, text[end : match.start()])
        elements.append(_reference(match.group(1)))
        end = match.end()
    _add_text(elements, text[end:])
    return {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": elements}]}


def _add_text(elements: list[Json], text: str) -> None:
    if text:
        elements.append({"type": "text", "text": unescape(text)})


def _reference(token: str) -> Json:
    target, _, label = token.partition("|")
    if target.startswith("@"):
        return {"type": "user", "user_id": target[1:]}
    if target.startswith("#"):
        return {"type": "channel", "channel_id": target[1:]}
    if target.startswith("!"):
        return {"type": "broadcast", "range": target[1:]}
    link: Json = {"type": "link", "url": unescape(target)}
    return {**link, "text": unescape(label)} if label else link


def visible_text(message: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """What a reader sees of a message: its blocks if it has any, else its text; then its files' names."""
    known = names or {}
    blocks = message.get("blocks") or []
    lines = [block_text(block, known) for block in blocks] if blocks else [plain(message.get("text") or "", known)]
    lines += [f"[{file.get('name') or file.get('mode')}]" for file in message.get("files", [])]
    return "\n".join(line for line in lines if line)


def block_text(block: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """One block's visible text; Markdown is given as its source."""
    render = _BLOCKS.get(block.get("type", ""))
    return render(block, names) if render else ""


def _object(value: Any, names: Mapping[str, str]) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        return ""
    text = str(value.get("text") or "")
    return plain(text, names) if value.get("type") == "mrkdwn" else text


def _section(block: Mapping[str, Any], names: Mapping[str, str]) -> str:
    parts = [_object(block.get("text"), names), *(_object(field, names) for field in block.get("fields") or [])]
    if accessory := block.get("accessory"):
        parts.append(_element(accessory, names))
    return "\n".join(part for part in parts if part)


def _element(element: Mapping[str, Any], names: Mapping[str, str]) -> str:
    if element.get("type") == "image":
        return str(element.get("alt_text", ""))
    if element.get("type") == "button":
        return f"[{_object(element.get('text'), names)}]"
    if "placeholder" in element:
        return f"[{_object(element['placeholder'], names)}]"
    return _object(element, names) if element.get("type") in ("mrkdwn", "plain_text") else ""


def _elements(block: Mapping[str, Any], names: Mapping[str, str]) -> str:
    return " ".join(filter(None, (_element(element, names) for element in block.get("elements") or [])))


def _image(block: Mapping[str, Any], names: Mapping[str, str]) -> str:
    return _object(block.get("title"), names) or str(block.get("alt_text", ""))


def _rich(block: Mapping[str, Any], names: Mapping[str, str]) -> str:
    if block.get("type") == "rich_text_list":
        return "\n".join("• " + _rich(item, names) for item in block.get("elements") or [])
    separator = "\n" if block.get("type") == "rich_text" else ""
    return separator.join(_rich_leaf(element, names) for element in block.get("elements") or [])


def _rich_leaf(element: Mapping[str, Any], names: Mapping[str, str]) -> str:
    kind = element.get("type", "")
    if kind.startswith("rich_text"):
        return _rich(element, names)
    if kind in ("user", "channel"):
        named = str(element[f"{kind}_id"])
        return ("@" if kind == "user" else "#") + names.get(named, named)
    if kind == "broadcast":
        return "@" + str(element["range"])
    if kind == "emoji":
        return f":{element['name']}:"
    return str(element.get("text") or element.get("url") or "")


def _task(block: Mapping[str, Any], names: Mapping[str, str]) -> str:
    parts = [
        _object(block.get("title"), names),
        _inner(block.get("details"), names),
        _inner(block.get("output"), names),
    ]
    return "\n".join(part for part in parts if part)


def _inner(value: Any, names: Mapping[str, str]) -> str:
    if isinstance(value, Mapping) and value.get("type") == "rich_text":
        return _rich(value, names)
    return _object(value, names)


def _plan(block: Mapping[str, Any], names: Mapping[str, str]) -> str:
    parts = [_object(block.get("title"), names), *(_task(task, names) for task in block.get("tasks") or [])]
    return "\n".join(part for part in parts if part)


def _table(block: Mapping[str, Any], names: Mapping[str, str]) -> str:
    return "\n".join(" | ".join(_inner(cell, names) for cell in row) for row in block.get("rows") or [])


def _markdown(block: Mapping[str, Any], _: Mapping[str, str]) -> str:
    """Markdown source with entities decoded where a reader sees them decoded: outside code."""
    source = str(block.get("text", ""))
    parts: list[str] = []
    end = 0
    for match in _CODE.finditer(source):
        parts += [unescape(source[end : match.start()]), match.group()]
        end = match.end()
    return "".join([*parts, unescape(source[end:])])


def _labelled(block: Mapping[str, Any], names: Mapping[str, str]) -> str:
    return _object(block.get("label"), names)


_BLOCKS: dict[str, Callable[[Mapping[str, Any], Mapping[str, str]], str]] = {
    "section": _section,
    "header": lambda block, names: _object(block.get("text"), names),
    "markdown": _markdown,
    "context": _elements,
    "actions": _elements,
    "context_actions": _elements,
    "image": _image,
    "rich_text": _rich,
    "task_card": _task,
    "plan": _plan,
    "table": _table,
    "input": _labelled,
    "alert": lambda block, names: _object(block.get("text"), names),
}
