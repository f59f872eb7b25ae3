"""The scripted model's language: what a prompt's directives make it do. Pure.

One directive a line, anywhere in the prompt; several make a sequence. A tool call ends a reply, and the
sequence goes on in the request that brings the tool's result. A line that does not fit a directive's form
("WAIT for me") is ordinary text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

HELP = """\
SAY <text>             streams the text (\\n makes a new line)
WORDS <n> [<ms>]       streams "word1 word2 …", <ms> milliseconds a word
CODE <n>               a fenced block of n lines of code
THINK <text>           a thinking block
BASH <command>         a call of the Bash tool
WRITE <path> <text>    a call of the Write tool
READ <path>            a call of the Read tool
TOOL <name> <json>     a call of any tool, with this input
ASK <question> | <a> | <b> …   a call of AskUserQuestion
PLAN <markdown>        enters plan mode, writes the plan and shows it (\\n makes a new line)
RECALL                 lists all earlier messages of the conversation
SLOW <ms>              delay of each chunk that follows
WAIT <ms>              a pause
HOLD <name>            keeps the reply open until it is released
RELEASE <name>         releases it, from whatever conversation
ERROR <status> [<n>]   an API error, n times (always, if n is not given)
CUT                    the connection breaks here, once"""

PLAN_FILE = "<plan file>"  # as a path in a tool's input: the file that the CLI has named for the plan


@dataclass(frozen=True, slots=True)
class Say:
    chunks: tuple[str, ...]
    delay: float = 0.0  # seconds before each chunk but the first


@dataclass(frozen=True, slots=True)
class Think:
    text: str


@dataclass(frozen=True, slots=True)
class CallTool:
    name: str
    input: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(frozen=True, slots=True)
class Hold:
    name: str


@dataclass(frozen=True, slots=True)
class Release:
    name: str


@dataclass(frozen=True, slots=True)
class Fail:
    status: int
    times: int | None  # None: always


@dataclass(frozen=True, slots=True)
class Cut:
    pass


@dataclass(frozen=True, slots=True)
class Recall:
    delay: float = 0.0


Step: TypeAlias = Say | Think | CallTool | Pause | Hold | Release | Fail | Cut | Recall


def words(text: str) -> tuple[str, ...]:
    """The text in word-sized pieces that join to exactly the text."""
    return tuple(re.findall(r"\s*\S+|\s+$", text))


def _count(n: str, ms: str | None, slow: float) -> Say:
    delay = int(ms) / 1000 if ms else slow
    return Say(tuple(f"word{i}" if i == 1 else f" word{i}" for i in range(1, int(n) + 1)), delay)


def _code(n: int, slow: float) -> Say:
    lines = [f"def step_{i}(value: int) -> int: return value + {i}\n" for i in range(1, n + 1)]
    return Say(("```python\n", *lines, "```"), slow)


def _any_tool(name: str, text: str) -> CallTool | None:
    """None: the input is no JSON object, so the line is ordinary text."""
    try:
        return CallTool(name, json.loads(text))
    except ValueError:
        return None


def _question(text: str) -> CallTool:
    question, *options = (part.strip() for part in text.split("|"))
    given = [{"label": option, "description": f"Choose {option}"} for option in options]
    asked = {"question": question, "header": question.split()[0][:12], "options": given, "multiSelect": False}
    return CallTool("AskUserQuestion", {"questions": [asked]})


def _make_plan(markdown: str) -> list[Step]:
    """As Claude does it: the plan is a file whose path the CLI has named, and ExitPlanMode shows that file."""
    plan = {"file_path": PLAN_FILE, "content": markdown.replace("\\n", "\n")}
    return [CallTool("EnterPlanMode", {}), CallTool("Write", plan), CallTool("ExitPlanMode", {})]


#: What each directive's line looks like, and what it makes of the match and the current delay.
_DIRECTIVES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], float], Step | list[Step] | None]], ...] = (
    (re.compile(r"SAY (.+)"), lambda m, slow: Say(words(m[1].replace("\\n", "\n")), slow)),
    (re.compile(r"WORDS (\d+)(?: (\d+))?"), lambda m, slow: _count(m[1], m[2], slow)),
    (re.compile(r"CODE (\d+)"), lambda m, slow: _code(int(m[1]), slow)),
    (re.compile(r"THINK (.+)"), lambda m, _: Think(m[1])),
    (re.compile(r"BASH (.+)"), lambda m, _: CallTool("Bash", {"command": m[1], "description": "Run a command"})),
    (re.compile(r"WRITE (\S+) (.+)"), lambda m, _: CallTool("Write", {"file_path": m[1], "content": m[2]})),
    (re.compile(r"READ (\S+)"), lambda m, _: CallTool("Read", {"file_path": m[1]})),
    (re.compile(r"TOOL (\w+) (\{.*\})"), lambda m, _: _any_tool(m[1], m[2])),
    (re.compile(r"ASK ([^|]+(?:\|[^|]+){2,4})"), lambda m, _: _question(m[1])),
    (re.compile(r"PLAN (.+)"), lambda m, _: _make_plan(m[1])),
    (re.compile(r"RECALL"), lambda _, slow: Recall(slow)),
    (re.compile(r"WAIT (\d+)"), lambda m, _: Pause(int(m[1]) / 1000)),
    (re.compile(r"HOLD (\S+)"), lambda m, _: Hold(m[1])),
    (re.compile(r"RELEASE (\S+)"), lambda m, _: Release(m[1])),
    (re.compile(r"ERROR ([45]\d\d)(?: (\d+))?"), lambda m, _: Fail(int(m[1]), int(m[2]) if m[2] else None)),
    (re.compile(r"CUT"), lambda _m, _s: Cut()),
)
_SLOW = re.compile(r"SLOW (\d+)")


def parse(prompt: str) -> list[Step]:
    """The steps that a prompt's directives ask for; empty when it has none."""
    return list(_steps(prompt))


def _steps(prompt: str) -> Iterator[Step]:
    slow = 0.0
    for line in (raw.strip() for raw in prompt.splitlines()):
        if match := _SLOW.fullmatch(line):
            slow = int(match[1]) / 1000
            continue
        for pattern, make in _DIRECTIVES:
            if (match := pattern.fullmatch(line)) and (step := make(match, slow)) is not None:
                yield from step if isinstance(step, list) else [step]
                break


def reply(steps: list[Step], tool_results: int) -> list[Step]:
    """The part of the sequence that answers a request with so many tool results since the prompt."""
    parts: list[list[Step]] = [[]]
    for step in steps:
        parts[-1].append(step)
        if isinstance(step, CallTool):
            parts.append([])
    part = parts[min(tool_results, len(parts) - 1)]
    if any(isinstance(step, Say | Think | CallTool | Recall | Hold) for step in part):
        return part
    return [*part, Say(("Done.",))]
