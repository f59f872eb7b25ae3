"""The functions that read the embedded store. Each builds its answer as JSON text around values as they are stored."""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from json.encoder import encode_basestring as _quoted
from typing import Any, Final

from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import bounded, forbidden
from kvstore.gateway.sqlitetransaction import WORKLET_BY_ID, Worklet, admit

PAGE_BYTES: Final = 4 * 1_048_576  # of values; a page ends behind the entry that reaches it

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ENTRY: Final = "key, value, version, created_at, updated_at, expires_at"
_LIVE: Final = "(expires_at is null or expires_at > ?)"
#: Whose the worklet is, and one of its entries: one statement is one look at the file.
_BOTH: Final = (
    f"select k.owner, k.tokens_from, e.{_ENTRY.replace(', ', ', e.')} from worklets k left join entries e"  # noqa: S608
    f" on e.w = k.w and e.namespace = ? and e.key = ? and (e.expires_at is null or e.expires_at > ?) where k.id = ?"
)
_BY_KEY: Final = f"select {_ENTRY} from entries where w = ? and namespace = ? and key = ? and {_LIVE}"  # noqa: S608 - constants

Execute = Callable[[str, Sequence[Any]], sqlite3.Cursor]
Read = Callable[[sqlite3.Connection, Worklet, Mapping[str, Any], int], str]
"""Takes the arguments and the time in microseconds since 1970."""


def find(connection: sqlite3.Connection, worklet_id: str, caller: Caller) -> Worklet:
    """Raises Refusal where there is no such worklet, or it is not the caller's."""
    row = connection.execute(WORKLET_BY_ID, (worklet_id,)).fetchone()
    if row is None:
        raise forbidden()
    worklet = Worklet(*row)
    worklet.admit(caller)
    return worklet


def entry_text(execute: Execute, w: int, namespace: str, key: str, now: int) -> str | None:
    """The live entry as JSON; None where there is none."""
    row = execute(_BY_KEY, (w, namespace, key, now)).fetchone()
    return None if row is None else _entry(*row)


def get(connection: sqlite3.Connection, worklet_id: str, caller: Caller, a: Mapping[str, Any], now: int) -> str:
    """`find` and `kv_get` at once. Raises Refusal."""
    row = connection.execute(_BOTH, (a["p_namespace"], a["p_key"], now, worklet_id)).fetchone()
    if row is None:
        raise forbidden()
    owner, tokens_from, found, *rest = row
    admit(caller, worklet_id, owner, tokens_from)
    return "null" if found is None else _entry(found, *rest)


def _has(connection: sqlite3.Connection, worklet: Worklet, a: Mapping[str, Any], now: int) -> str:
    row = connection.execute(
        f"select 1 from entries where w = ? and namespace = ? and key = ? and {_LIVE}",  # noqa: S608 - a constant
        (worklet.w, a["p_namespace"], a["p_key"], now),
    ).fetchone()
    return "false" if row is None else "true"


def _mget(connection: sqlite3.Connection, worklet: Worklet, a: Mapping[str, Any], now: int) -> str:
    rows = connection.execute(
        f"select {_ENTRY} from entries"  # noqa: S608 - constants
        f" where w = ? and namespace = ? and key in (select value from json_each(?)) and {_LIVE}",
        (worklet.w, a["p_namespace"], json.dumps(a["p_keys"], ensure_ascii=False), now),
    )
    return f"[{','.join(bounded(_entry(*row) for row in rows))}]"


def _list(connection: sqlite3.Connection, worklet: Worklet, a: Mapping[str, Any], now: int) -> str:
    where, parameters = _within(a["p_prefix"], a["p_cursor"])
    values, limit = a["p_values"], a["p_limit"]
    columns = _ENTRY if values else _ENTRY.replace("value", "null")
    rows = connection.execute(
        f"select {columns} from entries where w = ? and namespace = ?{where} and {_LIVE} order by key limit ?",  # noqa: S608
        (worklet.w, a["p_namespace"], *parameters, now, limit + 1),
    )
    entries: list[str] = []
    size, last, more = 0, "", False
    for row in rows:
        if len(entries) == limit or size >= PAGE_BYTES:
            more = True
            break
        last = row[0]
        entries.append(_entry(*row))
        size += len(entries[-1])
    return f'{{"entries":[{",".join(entries)}],"cursor":{_quoted(last) if more else "null"}}}'


_NAMESPACES: Final = f"""
with recursive names(name) as (
    select min(namespace) from entries where w = :w
    union all
    select (select min(namespace) from entries where w = :w and namespace > name) from names where name is not null)
select name from names where name is not null and exists (
    select 1 from entries where w = :w and namespace = name and {_LIVE.replace("?", ":now")})
"""  # noqa: S608 - constants


def _list_namespaces(connection: sqlite3.Connection, worklet: Worklet, _: Mapping[str, Any], now: int) -> str:
    rows = connection.execute(_NAMESPACES, {"w": worklet.w, "now": now})
    return f"[{','.join(_quoted(name) for (name,) in rows)}]"


def _stats(connection: sqlite3.Connection, worklet: Worklet, _: Mapping[str, Any], now: int) -> str:
    count = sum(1 for _ in connection.execute(_NAMESPACES, {"w": worklet.w, "now": now}))
    return json.dumps(
        {
            "keys": worklet.keys,
            "bytes": worklet.bytes,
            "namespaces": count,
            "max_keys": worklet.max_keys,
            "max_bytes": worklet.max_bytes,
            "changed_at": None if worklet.changed_at is None else _time(worklet.changed_at),
        }
    )


#: Which entries changed is in the index; their rows are looked up only for a page of them.
_CHANGES: Final = """
select c.namespace, c.key, c.version, e.value, ifnull(e.updated_at, c.deleted_at), e.expires_at from (
    select * from (
        select namespace, key, version, null as deleted_at from entries indexed by entries_by_version
         where w = ? and version > ?{where}
        union all
        select namespace, key, version, deleted_at from tombstones indexed by tombstones_by_version
         where w = ? and version > ?{where}
        order by 3)
    limit ?) c
left join entries e on c.deleted_at is null and e.w = ? and e.namespace = c.namespace and e.key = c.key
order by c.version
"""


def _watch(connection: sqlite3.Connection, worklet: Worklet, a: Mapping[str, Any], now: int) -> str:
    """The cursor is a version, and `-` and another while everything is read: the version at which that began.

    What was deleted before that one nobody needs to hear of who reads everything, however long that takes.
    """
    if a["p_cursor"] is None:
        return f'{{"changes":[],"cursor":"{worklet.version}","reset":false}}'
    position, _, base = a["p_cursor"].partition("-")
    after, began = int(position), int(base or position)
    reset = began > worklet.version or after > began or 0 < began < worklet.horizon
    if reset or began == 0:
        after, began = 0, worklet.version
    where, parameters = _within(a["p_prefix"], None)
    if a["p_namespace"] is not None:
        where, parameters = f" and namespace = ?{where}", [a["p_namespace"], *parameters]
    limit = a["p_limit"]
    rows = connection.execute(
        _CHANGES.format(where=where),
        (worklet.w, after, *parameters, worklet.w, max(after, began), *parameters, limit + 1, worklet.w),
    )
    changes: list[str] = []
    size, last, more = 0, after, False
    for count, row in enumerate(rows):
        if count == limit or size >= PAGE_BYTES:
            more = True
            break
        last = row[2]
        text = _change(row, began, now)
        if text is not None:
            changes.append(text)
            size += len(text)
    position = f"{last}-{began}" if more and last < began else str(last if more else worklet.version)
    return f'{{"changes":[{",".join(changes)}],"cursor":"{position}","reset":{json.dumps(reset)}}}'


def _change(row: Sequence[Any], began: int, now: int) -> str | None:
    """None for what is not there any more and was not when the reading of everything began."""
    namespace, key, version, value, at, expires_at = row
    deleted = value is None or (expires_at is not None and expires_at <= now)
    if deleted and version <= began:
        return None
    state = '"deleted":true' if deleted else f'"deleted":false,"value":{value}'
    return (
        f'{{"namespace":{_quoted(namespace)},"key":{_quoted(key)},"version":{version},{state}'
        f',"updated_at":"{_time(at)}"}}'
    )


READS: Final[Mapping[str, Read]] = {
    "kv_has": _has,
    "kv_mget": _mget,
    "kv_list": _list,
    "kv_list_namespaces": _list_namespaces,
    "kv_stats": _stats,
    "kv_watch": _watch,
}


def is_quick(function: str, a: Mapping[str, Any]) -> bool:
    """Whether the answer is some 0.1 ms away at most, so that it is not worth a thread.

    A list is not: it may have to pass over any number of expired entries.
    """
    match function:
        case "kv_has":
            return True
        case "kv_mget":
            return len(a["p_keys"]) <= 8
        case "kv_watch":
            return a["p_cursor"] is None
        case _:
            return False


def _within(prefix: str, cursor: str | None) -> tuple[str, list[str]]:
    """The condition on the key, as a range: what begins with the prefix, behind the cursor."""
    conditions, parameters = "", []
    if cursor is not None and cursor >= prefix:
        conditions, parameters = " and key > ?", [cursor]
    elif prefix:
        conditions, parameters = " and key >= ?", [prefix]
    if (end := _successor(prefix)) is not None:
        conditions += " and key < ?"
        parameters.append(end)
    return conditions, parameters


def _successor(prefix: str) -> str | None:
    """The first string behind all that begin with the prefix, in the order of code points, which is that of UTF-8."""
    prefix = prefix.rstrip("\U0010ffff")
    if not prefix:
        return None
    following = ord(prefix[-1]) + 1
    return prefix[:-1] + chr(0xE000 if following == 0xD800 else following)


def _entry(key: str, value: str | None, version: int, created_at: int, updated_at: int, expires_at: int | None) -> str:
    member = "" if value is None else f'"value":{value},'
    expires = "null" if expires_at is None else f'"{_time(expires_at)}"'
    return (
        f'{{"key":{_quoted(key)},{member}"version":{version},"created_at":"{_time(created_at)}"'
        f',"updated_at":"{_time(updated_at)}","expires_at":{expires}}}'
    )


def _time(microseconds: int) -> str:
    second, fraction = divmod(microseconds, 1_000_000)
    return f"{_second(second)}.{fraction:06d}+00:00"


@functools.lru_cache(maxsize=256)
def _second(second: int) -> str:
    """Without the offset. What is written together is read together."""
    return (_EPOCH + timedelta(seconds=second)).isoformat()[:19]
