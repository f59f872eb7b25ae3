"""What the store should do, as a dict in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from kvstore.gateway import jsontext

Place = tuple[str, str]


class Refused(Exception):
    """With the hint that the store should give."""


@dataclass(frozen=True)
class Row:
    value: Any
    version: int
    created: int
    updated: int
    expires: int | None
    size: int


@dataclass
class Model:
    """Times are in microseconds. What has expired stays until it is swept, and counts."""

    max_keys: int
    max_bytes: int
    now: int
    version: int = 0

    def __post_init__(self) -> None:
        self.rows: dict[Place, Row] = {}

    # Looking

    def live(self, place: Place) -> Row | None:
        row = self.rows.get(place)
        return None if row is None or self._expired(row) else row

    def all_live(self) -> dict[Place, Row]:
        return {place: row for place, row in self.rows.items() if not self._expired(row)}

    def entry(self, place: Place) -> dict[str, Any] | None:
        row = self.live(place)
        return None if row is None else {"key": place[1], "value": row.value, "version": row.version}

    def counters(self) -> tuple[int, int]:
        return len(self.rows), sum(row.size for row in self.rows.values())

    # Changing

    def attempt(self, change: Callable[[], Any]) -> Any:
        """All or nothing, within the quotas; what has expired makes room once. Raises Refused."""
        try:
            return self._whole(change)
        except Refused as e:
            if not str(e).startswith("KV_QUOTA") or not self.sweep():
                raise
            return self._whole(change)

    def _whole(self, change: Callable[[], Any]) -> Any:
        before = copy.copy(self.rows), self.version, self.counters()
        try:
            result = change()
            keys, size = self.counters()
            if keys > max(self.max_keys, before[2][0]):
                raise Refused("KV_QUOTA_KEYS")
            if size > max(self.max_bytes, before[2][1]):
                raise Refused("KV_QUOTA_BYTES")
        except Refused:
            self.rows, self.version = before[:2]
            raise
        return result

    def put(self, place: Place, value: Any, ttl: float | None = None, *, keep: bool = False) -> int:
        """`keep`: an expiry that is there stays, and `ttl` is for a new entry only."""
        old = self.live(place)
        self.version += 1
        expires = old.expires if keep and old else None if ttl is None else self.now + round(ttl * 1e6)
        size = len(place[0].encode()) + len(place[1].encode()) + len(_text(value).encode())
        created = old.created if old else self.now
        self.rows[place] = Row(value, self.version, created, self.now, expires, size)
        return self.version

    def delete(self, place: Place) -> bool:
        row = self.rows.pop(place, None)
        self.version += row is not None
        return row is not None and not self._expired(row)

    def increment(self, place: Place, delta: Decimal, ttl: float | None) -> dict[str, Any]:
        old = self.live(place)
        if old and (isinstance(old.value, bool) or not isinstance(old.value, int | float | Decimal)):
            raise Refused("KV_NOT_A_NUMBER")
        total = (_decimal(old.value) if old else Decimal(0)) + delta
        return {"value": total, "version": self.put(place, total, ttl, keep=True)}

    def append(self, place: Place, value: Any, ttl: float | None) -> dict[str, Any]:
        old = self.live(place)
        whole: Any
        if old is None:
            whole = value if isinstance(value, str) else [value]
        elif isinstance(old.value, list):
            whole = [*old.value, value]
        elif isinstance(old.value, str) and isinstance(value, str):
            whole = old.value + value
        else:
            raise Refused("KV_NOT_APPENDABLE")
        return {"length": len(whole), "version": self.put(place, whole, ttl, keep=True)}

    def transaction(self, operations: list[dict[str, Any]]) -> dict[str, Any]:
        before = copy.copy(self.rows), self.version
        results = []
        for index, operation in enumerate(operations):
            if (result := self._step(operation)) is False:
                self.rows, self.version = before
                return {"committed": False, "failed": index}
            results.append(result)
        return {"committed": True, "results": results}

    def sweep(self) -> int:
        expired = [place for place, row in self.rows.items() if self._expired(row)]
        for place in expired:
            self.delete(place)
        return len(expired)

    def _step(self, o: Mapping[str, Any]) -> Any:
        place = (o["namespace"], o["key"])
        match o["op"]:
            case "check":
                row = self.live(place)
                return None if o["version"] == (row.version if row else None) else False
            case "set":
                return {"version": self.put(place, o["value"], o.get("ttl"))}
            case "delete":
                return {"deleted": self.delete(place)}
            case "increment":
                return self.increment(place, _decimal(o["delta"]), o.get("ttl"))
            case "append":
                return self.append(place, o["value"], o.get("ttl"))
            case _:
                return self.entry(place)

    def _expired(self, row: Row) -> bool:
        return row.expires is not None and row.expires <= self.now


def _decimal(value: Any) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(repr(value))


def plain(value: Any) -> Any:
    """As it comes back: what was added up stands in the store digit by digit."""
    return jsontext.parse(_text(value)) if isinstance(value, Decimal) else value


def _text(value: Any) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else jsontext.compact(value)
