"""What an ask is about: the command or diff to allow, the questions, the plan. Pure.

The input is what Claude gave the tool (the CLI has checked it against the tool's schema, a hostile process may have
not): every field may be missing or of another type.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bot.markdown import clean, clip
from bot.toolnames import short_path
from sessions.asks import Ask, AskKind

_DIFF_LINES = 2_000  # comparing takes time that grows with their square


@dataclass(frozen=True, slots=True)
class Subject:
    """`text` is shown as it is, whole; `note` is what Claude says of it."""

    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Option:
    label: str
    description: str = ""
    preview: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    options: tuple[Option, ...] = ()
    multiple: bool = False


def subject(ask: Ask) -> Subject:
    given = ask.input
    if ask.kind is AskKind.PLAN:
        return Subject(clean(_text(given, "plan")))
    if ask.kind is AskKind.BUDGET:
        return Subject(clean(_text(given, "text")))
    match ask.tool:
        case "Bash" if _text(given, "command"):
            return Subject(clean(_text(given, "command")), _text(given, "description"))
        case "Write" if isinstance(given.get("content"), str):
            return Subject(clean(_text(given, "content")))
        case "Edit" | "MultiEdit" if changes := list(_changes(given)):
            return Subject(clean("\n".join(_diff(old, new) for old, new in changes)), _everywhere(given))
    return Subject(clean(json.dumps(given, ensure_ascii=False, indent=2, default=str)) if given else "")


def headline(ask: Ask) -> str:
    """mrkdwn after "Claude asks for permission"."""
    path = _text(ask.input, "file_path") or _text(ask.input, "notebook_path")
    match ask.tool:
        case "Bash":
            return "to run a command"
        case "Write" if path:
            return f"to write {_code(path)}"
        case "Edit" | "MultiEdit" | "NotebookEdit" if path:
            return f"to change {_code(path)}"
    return f"to use {_code(_named(ask.tool))}"


def questions(ask: Ask) -> list[Question]:
    """At least one, whatever came."""
    listed = ask.input.get("questions")
    found = [_question(each) for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
    return found or [Question(json.dumps(ask.input, ensure_ascii=False, default=str) if ask.input else "")]


def _question(given: Mapping[str, Any]) -> Question:
    listed = given.get("options")
    options = [
        Option(_text(each, "label"), _text(each, "description"), _text(each, "preview"))
        for each in (listed if isinstance(listed, list) else [])
        if isinstance(each, Mapping) and _text(each, "label").strip()
    ]
    return Question(
        _text(given, "question") or _text(given, "header"), tuple(options), given.get("multiSelect") is True
    )


def _named(tool: str) -> str:
    parts = tool.split("__")  # MCP tools are called mcp__<server>__<tool>
    return f"{parts[1]}: {'__'.join(parts[2:])}" if len(parts) > 2 and parts[0] == "mcp" else tool or "a tool"


def _code(text: str) -> str:
    return f"`{clip(' '.join(clean(short_path(text)).replace('`', chr(39)).split()), 200) or '…'}`"


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    return value if isinstance(value, str) else ""


def _changes(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    edits = given.get("edits")
    for each in edits if isinstance(edits, list) else [given]:
        if isinstance(each, Mapping) and isinstance(each.get("old_string"), str):
            yield each["old_string"], _text(each, "new_string")


def _everywhere(given: Mapping[str, Any]) -> str:
    return "Everywhere in the file." if given.get("replace_all") is True else ""


def _diff(old: str, new: str) -> str:
    before, after = old.splitlines(), new.splitlines()
    if len(before) + len(after) > _DIFF_LINES:
        return "\n".join([*(f"-{line}" for line in before), *(f"+{line}" for line in after)])
    lines = list(difflib.unified_diff(before, after, n=len(before), lineterm=""))[3:]
    return "\n".join(lines) if lines else "\n".join(f" {line}" for line in before)
