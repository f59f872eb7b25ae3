"""The functions that change the embedded store. Each runs in the writer, within a step of its transaction."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, Final

from kvstore.gateway import functions, jsontext
from kvstore.gateway.arguments import Operation
from kvstore.gateway.errors import (
    MAX_ANSWER_CHARACTERS,
    answer_too_large,
    not_a_number,
    not_appendable,
    out_of_range,
    too_large,
)
from kvstore.gateway.sqlitereads import entry_text
from kvstore.gateway.sqlitetransaction import PORTION, Transaction, Worklet

#: Enough for every sum of two doubles' decimal forms, so that addition is exact.
_EXACT: Final = Context(prec=2000)

#: Bytes of values that one transaction may read and write: some 50 ms, in which nobody else writes.
_MOST_HANDLED: Final = 16 * 1_048_576

Write = Callable[[Transaction, Worklet, Mapping[str, Any]], str]


def _set(t: Transaction, worklet: Worklet, a: Mapping[str, Any]) -> str:
    namespace, key = a["p_namespace"], a["p_key"]
    old = t.existing(worklet, namespace, key)
    live = old if old is not None and not old.expired else None
    if a["p_only_if_absent"] and live is not None:
        return '{"version":null}'
    if a["p_if_version"] is not None and (live is None or live.version != a["p_if_version"]):
        return '{"version":null}'
    version = t.put(worklet, namespace, key, a["p_value"], _expiry(t, a["p_ttl"]), old)
    return f'{{"version":{version}}}'


def _mset(t: Transaction, worklet: Worklet, a: Mapping[str, Any]) -> str:
    namespace, pairs = a["p_namespace"], functions.pairs(a)
    expires_at = _expiry(t, a["p_ttl"])
    t.guard()
    t.put_many(worklet, namespace, pairs, expires_at)
    return str(len(pairs))


def _delete(t: Transaction, worklet: Worklet, a: Mapping[str, Any]) -> str:
    return str(sum(_bury(t, worklet, a["p_namespace"], key, a["p_if_version"]) for key in a["p_keys"]))


def _increment(t: Transaction, worklet: Worklet, a: Mapping[str, Any]) -> str:
    return _add(t, worklet, a["p_namespace"], a["p_key"], a["p_delta"], a["p_ttl"])


def _append(t: Transaction, worklet: Worklet, a: Mapping[str, Any]) -> str:
    return _lengthen(t, worklet, a["p_namespace"], a["p_key"], a["p_value"], a["p_ttl"])


def _transaction(t: Transaction, worklet: Worklet, a: Mapping[str, Any]) -> str:
    t.guard()
    t.execute("savepoint operations")
    before = worklet.counters
    results: list[str] = []
    size = 0
    for index, step in enumerate(functions.steps(a)):
        result = _STEPS[step.op](t, worklet, step)
        if result is None:
            t.execute("rollback to operations")
            t.execute("release operations")
            worklet.counters = before
            return f'{{"committed":false,"failed":{index}}}'
        results.append(result)
        if (size := size + len(result)) > MAX_ANSWER_CHARACTERS:
            raise answer_too_large()
        if t.handled + size > _MOST_HANDLED:
            raise too_large(f"A transaction may read and write {_MOST_HANDLED} bytes of values; split it.")
    t.execute("release operations")
    return f'{{"committed":true,"results":[{",".join(results)}]}}'


WRITES: Final[Mapping[str, Write]] = {
    "kv_set": _set,
    "kv_mset": _mset,
    "kv_delete": _delete,
    "kv_increment": _increment,
    "kv_append": _append,
    "kv_transaction": _transaction,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a clearing goes on: behind this entry, and not with what was written after the version `bound`."""

    namespace: str
    key: str
    bound: int


BEGINNING: Final = Place("", "", -1)


def clear(t: Transaction, worklet: Worklet, namespace: str | None, place: Place) -> tuple[int, Place | None]:
    """Deletes at most PORTION entries: how many of them had not expired, and where to go on (None at the end)."""
    bound = worklet.version if place.bound < 0 else place.bound
    # Each condition is a range of the primary key.
    if namespace is None:
        behind, until = "(namespace, key) > (?, ?)", "(namespace, key) <= (?, ?)"
        begin: tuple[str, str] = (place.namespace, place.key)
    else:
        behind, until = "namespace = ? and key > ?", "namespace = ? and key <= ?"
        begin = (namespace, place.key)
    last = t.execute(
        f"select namespace, key from entries where w = ? and {behind} order by namespace, key limit 1 offset ?",  # noqa: S608
        (worklet.w, *begin, PORTION - 1),
    ).fetchone()
    where, parameters = f"version <= ? and {behind}", (bound, *begin)
    if last is not None:
        where, parameters = f"{where} and {until}", (*parameters, *last)
    _, live = t.bury_where(worklet, where, parameters)
    return live, None if last is None else Place(last[0], last[1], bound)


def _expiry(t: Transaction, ttl: float | None) -> int | None:
    return None if ttl is None else t.now + max(1, round(ttl * 1e6))


def _bury(t: Transaction, worklet: Worklet, namespace: str, key: str, if_version: int | None = None) -> bool:
    """Whether there was a live entry, and it was deleted. An expired one goes along silently."""
    old = t.existing(worklet, namespace, key)
    if old is None or (if_version is not None and not old.expired and old.version != if_version):
        return False
    t.bury(worklet, namespace, key, old.size)
    return not old.expired


def _add(t: Transaction, worklet: Worklet, namespace: str, key: str, delta: str, ttl: float | None) -> str:
    old = t.existing(worklet, namespace, key, value=True)
    live = old if old is not None and not old.expired else None
    if live is not None and live.value[0] not in "-0123456789":
        raise not_a_number()
    total = _EXACT.add(Decimal(live.value if live else 0), Decimal(delta))
    if math.isinf(float(total)):
        raise out_of_range()
    text = f"{total:f}"
    version = t.put(worklet, namespace, key, text, live.expires_at if live else _expiry(t, ttl), old)
    return f'{{"value":{text},"version":{version}}}'


def _lengthen(t: Transaction, worklet: Worklet, namespace: str, key: str, text: str, ttl: float | None) -> str:
    old = t.existing(worklet, namespace, key, value=True)
    live = old if old is not None and not old.expired else None
    whole = _joined(live.value, text) if live else text if text[0] == '"' else f"[{text}]"
    if jsontext.utf8_length(whole) > jsontext.MAX_VALUE_BYTES:
        raise too_large(f"With this, the value would have more than {jsontext.MAX_VALUE_BYTES} bytes as compact JSON.")
    if whole[0] == "[":
        jsontext.check_depth_of_text(whole)
    version = t.put(worklet, namespace, key, whole, live.expires_at if live else _expiry(t, ttl), old)
    return f'{{"length":{len(json.loads(whole))},"version":{version}}}'


def _joined(old: str, text: str) -> str:
    if old[0] == "[":
        return f"[{text}]" if old == "[]" else f"{old[:-1]},{text}]"
    if old[0] == '"' and text[0] == '"':
        return old[:-1] + text[1:]
    raise not_appendable()


# The steps of a transaction: None where a check does not hold


def _check(t: Transaction, worklet: Worklet, step: Operation) -> str | None:
    old = t.existing(worklet, step.namespace, step.key)
    version = old.version if old is not None and not old.expired else None
    return "null" if version == step.version else None


def _set_step(t: Transaction, worklet: Worklet, step: Operation) -> str:
    assert step.value is not None
    old = t.existing(worklet, step.namespace, step.key)
    version = t.put(worklet, step.namespace, step.key, step.value, _expiry(t, step.ttl), old)
    return f'{{"version":{version}}}'


def _delete_step(t: Transaction, worklet: Worklet, step: Operation) -> str:
    return f'{{"deleted":{json.dumps(_bury(t, worklet, step.namespace, step.key))}}}'


def _increment_step(t: Transaction, worklet: Worklet, step: Operation) -> str:
    return _add(t, worklet, step.namespace, step.key, step.delta, step.ttl)


def _append_step(t: Transaction, worklet: Worklet, step: Operation) -> str:
    assert step.value is not None
    return _lengthen(t, worklet, step.namespace, step.key, step.value, step.ttl)


def _get_step(t: Transaction, worklet: Worklet, step: Operation) -> str:
    return entry_text(t.execute, worklet.w, step.namespace, step.key, t.now) or "null"


_STEPS: Final[Mapping[str, Callable[[Transaction, Worklet, Operation], str | None]]] = {
    "check": _check,
    "set": _set_step,
    "delete": _delete_step,
    "increment": _increment_step,
    "append": _append_step,
    "get": _get_step,
}
