"""A turn's to-do list: a fold of Claude's checklist tools, and how it looks. Pure.

The list is Claude Code's own (TaskCreate and TaskUpdate by their results, keyed by id; TodoWrite by its input). All of
it is foreign text, so it stands in rich text, where nothing is parsed (docs.slack.dev, rich text).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bot.markdown import clean, size
from bot.parts import Block, listed
from worklets.events import ToolFinished, ToolStarted

_SHOWN, _WIDTH = 10, 70
ROOM = _SHOWN * (_WIDTH + 4) + 100  # units that the whole takes at most
_CARDS = {"pending": "pending", "in_progress": "in_progress", "completed": "complete"}  # docs.slack.dev, task card


@dataclass(slots=True)
class _Item:
    title: str
    state: str = "pending"
    doing: str = ""  # the title while it is being done

    @property
    def words(self) -> str:
        return _clip(self.doing if self.state == "in_progress" and self.doing else self.title)


class Checklist:
    def __init__(self) -> None:
        self._items: dict[str, _Item] = {}
        self._asked: dict[str, ToolStarted] = {}

    def __bool__(self) -> bool:
        return bool(self._items)

    def started(self, event: ToolStarted) -> None:
        self._asked[event.tool_id] = event

    def finished(self, event: ToolFinished) -> bool:
        """False: nothing changed."""
        asked = self._asked.pop(event.tool_id, None)
        if asked is None or not event.ok:
            return False
        before = {key: (item.title, item.state, item.doing) for key, item in self._items.items()}
        if asked.name == "TodoWrite":
            self._todos(asked.input.get("todos"))
        elif isinstance(task := event.details.get("task"), dict):
            self._known(event.details.get("known"))
            self._task(task, asked.input)
        elif isinstance(tasks := event.details.get("tasks"), list):
            self._tasks([task for task in tasks if isinstance(task, dict)])
        return before != {key: (item.title, item.state, item.doing) for key, item in self._items.items()}

    def _todos(self, todos: Any) -> None:
        found = [todo for todo in todos if isinstance(todo, dict)] if isinstance(todos, list) else []
        self._items = {
            str(number): _Item(_text(todo, "content"), _state(todo), _text(todo, "activeForm"))
            for number, todo in enumerate(found)
        }

    def _known(self, tasks: Any) -> None:
        """Of earlier turns."""
        for task in tasks if isinstance(tasks, list) else ():
            if isinstance(task, dict) and (key := _text(task, "id")) not in self._items:
                self._items[key] = _Item(_text(task, "subject") or f"Step {key}", _state(task))

    def _task(self, task: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        key = _text(task, "id")
        if task.get("status") == "deleted":
            self._items.pop(key, None)
            return
        title = _text(task, "subject") or _text(asked, "subject")
        item = self._items.setdefault(key, _Item(title or f"Step {key}"))  # its name is not known any more
        item.title = title or item.title
        item.doing = _text(asked, "activeForm") or item.doing
        if "status" in task:
            item.state = _state(task)

    def _tasks(self, tasks: list[dict[str, Any]]) -> None:
        known = self._items
        self._items = {}
        for task in tasks:
            key = _text(task, "id")
            doing = known[key].doing if key in known else ""
            self._items[key] = _Item(_text(task, "subject") or f"Step {key}", _state(task), doing)

    # ---- look ----

    @property
    def now(self) -> str:
        """What is being done, in words; empty for nothing in particular."""
        return next((item.words for item in self._items.values() if item.state == "in_progress"), "")

    def blocks(self, *, plan: bool = False) -> list[Block]:
        """`plan`: as Slack's plan block, which not every workspace takes. None of an empty list."""
        if not self._items:
            return []
        made = self._plan()
        return [made if plan else listed(made)]

    @property
    def _title(self) -> str:
        done = sum(item.state == "completed" for item in self._items.values())
        return f"Plan: {done} of {len(self._items)} done"

    def _plan(self) -> Block:
        first, shown, rest = self._window()
        cards = [_card(f"step-{first + n}", item.words, _CARDS[item.state]) for n, item in enumerate(shown)]
        if first:
            cards.insert(0, _card("earlier", f"{first} earlier", "complete"))
        if rest:
            cards.append(_card("more", f"{rest} more", "pending"))
        return {"type": "plan", "title": self._title, "tasks": cards}

    def _window(self) -> tuple[int, list[_Item], int]:
        """How many are left out before, the items that are shown, how many are left out after them."""
        items = [self._items[key] for key in sorted(self._items, key=_number)]  # the CLI counts them
        done = next((n for n, item in enumerate(items) if item.state != "completed"), len(items))
        first = max(0, min(done - 1, len(items) - _SHOWN))
        return first, items[first : first + _SHOWN], max(0, len(items) - first - _SHOWN)


def _card(task_id: str, title: str, status: str) -> Block:
    return {"type": "task_card", "task_id": task_id, "title": title, "status": status}


def _number(key: str) -> float:
    return float(key) if key.isdecimal() and len(key) < 9 else float("inf")


def _text(data: Mapping[str, Any], key: str) -> str:
    return str(data.get(key) or "")


def _state(data: Mapping[str, Any]) -> str:
    state = data.get("status")
    return state if state in _CARDS else "pending"


def _clip(text: str) -> str:
    flat = " ".join(clean(text).split()) or "…"
    while size(flat) > _WIDTH:
        flat = flat[: min(len(flat) - 2, _WIDTH)].rstrip() + "…"
    return flat
