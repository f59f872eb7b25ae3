"""The store's methods as generators: arguments checked, calls made, answers shaped. See `connections`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from kvstore.calls import Caller, Effect
from kvstore.connections import Pool, Steps
from kvstore.errors import invalid
from kvstore.transactions import Steps as TransactionSteps
from kvstore.typed import convert
from kvstore.types import Entry, Page, Stats, entry_of, page_of, stats_of
from kvstore.values import (
    MAX_ENTRIES,
    check_cursor,
    check_delta,
    check_key,
    check_keys,
    check_limit,
    check_mapping,
    check_namespace,
    check_prefix,
    check_ttl,
    check_version,
    encode,
    object_text,
)

#: An import sends so much at a time: escaping doubles it at worst, and a request may have 16 MiB.
_PART_BYTES = 4 * 1024 * 1024

Ttl = float | timedelta | None


class Operations:
    """What both clients do; `namespace` is the default of every method."""

    def __init__(self, caller: Caller, pool: Pool, namespace: str) -> None:
        self.caller, self.pool, self.namespace = caller, pool, check_namespace(namespace)

    def get(self, key: str, default: Any, namespace: str | None, as_: Any) -> Steps[Any]:
        entry = yield from self.entry(key, namespace)
        if entry is None:
            return default
        return entry.value if as_ is None else convert(entry.value, as_)

    def entry(self, key: str, namespace: str | None) -> Steps[Entry | None]:
        arguments = self._at(key, namespace)
        return self._call("kv_get", arguments, Effect.READ, lambda told: None if told is None else entry_of(told))

    def has(self, key: str, namespace: str | None) -> Steps[bool]:
        return self._call("kv_has", self._at(key, namespace), Effect.READ, _boolean)

    def set(
        self,
        key: str,
        value: Any,
        namespace: str | None,
        ttl: Ttl,
        if_version: int | None,
        only_if_absent: bool,
    ) -> Steps[int | None]:
        arguments = self._at(key, namespace) | {"value": encode(value)} | _ttl(ttl)
        effect = Effect.REPEATABLE
        if only_if_absent and if_version is not None:
            raise invalid("if_version and only_if_absent exclude each other.")
        if if_version is not None:
            arguments["if_version"], effect = check_version(if_version), Effect.ONCE
        if only_if_absent:
            arguments["only_if_absent"], effect = True, Effect.ONCE
        return self._call("kv_set", arguments, effect, lambda told: told["version"])

    def delete(self, key: str, namespace: str | None, if_version: int | None) -> Steps[bool]:
        arguments: dict[str, Any] = {"namespace": self._named(namespace), "keys": [check_key(key)]}
        if if_version is None:
            return self._call("kv_delete", arguments, Effect.COUNTED, lambda told: told > 0)
        arguments["if_version"] = check_version(if_version)
        return self._call("kv_delete", arguments, Effect.ONCE, lambda told: told > 0)

    def mget(self, keys: Iterable[str], namespace: str | None, as_: Any) -> Steps[dict[str, Any]]:
        unique = list(dict.fromkeys(check_keys(keys)))
        named, found = self._named(namespace), dict[str, Any]()
        for start in range(0, len(unique), MAX_ENTRIES):
            arguments = {"namespace": named, "keys": unique[start : start + MAX_ENTRIES]}
            found |= yield from self._call("kv_mget", arguments, Effect.READ, _values)
        if as_ is not None:
            found = {key: convert(value, as_) for key, value in found.items()}
        return {key: found.get(key) for key in unique}

    def mset(self, mapping: Mapping[str, Any], namespace: str | None, ttl: Ttl) -> Steps[None]:
        texts = check_mapping(mapping)
        if len(texts) > MAX_ENTRIES:
            raise invalid(f"mset writes at most {MAX_ENTRIES} keys, all or none: write more in parts, or import them.")
        named, life = self._named(namespace), _ttl(ttl)
        if texts:
            yield from self._mset(texts.items(), named, life)

    def list(self, prefix: str, namespace: str | None, limit: int, cursor: str | None, values: bool) -> Steps[Page]:
        arguments: dict[str, Any] = {
            "namespace": self._named(namespace),
            "prefix": check_prefix(prefix),
            "limit": check_limit(limit),
            "values": bool(values),
        }
        if cursor is not None:
            arguments["cursor"] = check_cursor(cursor)
        return self._call("kv_list", arguments, Effect.READ, page_of)

    def list_namespaces(self) -> Steps[Any]:
        return self._call("kv_list_namespaces", {}, Effect.READ, list)

    def clear(self, namespace: str | None) -> Steps[int]:
        arguments = {"namespace": self._named(namespace)}
        return self._call("kv_clear", arguments, Effect.COUNTED, int)

    def clear_all(self) -> Steps[int]:
        return self._call("kv_clear", {"namespace": None}, Effect.COUNTED, int)

    def increment(self, key: str, delta: int | float, namespace: str | None, ttl: Ttl) -> Steps[Any]:
        arguments = self._at(key, namespace) | {"delta": check_delta(delta)} | _ttl(ttl)
        return self._call("kv_increment", arguments, Effect.ONCE, lambda told: told["value"])

    def append(self, key: str, value: Any, namespace: str | None, ttl: Ttl) -> Steps[int]:
        arguments = self._at(key, namespace) | {"value": encode(value)} | _ttl(ttl)
        return self._call("kv_append", arguments, Effect.ONCE, lambda told: int(told["length"]))

    def get_stats(self) -> Steps[Stats]:
        return self._call("kv_stats", {}, Effect.READ, stats_of)

    def export_data(self, namespace: str | None) -> Steps[dict[str, dict[str, Any]]]:
        names = (yield from self.list_namespaces()) if namespace is None else [check_namespace(namespace)]
        data: dict[str, dict[str, Any]] = {}
        for name in names:
            data[name] = {}
            cursor: str | None = None
            while True:
                page = yield from self.list("", name, MAX_ENTRIES, cursor, True)
                data[name].update((entry.key, entry.value) for entry in page.entries)
                if (cursor := page.cursor) is None:
                    break
        return data

    def import_data(self, data: Mapping[str, Mapping[str, Any]]) -> Steps[int]:
        if not isinstance(data, Mapping):
            raise invalid("The data must be {namespace: {key: value}}, as export_data gives it.")
        # All is checked before anything is written.
        checked = [(check_namespace(name), check_mapping(entries)) for name, entries in data.items()]
        for name, texts in checked:
            for part in _parts(texts):
                yield from self._mset(part, name, {})
        return sum(len(texts) for _, texts in checked)

    def commit(self, steps: TransactionSteps) -> Steps[Any]:
        arguments = {"operations": steps._text()}  # noqa: SLF001 - the builder's methods are all for the user
        return self._call("kv_transaction", arguments, Effect.ONCE, steps._settle)  # noqa: SLF001

    def pop(self, key: str, namespace: str) -> Steps[Entry | None]:
        """Takes a value out, so that no two callers get it."""
        steps = TransactionSteps(namespace).get(key).delete(key)
        results = yield from self.commit(steps)
        found: Entry | None = results[0]
        return found

    def _mset(self, texts: Iterable[tuple[str, str]], namespace: str, life: Mapping[str, float]) -> Steps[int]:
        arguments = {"namespace": namespace, "entries": object_text(texts), **life}
        return self._call("kv_mset", arguments, Effect.REPEATABLE, int)

    def _call(self, function: str, arguments: Mapping[str, Any], effect: str, shape: Any) -> Steps[Any]:
        return self.caller.call(self.pool, function, arguments, effect, shape)

    def _named(self, namespace: str | None) -> str:
        return self.namespace if namespace is None else check_namespace(namespace)

    def _at(self, key: str, namespace: str | None) -> dict[str, Any]:
        return {"namespace": self._named(namespace), "key": check_key(key)}


def _ttl(ttl: Ttl) -> dict[str, float]:
    return {} if ttl is None else {"ttl": check_ttl(ttl)}


def _boolean(told: Any) -> bool:
    if not isinstance(told, bool):
        raise TypeError
    return told


def _values(told: Any) -> dict[str, Any]:
    return {entry["key"]: entry["value"] for entry in told}


def _parts(texts: Mapping[str, str]) -> Iterable[list[tuple[str, str]]]:
    part: list[tuple[str, str]] = []
    size = 0
    for key, text in texts.items():
        grown = len(key.encode()) + len(text.encode())
        if part and (len(part) == MAX_ENTRIES or size + grown > _PART_BYTES):
            yield part
            part, size = [], 0
        part.append((key, text))
        size += grown
    if part:
        yield part
