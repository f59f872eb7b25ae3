"""What worklets have used of the model, counted where it passes: the second source of the account.

Claude's process tells what it spent, but it runs beside code that a model wrote: whoever finds the worklet's token can
ask the model without it. The gateway sees every answer. Its counts wait here until a bot has written them down, in a
file where the gateway's process ends before, and a worklet that has used up what it may spend gets no further answer.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import structlog

from worklets.gatewaymeter import Metered

MOST_UNTOLD = 20_000  # answers that are kept for a bot which is away
_FILES = "usage-*.json"
_ROW = {"id", "worklet_id", "dollars", *(field.name for field in fields(Metered))}

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Limit:
    """Dollars that may be spent on `of`, and what was: as the gateway counted it, never less than the account has."""

    of: str
    most: float
    counted: float

    @property
    def left(self) -> float:
        return self.most - self.counted


class UsageBook:
    """One for each process that serves a gateway. `rung` is called when there is something new to fetch.

    `directory` is where books leave what they have for the next one; None: they do not.
    """

    def __init__(self, rung: Callable[[], None] = lambda: None, directory: Path | None = None) -> None:
        self.since = secrets.token_hex(8)  # names this book: numbers count within it
        self._rung, self._directory = rung, directory
        self._numbers = itertools.count(1)
        self._untold: deque[dict[str, Any]] = deque(maxlen=MOST_UNTOLD)
        self._told: dict[str, bool] = {}  # worklets of which `limit` was told: whether as a fallback only
        self._limits: dict[str, _Limit] = {}  # by worklet; none: as much as it takes

    def add(self, name: str, worklet_id: str | None, used: Metered) -> None:
        if name in self._limits:
            self._limits[name].counted += used.dollars
        self._append({"worklet_id": worklet_id, **asdict(used), "dollars": used.dollars})
        self._rung()

    def _append(self, row: dict[str, Any]) -> None:
        """Its number is this book's; its id, once given, names the answer wherever the row goes."""
        number = next(self._numbers)
        self._untold.append({"id": f"{self.since}:{number}", **row, "number": number})

    def fetch(self, since: str, after: int) -> list[dict[str, Any]]:
        """Rows that are not written down, oldest first; those up to `after` of the book `since` are, and go.

        Also what earlier books have left. A row may come again from another book, with the same id.
        """
        self._take_up()
        while since == self.since and self._untold and self._untold[0]["number"] <= after:
            self._untold.popleft()
        return list(itertools.islice(self._untold, 1_000))

    def keep(self) -> None:
        """Leaves what is not written down for the next book. Whatever comes after needs another call."""
        if self._directory is None or not self._untold:
            return
        path, made = self._directory / _FILES.replace("*", self.since), self._directory / f".usage-{self.since}"
        try:
            handle = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(list(self._untold), file)
            made.replace(path)
        except OSError as error:
            log.warning("what the model's answers cost is lost", answers=len(self._untold), error=str(error))

    def _take_up(self) -> None:
        for path in sorted(self._directory.glob(_FILES)) if self._directory is not None else ():
            try:
                found = [row for row in json.loads(path.read_bytes()) if row.keys() >= _ROW]
            except (OSError, ValueError, TypeError, AttributeError) as error:
                log.warning("what an earlier process counted cannot be read", file=path.name, error=str(error))
                found = []
            for row in found:
                self._append(row)
            with suppress(OSError):
                path.unlink()

    def limit(
        self, name: str, dollars: float | None, spent: float = 0.0, of: str = "", *, fallback: bool = False
    ) -> None:
        """What the worklet may still spend from now on; None: as much as it takes.

        `spent` is what the account has of `of`, a turn. Told again of the same turn, what was counted meanwhile and
        the account does not have stays counted. Without `of`, the account has all.

        A `fallback` may be an old copy: it counts only where nothing else was told, and then the least of several.
        """
        if fallback and name in self._told:
            left = self._limits[name].left if name in self._limits else math.inf
            if not self._told[name] or dollars is None or dollars >= left:
                return
        self._told[name] = fallback
        if dollars is None:
            self._limits.pop(name, None)
            return
        known = self._limits.get(name)
        counted = max(known.counted, spent) if known is not None and of and known.of == of else spent
        self._limits[name] = _Limit(of, dollars + spent, counted)

    def limits(self) -> dict[str, dict[str, Any]]:
        """What is left, by worklet, as the arguments of `limit`: for another book."""
        return {name: {"dollars": one.left, "spent": one.counted, "of": one.of} for name, one in self._limits.items()}

    def refuses(self, name: str) -> bool:
        return name in self._limits and self._limits[name].left <= 0

    def forget(self, name: str) -> None:
        """The worklet is gone. What it used stays until it is fetched."""
        self._told.pop(name, None)
        self._limits.pop(name, None)
