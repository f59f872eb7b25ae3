"""The clients against the real gateway on SQLite: what is more than one call, and what users paste from the README."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kvserving import Served, sqlite_source
from test_kvstore_client_values import VALUES, same
from waiting import until

from kvstore import (
    AsyncWorkletKVStore,
    Change,
    KVConflictError,
    KVConnectionError,
    KVError,
    KVPermissionError,
    KVValidationError,
    WorkletKVStore,
    create_async_worklet_kv_store,
    create_worklet_kv_store,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with sqlite_source() as source, Served(source) as gateway:
        yield gateway


@pytest.fixture
def store(served: Served) -> Iterator[WorkletKVStore]:
    with served.store() as client:
        yield client


@contextlib.asynccontextmanager
async def asynchronous(served: Served) -> Any:
    worklet = served.worklet()
    async with create_async_worklet_kv_store(url=served.url, token=served.key.mint_worklet(worklet)) as client:
        yield client


@given(
    entries=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=100),
        VALUES,
        max_size=4,
    )
)
@settings(max_examples=40)
def test_anything_comes_back_as_it_was(served: Served, entries: dict[str, Any]) -> None:
    with served.store() as store:
        for key, value in entries.items():
            assert store.set(key, value)
        assert same(store.mget(entries), entries)
        store.mset(entries, namespace="other")
        found = store.export_data()
        assert all(same(found[name], dict(sorted(entries.items(), key=lambda e: e[0].encode()))) for name in found)


def test_an_entry_tells_its_times(store: WorkletKVStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    version = store.set("k", None, ttl=timedelta(hours=1))
    entry = store.entry("k")
    assert entry is not None
    assert (entry.key, entry.value, entry.version) == ("k", None, version)
    assert before < entry.created_at <= entry.updated_at < before + timedelta(minutes=5)
    assert entry.expires_at is not None
    assert timedelta(minutes=59) < entry.expires_at - entry.created_at < timedelta(minutes=61)


def test_mget_takes_as_many_keys_as_one_likes_and_keeps_their_order(store: WorkletKVStore) -> None:
    keys = [f"k{n}" for n in range(2500)]
    store.import_data({"default": dict.fromkeys(keys[::2], 1)})
    found = store.mget(iter(["zz", *keys, "k1", "k0"]))
    assert list(found) == ["zz", *keys]
    assert sum(value is None for value in found.values()) == 1251
    with pytest.raises(KVValidationError, match="this is one string"):
        store.mget("abc")


def test_mset_of_too_many_writes_nothing(store: WorkletKVStore) -> None:
    with pytest.raises(KVValidationError, match="at most 1000"):
        store.mset({f"k{n}": 1 for n in range(1001)})
    assert len(store.list()) == 0


def test_a_request_that_is_too_large_is_not_sent(store: WorkletKVStore) -> None:
    with pytest.raises(KVValidationError) as caught:
        store.mset({f"k{n}": "x" * 1_000_000 for n in range(17)})
    assert caught.value.hint == "KV_TOO_LARGE"
    assert len(store.list()) == 0


def test_export_and_import_of_megabytes(served: Served, store: WorkletKVStore) -> None:
    data = {
        "big": {f"k{n:02}": '"\\' * 250_000 for n in range(12)},
        "many": {f"k{n:04}": n for n in range(2345)},
        "ns\n": {"k": [1e300, -0.5, {"a": None}]},
    }
    assert store.import_data(data) == 12 + 2345 + 1
    assert store.export_data() == data
    assert store.export_data("many") == {"many": data["many"]}
    with served.store() as other:
        assert other.export_data() == {}
        with pytest.raises(KVValidationError):
            other.import_data({"a": {"k": 1}, "b": {"k": float("nan")}})
        assert other.list_namespaces() == [], "all is checked before anything is written"


@pytest.mark.parametrize("data", [None, [], "x", {"a": 1}, {"a": [1]}, {"": {"k": 1}}, {5: {}}])
def test_what_cannot_be_imported(store: WorkletKVStore, data: Any) -> None:
    with pytest.raises(KVValidationError):
        store.import_data(data)


def test_pages(store: WorkletKVStore) -> None:
    store.mset({f"k{n:02}": n for n in range(25)})
    page = store.list("k", limit=10)
    assert ([entry.key for entry in page], page.entries[0].value, len(page)) == (
        [f"k{n:02}" for n in range(10)],
        None,
        10,
    )
    last = store.list("k", limit=20, cursor=page.cursor, values=True)
    assert ([entry.value for entry in last], last.cursor) == (list(range(10, 25)), None)
    assert [entry.value for entry in store.scan("k1", values=True)] == list(range(10, 20))


@dataclass
class Person:
    name: str
    age: int = 0


def test_typed_values(store: WorkletKVStore) -> None:
    store.set("ada", Person("Ada", 36))
    assert store.get("ada") == {"name": "Ada", "age": 36}
    assert store.get("ada", as_=Person) == Person("Ada", 36)
    assert store.get("bob", as_=Person) is None
    assert store.get("bob", Person("Bob"), as_=Person) == Person("Bob")
    assert store.mget(["ada", "bob"], as_=Person) == {"ada": Person("Ada", 36), "bob": None}
    store.set("wrong", "hunter2")
    with pytest.raises(KVValidationError, match="does not fit Person: it is a string"):
        store.get("wrong", as_=Person)


# Transactions


def test_a_transaction_gives_a_result_for_each_step(store: WorkletKVStore) -> None:
    first = store.set("a", 1)
    with store.transaction() as steps:
        steps.check("a", first).check("none", None).set("a", [1]).append("a", 2).get("a").get("none")
        steps.increment("n", 5, namespace="other", ttl=60).delete("none").delete("a")
    check, absent, put, appended, got, missing, counted, gone, deleted = steps.results
    assert (check, absent, missing, gone, deleted) == (None, None, None, {"deleted": False}, {"deleted": True})
    assert put["version"] > (first or 0)
    assert appended["length"] == 2
    assert got.value == [1, 2]
    assert counted["value"] == 5
    assert len(steps) == 9


def test_a_block_that_raises_commits_nothing(store: WorkletKVStore) -> None:
    def block() -> None:
        with store.transaction() as steps:
            steps.set("a", 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert not store.has("a")


def test_a_failed_check_names_its_step(store: WorkletKVStore) -> None:
    store.set("a", 1)
    transaction = store.transaction().set("b", 1).check("a", 12345).set("a", 2)
    with pytest.raises(KVConflictError, match="nothing was changed") as caught:
        transaction.commit()
    assert caught.value.failed == 1
    assert store.mget(["a", "b"]) == {"a": 1, "b": None}


def test_a_transaction_is_committed_once(store: WorkletKVStore) -> None:
    with store.transaction() as steps:
        steps.increment("n")
        assert steps.commit()[0]["value"] == 1
    for again in (steps.commit, lambda: steps.set("a", 1)):
        with pytest.raises(KVError, match="committed already"):
            again()
    assert store.get("n") == 1
    assert store.transaction().commit() == []


def test_bad_steps_are_refused_when_they_are_added(store: WorkletKVStore) -> None:
    steps: Any = store.transaction()
    for bad in (
        lambda: steps.set("", 1), lambda: steps.set("k", float("nan")), lambda: steps.check("k", "1"),
        lambda: steps.check("k", -1), lambda: steps.increment("k", "1"), lambda: steps.append("k", 1, ttl=0),
        lambda: steps.get("k", namespace=""), lambda: steps.delete(5),
    ):  # fmt: skip
        with pytest.raises(KVValidationError):
            bad()
    assert len(steps) == 0
    for _ in range(1000):
        steps.increment("n")
    with pytest.raises(KVValidationError, match="1000 steps"):
        steps.increment("n")
    assert steps.commit()[-1]["value"] == 1000


async def test_asynchronous_transactions(served: Served) -> None:
    async with asynchronous(served) as store:
        async with store.transaction() as steps:
            steps.set("a", 1).get("a")
        assert steps.results[1].value == 1

        async def block() -> None:
            async with store.transaction() as steps:
                steps.set("b", 1)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await block()
        assert await store.has("b") is False
        with pytest.raises(KVConflictError):
            await store.transaction().check("a", None).commit()


# The view of a namespace


def test_a_namespace_is_a_dict(store: WorkletKVStore) -> None:
    prefs = store.namespace("prefs")
    assert not prefs
    assert (len(prefs), dict(prefs), "theme" in prefs, prefs.get("theme", 5)) == (0, {}, False, 5)
    for gone in (lambda: prefs["theme"], lambda: prefs.pop("theme"), lambda: prefs.__delitem__("theme"), prefs.popitem):
        with pytest.raises(KeyError):
            gone()
    prefs["theme"] = "dark"
    prefs.update({"b": None, "a": [1]}, c=3)
    assert prefs
    assert (prefs["theme"], prefs["b"], prefs.get("b", 5), "b" in prefs, 5 in prefs, "" in prefs) == (
        "dark", None, None, True, False, False,
    )  # fmt: skip
    assert list(prefs) == ["a", "b", "c", "theme"]
    assert list(prefs.items()) == [("a", [1]), ("b", None), ("c", 3), ("theme", "dark")]
    assert (list(prefs.values()), 3 in prefs.values(), 4 in prefs.values()) == ([[1], None, 3, "dark"], True, False)
    assert (len(prefs), prefs == {"a": [1], "b": None, "c": 3, "theme": "dark"}) == (4, True)
    assert (prefs.setdefault("c", 9), prefs.setdefault("d", 9), prefs["d"]) == (3, 9, 9)
    assert (prefs.pop("c"), prefs.pop("c", None), prefs.pop("b", 5), prefs.popitem()) == (3, None, None, ("a", [1]))
    del prefs["d"]
    assert store.get("theme") is None, "it is another namespace than the store's own"
    prefs.clear()
    assert dict(prefs) == {}
    assert "prefs" in repr(prefs)


def test_a_view_of_many_keys(store: WorkletKVStore) -> None:
    many = store.namespace("many")
    many.update({f"k{n:04}": n for n in range(2100)})
    assert len(many) == 2100
    assert dict(many.items()) == {f"k{n:04}": n for n in range(2100)}


def test_no_two_take_the_same_value_out(store: WorkletKVStore) -> None:
    queue = store.namespace("queue")
    queue.update({f"k{n}": n for n in range(40)})
    taken: list[int] = []

    def take() -> None:
        with contextlib.suppress(KeyError):
            while True:
                taken.append(queue.popitem()[1])

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(40))


async def test_an_asynchronous_store_of_another_namespace(served: Served) -> None:
    async with asynchronous(served) as store:
        prefs = store.namespace("prefs")
        await prefs.set("theme", "dark")
        assert await store.get("theme", namespace="prefs") == "dark"
        assert [entry.key async for entry in prefs.scan()] == ["theme"]
        assert await prefs.clear() == 1


# Watching


def test_a_watch_tells_what_others_do(served: Served) -> None:
    worklet = served.worklet()
    with served.store(worklet) as store, served.store(worklet) as other, store.watch("a") as watch:
        other.set("b", 0)
        for turn in range(3):
            other.set("a", turn)
            change = next(watch)
            assert isinstance(change, Change)
            assert (change.key, change.value, change.deleted, change.namespace) == ("a", turn, False, "default")
        other.delete("a")
        assert next(watch).deleted


async def test_a_watch_misses_nothing_across_restarts(served: Served) -> None:
    with sqlite_source() as source, Served(source) as gateway:
        worklet = gateway.worklet()
        token = gateway.key.mint_worklet(worklet)
        async with create_async_worklet_kv_store(url=gateway.url, token=token, timeout=60) as store:
            seen: list[int] = []

            async def watch() -> None:
                async with store.watch("k") as changes:
                    ready.set()
                    async for change in changes:
                        seen.append(change.value)
                        if change.value == 299:
                            return

            ready = asyncio.Event()
            watching = asyncio.create_task(watch())
            await ready.wait()
            for number in range(300):
                await store.set(f"k{number}", number)
                if number % 100 == 50:
                    await asyncio.to_thread(gateway.stop)
                    await asyncio.to_thread(gateway.start)
            await asyncio.wait_for(watching, 60)
            assert seen == list(range(300))


def test_every_cursor_of_a_change_can_be_gone_on_from(store: WorkletKVStore) -> None:
    for number in range(20):
        store.set(f"k{number}", number)
    with store.watch(cursor="0") as watch:
        changes = [next(watch) for _ in range(20)]
    for number, change in enumerate(changes[:-1]):
        with store.watch(cursor=change.cursor) as watch:
            assert next(watch).value == number + 1


# Several programs


def test_increments_and_appends_of_threads_are_all_there(store: WorkletKVStore) -> None:
    def work(number: int) -> None:
        for turn in range(20):
            store.increment("n", 0.1)
            store.append("log", [number, turn])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("n") == 16
    assert len(store.get("log")) == 160
    assert len({tuple(pair) for pair in store.get("log")}) == 160


async def test_many_calls_at_once(served: Served) -> None:
    async with asynchronous(served) as store:
        await asyncio.gather(*(store.increment("n") for _ in range(300)))
        assert await store.get("n") == 300
        # Not a connection each: a program may gather ten thousand calls.
        assert len(store._waiting.pool._idle) <= 64


async def test_a_restart_of_the_gateway_is_not_noticed(served: Served) -> None:
    with sqlite_source() as source, Served(source) as gateway, gateway.store(timeout=60) as store:
        store.set("k", 1)
        stopped = threading.Event()

        def restart() -> None:
            gateway.stop()
            stopped.set()
            time.sleep(0.3)
            gateway.start()

        restarting = asyncio.create_task(asyncio.to_thread(restart))
        await until(stopped.is_set)
        assert await asyncio.to_thread(store.get, "k") == 1
        await restarting
        assert store.increment("n") == 1


def test_another_worklets_store(served: Served, store: WorkletKVStore) -> None:
    stranger = served.key.mint_worklet(served.worklet())
    with (
        pytest.raises(KVPermissionError) as caught,
        served.store(store._opened.caller._worklet_id, token=stranger) as c,
    ):
        c.get("k")
    assert caught.value.hint == "KV_FORBIDDEN"


# What users have in hand


def test_the_examples_of_the_readme_run(
    served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worklet = served.worklet()
    (tmp_path / "token").write_text(served.key.mint_worklet(worklet))
    monkeypatch.setenv("FLOW_KV_URL", served.url)
    monkeypatch.setenv("FLOW_WORKLET_ID", worklet)
    monkeypatch.setenv("FLOW_KV_TOKEN_FILE", str(tmp_path / "token"))
    text = (ROOT / "kvstore/README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 6
    names: dict[str, Any] = {"__name__": "readme"}
    sys.modules["readme"] = type(sys)("readme")
    try:
        for block in blocks:
            exec(compile(block, "kvstore/README.md", "exec"), names)
    finally:
        del sys.modules["readme"]
    assert names["user"] == names["User"]("Ada", ["en", "fr"])
    assert "user:2 {'name': 'Bob', 'langs': []} False" in capsys.readouterr().out
    names["store"].close()


def test_importing_the_client_costs_little() -> None:
    """Not its time, which the machine decides, but what makes it long."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import kvstore; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    costly = {"asyncio", "ssl", "http", "http.client", "email", "urllib.parse", "logging", "random", "decimal", "uuid",
              "concurrent.futures", "subprocess", "kvstore.aio", "kvstore.gateway", "pydantic", "aiohttp"}  # fmt: skip
    assert loaded & costly == set()
    assert {name for name in loaded if name.split(".")[0] == "kvstore"} > {"kvstore.client"}


def test_what_the_package_offers() -> None:
    import kvstore

    assert all(hasattr(kvstore, name) for name in kvstore.__all__)
    assert set(kvstore.__all__) <= set(dir(kvstore))
    assert kvstore.AsyncWorkletKVStore is AsyncWorkletKVStore
    with pytest.raises(AttributeError):
        kvstore.nonsense  # noqa: B018
    for cls in (WorkletKVStore, AsyncWorkletKVStore):
        assert all(method.__doc__ for name, method in vars(cls).items() if not name.startswith("_"))


def test_the_wheel_holds_the_client_alone(tmp_path: Path) -> None:
    copy = tmp_path / "kvstore"
    copy.mkdir()
    (copy / "gateway").mkdir()
    for file in [*(ROOT / "kvstore").glob("*.*"), *(ROOT / "kvstore/gateway").glob("*.py")]:
        if file.is_file():
            target = copy / file.relative_to(ROOT / "kvstore")
            target.write_bytes(file.read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--wheel-dir", tmp_path, copy], check=True, timeout=100)
    (wheel,) = tmp_path.glob("flow_kvstore-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
    expected = {f"kvstore/{file.name}" for file in (ROOT / "kvstore").glob("*.py")} | {"kvstore/py.typed"}
    assert names == expected
    assert "Requires-Python: >=3.10" in metadata
    assert "Requires-Dist" not in metadata
    program = f"import sys; sys.path.insert(0, {str(wheel)!r}); import kvstore.aio; print(kvstore.__file__)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith(str(wheel)), done.stderr


def test_a_program_that_never_closes_its_store_ends_in_silence(served: Served) -> None:
    token = served.key.mint_worklet(served.worklet())
    program = (
        "import asyncio, threading\n"
        "from kvstore import create_worklet_kv_store, create_async_worklet_kv_store\n"
        f"at = dict(url={served.url!r}, token={token!r})\n"
        "store = create_worklet_kv_store(**at)\n"
        "store.set('k', 1)\n"
        "watch = store.watch()\n"
        "threading.Thread(target=next, args=(watch,), daemon=True).start()\n"
        "other = create_async_worklet_kv_store(**at)\n"
        "assert asyncio.run(other.get('k')) == 1\n"
    )
    done = subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-c", program], capture_output=True, text=True,
                          cwd=ROOT, timeout=60)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_clients_that_cannot_reach_their_store_say_so() -> None:
    with create_worklet_kv_store(url="http://127.0.0.1:9", token="t", timeout=0.1) as store:
        with pytest.raises(KVConnectionError, match=r"http://127\.0\.0\.1:9: "):
            store.get("k")
        assert "127.0.0.1:9" in repr(store)
