"""The few things of Markdown that reach over lines and matter for a cut: code fences and tables. Pure.

Read line by line, so that a text that grows is read the same way whatever comes later. A heading, a rule and a table
each become a block of their own in Slack, which counts them; where it is doubtful how Slack reads a line, it counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

MOST_COLUMNS = 20  # of a table (docs.slack.dev, table block)
MOST_ROWS = 100  # with the header
FENCE_ROOM = 16  # units that closing a fence takes at most, with its line break

_FENCE = re.compile(r"([\s>]*)(`{3,}|~{3,})(.*)")
_OPENER = re.compile(r"((?:[\s>]|(?:[-*+]|\d{1,9}[.)])[ \t])*)(`{3,}|~{3,})(.*)")  # it may begin a list's item too
_MARKERS = re.compile(r"[^\s>]")
_HEADING = re.compile(r" {0,3}#{1,6}(?:[ \t]|$)")
_RULE = re.compile(r" {0,3}(?:[-*_=][ \t]*)+")
_TABLE_RULE = re.compile(r"\s*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?\s*")
_BLOCK = re.compile(r" {0,3}(?:#{1,6}[ \t]|>|(?:[-*+]|\d{1,9}[.)])[ \t])")
_ESCAPED = re.compile(r"\\.")


@dataclass(frozen=True, slots=True)
class Open:
    """What a cut closes and opens anew: the lines that open it again, and the one that closes it (of a table none)."""

    opener: str
    closer: str


@dataclass(frozen=True, slots=True)
class Fence(Open):
    """A code fence. `doubtful`: Slack may read it as closed."""

    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Table(Open):
    """A table; its opener is the header with the line of dashes. `rows`: how many this message has of it so far."""

    rows: int = 1


@dataclass(frozen=True, slots=True)
class State:
    """What is open after a line. `header`: that line, where it is a table's header if dashes come next."""

    open: Open | None = None
    header: str | None = None


def after(line: str, state: State) -> State:
    """The state after this line (without its line break), given the one before it."""
    if isinstance(state.open, Fence) and not _leaves_quote(line, state.open):
        return State(_in_fence(line, state.open))
    if (fence := _opened(line)) is not None:
        return State(fence)
    if state.header is not None and is_table_rule(line) and columns(line) <= MOST_COLUMNS >= columns(state.header):
        return State(Table(f"{state.header}\n{line.strip()}", ""))
    if isinstance(state.open, Table) and line.strip() and not _BLOCK.match(line):
        return State(Table(state.open.opener, state.open.closer, state.open.rows + 1))
    return State(None, line.strip() if "|" in line else None)


def begins_table(state: State) -> bool:
    """Whether the line just read is the line of dashes."""
    return isinstance(state.open, Table) and state.open.rows == 1


def items(line: str, state: State, *, whole: bool) -> int:
    """Blocks that this line becomes besides its text; `state` before it. `whole`: its line break has come.

    Only what no further character can undo counts, so that a growing line never moves an earlier cut.
    """
    if isinstance(state.open, Fence) and not state.open.doubtful:
        return 0
    heading = _HEADING.match(line) and (whole or not line.endswith("#"))
    return int(bool(heading or (whole and _RULE.fullmatch(line))))


def is_table_rule(line: str) -> bool:
    return "|" in line and _TABLE_RULE.fullmatch(line) is not None


def columns(line: str) -> int:
    """Cells of a row."""
    inner = _ESCAPED.sub("", line).strip()
    return inner.removeprefix("|").removesuffix("|").count("|") + 1


def _opened(line: str) -> Fence | None:
    match = _OPENER.match(line) if "```" in line or "~~~" in line else None
    if match is None:
        return None
    indent, marks, rest = match.groups()
    if marks[0] == "`" and "`" in rest:
        return None
    marks = marks[: FENCE_ROOM - 4]
    plain = indent in ("", " ", "  ", "   ")
    indent = indent[-8:]
    # Within an item the end stands as deep as the item's text; further left it would begin a block of its own.
    deep = FENCE_ROOM - 1 - len(marks) if _MARKERS.search(indent) else 2
    closer = _MARKERS.sub(" ", indent)[-deep:] + marks
    return Fence(f"{indent}{marks}{rest.strip()[:40]}", closer, doubtful=not plain)


def ends_fence(line: str, fence: Fence) -> bool:
    return not _leaves_quote(line, fence) and _in_fence(line, fence) is None


def _leaves_quote(line: str, fence: Fence) -> bool:
    """A fence ends with the quote that it stands in."""
    return ">" in fence.closer and not line.lstrip().startswith(">")


def _in_fence(line: str, fence: Fence) -> Fence | None:
    match = _FENCE.match(line)
    if match is None:
        return fence
    _, marks, rest = match.groups()
    opened = fence.closer.strip(" \t>")
    if marks[0] != opened[0] or len(marks) < len(opened):
        return fence
    return replace(fence, doubtful=True) if rest.strip() else None
