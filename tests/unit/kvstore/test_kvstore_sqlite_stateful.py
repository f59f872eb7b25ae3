"""Whatever is done in whatever order, through two stores on one file, the store is what a dict would be.

A mirror that is fed by `kv_watch` alone, at times of its own, ends equal to the store. `make chaos` runs many more.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlitemodel import Model, Place, Refused, plain

from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import Refusal
from kvstore.gateway.functions import validated
from kvstore.gateway.sqlite import SqliteStore

CHAOS = settings.get_current_profile_name() == "chaos"
WORKLET, OWNER = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-0000000000aa"
OTHER = "00000000-0000-4000-8000-000000000002"
DAY = 24 * 3600

NAMESPACES = st.sampled_from(["default", "é"])
KEYS = st.sampled_from(["k", "k1", "k10", "k\U0010ffff", "k\ue000", "l", "😀"])
PREFIXES = st.sampled_from(["", "k", "k1", "k\U0010ffff", "é"])
VALUES = st.sampled_from(
    [None, True, 1, -0.5, 0.1, 1e20, "", 'a"\\ü', [], [1], ["x"], {}, {"a": {"b": [None]}}, "y" * 60]
)
TTLS = st.sampled_from([None, None, 0.5, 10.0])
DELTAS = st.sampled_from([1, -1, 0.1, 0.2, 1e-7, 12345678901234567890])
WHO = st.integers(0, 1)  # which of the two stores is asked

STEPS = st.one_of(
    st.fixed_dictionaries({"op": st.just("set"), "value": VALUES, "ttl": TTLS}),
    st.fixed_dictionaries({"op": st.sampled_from(["delete", "get"])}),
    st.fixed_dictionaries({"op": st.just("increment"), "delta": DELTAS, "ttl": TTLS}),
    st.fixed_dictionaries({"op": st.just("append"), "value": VALUES, "ttl": TTLS}),
    st.fixed_dictionaries({"op": st.just("check"), "version": st.sampled_from(["right", "right", "wrong"])}),
)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.model = Model(max_keys=8, max_bytes=300, now=1_700_000_000_000_000)
        self.runner = asyncio.Runner()
        self.stores = [self.runner.run(self._store()) for _ in range(2)]
        self.run(self.stores[0].register(WORKLET, OWNER, "one", max_keys=8, max_bytes=300))
        self.run(self.stores[0].register(OTHER, OWNER, "two"))
        self.call(0, "kv_set", worklet=OTHER, p_namespace="default", p_key="k", p_value='"stays"')
        self.mirror: dict[Place, Any] = {}
        self.cursor = "0"

    async def _store(self) -> SqliteStore:
        path = Path(self.directory.name) / "kv.sqlite"
        store = SqliteStore(path, max_keys=100, max_bytes=10_000, now=lambda: self.model.now / 1e6)
        await store.open()
        return store

    def teardown(self) -> None:
        for store in self.stores:
            self.run(store.close())
        self.runner.close()
        self.directory.cleanup()

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def call(self, who: int, function: str, worklet: str = WORKLET, **arguments: Any) -> Any:
        found = validated(function, arguments)
        return json.loads(self.run(self.stores[who].call(Caller.of_worklet(worklet), function, found)))

    def both(self, who: int, change: Any, function: str, **arguments: Any) -> None:
        """The store and the model do the same, or refuse with the same hint."""
        try:
            expected = self.model.attempt(change)
        except Refused as e:
            expected = str(e)
        try:
            found = self.call(who, function, **arguments)
        except Refusal as e:
            found = e.hint
        assert self.comparable(found) == self.comparable(expected)

    def comparable(self, result: Any) -> Any:
        """Without an entry's times, which `nothing_differs` compares."""
        if isinstance(result, dict):
            times = {"created_at", "updated_at", "expires_at"}
            return {k: self.comparable(v) for k, v in result.items() if k not in times}
        if isinstance(result, list):
            return [self.comparable(item) for item in result]
        return plain(result)

    # Writing

    @rule(
        who=WHO,
        namespace=NAMESPACES,
        key=KEYS,
        value=VALUES,
        ttl=TTLS,
        how=st.sampled_from(["", "absent", "right", "wrong"]),
    )
    def put(self, who: int, namespace: str, key: str, value: Any, ttl: float | None, how: str) -> None:
        place = (namespace, key)
        live = self.model.live(place)
        version = {"right": live.version if live else 10**6, "wrong": 10**6}.get(how)
        holds = (how != "absent" or live is None) and (
            version is None or (live is not None and live.version == version)
        )
        self.both(
            who, lambda: {"version": self.model.put(place, value, ttl) if holds else None}, "kv_set",
            p_namespace=namespace, p_key=key, p_value=json.dumps(value), p_ttl=ttl, p_if_version=version,
            p_only_if_absent=how == "absent",
        )  # fmt: skip

    @rule(who=WHO, namespace=NAMESPACES, entries=st.dictionaries(KEYS, VALUES, max_size=4), ttl=TTLS)
    def put_many(self, who: int, namespace: str, entries: dict[str, Any], ttl: float | None) -> None:
        def change() -> int:
            return len([self.model.put((namespace, key), value, ttl) for key, value in entries.items()])

        self.both(who, change, "kv_mset", p_namespace=namespace, p_entries=json.dumps(entries), p_ttl=ttl)

    @rule(who=WHO, namespace=NAMESPACES, keys=st.lists(KEYS, max_size=3, unique=True))
    def delete(self, who: int, namespace: str, keys: list[str]) -> None:
        def change() -> int:
            return sum([self.model.delete((namespace, key)) for key in keys])

        self.both(who, change, "kv_delete", p_namespace=namespace, p_keys=keys)

    @rule(who=WHO, namespace=st.one_of(st.none(), NAMESPACES))
    def clear(self, who: int, namespace: str | None) -> None:
        def change() -> int:
            places = [place for place in self.model.rows if namespace in (None, place[0])]
            return sum([self.model.delete(place) for place in places])

        self.both(who, change, "kv_clear", p_namespace=namespace)

    @rule(who=WHO, namespace=NAMESPACES, key=KEYS, delta=DELTAS, ttl=TTLS)
    def increment(self, who: int, namespace: str, key: str, delta: float, ttl: float | None) -> None:
        change = lambda: self.model.increment((namespace, key), Decimal(repr(delta)), ttl)  # noqa: E731
        self.both(who, change, "kv_increment", p_namespace=namespace, p_key=key, p_delta=delta, p_ttl=ttl)

    @rule(who=WHO, namespace=NAMESPACES, key=KEYS, value=VALUES, ttl=TTLS)
    def append(self, who: int, namespace: str, key: str, value: Any, ttl: float | None) -> None:
        change = lambda: self.model.append((namespace, key), value, ttl)  # noqa: E731
        self.both(who, change, "kv_append", p_namespace=namespace, p_key=key, p_value=json.dumps(value), p_ttl=ttl)

    @rule(who=WHO, steps=st.lists(st.tuples(STEPS, NAMESPACES, KEYS), max_size=5))
    def transaction(self, who: int, steps: list[tuple[dict[str, Any], str, str]]) -> None:
        operations = []
        for step, namespace, key in steps:
            operation = {**step, "namespace": namespace, "key": key}
            if step["op"] == "check":
                live = self.model.live((namespace, key))
                right = live.version if live else None
                operation["version"] = right if step["version"] == "right" else 10**6
            operations.append(operation)
        self.both(
            who, lambda: self.model.transaction(operations), "kv_transaction", p_operations=json.dumps(operations)
        )

    # Time

    @rule(seconds=st.sampled_from([0.1, 0.5, 9.9, 3600, 2 * DAY]))
    def time_passes(self, seconds: float) -> None:
        self.model.now += round(seconds * 1e6)

    @rule(who=WHO)
    def sweep(self, who: int) -> None:
        expired = self.model.sweep()
        assert self.run(self.stores[who].sweep()) >= expired  # and tombstones

    # Reading

    @rule(who=WHO, namespace=NAMESPACES, prefix=PREFIXES, limit=st.integers(1, 3), values=st.booleans())
    def pages(self, who: int, namespace: str, prefix: str, limit: int, values: bool) -> None:
        expected = sorted(key for n, key in self.model.all_live() if n == namespace and key.startswith(prefix))
        found, cursor = [], None
        while True:
            page = self.call(
                who, "kv_list", p_namespace=namespace, p_prefix=prefix, p_limit=limit, p_values=values, p_cursor=cursor
            )
            assert len(page["entries"]) <= limit
            assert all(("value" in entry) == values for entry in page["entries"])
            found += [entry["key"] for entry in page["entries"]]
            if (cursor := page["cursor"]) is None:
                break
        assert found == expected

    @rule(who=WHO, limit=st.integers(1, 4))
    def mirror_one_look(self, who: int, limit: int) -> None:
        answer = self.call(who, "kv_watch", p_cursor=self.cursor, p_limit=limit)
        if answer["reset"]:
            self.mirror.clear()
        assert [c["version"] for c in answer["changes"]] == sorted(c["version"] for c in answer["changes"])
        for change in answer["changes"]:
            place = (change["namespace"], change["key"])
            if change["deleted"]:
                self.mirror.pop(place, None)
            else:
                self.mirror[place] = change["value"]
        self.cursor = answer["cursor"]

    @rule(who=WHO)
    def mirror_catches_up(self, who: int) -> None:
        for _ in range(30):
            before = self.cursor
            self.mirror_one_look(who, 4)
            if self.cursor == before:
                break
        live = self.model.all_live()
        expired = self.model.rows.keys() - live.keys()
        assert {p: v for p, v in self.mirror.items() if p not in expired} == self.values(live)

    @rule(who=WHO, namespace=NAMESPACES, prefix=PREFIXES)
    def watch_a_part_from_the_beginning(self, who: int, namespace: str, prefix: str) -> None:
        answer = self.call(who, "kv_watch", p_namespace=namespace, p_prefix=prefix, p_cursor="0")
        found = {c["key"]: c["value"] for c in answer["changes"] if not c["deleted"]}
        live = self.values(self.model.all_live())
        assert found == {k: v for (n, k), v in live.items() if n == namespace and k.startswith(prefix)}

    def values(self, rows: Any) -> dict[Place, Any]:
        return {place: self.comparable(row.value) for place, row in rows.items()}

    @invariant()
    def nothing_differs(self) -> None:
        live = self.model.all_live()
        who = self.model.version % 2
        for namespace in ("default", "é"):
            keys = [key for n, key in self.model.rows if n == namespace]
            found = self.call(who, "kv_mget", p_namespace=namespace, p_keys=keys)
            expected = {key: row for (n, key), row in live.items() if n == namespace}
            assert {e["key"]: e["version"] for e in found} == {key: row.version for key, row in expected.items()}
            for entry in found:
                row = expected[entry["key"]]
                assert entry["value"] == self.comparable(row.value)
                times = [entry["created_at"], entry["updated_at"], entry["expires_at"]]
                assert [microseconds(t) for t in times] == [row.created, row.updated, row.expires]
        stats = self.call(who, "kv_stats")
        assert (stats["keys"], stats["bytes"]) == self.model.counters()
        namespaces = sorted({namespace for namespace, _ in live})
        assert self.call(who, "kv_list_namespaces") == namespaces
        assert stats["namespaces"] == len(namespaces)
        assert self.call(who, "kv_get", worklet=OTHER, p_namespace="default", p_key="k")["value"] == "stays"


def microseconds(text: str | None) -> int | None:
    from datetime import UTC, datetime, timedelta

    if text is None:
        return None
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


Machine.TestCase.settings = settings(
    max_examples=settings().max_examples if CHAOS else 25,
    stateful_step_count=60 if CHAOS else 40,
    suppress_health_check=list(HealthCheck),
)
TestStore = pytest.mark.timeout(4 * 3600 if CHAOS else 600)(Machine.TestCase)
