"""A message as Flow wants it to be: blocks, fallback text, and simpler forms for when Slack refuses them. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bot.markdown import clip, escape, size

Block = dict[str, Any]

FALLBACK_LIMIT = 3_000  # chat.update refuses a `text` above 4,000
PLAIN_LIMIT = 3_900
SUMMARY_LIMIT = 300  # of a notification
ROOT = -1  # index of the message that opens a thread
FILE = -2  # of the file that holds the whole of a long answer
_MOST_SECTIONS = 40
_NO_WORDS = re.compile(r"\s*(?:(?:`{3,}|~{3,}).*|[\s|:=*_-]*)")  # a fence, a rule, the dashes of a table
_LEADING = re.compile(r"^\s*(?:#{1,6}|[-*+>])\s+")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_MARKS = str.maketrans({"*": "", "`": "", "\u200b": "", "|": " "})


#: How the states of a plan's tasks look in a list: a sign, and a style.
_TASKS = {"pending": ("☐", ""), "in_progress": ("◐", "bold"), "complete": ("☑", "strike")}


@dataclass(frozen=True, slots=True)
class Part:
    """Message number `index` of a turn. `final`: no further event changes it. `text` is shown in notifications.

    `words`: it says something of the answer, not just that it is being worked on. `asks`: Claude asks people in it.
    """

    index: int
    blocks: tuple[Block, ...]
    text: str
    final: bool
    words: bool = True
    asks: bool = False

    @property
    def digest(self) -> str:
        """Equal for equal looks."""
        body = json.dumps([self.blocks, self.text], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(body.encode("utf-8", "replace")).hexdigest()[:32]


def mrkdwn(text: str) -> Block:
    """`verbatim`: Slack must not turn `settings.py` into a link."""
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def context(text: str) -> Block:
    return {"type": "context", "elements": [mrkdwn(text)]}


def section(text: str) -> Block:
    return {"type": "section", "text": mrkdwn(text)}


def button(action_id: str, text: str, value: str, style: str | None = None) -> Block:
    """`style`: "primary" or "danger"."""
    made: Block = {
        "type": "button",
        "action_id": action_id,
        "text": {"type": "plain_text", "text": text},
        "value": value,
    }
    return made | {"style": style} if style else made


def actions(*buttons: Block) -> Block:
    return {"type": "actions", "elements": list(buttons)}


def common(part: Part) -> Part:
    """The same without blocks that not every workspace has: plans as lists."""
    blocks = tuple(listed(block) if block["type"] == "plan" else block for block in part.blocks)
    return replace(part, blocks=blocks)


def listed(plan: Block) -> Block:
    """A plan block as lines of rich text, where nothing is parsed (docs.slack.dev, rich text)."""
    lines: list[list[Block]] = [[{"type": "text", "text": str(plan["title"]), "style": {"bold": True}}]]
    for task in plan["tasks"]:
        sign, style = _TASKS[task["status"]]
        title: Block = {"type": "text", "text": str(task["title"])}
        lines.append([{"type": "text", "text": f"{sign} "}, title | ({"style": {style: True}} if style else {})])
    return {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": line} for line in lines]}


def sectioned(part: Part) -> Part:
    """The same words in sections of plain text, which Slack has no way to misread; and the buttons."""
    buttons = (block for block in part.blocks if block["type"] == "actions")
    return replace(part, blocks=(*worded(part).blocks[:_MOST_SECTIONS], *buttons))


def worded(part: Part) -> Part:
    """The words alone, in sections of plain text."""
    pieces = _pieces("\n\n".join(_texts(part.blocks)), 2_900)[:_MOST_SECTIONS]
    blocks = [{"type": "section", "text": {"type": "plain_text", "text": piece, "emoji": False}} for piece in pieces]
    return replace(part, blocks=tuple(blocks))


def brief(part: Part) -> Part:
    """How the words begin, and the buttons: the simplest of a message that people have to answer."""
    buttons = (block for block in part.blocks if block["type"] == "actions")
    return replace(part, blocks=(*worded(part).blocks[:1], *buttons))


def plain(part: Part) -> Part:
    """The same words as `text` alone. May exceed PLAIN_LIMIT, which only `chat.postMessage` takes."""
    return Part(part.index, (), escape("\n\n".join(_texts(part.blocks))) or part.text, part.final, part.words)


def shortened(part: Part) -> Part:
    """A text that `chat.update` takes: what came last, while it grows."""
    if size(part.text) <= PLAIN_LIMIT:
        return part
    if part.final:
        return replace(part, text=_clip_escaped(part.text, PLAIN_LIMIT))
    text = _unescape(part.text)
    while size(escape(text)) > PLAIN_LIMIT - 2:
        text = text[max(1, (size(escape(text)) - PLAIN_LIMIT) // 6) :]
    return replace(part, text="…\n" + escape(text.partition("\n")[2] or text))


def summary(blocks: list[Block]) -> str:
    """What a notification says: how the words begin, without Markdown's marks; else what is being done."""
    words = [block for block in blocks if block["type"] == "markdown"]
    said = ""
    for text in _texts(tuple(words or blocks)):
        for line in text[: 8 * SUMMARY_LIMIT].split("\n"):
            if len(said) > SUMMARY_LIMIT:
                break
            said = f"{said} {_unmarked(line)}".strip()
    return clip(said, SUMMARY_LIMIT)


def _unmarked(line: str) -> str:
    if _NO_WORDS.fullmatch(line):
        return ""
    return " ".join(_LINK.sub(r"\1", _LEADING.sub("", line, count=1)).translate(_MARKS).split())


def fallback(blocks: list[Block]) -> str:
    return clip("\n".join(_texts(tuple(blocks))), FALLBACK_LIMIT)


def _texts(blocks: tuple[Block, ...]) -> list[str]:
    """What the blocks say, as plain text; buttons say nothing."""
    return [text for block in blocks for text in _SAYS.get(block["type"], _nothing)(block) if text]


def _object(value: Any) -> str:
    """Of a text object, or of rich text in its place."""
    if not isinstance(value, dict):
        return str(value or "")
    if value.get("type") == "rich_text":
        return "\n".join(map(_rich, value["elements"]))
    return _unescape(value["text"]) if value.get("type") == "mrkdwn" else str(value.get("text", ""))


def _rich(element: Block) -> str:
    between = "\n" if element["type"] in ("rich_text", "rich_text_list") else ""
    for key in ("text", "name", "url", "user_id", "channel_id"):
        if key in element:
            return str(element[key])
    return between.join(map(_rich, element.get("elements", [])))


def _task(task: Block) -> list[str]:
    return [_object(task.get(key)) for key in ("title", "details", "output")]


def _row(row: list[Any]) -> str:
    return " | ".join(_object(cell) for cell in row)


def _nothing(_: Block) -> list[str]:
    return []


_SAYS: dict[str, Callable[[Block], list[str]]] = {
    "markdown": lambda block: [str(block["text"]).replace("&lt;", "<")],
    "context": lambda block: [_object(one) or str(one.get("alt_text", "")) for one in block["elements"]],
    "section": lambda block: [_object(block.get("text")), *map(_object, block.get("fields", []))],
    "header": lambda block: [_object(block["text"])],
    "rich_text": lambda block: [_rich(block)],
    "plan": lambda block: _texts((listed(block),)),
    "task_card": _task,
    "table": lambda block: ["\n".join(map(_row, block["rows"]))],
    "image": lambda block: [_object(block.get("title")) or str(block.get("alt_text", ""))],
}


def _unescape(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _clip_escaped(text: str, limit: int) -> str:
    return clip(_unescape(text), limit)


def _pieces(text: str, limit: int) -> list[str]:
    pieces, rest = [], text
    while rest:
        end = len(rest) if len(rest) <= limit else rest.rfind("\n", limit // 2, limit) + 1 or limit
        while size(rest[:end]) > limit and end > 1:
            end = end * 9 // 10
        pieces.append(rest[:end])
        rest = rest[end:]
    return [piece for piece in pieces if piece.strip()]
