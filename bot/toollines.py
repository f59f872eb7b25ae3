"""One line for each use of a tool: what it does, on what, how it ended. Pure.

The lines are mrkdwn; everything foreign stands in code spans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bot.markdown import clean, clip, size
from worklets.events import ToolFinished, ToolStarted

_ARGUMENT, _DETAIL, _NAME, _REASON = 170, 80, 40, 400
DETAIL_ROOM = _DETAIL + 20  # units that the ending may add to a line
_HOME = ("/workspace/", "/home/agent/", "/home/user/")


@dataclass(slots=True)
class ToolLine:
    """A tool use, running until `finish` or `abandon`."""

    tool_id: str
    head: str
    nested: bool
    mark: str = "▸"
    tail: str = ""

    @property
    def running(self) -> bool:
        return self.mark == "▸"

    @property
    def room(self) -> int:
        """Units that the line takes at most, however it ends."""
        return size(self.head) + DETAIL_ROOM + 6

    def text(self) -> str:
        indent = "\u2003\u2003" if self.nested else ""
        return f"{indent}{self.mark} {self.head}{self.tail}"

    def finish(self, event: ToolFinished) -> None:
        self.mark = "✓" if event.ok else "✗"
        detail = _ending(event)
        self.tail = f" – {detail}" if detail else ""

    def abandon(self) -> None:
        """The turn ended before the tool did."""
        self.mark, self.tail = "■", " – not finished"


def tool_line(event: ToolStarted) -> ToolLine:
    says = _SAYS.get(event.name)
    verb, argument = says(event.input) if says else _other_named(event)
    head = clip(clean(verb), _NAME)
    if argument:
        head += " " + _code(argument, _ARGUMENT)
    return ToolLine(event.tool_id, head, event.parent is not None)


def restart_line(reason: str) -> ToolLine:
    """Between the tools that a lost process had used and those of the next one."""
    return ToolLine("", clip(clean(" ".join(reason.split())), _REASON), nested=False, mark="↻")


def _code(text: str, limit: int) -> str:
    """A code span: no formatting, no emoji names, no tokens; one line."""
    flat = " ".join(clean(text).replace("`", "'").split())
    return f"`{clip(flat, limit)}`"


def _ending(event: ToolFinished) -> str:
    """How it ended: exit status, counts of lines, or the first words of an error; already mrkdwn."""
    details = event.details
    code = details.get("exit_code")
    if isinstance(code, int) and not isinstance(code, bool) and code != 0:
        return f"exit {code}"
    if not event.ok:
        first = next((line for line in event.output.splitlines() if line.strip()), "")
        return _code(first, _DETAIL) if first else "failed"
    added, removed = details.get("added"), details.get("removed")
    if isinstance(added, int) or isinstance(removed, int):
        return f"+{added or 0} −{removed or 0}"
    return ""


# ---- what each of Claude Code's own tools works on -----------------------------------------------------------------

_Says = Callable[[Mapping[str, Any]], tuple[str, str]]


def _on(verb: str, *keys: str) -> _Says:
    def says(arguments: Mapping[str, Any]) -> tuple[str, str]:
        return verb, next((str(arguments[key]) for key in keys if arguments.get(key)), "")

    return says


def _file(verb: str, *keys: str) -> _Says:
    def says(arguments: Mapping[str, Any]) -> tuple[str, str]:
        path = next((str(arguments[key]) for key in keys if arguments.get(key)), "")
        for home in _HOME:
            path = path.removeprefix(home)
        return verb, path

    return says


def _todos(arguments: Mapping[str, Any]) -> tuple[str, str]:
    todos = arguments.get("todos")
    return f"Plan ({len(todos)} steps)" if isinstance(todos, list) else "Plan", ""


def _search(arguments: Mapping[str, Any]) -> tuple[str, str]:
    where = arguments.get("path") or arguments.get("glob")
    return "Search", str(arguments.get("pattern", "")) + (f" in {where}" if where else "")


def _other(arguments: Mapping[str, Any]) -> tuple[str, str]:
    return "Tool", next((value for value in arguments.values() if isinstance(value, str) and value), "")


def _other_named(event: ToolStarted) -> tuple[str, str]:
    parts = event.name.split("__")  # MCP tools are called mcp__<server>__<tool>
    name = f"{parts[1]}: {'__'.join(parts[2:])}" if len(parts) > 2 and parts[0] == "mcp" else event.name
    return name or "Tool", _other(event.input)[1]


_SAYS: dict[str, _Says] = {
    "Bash": _on("Bash", "command", "description"),
    "BashOutput": _on("Output of", "bash_id", "shell_id"),
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
}
