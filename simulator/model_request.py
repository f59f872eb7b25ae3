"""Reading a Messages API request: which prompt it answers, and what came before. Pure.

The Claude Code CLI puts its own blocks (`<system-reminder>…`) into user messages, and merges the user
messages of a failed or interrupted turn into one; so the prompt is the last text block that is a person's.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_REMINDER, _REMINDER_END = "<system-reminder>", "</system-reminder>"
_PLANS = "/plans/"
_BEFORE, _BEHIND = re.compile(r"/[^\s\"\\]*\Z"), re.compile(r"[^\s\"\\/]+\.md")
_OF_THE_CLI = ("[Request interrupted by user", "[Image: source: ")  # texts of blocks that it adds to a person's


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a request says: the prompt, the texts before it, the tool results since."""

    prompt: str
    earlier: tuple[str, ...]
    results: tuple[str, ...]  # of the tools called since the prompt
    plan_file: str = ""  # where the CLI said last that a plan belongs

    @property
    def key(self) -> str:
        """The same for each repetition of one request, different for any other of the conversation."""
        return f"{len(self.earlier)}/{len(self.results)}/{self.prompt}"


def read(body: dict[str, Any]) -> Conversation:
    texts: list[str] = []
    results: list[str] = []
    for message in body.get("messages", []):
        if message.get("role") != "user":
            continue
        for block in _blocks(message.get("content", "")):
            if block.get("type") == "tool_result":
                results.append(_plain(block.get("content", "")))
            elif text := _persons_text(block):
                texts.append(text)
                results = []
    plan_file = _plan_file(json.dumps(body.get("messages", [])))
    return Conversation(texts[-1] if texts else "", tuple(texts[:-1]), tuple(results), plan_file)


def _plan_file(text: str) -> str:
    """The last address of a plan; looked for from its middle, since a picture is a million characters of a path."""
    at = len(text)
    while (at := text.rfind(_PLANS, 0, at)) >= 0:
        behind = _BEHIND.match(text, at + len(_PLANS))
        before = _BEFORE.search(text[max(0, at - 4_096) : at])
        if before is not None and behind is not None:
            return before[0] + _PLANS + behind[0]
    return ""


def is_side_request(body: dict[str, Any]) -> bool:
    """True for what the CLI asks for itself: a probe of the quota, a title, a summary of a command."""
    if body.get("max_tokens") == 1:
        return True
    has_schema = "output_format" in body or "format" in (body.get("output_config") or {})
    return has_schema and not body.get("tools")


def tokens(value: object) -> int:
    """A rough count of tokens: a quarter of the characters."""
    return max(1, len(str(value)) // 4)


def _blocks(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _persons_text(block: dict[str, Any]) -> str:
    if block.get("type") != "text":
        return ""
    text: str = block.get("text", "")
    while (start := text.find(_REMINDER)) >= 0:
        end = text.find(_REMINDER_END, start)
        text = text[:start] + (text[end + len(_REMINDER_END) :] if end >= 0 else "")
    text = text.strip()
    return "" if text.startswith(_OF_THE_CLI) else text


def _plain(content: Any) -> str:
    return "\n".join(block.get("text", "") for block in _blocks(content))
