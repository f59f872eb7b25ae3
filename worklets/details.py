"""What the CLI's structured result of a tool tells beside its output: the `details` of `ToolFinished`. Pure.

The shapes are those of CLI 2.1.329 (`tool_use_result` of a `user` line; a failed tool has a plain text there, a tool of
a sub-agent none). Everything is kept bounded: it is stored with the transcript.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

PATCH = 16_000  # characters kept of a patch
_PATCH_LINE, _TEXT, _PATH, _LIST, _MEMORY = 600, 300, 4_096, 100, 500
_EXIT_CODE = re.compile(r"(?:Error: )?Exit code (\d+)")

Details = dict[str, Any]


def details(result: Any, output: str, ok: bool) -> Details:
    """Which of these are known (all numbers are ints, texts are bounded):

    exit_code: of a shell command · added, removed: lines that an edit changed · path, patch: the file, and a unified
    diff of it (`patch_cut`: how many lines were left out) · hits, unit ("match", "line", "file", "result"): of a search
    · lines: that were read · status: of a web page · tools, seconds, tokens: of a sub-agent · task, tasks: of the
    checklist, each with id and, where told, subject and status (`known`: further ones, see TaskMemory).
    """
    if not isinstance(result, dict):
        failed = None if ok else _EXIT_CODE.match(output)
        return {"exit_code": int(failed[1])} if failed else {}
    for is_it, read in _KINDS:
        if is_it(result):
            return read(result, ok)
    return {}


def _shell(result: Details, ok: bool) -> Details:
    if result["interrupted"] or result.get("backgroundTaskId"):
        return {}
    return {"exit_code": 0} if ok else {}


# ---- files -------------------------------------------------------------------------------------------------------


def _edit(result: Details, _: bool) -> Details:
    hunks = result["structuredPatch"]
    made = result.get("type") == "create" and not hunks
    lines = list(_new_file(str(result.get("content", ""))) if made else _hunk_lines(hunks))
    added, removed = (sum(line.startswith(sign) for line in lines) for sign in "+-")
    known: Details = {"added": added, "removed": removed}
    if lines:
        known |= {"path": _short(str(result.get("filePath") or ""), _PATH), **_bounded(lines)}
    return known


def _new_file(content: str) -> Iterator[str]:
    lines = content.splitlines()
    if lines:
        yield f"@@ -0,0 +1,{len(lines)} @@"
        yield from (f"+{line}" for line in lines)


def _hunk_lines(hunks: list[Details]) -> Iterator[str]:
    for hunk in hunks:
        old, new = (f"{hunk.get(f'{side}Start', 0)},{hunk.get(f'{side}Lines', 0)}" for side in ("old", "new"))
        yield f"@@ -{old} +{new} @@"
        yield from map(str, hunk.get("lines", ()))


def _bounded(lines: list[str]) -> Details:
    kept: list[str] = []
    room = PATCH
    for line in lines:
        line = _short(line, _PATCH_LINE)
        room -= len(line) + 1
        if room < 0:
            return {"patch": "\n".join(kept), "patch_cut": len(lines) - len(kept)}
        kept.append(line)
    return {"patch": "\n".join(kept)}


def _short(line: str, most: int) -> str:
    """Cut between words: half a secret would not be known for one any more."""
    if len(line) <= most:
        return line
    end = max(1, line.rfind(" ", 1, most))
    return f"{line[:end]}… ({len(line):,} characters)"


def _read(result: Details, _: bool) -> Details:
    return _number("lines", result["file"].get("numLines"))


# ---- searches and the web ----------------------------------------------------------------------------------------


def _grep(result: Details, _: bool) -> Details:
    """A cut list says how long it would have been in `total…`."""
    if result["mode"] == "count":
        return _hits(result.get("numMatches"), "match")
    if result["mode"] == "content":
        return _hits(result.get("totalLines", result.get("numLines")), "line")
    return _hits(result.get("totalFiles", result.get("numFiles")), "file")


def _glob(result: Details, _: bool) -> Details:
    return _hits(result.get("totalMatches", result.get("numFiles")), "file")


def _hits(count: Any, unit: str) -> Details:
    return {**known, "unit": unit} if (known := _number("hits", count)) else {}


def _fetch(result: Details, _: bool) -> Details:
    return _number("status", result.get("code"))


def _web_search(result: Details, _: bool) -> Details:
    found = [one["content"] for one in result["results"] if isinstance(one, dict) and "content" in one]
    return _hits(sum(len(one) for one in found if isinstance(one, list)), "result")


# ---- sub-agents and the checklist --------------------------------------------------------------------------------


def _agent(result: Details, _: bool) -> Details:
    took = result.get("totalDurationMs")
    seconds = round(took / 1000, 1) if isinstance(took, int | float) else None
    told = _number("tools", result["totalToolUseCount"]) | _number("tokens", result.get("totalTokens"))
    return told if seconds is None else {**told, "seconds": seconds}


def _task(result: Details, _: bool) -> Details:
    return {"task": _item(result["task"])}


def _task_changed(result: Details, _: bool) -> Details:
    if not result.get("success"):
        return {}
    change = result.get("statusChange") or {}
    return {"task": _item({"id": result["taskId"], "status": change.get("to")})}


def _tasks(result: Details, _: bool) -> Details:
    return {"tasks": [_item(one) for one in result["tasks"][:_LIST]]}


class TaskMemory:
    """The checklist over several turns: a change tells no more than an id."""

    def __init__(self) -> None:
        self._tasks: dict[str, Details] = {}
        self._told = False  # in this turn

    def complete(self, known: Details) -> None:
        """Adds the subject of a task; in a turn's first change also the other tasks, as `known`."""
        if "tasks" in known:
            self._tasks = {str(task.get("id")): dict(task) for task in known["tasks"]}
            self._told = True
        elif task := known.get("task"):
            others = [dict(other) for key, other in self._tasks.items() if key != task.get("id")]
            self._change(task)
            if others and not self._told:
                known["known"] = others[-_LIST:]
            self._told = True

    def _change(self, task: Details) -> None:
        key = str(task.get("id"))
        if task.get("status") == "deleted":
            self._tasks.pop(key, None)
            return
        kept = self._tasks.setdefault(key, {})
        if len(self._tasks) > _MEMORY:
            del self._tasks[next(iter(self._tasks))]
        kept.update(task)
        if subject := kept.get("subject"):
            task["subject"] = subject

    def turn_ended(self) -> None:
        """A list that is done is not carried on."""
        self._told = False
        if all(task.get("status") == "completed" for task in self._tasks.values()):
            self._tasks = {}


def _item(task: Details) -> Details:
    return {key: _short(str(task[key]), _TEXT) for key in ("id", "subject", "status") if task.get(key)}


def _number(name: str, value: Any) -> Details:
    return {name: value} if isinstance(value, int) and not isinstance(value, bool) else {}


def _has(*keys: str) -> Callable[[Details], bool]:
    return lambda result: all(key in result for key in keys)


_KINDS: tuple[tuple[Callable[[Details], bool], Callable[[Details, bool], Details]], ...] = (
    (_has("stdout", "interrupted"), _shell),
    (_has("structuredPatch"), _edit),
    (lambda result: isinstance(result.get("file"), dict), _read),
    (_has("mode", "filenames"), _grep),
    (_has("filenames", "numFiles"), _glob),
    (_has("totalToolUseCount"), _agent),
    (lambda result: isinstance(result.get("task"), dict), _task),
    (_has("taskId", "success"), _task_changed),
    (lambda result: isinstance(result.get("tasks"), list), _tasks),
    (lambda result: isinstance(result.get("results"), list) and "query" in result, _web_search),
    (_has("url", "code"), _fetch),
)
