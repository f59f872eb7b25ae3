"""Text for places in which Slack parses nothing: plain-text objects, preformatted rich text. Pure."""

from __future__ import annotations

from bot.markdown import clean
from bot.parts import Block


def preformatted(text: str) -> Block:
    """Rich text: Slack looks for no tokens and no entities in it (docs.slack.dev, rich text block)."""
    return {
        "type": "rich_text",
        "elements": [{"type": "rich_text_preformatted", "elements": [{"type": "text", "text": clean(text)}]}],
    }


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
