"""The embedded store: looking after worklets, quotas, catching up with changes, and faults of the file and the disk."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import Refusal
from kvstore.gateway.functions import validated
from kvstore.gateway.sqlite import SqliteStore
from kvstore.gateway.sqliteschema import prepare
from kvstore.gateway.sqlitetransaction import LEAST_TOMBSTONES, PORTION

WORKLET, OTHER = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
OWNER = "00000000-0000-4000-8000-0000000000aa"
DAY = 24 * 3600.0


class Store(SqliteStore):
    """With a clock that stands still, and calls by argument names."""

    def __init__(self, path: Path, busy: float = 10.0) -> None:
        self.time = 1_700_000_000.0
        super().__init__(path, max_keys=1_000_000, max_bytes=1 << 30, now=lambda: self.time, busy=busy)

    async def ask(self, function: str, worklet: str = WORKLET, **arguments: Any) -> Any:
        arguments.setdefault("p_namespace", "default")
        if function in ("kv_stats", "kv_list_namespaces", "kv_transaction") or arguments["p_namespace"] == "":
            del arguments["p_namespace"]
        found = validated(function, arguments)
        return json.loads(await self.call(Caller.of_worklet(worklet), function, found))

    async def set(self, key: str, value: Any = 1, **arguments: Any) -> Any:
        return await self.ask("kv_set", p_key=key, p_value=json.dumps(value), **arguments)

    async def get(self, key: str, **arguments: Any) -> Any:
        entry = await self.ask("kv_get", p_key=key, **arguments)
        return entry and entry["value"]

    async def fill(self, count: int, **arguments: Any) -> None:
        for begin in range(0, count, 1000):
            keys = range(begin, min(begin + 1000, count))
            await self.ask("kv_mset", p_entries=json.dumps({f"key{n:06}": n for n in keys}), **arguments)

    async def hint(self, function: str, **arguments: Any) -> str | None:
        with pytest.raises(Refusal) as caught:
            await self.ask(function, **arguments)
        return caught.value.hint

    async def down(self, function: str = "kv_set", **arguments: Any) -> str:
        """The sentence with which it refuses while its file is away."""
        if function == "kv_set":
            arguments = {"p_key": "k", "p_value": "1", **arguments}
        with pytest.raises(Refusal) as caught:
            await self.ask(function, **arguments)
        assert (caught.value.status, caught.value.code) == (503, "PGRST000")
        return caught.value.message


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "kv" / "kv.sqlite")
    await store.register(WORKLET, OWNER, "mine")
    yield store
    await store.close()


# Worklets


async def test_a_worklet_that_is_not_registered_has_no_store(store: Store) -> None:
    for function in ("kv_get", "kv_has"):
        assert await store.hint(function, worklet=OTHER, p_key="a") == "KV_FORBIDDEN"
    for function in ("kv_list", "kv_stats", "kv_list_namespaces", "kv_clear", "kv_watch"):
        assert await store.hint(function, worklet=OTHER) == "KV_FORBIDDEN"
    assert await store.hint("kv_set", worklet=OTHER, p_key="a", p_value="1") == "KV_FORBIDDEN"


async def test_registering_again_changes_the_name_and_the_quotas_and_keeps_the_entries(store: Store) -> None:
    await store.set("a")
    await store.register(WORKLET, OWNER.upper(), "yours", max_keys=5, max_bytes=500)
    assert await store.worklets() == [{"id": WORKLET, "owner_id": OWNER, "name": "yours"}]
    stats = await store.ask("kv_stats")
    assert (stats["keys"], stats["max_keys"], stats["max_bytes"]) == (1, 5, 500)
    assert await store.get("a") == 1
    assert await store.set("a", 2) == {"version": 2}


async def test_a_removed_worklet_is_gone_with_everything_it_kept(store: Store, tmp_path: Path) -> None:
    await store.fill(PORTION + 10)
    await store.ask("kv_delete", p_keys=["key000001"])
    await store.register(OTHER, OWNER, "")
    await store.set("stays", worklet=OTHER)
    await store.remove(WORKLET)
    await store.remove(WORKLET)
    assert await store.hint("kv_get", p_key="key000002") == "KV_FORBIDDEN"
    assert rows(tmp_path) == {"worklets": 1, "entries": 1, "tombstones": 0, "removed": 0}
    await store.register(WORKLET, OWNER, "again")
    assert (await store.ask("kv_stats"))["keys"] == 0


async def test_a_removal_that_was_cut_off_is_finished_by_the_next_sweep(store: Store, tmp_path: Path) -> None:
    await store.fill(10)
    with sqlite3.connect(tmp_path / "kv" / "kv.sqlite") as beside:
        beside.execute("insert into removed select w from worklets")
        beside.execute("delete from worklets")
    beside.close()
    assert await store.sweep() == 0
    assert rows(tmp_path) == {"worklets": 0, "entries": 0, "tombstones": 0, "removed": 0}


# Quotas


async def test_a_quota_of_bytes_holds_to_the_byte_and_shrinking_is_always_allowed(store: Store) -> None:
    await store.register(WORKLET, OWNER, "", max_bytes=100)
    assert await store.set("k", "x" * 90) == {"version": 1}  # 7 + 1 + 92
    assert await store.hint("kv_set", p_key="k", p_value=json.dumps("x" * 91)) == "KV_QUOTA_BYTES"
    assert await store.hint("kv_append", p_key="k", p_value='"x"') == "KV_QUOTA_BYTES"
    assert await store.hint("kv_mset", p_entries='{"a": 1, "b": 2}') == "KV_QUOTA_BYTES"
    assert (await store.ask("kv_stats"))["bytes"] == 100
    await store.register(WORKLET, OWNER, "", max_bytes=10)
    assert await store.set("k", "x" * 80) == {"version": 2}
    assert await store.hint("kv_set", p_key="k", p_value=json.dumps("x" * 81)) == "KV_QUOTA_BYTES"
    assert await store.ask("kv_delete", p_keys=["k"]) == 1


async def test_a_transaction_counts_as_a_whole(store: Store) -> None:
    await store.register(WORKLET, OWNER, "", max_keys=2)
    await store.fill(2)
    swap = [{"op": "set", "key": "new", "value": 1}, {"op": "delete", "key": "key000000"}]
    assert (await store.ask("kv_transaction", p_operations=json.dumps(swap)))["committed"]
    assert (await store.ask("kv_stats"))["keys"] == 2
    more = [
        {"op": "set", "key": "k1", "value": 1},
        {"op": "set", "key": "k2", "value": 1},
        {"op": "delete", "key": "new"},
    ]
    assert await store.hint("kv_transaction", p_operations=json.dumps(more)) == "KV_QUOTA_KEYS"
    assert await store.get("new") == 1


async def test_what_has_expired_makes_room(store: Store) -> None:
    await store.register(WORKLET, OWNER, "", max_keys=2)
    await store.fill(2, p_ttl=10)
    assert await store.hint("kv_set", p_key="new", p_value="1") == "KV_QUOTA_KEYS"
    store.time += 10
    assert await store.set("new")
    assert (await store.ask("kv_stats"))["keys"] == 1


# Sweeping, clearing, catching up


async def test_a_sweep_deletes_what_has_expired_and_tombstones_of_a_day_ago(store: Store, tmp_path: Path) -> None:
    await store.fill(PORTION + 5, p_ttl=10)
    await store.set("stays")
    assert await store.sweep() == 0
    store.time += 10
    assert await store.sweep() == PORTION + 5
    assert rows(tmp_path)["tombstones"] == PORTION + 5
    store.time += DAY - 1
    assert await store.sweep() == 0
    store.time += 1
    assert await store.sweep() == PORTION + 5
    assert rows(tmp_path) == {"worklets": 1, "entries": 1, "tombstones": 0, "removed": 0}


async def test_others_write_while_much_is_cleared_and_what_they_write_stays(store: Store) -> None:
    await store.register(OTHER, OWNER, "")
    await store.fill(3 * PORTION)
    clearing = asyncio.create_task(store.ask("kv_clear"))
    written = 0
    while not clearing.done():
        await store.set(f"zz{written}")
        written += 1
    assert 3 * PORTION <= await clearing <= 3 * PORTION + 1  # one may have come before it
    assert written > 1
    assert (await store.ask("kv_stats"))["keys"] in (written, written - 1)


async def test_a_cursor_from_before_the_last_tombstones_is_answered_with_everything(store: Store) -> None:
    await store.fill(5)
    await store.ask("kv_delete", p_keys=["key000000"])
    cursor = (await store.ask("kv_watch", p_namespace=""))["cursor"]
    store.time += DAY
    await store.sweep()
    answer = await store.ask("kv_watch", p_namespace="", p_cursor="3")
    assert answer["reset"]
    assert [c["key"] for c in answer["changes"]] == [f"key00000{n}" for n in range(1, 5)]
    assert (await store.ask("kv_watch", p_namespace="", p_cursor=cursor))["reset"] is False
    assert (await store.ask("kv_watch", p_namespace="", p_cursor="999"))["reset"]  # of another store


async def test_deletions_without_end_do_not_fill_the_disk_and_watchers_begin_anew(store: Store, tmp_path: Path) -> None:
    await store.set("stays")
    cursor = (await store.ask("kv_watch", p_namespace=""))["cursor"]
    for start in range(0, LEAST_TOMBSTONES + 2 * PORTION, PORTION):
        entries = {f"key{n}": 0 for n in range(start, start + PORTION)}
        await store.ask("kv_mset", p_entries=json.dumps(entries))
        keys = list(entries)
        half = PORTION // 2
        assert await store.ask("kv_delete", p_keys=keys[:half]) == half
        deletions = [{"op": "delete", "key": key} for key in keys[half:]]
        await store.ask("kv_transaction", p_operations=json.dumps(deletions))
        recent = (await store.ask("kv_watch", p_namespace="", p_cursor=cursor))["cursor"]
        assert rows(tmp_path)["tombstones"] <= LEAST_TOMBSTONES
    assert rows(tmp_path)["tombstones"] >= LEAST_TOMBSTONES - PORTION
    answer = await store.ask("kv_watch", p_namespace="", p_cursor=cursor)
    assert (answer["reset"], [change["key"] for change in answer["changes"]]) == (True, ["stays"])
    await store.ask("kv_delete", p_keys=["stays"])
    answer = await store.ask("kv_watch", p_namespace="", p_cursor=answer["cursor"])
    assert (answer["reset"], [change["deleted"] for change in answer["changes"]]) == (False, [True])
    assert (await store.ask("kv_watch", p_namespace="", p_cursor=recent))["reset"] is False


async def test_tombstones_are_counted_through_all_that_changes_them(store: Store, tmp_path: Path) -> None:
    await store.fill(20, p_ttl=10)
    await store.ask("kv_delete", p_keys=["key000000", "key000001", "key000002"])
    await store.set("key000000")
    await store.ask("kv_mset", p_entries='{"key000001": 1, "other": 1}')
    undone = [{"op": "delete", "key": "key000003"}, {"op": "check", "key": "nowhere", "version": 1}]
    assert not (await store.ask("kv_transaction", p_operations=json.dumps(undone)))["committed"]
    failed = [{"op": "delete", "key": "key000003"}, {"op": "append", "key": "other", "value": 1}]
    assert await store.hint("kv_transaction", p_operations=json.dumps(failed)) == "KV_NOT_APPENDABLE"
    assert rows(tmp_path)["tombstones"] == counted(tmp_path) == 1
    store.time += 10
    await store.sweep()
    assert rows(tmp_path)["tombstones"] == counted(tmp_path) == 18
    await store.ask("kv_clear")
    assert rows(tmp_path)["tombstones"] == counted(tmp_path) == 21
    store.time += DAY
    await store.sweep()
    assert rows(tmp_path)["tombstones"] == counted(tmp_path) == 0


async def test_reading_everything_ends_although_its_versions_are_older_than_the_last_tombstones(store: Store) -> None:
    await store.fill(7)
    await store.set("gone")
    await store.ask("kv_delete", p_keys=["gone"])
    store.time += DAY
    await store.sweep()
    keys, cursor = [], "0"
    for _ in range(4):
        answer = await store.ask("kv_watch", p_namespace="", p_cursor=cursor, p_limit=2)
        assert answer["reset"] is False
        keys += [c["key"] for c in answer["changes"]]
        cursor = answer["cursor"]
    assert keys == [f"key00000{n}" for n in range(7)]
    assert cursor == "9"


async def test_what_is_deleted_while_everything_is_read_is_told(store: Store) -> None:
    await store.fill(6)
    first = await store.ask("kv_watch", p_namespace="", p_cursor="0", p_limit=3)
    await store.ask("kv_delete", p_keys=["key000000", "key000005"])
    rest = await store.ask("kv_watch", p_namespace="", p_cursor=first["cursor"])
    assert [(c["key"], c["deleted"]) for c in rest["changes"]] == [
        ("key000003", False), ("key000004", False), ("key000000", True), ("key000005", True),
    ]  # fmt: skip


async def test_a_page_ends_early_where_values_are_large(store: Store) -> None:
    for n in range(7):
        await store.set(f"k{n}", "x" * 1_000_000)
    for function, argument in (("kv_list", "p_cursor"), ("kv_watch", "p_cursor")):
        found: list[Any] = []
        cursor: str | None = "0" if function == "kv_watch" else None
        pages = 0
        while len(found) < 7:
            values = {"p_values": True} if function == "kv_list" else {}
            page = await store.ask(function, **{argument: cursor}, **values)
            found += page.get("entries") or page.get("changes")
            cursor = page["cursor"]
            pages += 1
        assert pages == 2
        assert len(found) == 7


# The file and the disk


async def test_the_file_is_its_owners_alone(store: Store, tmp_path: Path) -> None:
    await store.set("a")
    for file in (tmp_path / "kv").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
    assert stat.S_IMODE((tmp_path / "kv").stat().st_mode) == 0o700


async def test_what_was_answered_is_there_for_whoever_opens_the_file_next(store: Store, tmp_path: Path) -> None:
    await asyncio.gather(*(store.ask("kv_increment", p_key="n") for _ in range(300)))
    await store.close()
    await store.close()
    again = Store(tmp_path / "kv" / "kv.sqlite")
    assert await again.get("n") == 300
    await again.check()
    await again.close()
    await again.check()  # opens it once more
    await again.close()


async def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "missing" / "kv" / "kv.sqlite")
    assert "cannot be opened" in await store.down()
    (tmp_path / "missing").mkdir()
    await store.register(WORKLET, OWNER, "")
    await store.set("a")
    await store.close()


async def test_a_file_that_was_deleted_under_it_is_told_and_one_that_comes_back_is_used(
    store: Store, tmp_path: Path
) -> None:
    await store.set("a")
    await store.close()
    shutil.copytree(tmp_path / "kv", tmp_path / "backup")
    await store.open()
    assert await store.get("a") == 1
    shutil.rmtree(tmp_path / "kv")
    assert "moved or deleted" in await store.down()

    async def refused() -> bool:
        try:
            await store.get("a")
        except Refusal as e:
            return "moved or deleted" in e.message
        return False

    await until(refused)  # a reader looks at the path four times a second
    shutil.copytree(tmp_path / "backup", tmp_path / "kv")
    await store.set("b")

    async def readable() -> bool:
        try:
            return bool(await store.get("a") == await store.get("b") == 1)
        except Refusal:
            return False

    await until(readable)


async def test_a_damaged_file_and_one_of_a_newer_flow_are_told(tmp_path: Path) -> None:
    path = tmp_path / "kv.sqlite"
    path.write_bytes(b"no database at all" * 500)
    damaged = Store(path)
    assert "damaged" in await damaged.down()
    await damaged.close()
    path.unlink()
    with sqlite3.connect(path) as beside:
        beside.execute("pragma user_version = 999")
    beside.close()
    assert "newer Flow" in await Store(path).down()


async def test_a_file_that_another_program_locks_is_told_and_used_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "kv.sqlite", busy=0)
    await store.register(WORKLET, OWNER, "")
    beside = sqlite3.connect(tmp_path / "kv.sqlite", isolation_level=None)
    beside.execute("begin immediate")
    assert "locked" in await store.down()
    assert await store.get("k") is None  # reading goes on
    beside.execute("rollback")
    beside.close()
    await store.set("k")
    await store.close()


async def test_two_stores_count_together(store: Store, tmp_path: Path) -> None:
    beside = Store(tmp_path / "kv" / "kv.sqlite")
    await asyncio.gather(*(s.ask("kv_increment", p_key="n") for s in [store, beside] * 100))
    await beside.close()
    assert await store.get("n") == 200


async def test_an_operation_whose_caller_left_is_done_all_the_same(store: Store) -> None:
    writing = asyncio.create_task(store.set("a"))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await store.set("b")
    assert await store.get("a") == 1


async def test_no_thread_is_left(tmp_path: Path) -> None:
    store = Store(tmp_path / "kv.sqlite")
    await store.check()
    assert any(t.name == "kv-writer" for t in threading.enumerate())
    await store.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("kv-")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    at = tmp_path / "disk"
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", at], check=True)
    yield at
    subprocess.run(["umount", "--lazy", at], check=True)


@pytest.mark.tmpfs
async def test_a_full_disk_is_told_and_nothing_is_half_written_and_it_works_when_there_is_room(disk: Path) -> None:
    store = Store(disk / "kv.sqlite")
    await store.register(WORKLET, OWNER, "")
    await store.set("before", "x" * 100)
    filler = disk / "filler"
    fill(filler)
    entries = json.dumps({f"k{n}": "y" * 100_000 for n in range(5)})
    assert "is full" in await store.down("kv_mset", p_entries=entries)
    assert await store.get("before") == "x" * 100
    assert (await store.ask("kv_stats"))["keys"] == 1
    filler.unlink()
    assert await store.ask("kv_mset", p_entries=entries) == 5
    assert (await store.ask("kv_stats"))["keys"] == 6
    await store.close()
    with sqlite3.connect(disk / "kv.sqlite") as beside:
        assert beside.execute("pragma integrity_check").fetchone() == ("ok",)
    beside.close()


def fill(path: Path) -> None:
    """All the room that is left on its disk."""
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        with suppress(OSError):
            while os.write(file, bytes(4096)):
                pass
    finally:
        os.close(file)


def rows(tmp_path: Path) -> dict[str, int]:
    connection = sqlite3.connect(tmp_path / "kv" / "kv.sqlite")
    tables = ("worklets", "entries", "tombstones", "removed")
    found = {t: connection.execute(f"select count(*) from {t}").fetchone()[0] for t in tables}
    connection.close()
    return found


def counted(tmp_path: Path) -> int:
    """The tombstones by the worklet's own counter."""
    connection = sqlite3.connect(tmp_path / "kv" / "kv.sqlite")
    (number,) = connection.execute("select tombstones from worklets").fetchone()
    connection.close()
    return int(number)


async def test_opening_a_second_store_leaves_the_first_ones_locks_alone(store: Store, tmp_path: Path) -> None:
    """POSIX: closing any descriptor of a file drops all of the process's locks on it.

    Without them another process, when it closes the file, takes itself for the last one and removes the log under us.
    """
    await store.set("a")
    await store.get("a")
    beside = Store(tmp_path / "kv" / "kv.sqlite")
    await beside.open()
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('select * from worklets'); c.close()"
    path = tmp_path / "kv" / "kv.sqlite"
    await (await asyncio.create_subprocess_exec(sys.executable, "-c", program, path)).wait()
    assert path.with_name("kv.sqlite-wal").exists()
    await store.set("b")
    assert await beside.get("b") == 1
    await beside.close()


async def test_reading_everything_tells_of_no_deletion_from_before(store: Store) -> None:
    await store.fill(3)
    await store.ask("kv_delete", p_keys=["key000001"])
    answer = await store.ask("kv_watch", p_namespace="", p_cursor="0")
    assert [(c["key"], c["deleted"]) for c in answer["changes"]] == [("key000000", False), ("key000002", False)]


async def test_a_prefix_holds_whatever_the_cursor_and_whatever_its_last_character(store: Store) -> None:
    for key in ("a", "b1", "b2", "c", "\ud7ff1", "\ue0001"):
        await store.set(key)

    async def keys(prefix: str, cursor: str | None = None) -> list[str]:
        return [e["key"] for e in (await store.ask("kv_list", p_prefix=prefix, p_cursor=cursor))["entries"]]

    assert await keys("b", "a") == ["b1", "b2"]
    assert await keys("b", "b1") == ["b2"]
    assert await keys("b", "c") == []
    assert await keys("\ud7ff") == ["\ud7ff1"]


def test_a_new_file_that_another_is_just_writing_to_is_waited_for(tmp_path: Path) -> None:
    """SQLite waits for a lock, but not for the one that a switch to its write-ahead log needs."""
    other = sqlite3.connect(tmp_path / "kv.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("begin immediate")
    ended = threading.Timer(0.3, other.execute, ["rollback"])
    ended.start()
    prepare(tmp_path / "kv.sqlite")
    assert other.execute("pragma journal_mode").fetchone() == ("wal",)
    ended.join()
    other.close()
