"""What the store's methods give back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with its value. `value` is None where only keys were asked for (`list` without `values=True`).

    `version` grows with every change within a worklet and is never used twice. Times know their time zone.
    """

    key: str
    value: Any
    version: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the entries, in the byte order of their keys; iterates over them. `cursor` is None at the end."""

    entries: list[Entry]
    cursor: str | None

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True, slots=True)
class Stats:
    """How full the store is. `bytes` counts namespaces, keys and values; None as a maximum: there is none."""

    keys: int
    bytes: int
    namespaces: int
    max_keys: int | None
    max_bytes: int | None
    changed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Change:
    """What a key became. `value` is None when it was deleted or has expired.

    `watch(cursor=change.cursor)` goes on after this change. `reset`: changes before this one were missed (the cursor
    was older than a day); forget what you know: all that is there now follows, beginning with this one.
    """

    namespace: str
    key: str
    value: Any
    version: int
    deleted: bool
    updated_at: datetime
    cursor: str
    reset: bool = False


def entry_of(told: dict[str, Any]) -> Entry:
    expires = told.get("expires_at")
    return Entry(
        told["key"],
        told.get("value"),
        told["version"],
        moment(told["created_at"]),
        moment(told["updated_at"]),
        None if expires is None else moment(expires),
    )


def page_of(told: dict[str, Any]) -> Page:
    return Page([entry_of(entry) for entry in told["entries"]], told["cursor"])


def stats_of(told: dict[str, Any]) -> Stats:
    changed = told.get("changed_at")
    return Stats(
        told["keys"],
        told["bytes"],
        told["namespaces"],
        told.get("max_keys"),
        told.get("max_bytes"),
        None if changed is None else moment(changed),
    )


def moment(text: str) -> datetime:
    """An ISO 8601 time with offset."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # Python 3.10 knows neither Z nor fractions of other than 3 or 6 digits, and both occur
        return datetime.fromisoformat(_plain_iso(text))


def _plain_iso(text: str) -> str:
    text = text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text
    whole, dot, rest = text.partition(".")
    if not dot:
        return text
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return f"{whole}.{digits[:6]:0<6}{rest[len(digits) :]}"
