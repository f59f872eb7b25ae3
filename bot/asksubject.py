"""What an ask is about: the command or diff to allow, the questions, the plan. Pure.

The input is what Claude gave the tool (the CLI has checked it against the tool's schema, a hostile process may have
not): every field may be missing or of another type.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bot.markdown import clean, clip
from bot.plaintext import visible
from bot.toolnames import short_path
from sessions.asks import PULL_REQUEST, PUSH, Ask, AskKind

_REST_ROOM = 300  # characters of arguments that are told in a note
_PATH_ROOM = 200
_CHANGE = ("old_string", "new_string")
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
        case tool if tool in (PUSH, PULL_REQUEST):
            lines = [visible(_text(given, "title")), visible(_text(given, "body"))]
            return Subject("\n\n".join(filter(None, lines)))
        case "Bash" if command := _text(given, "command"):
            return _with_rest(command, _text(given, "description"), given, "command", "description")
        case "Write" if isinstance(given.get("content"), str):
            return _with_rest(_text(given, "content"), "", given, "file_path", "content")
        case "Edit" | "MultiEdit" if changes := _changes(given):
            said = ("edits",) if isinstance(given.get("edits"), list) else _CHANGE
            text = "\n".join(_diff(visible(old), visible(new)) for old, new in changes)
            return _with_rest(text, _everywhere(given), given, "file_path", "replace_all", *said)
    return _whole(given)


def _with_rest(text: str, note: str, given: Mapping[str, Any], *told: str) -> Subject:
    """Arguments that are not `told` otherwise come first in the note: nothing of a call may be hidden."""
    rest = ", ".join(f"{key}: {_json(value)}" for key, value in given.items() if key not in told)
    if len(rest) > _REST_ROOM:
        return _whole(given)
    return Subject(visible(text), visible("\n".join(each for each in (rest, note) if each)))


def _whole(given: Mapping[str, Any]) -> Subject:
    return Subject(visible(_json(given, 2)) if given else "")


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, default=str)


def headline(ask: Ask) -> str:
    """mrkdwn after "Claude asks for permission"."""
    if ask.tool == PULL_REQUEST:
        at = f"{_code(_text(ask.input, 'branch'))} of {_code(_text(ask.input, 'repository'))}"
        into = f" into {_code(_text(ask.input, 'base'))}" if _text(ask.input, "base") else ""
        return f"to open a pull request of {at}{into}"
    if ask.tool == PUSH:
        does = "delete the branch" if ask.input.get("deletes") is True else "push to"
        return f"to {does} {_code(_text(ask.input, 'branch'))} of {_code(_text(ask.input, 'repository'))}"
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
    line = " ".join(visible(short_path(text)).replace("`", "'").split())
    if len(line) > _PATH_ROOM:  # the end says which file it is
        line = f"{line[: _PATH_ROOM // 2]}…{line[-_PATH_ROOM // 2 :]}"
    return f"`{clip(line, 6 * _PATH_ROOM) or '…'}`"


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    return value if isinstance(value, str) else ""


def _changes(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Old and new of each; none if a diff would not tell all of it."""
    edits = given.get("edits")
    listed = edits if isinstance(edits, list) else [{key: given[key] for key in _CHANGE if key in given}]
    whole = all(isinstance(each, Mapping) and isinstance(each.get("old_string"), str) for each in listed)
    if not whole or any(key not in _CHANGE for each in listed for key in each):
        return []
    return [(each["old_string"], _text(each, "new_string")) for each in listed]


def _everywhere(given: Mapping[str, Any]) -> str:
    return "Everywhere in the file." if given.get("replace_all") is True else ""


def _diff(old: str, new: str) -> str:
    before, after = old.splitlines(), new.splitlines()
    if len(before) + len(after) > _DIFF_LINES:
        return "\n".join([*(f"-{line}" for line in before), *(f"+{line}" for line in after)])
    lines = list(difflib.unified_diff(before, after, n=len(before), lineterm=""))[3:]
    return "\n".join(lines) if lines else "\n".join(f" {line}" for line in before)
