"""A message as Flow wants it to be: blocks, fallback text, and simpler forms for when Slack refuses them. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from bot.markdown import clip, escape, size

Block = dict[str, Any]

FALLBACK_LIMIT = 3_000  # chat.update refuses a `text` above 4,000
PLAIN_LIMIT = 3_900
ROOT = -1  # index of the message that opens a thread
FILE = -2  # of the file that holds the whole of a long answer


#: How the states of a plan's tasks look in a list: a sign, and a style.
_TASKS = {"pending": ("☐", ""), "in_progress": ("◐", "bold"), "complete": ("☑", "strike")}


@dataclass(frozen=True, slots=True)
class Part:
    """Message number `index` of a turn. `final`: no further event changes it. `text` is shown in notifications.

    `words`: it says something of the answer, not just that it is being worked on.
    """

    index: int
    blocks: tuple[Block, ...]
    text: str
    final: bool
    words: bool = True

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
    pieces: list[Block] = [{"type": "text", "text": str(plan["title"]), "style": {"bold": True}}]
    for task in plan["tasks"]:
        sign, style = _TASKS[task["status"]]
        pieces.append({"type": "text", "text": f"\n{sign} "})
        pieces.append({"type": "text", "text": str(task["title"])} | ({"style": {style: True}} if style else {}))
    return {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": pieces}]}


def sectioned(part: Part) -> Part:
    """The same words in sections of plain text, which Slack has no way to misread; and the buttons."""
    blocks: list[Block] = []
    for piece in _pieces("\n\n".join(_texts(part.blocks)), 2_900):
        blocks.append({"type": "section", "text": {"type": "plain_text", "text": piece, "emoji": False}})
    blocks = [*blocks[:40], *(block for block in part.blocks if block["type"] == "actions")]
    return Part(part.index, tuple(blocks), part.text, part.final, part.words)


def plain(part: Part) -> Part:
    """The same words as `text` alone. May exceed PLAIN_LIMIT, which only `chat.postMessage` takes."""
    return Part(part.index, (), escape("\n\n".join(_texts(part.blocks))) or part.text, part.final, part.words)


def shortened(part: Part) -> Part:
    """A text that `chat.update` takes."""
    if size(part.text) <= PLAIN_LIMIT:
        return part
    return Part(part.index, part.blocks, _clip_escaped(part.text, PLAIN_LIMIT), part.final, part.words)


def fallback(blocks: list[Block]) -> str:
    return clip("\n".join(_texts(tuple(blocks))), FALLBACK_LIMIT)


def _texts(blocks: tuple[Block, ...]) -> list[str]:
    """What the blocks say, as plain text."""
    found = []
    for block in blocks:
        if block["type"] == "markdown":
            found.append(str(block["text"]).replace("&lt;", "<"))
        elif block["type"] == "context":
            found += [_unescape(element["text"]) for element in block["elements"]]
        elif block["type"] == "section":
            found.append(_unescape(block["text"]["text"]))
        elif block["type"] == "plan":
            found += _texts((listed(block),))
        elif block["type"] == "rich_text":
            found += [_rich(element) for element in block["elements"]]
    return found


def _rich(element: Block) -> str:
    return str(element["text"]) if "text" in element else "".join(map(_rich, element.get("elements", [])))


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
