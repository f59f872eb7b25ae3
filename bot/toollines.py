"""One line for each use of a tool: what it does, on what, how it ended, and the last of what it printed. Pure.

The lines are mrkdwn; everything foreign stands in code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bot.markdown import clean, clip, size
from bot.parts import Block, actions, button, context
from bot.toolnames import FILE_CHANGES, describe
from bot.tooloutput import code_block, lines_of, room
from sessions.options import Level
from worklets.events import ToolFinished, ToolStarted

DIFF = "diff"  # action id; a second button of the same row is "diff_1" and so on
FULL = "full_output"  # the same
DIFFS = 5  # buttons in a row

_ARGUMENT, _DETAIL, _NAME, _REASON, _THOUGHT = 170, 80, 40, 400, 300
_PROGRESS = 130  # of a sub-agent: how many tools, and the last one
DETAIL_ROOM = _DETAIL + 20  # units that the ending may add to a line
_LABEL = 40
_MARKS = 6

#: Lines of output and their width, by level: what a command prints.
_TAILS = {Level.QUIET: (0, 0), Level.NORMAL: (3, 120), Level.VERBOSE: (15, 84)}
_ALWAYS = ("Bash", "BashOutput")
_SILENT = ("Read", "Write", "Edit", "MultiEdit", "NotebookEdit", "Grep", "Glob", "LS", "Agent", "Task")


@dataclass(slots=True)
class ToolLine:
    """A tool use, running until `finish` or `abandon`.

    `room`: units that the line takes at most, however it ends; less once it has ended. `given`: what the layout keeps
    for it. `diff`: the value of the button that shows what it changed, or (`action` FULL)
    all of what it printed.
    """

    tool_id: str
    head: str
    nested: bool
    mark: str = "▸"
    tail: str = ""
    output: str = ""
    lines: int = 0  # of output at most
    width: int = 0
    succeeds_silently: bool = False  # output that is longer than `lines` is shown of a failure only
    label: str = ""  # of the button, for a tool that changes a file, or whose whole output can be had
    action: str = DIFF
    diff: str = ""
    cut: bool = False  # more was printed than is shown
    agent: bool = False
    given: int = 0

    @property
    def running(self) -> bool:
        return self.mark == "▸"

    @property
    def room(self) -> int:
        """The button's label counts with the block that it is in."""
        if not self.running:
            return size(self.text()) + _MARKS + (_LABEL if self.diff else 0)
        more = room(self.lines, self.width) + (_PROGRESS if self.agent else 0) + (_LABEL if self.label else 0)
        return size(self.head) + DETAIL_ROOM + _MARKS + more

    def text(self) -> str:
        indent = "\u2003\u2003" if self.nested else ""
        return f"{indent}{self.mark} {self.head}{self.tail}{self.output}"

    def progress(self, tools: int, last: ToolStarted) -> None:
        """A sub-agent has begun with one more tool."""
        verb, argument = describe(last.name, last.input)
        words = f"{_count(tools, 'tool')}, last: {clip(clean(verb), _NAME)}"
        self.tail = f" – {words}" + (f" {_code(argument, _PROGRESS - size(words) - 10)}" if argument else "")

    def finish(self, event: ToolFinished, tools: int = 0) -> None:
        """`tools`: that a sub-agent used, where the result does not say."""
        self.mark = "✓" if event.ok else "✗"
        output = lines_of(event.output)
        if event.ok and self.succeeds_silently and len(output) > self.lines:
            output = []
        self.cut = len(output) > self.lines or any(len(line) > self.width for line in output)
        self.output = code_block(output, self.lines, self.width)
        detail = _agent_ending(event.details, tools) if self.agent and event.ok else ""
        detail = detail or _ending(event, quiet=bool(self.output))
        self.tail = f" – {detail}" if detail else ""

    def abandon(self) -> None:
        """The turn ended before the tool did."""
        self.mark, self.tail = "■", " – not finished"


def tool_line(event: ToolStarted, level: Level = Level.NORMAL) -> ToolLine:
    verb, argument = describe(event.name, event.input)
    head = clip(clean(verb), _NAME)
    if argument:
        head += " " + _code(argument, _ARGUMENT)
    line = ToolLine(event.tool_id, head, event.parent is not None, agent=event.name in ("Agent", "Task"))
    if not line.nested and event.name in FILE_CHANGES and level is not Level.QUIET:
        line.label = argument.rpartition("/")[2]
    if not line.nested and event.name not in _SILENT and (level is Level.VERBOSE or event.name in _ALWAYS):
        line.lines, line.width = _TAILS[level]
        line.succeeds_silently = level is not Level.VERBOSE
        if level is Level.VERBOSE:
            line.label, line.action = "Full output", FULL
    return line


def restart_line(reason: str) -> ToolLine:
    """Between the tools that a lost process had used and those of the next one."""
    return ToolLine("", clip(clean(" ".join(reason.split())), _REASON), nested=False, mark="↻")


def thought_line(text: str) -> ToolLine:
    return ToolLine("", _code(text, _THOUGHT), nested=False, mark="💭")


def lines_blocks(lines: Sequence[ToolLine]) -> list[Block]:
    """The lines in one block, and a row of buttons if files were changed."""
    blocks = [context("\n".join(line.text() for line in lines))]
    changed = [line for line in lines if line.diff]
    if changed:
        blocks.append(actions(*(_diff_button(number, line) for number, line in enumerate(changed))))
    return blocks


def _diff_button(number: int, line: ToolLine) -> Block:
    if line.action == FULL:
        return button(f"{FULL}_{number}" if number else FULL, line.label, line.diff)
    name = clean(line.label)
    label = "Diff" if not name else f"Diff {name if len(name) <= 30 else name[:29] + '…'}"
    return button(f"{DIFF}_{number}" if number else DIFF, label, line.diff)


def _code(text: str, limit: int) -> str:
    """A code span: no formatting, no emoji names, no tokens; one line."""
    flat = " ".join(clean(text).replace("`", "'").split())
    return f"`{clip(flat, limit)}`"


# ---- how it ended ------------------------------------------------------------------------------------------------


def _ending(event: ToolFinished, *, quiet: bool) -> str:
    """Exit status, counts, or the first words of an error; already mrkdwn. `quiet`: its output is shown anyway."""
    details = event.details
    code = _int(details, "exit_code")
    if code:
        return f"exit {code}"
    if not event.ok:
        first = next((line for line in lines_of(event.output) if line.strip()), "")
        return _code(_plain(first), _DETAIL) if first and not quiet else "failed"
    added, removed = _int(details, "added"), _int(details, "removed")
    if added is not None or removed is not None:
        return f"+{added or 0} −{removed or 0}"
    if (hits := _int(details, "hits")) is not None:
        unit = details.get("unit")
        return _count(hits, unit if unit in ("match", "line", "file", "result") else "hit")
    if (lines := _int(details, "lines")) is not None:
        return _count(lines, "line")
    return f"status {status}" if (status := _int(details, "status")) is not None else ""


def _agent_ending(details: Mapping[str, Any], tools: int) -> str:
    used = _int(details, "tools")
    seconds = details.get("seconds")
    facts = [_count(tools if used is None else used, "tool")]
    if isinstance(seconds, int | float):
        facts.append(f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s")
    return ", ".join(facts)


def _plain(line: str) -> str:
    """Without the tags that the CLI puts around errors for the model."""
    return line.strip().removeprefix("<tool_use_error>").removesuffix("</tool_use_error>").removeprefix("Error: ")


def _count(number: int, unit: str) -> str:
    plural = "matches" if unit == "match" else f"{unit}s"
    return f"{number:,} {unit if number == 1 else plural}"


def _int(details: Mapping[str, Any], key: str) -> int | None:
    value = details.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
