"""Text for places in which Slack parses nothing: plain-text objects, preformatted rich text. Pure."""

from __future__ import annotations

import re

from bot.markdown import clean
from bot.parts import Block

#: Characters that show nothing, or turn round how others show: controls, joiners, marks of direction, tags, fillers.
_UNSEEN = re.compile(
    r"[\x80-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\u2800\u3164\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def preformatted(text: str) -> Block:
    """Rich text: Slack looks for no tokens and no entities in it (docs.slack.dev, rich text block)."""
    return {
        "type": "rich_text",
        "elements": [{"type": "rich_text_preformatted", "elements": [{"type": "text", "text": clean(text)}]}],
    }


def visible(text: str) -> str:
    """What somebody is to judge by its look: characters that cannot be seen are spelled out, such as `\\u202e`."""
    return _UNSEEN.sub(_spelled, clean(text))


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def plain_text(text: str, limit: int) -> Block:
    return {"type": "plain_text", "text": short(text, limit), "emoji": False}


def short(text: str, limit: int) -> str:
    """One line of at most `limit` UTF-16 units, never empty; for places where Slack decodes nothing."""
    line = flat(text)
    if units(line) <= limit:
        return line or "…"
    end = min(len(line), limit - 1)
    while units(line[:end]) > limit - 1:
        end -= 1
    return line[:end] + "…"


def clip_code(text: str, limit: int) -> str:
    """The beginning of a text that takes at most `limit` UTF-16 units, if it can at the end of a line."""
    if units(text) <= limit:
        return text
    end = min(len(text), limit)
    while units(text[:end]) > limit:
        end -= max(1, (units(text[:end]) - limit) // 2)
    line = text.rfind("\n", end - 500 if end > 500 else 0, end)
    return text[: line + 1] if line > 0 else text[:end]


def units(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def flat(text: str) -> str:
    return " ".join(clean(text).split())
