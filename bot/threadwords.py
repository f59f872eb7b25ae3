"""Words to Flow itself, in a thread: `model opus`, `mode plan`, `cost`, `fork`, `share #channel` and the like. Pure.

Only a message that is exactly that, after the mention: a word that is misspelt, or stands in a longer sentence, is for
Claude. `/model opus` is one too: the CLI would forget it with its process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bot.inbound import Identity, without_mention
from sessions.controls import MODELS, MODES
from sessions.options import Level
from sessions.types import Prompt, ThreadId

LEVELS = tuple(level.value for level in Level)
_PLAIN = ("model", "mode", "cost", "context", "compact", "clear", "egress", "rules", "fork", "help", *LEVELS)
_CHANNEL = re.compile(r"share\s+<#([CGD][A-Z0-9]+)(?:\|[^<>]*)?>", re.IGNORECASE)
_WITH = re.compile(rf"/?(model)\s+({'|'.join(MODELS)})|(mode)\s+({'|'.join(MODES)})", re.IGNORECASE)

#: Words that Claude Code itself is told, as a turn.
COMMANDS = {"compact": "/compact", "clear": "/clear"}


def as_asked(text: str, channel: str) -> str:
    """What a message that calls Flow asks of Claude once it was edited to `text`."""
    return text if channel.startswith("D") else COMMANDS.get(text.strip().lower(), text)


@dataclass(frozen=True, slots=True)
class Word:
    """`name` as people write it; `argument` a model, a mode or a channel's id; empty: there is none, or it is asked."""

    name: str
    argument: str
    thread: ThreadId
    source_id: str
    ts: str
    user_id: str


def word_of(event: Mapping[str, Any], prompt: Prompt, me: Identity) -> Word | None:
    """The word that a message's event is, if it is one. `prompt`: the event as it would be asked of Claude."""
    if not prompt.starts or event.get("files"):
        return None
    markup = str(event.get("text") or "").strip()
    asked = without_mention(markup, me)
    found = read_word(asked)
    if asked == markup and not asked.startswith("/") and (found is None or found[0] != "help"):
        return None  # a direct message without a mention: everyday words are for Claude there
    if found is None or (prompt.thread.thread_ts == prompt.ts and found[0] != "help"):
        return None
    return Word(*found, prompt.thread, prompt.source_id, prompt.ts, prompt.user_id)


def read_word(markup: str) -> tuple[str, str] | None:
    """Name and argument of what was written, in Slack's markup, without the mention."""
    text = markup.strip()
    if text.lower() in _PLAIN:
        return text.lower(), ""
    if found := _CHANNEL.fullmatch(text):
        return "share", found[1].upper()
    if found := _WITH.fullmatch(text):
        name, argument = (part for part in found.groups() if part)
        return name.lower(), argument.lower()
    return None
