"""Any operations in any order: SQLite, PostgreSQL and a plain model give the same results, and a watcher sees all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kvmodel import CheckFailed, Model, Place, Refused
from kvpostgres import made_source
from kvserving import Served, sqlite_source
from postgres import postgres_server  # noqa: F401 - fixture

from kvstore.client import WorkletKVStore
from kvstore.errors import KVConflictError, KVError

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(1800)]

LONG = 3600  # seconds to live: nothing expires while a case runs

#: Few, so that operations meet; with all that sorts oddly.
keys = st.sampled_from(["a", "a/b", "a\uffff", "a\U0001f600"])
places = st.tuples(st.sampled_from(["default", "default", "n\U0001f600"]), keys)
prefixes = st.sampled_from(["", "", "a", "a\uffff", "none"])
numbers = st.one_of(
    st.integers(-(10**6), 10**6),
    st.integers(-(10**6), 10**6).map(lambda cents: cents / 100),
    st.sampled_from([2**53 + 1, 10**25, 1e-7]),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text('ab é\U0001f600\u2028"\\\n', max_size=4)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('kK é"', max_size=2), inner, max_size=3),
    max_leaves=4,
)
lives = st.booleans()
#: Which version a condition names: the entry's own, an older one, none that ever was.
conditions = st.sampled_from([None, "current", "stale", "absent"])
steps = st.one_of(
    st.tuples(st.just("check"), places, st.sampled_from(["current", "current", "stale", "missing"])),
    st.tuples(st.just("set"), places, values),
    st.tuples(st.just("delete"), places),
    st.tuples(st.just("increment"), places, st.integers(-9, 9)),
    st.tuples(st.just("append"), places, values),
    st.tuples(st.just("get"), places),
)
operations = st.one_of(
    st.tuples(st.just("set"), places, values, lives, conditions),
    st.tuples(st.just("get"), places),
    st.tuples(st.just("delete"), places, st.sampled_from([None, None, "current", "stale"])),
    st.tuples(st.just("increment"), places, st.one_of(st.integers(-99, 99), st.sampled_from([0.1, -2.5])), lives),
    st.tuples(st.just("append"), places, values, lives),
    st.tuples(st.just("mset"), places, st.dictionaries(keys, values, max_size=4), lives),
    st.tuples(st.just("mget"), places, st.lists(keys, max_size=4)),
    st.tuples(st.just("list"), places, prefixes, st.integers(1, 4)),
    st.tuples(st.just("clear"), places, lives),
    st.tuples(st.just("transaction"), st.lists(steps, max_size=5)),
    st.tuples(st.just("watch")),
)


NEVER = 2**40


class Held:
    """One store beside its model, which knows for each of the model's changes the version that the store gave it."""

    def __init__(self, store: WorkletKVStore) -> None:
        self.store, self.model = store, Model()
        self.actual: dict[int, int] = {}
        self.past: dict[Place, int] = {}
        self.current: dict[Place, int] = {}
        self.newest = 0
        self.mirror: dict[Place, Any] = {}
        self.cursor = "0"

    def do(self, name: str, *about: Any) -> None:
        """The same to both. AssertionError when they differ."""
        getattr(self, f"do_{name}")(*about)
        self._compare()

    def do_set(self, at: Place, value: Any, lives: bool, condition: str | None) -> None:
        absent = condition == "absent"
        ours, theirs = (None, None) if absent else self._version(at, condition)
        wanted = self.model.set(at, value, ttl=lives, if_version=ours, absent=absent)
        have = self.store.set(
            at[1], value, namespace=at[0], ttl=LONG if lives else None, if_version=theirs, only_if_absent=absent
        )
        assert (have is None) == (wanted is None)

    def do_get(self, at: Place) -> None:
        assert same(self.store.get(at[1], NEVER, namespace=at[0]), self.model.entries.get(at, NEVER))
        assert self.store.has(at[1], namespace=at[0]) == (at in self.model.entries)

    def do_delete(self, at: Place, condition: str | None) -> None:
        ours, theirs = self._version(at, condition)
        wanted = self.model.delete(at, ours)
        assert self.store.delete(at[1], namespace=at[0], if_version=theirs) == wanted

    def do_increment(self, at: Place, delta: Any, lives: bool) -> None:
        wanted = outcome(lambda: self.model.increment(at, delta, lives))
        ttl = LONG if lives else None
        assert same(outcome(lambda: self.store.increment(at[1], delta, namespace=at[0], ttl=ttl)), wanted)

    def do_append(self, at: Place, value: Any, lives: bool) -> None:
        wanted = outcome(lambda: self.model.append(at, value, lives))
        ttl = LONG if lives else None
        assert outcome(lambda: self.store.append(at[1], value, namespace=at[0], ttl=ttl)) == wanted

    def do_mset(self, at: Place, entries: dict[str, Any], lives: bool) -> None:
        for key, value in entries.items():
            self.model.set((at[0], key), value, ttl=lives)
        self.store.mset(entries, namespace=at[0], ttl=LONG if lives else None)

    def do_mget(self, at: Place, wanted: list[str]) -> None:
        have = self.store.mget(wanted, namespace=at[0])
        assert same(have, {key: self.model.entries.get((at[0], key)) for key in wanted})

    def do_list(self, at: Place, prefix: str, limit: int) -> None:
        """Page by page."""
        found: list[str] = []
        cursor = None
        while True:
            page = self.store.list(prefix, namespace=at[0], limit=limit, cursor=cursor, values=True)
            assert len(page.entries) <= limit
            found += [entry.key for entry in page]
            assert all(same(entry.value, self.model.entries[at[0], entry.key]) for entry in page)
            cursor = page.cursor
            if cursor is None:
                break
        assert found == self.model.keys(at[0], prefix)

    def do_clear(self, at: Place, everything: bool) -> None:
        wanted = self.model.clear(None if everything else at[0])
        assert (self.store.clear_all() if everything else self.store.clear(at[0])) == wanted

    def do_transaction(self, chosen: list[tuple[Any, ...]]) -> None:
        work, ours = self.store.transaction(), []
        for name, at, *about in chosen:
            if name == "check":
                mine, theirs = (None, None) if about[0] == "missing" else self._version(at, about[0])
                ours.append((name, at, mine))
                work.check(at[1], theirs, namespace=at[0])
            else:
                ours.append((name, at, *about))
                getattr(work, name)(at[1], *about, namespace=at[0])
        wanted = outcome(lambda: self.model.transaction(ours))
        have = outcome(work.commit)
        if isinstance(have, list):
            have = [_answer(name, result) for (name, *_), result in zip(chosen, have, strict=True)]
        assert same(have, wanted)

    def do_watch(self) -> None:
        """Until what was told is all there is; a change that is never told is waited for in vain."""
        if same(self.mirror, self.model.entries):
            return  # a look that finds nothing would wait
        with self.store.watch_all(cursor=self.cursor) as changes:
            for change in changes:
                at = (change.namespace, change.key)
                assert not change.reset
                self.mirror.pop(at, None) if change.deleted else self.mirror.__setitem__(at, change.value)
                self.cursor = change.cursor
                if same(self.mirror, self.model.entries):
                    return

    def _version(self, at: Place, condition: str | None) -> tuple[int | None, int | None]:
        """What a condition names: the model's number of it, and the store's."""
        current = self.model.versions.get(at)
        if condition is None:
            return None, None
        if condition == "current" and current is not None:
            return current, self.actual[current]
        return NEVER, self.past.get(at, NEVER)

    def _compare(self) -> None:
        """Both hold the same; each change got a version above all earlier ones, and nothing else did."""
        names = self.store.list_namespaces()
        assert names == self.model.namespaces()
        entries = {(name, e.key): e for name in names for e in self.store.scan(namespace=name, values=True)}
        assert same({at: entry.value for at, entry in entries.items()}, self.model.entries)
        assert {at for at, entry in entries.items() if entry.expires_at} == self.model.expiring
        fresh = {at: number for at, number in self.model.versions.items() if number not in self.actual}
        for at, number in self.model.versions.items():
            assert at in fresh or entries[at].version == self.actual[number]
        given = [entries[at].version for at in fresh]
        assert all(version > self.newest for version in given)
        assert len(set(given)) == len(given)
        for at, number in fresh.items():
            if at in self.current:
                self.past[at] = self.current[at]
            self.current[at] = self.actual[number] = entries[at].version
        self.newest = max([self.newest, *given])
        stats = self.store.get_stats()
        assert (stats.keys, stats.namespaces) == (len(entries), len(names))
        assert (stats.bytes == 0) == (not entries)


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1; whether a whole number is written as a float does not matter."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def outcome(call: Callable[[], Any]) -> Any:
    """What it gives, or why it refuses."""
    try:
        return call()
    except CheckFailed as error:
        return ("failed", error.index)
    except KVConflictError as error:
        return ("failed", error.failed)
    except Refused as error:
        return ("refused", error.hint)
    except KVError as error:
        return ("refused", error.hint)


def _answer(name: str, result: Any) -> Any:
    """Of one step, without versions."""
    if name in ("check", "set"):
        return None
    if name == "get":
        return None if result is None else result.value
    return result[{"delete": "deleted", "increment": "value", "append": "length"}[name]]


@pytest.fixture(scope="module")
def both(postgres_server: str) -> Iterator[list[Served]]:  # noqa: F811
    with ExitStack() as stack:
        sources = [stack.enter_context(sqlite_source()), stack.enter_context(made_source(postgres_server))]
        yield [stack.enter_context(Served(source)) for source in sources]


@settings(max_examples=settings().max_examples // 4, suppress_health_check=[HealthCheck.too_slow])
@given(chosen=st.lists(operations, min_size=12, max_size=30))
def test_any_operations_give_the_same_on_every_backend(chosen: list[tuple[Any, ...]], both: list[Served]) -> None:
    for served in both:
        with served.store() as store:
            held = Held(store)
            for name, *about in chosen:
                held.do(name, *about)
            held.do("watch")
            assert same(store.export_data(), held.model.everything())
