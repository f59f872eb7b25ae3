"""Watching for changes: one look after the other, across lost connections. See `connections`."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final

from kvstore.calls import Caller, Effect, closed, pause_before
from kvstore.connections import Pool, Sleep, Steps
from kvstore.errors import KVConnectionError, KVError, KVPermissionError
from kvstore.types import Change, moment
from kvstore.values import check_cursor, check_namespace, check_prefix

_WAIT: Final = 20.0  # asked of the gateway, which allows 25
_POLL_FIRST, _POLL_LONGEST = 0.25, 2.0  # where the answer comes at once (Supabase)


class Looking:
    """Where a watch stands. A look that is broken off changes nothing: the next one asks for the same again."""

    def __init__(self, caller: Caller, pool: Pool, namespace: str | None, prefix: str, cursor: str | None) -> None:
        self._caller, self.pool = caller, pool
        self._arguments: dict[str, Any] = {
            "namespace": None if namespace is None else check_namespace(namespace),
            "prefix": check_prefix(prefix),
        }
        self._cursor = None if cursor is None else check_cursor(cursor)
        self._changes: deque[Change] = deque()
        self._reset = False
        self._poll = _POLL_FIRST

    def take(self) -> Change | None:
        """The next change that is known already."""
        return self._changes.popleft() if self._changes else None

    def begin(self) -> Steps[None]:
        """Finds out what "from now on" means, if no cursor was given. Raises KVError, as any call."""
        if self._cursor is None:
            told = yield from self._caller.call(self.pool, "kv_watch", self._arguments, Effect.READ, _checked)
            self._cursor = told["cursor"]

    def look(self) -> Steps[None]:
        """One request, however long it takes to be answered. Raises KVError when watching on is in vain."""
        if self._cursor is None:
            yield from self.begin()
        arguments = self._arguments | {"cursor": self._cursor, "wait": _WAIT}
        began, attempt = time.monotonic(), 0
        while True:
            try:
                changes, cursor, reset = yield from self._caller.call(
                    self.pool, "kv_watch", arguments, Effect.READ, self._read, wait=_WAIT
                )
                break
            except KVError as error:
                if self.pool.closed or not self._passes(error):
                    raise
            yield Sleep(pause_before(min(attempt, 10)) * 2)
            attempt += 1
        self._changes.extend(changes)
        self._cursor, self._reset = cursor, reset
        if changes:
            self._poll = _POLL_FIRST
        elif time.monotonic() - began < _POLL_FIRST:
            yield Sleep(self._poll)
            self._poll = min(self._poll * 1.5, _POLL_LONGEST)
        else:
            self._poll = _POLL_FIRST
        if self.pool.closed:
            raise closed()

    def _passes(self, error: KVError) -> bool:
        """Whether the store will answer again: it is away, or overrun, or the token's renewal is late."""
        if isinstance(error, KVPermissionError):
            return error.code == "PGRST303" and self._caller.tokens.renewable
        return isinstance(error, KVConnectionError) or error.status in (429, 500) or error.code in ("40001", "40P01")

    def _read(self, told: Any) -> tuple[list[Change], str, bool]:
        told = _checked(told)
        cursor: str = told["cursor"]
        found = told["changes"]
        # Where cursors are versions, each change gets its own. Elsewhere what came with it comes again after a resume.
        precise = bool(found) and cursor.isdigit() and int(cursor) >= found[-1]["version"]
        between = self._cursor or cursor
        reset = self._reset or bool(told.get("reset"))
        changes = []
        for index, one in enumerate(found):
            last = index == len(found) - 1
            here = cursor if last else str(one["version"]) if precise else between
            changes.append(_change(one, here, reset and index == 0))
        return changes, cursor, reset and not changes


def _change(told: dict[str, Any], cursor: str, reset: bool) -> Change:
    return Change(
        told["namespace"],
        told["key"],
        told.get("value"),
        told["version"],
        told["deleted"],
        moment(told["updated_at"]),
        cursor,
        reset,
    )


def _checked(told: Any) -> Any:
    if not isinstance(told["cursor"], str):
        raise TypeError
    return told
