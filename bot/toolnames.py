"""What each of Claude Code's own tools does, and on what, in a word or two. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_HOME = re.compile(r"(?:/\S*/worklets/\w+)?/(?:work/(?:workspace|home)|workspace|home/(?:agent|user))/")
FILE_CHANGES = ("Write", "Edit", "MultiEdit", "NotebookEdit")
CHECKLIST = ("TaskCreate", "TaskUpdate", "TaskList", "TaskGet", "TodoWrite")

Arguments = Mapping[str, Any]
_Says = Callable[[Arguments], tuple[str, str]]


def describe(name: str, arguments: Arguments) -> tuple[str, str]:
    """A verb, and what it is about (or nothing); both foreign text."""
    says = _SAYS.get(name)
    return says(arguments) if says else _other_named(name, arguments)


def _on(verb: str, *keys: str) -> _Says:
    def says(arguments: Arguments) -> tuple[str, str]:
        return verb, next((str(arguments[key]) for key in keys if arguments.get(key)), "")

    return says


def _file(verb: str, *keys: str) -> _Says:
    def says(arguments: Arguments) -> tuple[str, str]:
        return verb, short_path(next((str(arguments[key]) for key in keys if arguments.get(key)), ""))

    return says


def short_path(path: str) -> str:
    """Without the worklet's own directories before it."""
    home = _HOME.match(path)
    return path[home.end() :] if home else path


def _todos(arguments: Arguments) -> tuple[str, str]:
    todos = arguments.get("todos")
    return f"Plan ({len(todos)} steps)" if isinstance(todos, list) else "Plan", ""


def _search(arguments: Arguments) -> tuple[str, str]:
    where = arguments.get("path") or arguments.get("glob")
    return "Search", str(arguments.get("pattern", "")) + (f" in {where}" if where else "")


def _other_named(name: str, arguments: Arguments) -> tuple[str, str]:
    parts = name.split("__")  # MCP tools are called mcp__<server>__<tool>
    called = f"{parts[1]}: {'__'.join(parts[2:])}" if len(parts) > 2 and parts[0] == "mcp" else name
    return called or "Tool", next((value for value in arguments.values() if isinstance(value, str) and value), "")


_SAYS: dict[str, _Says] = {
    "AskUserQuestion": lambda _: ("Ask people", ""),
    "EnterPlanMode": lambda _: ("Plan first", ""),
    "ExitPlanMode": lambda _: ("Show the plan", ""),
    "Bash": _on("Bash", "command", "description"),
    "BashOutput": _on("Output of", "bash_id", "shell_id"),
    "mcp__flow__send_file": _file("Send", "path"),
    "mcp__flow__open_preview": _on("Offer a preview", "title", "port"),
    "KillShell": _on("Kill", "shell_id"),
    "Read": _file("Read", "file_path"),
    "Write": _file("Write", "file_path"),
    "Edit": _file("Edit", "file_path"),
    "MultiEdit": _file("Edit", "file_path"),
    "NotebookEdit": _file("Edit", "notebook_path"),
    "LS": _file("List", "path"),
    "Glob": _on("Find", "pattern"),
    "Grep": _search,
    "WebFetch": _on("Fetch", "url"),
    "WebSearch": _on("Web search", "query"),
    "Task": _on("Agent", "description", "subagent_type"),
    "Agent": _on("Agent", "description", "subagent_type"),
    "Skill": _on("Skill", "skill", "command"),
    "TodoWrite": _todos,
    "TaskCreate": _on("Plan", "subject", "description"),
    "TaskUpdate": _on("Plan", "status", "taskId"),
    "TaskList": _on("Plan"),
    "TaskGet": _on("Plan", "taskId"),
}
