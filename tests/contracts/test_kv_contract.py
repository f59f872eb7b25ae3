"""What every backend of the key-value store does, seen through the real clients over HTTP to a real gateway."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import kvcases
import pytest
from kvpostgres import made_source
from kvserving import Served, sqlite_source
from postgres import postgres_server  # noqa: F401 - fixture
from waiting import until

from kvstore.aio import create_async_worklet_kv_store
from kvstore.client import WorkletKVStore, create_worklet_kv_store
from kvstore.errors import (
    KVConflictError,
    KVConnectionError,
    KVPermissionError,
    KVQuotaError,
    KVValidationError,
)

SECRET = "hunter2"
_SECONDS = 60.0


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    if request.param == "sqlite":
        with sqlite_source() as source, Served(source) as gateway:
            yield gateway
        return
    with made_source(request.getfixturevalue("postgres_server")) as source, Served(source) as gateway:
        yield gateway


@pytest.fixture
def store(served: Served) -> Iterator[WorkletKVStore]:
    with served.store() as client:
        yield client


@pytest.mark.parametrize("case", kvcases.CASES, ids=lambda case: case["name"])
async def test_case_with_the_blocking_client(case: dict[str, Any], served: Served) -> None:
    with served.store() as client:
        await kvcases.take(case, client)


@pytest.mark.parametrize("case", kvcases.CASES, ids=lambda case: case["name"])
async def test_case_with_the_asynchronous_client(case: dict[str, Any], served: Served) -> None:
    worklet = served.worklet()
    async with create_async_worklet_kv_store(worklet, url=served.url, token=served.key.mint_worklet(worklet)) as client:
        await kvcases.take(case, client)


# Several at once


def test_threads_share_one_client(store: WorkletKVStore) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(25):
                store.increment("sum")
                store.append("log", f"{number}:{turn}")
                assert store.get(f"own{number}", 0) == turn
                store.set(f"own{number}", turn + 1)
        except BaseException as error:  # noqa: BLE001 - the test's own thread tells it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.get("sum") == 200
    assert store.get("log") is not None
    assert store.mget([f"own{number}" for number in range(8)]) == {f"own{number}": 25 for number in range(8)}


def test_clients_of_one_worklet_see_each_other_and_others_see_nothing(served: Served) -> None:
    mine = served.worklet()
    with served.store(mine) as one, served.store(mine) as two, served.store() as stranger:
        version = one.set("k", 1)
        entry = two.entry("k")
        assert entry is not None
        assert (entry.value, entry.version) == (1, version)
        assert two.set("k", 2, if_version=version) is not None
        assert one.get("k") == 2
        assert stranger.get("k") is None
        assert stranger.export_data() == {}
        assert stranger.clear_all() == 0
        assert stranger.delete("k") is False
        assert one.get("k") == 2


def test_one_of_many_wins_a_lock(served: Served) -> None:
    mine = served.worklet()
    winners: list[int] = []

    def work(number: int) -> None:
        with served.store(mine) as client:
            if client.set("lock", number, only_if_absent=True) is not None:
                winners.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with served.store(mine) as client:
        assert winners == [client.get("lock")]


# Tokens


def test_a_token_file_that_changes_is_read_again(served: Served, tmp_path: Path) -> None:
    mine, file = served.worklet(), tmp_path / "token"
    file.write_text(served.key.mint_worklet(mine, now=time.time() - 2000))
    client = create_worklet_kv_store(mine, url=served.url, token_file=str(file), timeout=2.0)
    try:
        with pytest.raises(KVPermissionError) as expired:
            client.set("k", 1)
        assert expired.value.code == "PGRST303"
        renewed = file.with_suffix(".new")
        renewed.write_text(served.key.mint_worklet(mine))
        renewed.rename(file)
        assert client.set("k", 2) is not None
        assert client.get("k") == 2
    finally:
        client.close()


async def test_a_token_that_expires_in_mid_use_is_renewed(served: Served) -> None:
    """Tokens that live for a second, made anew by a callable whenever the client asks."""
    mine, asked = served.worklet(), 0

    def token() -> str:
        nonlocal asked
        asked += 1
        return served.key.mint_worklet(mine, now=time.time() - (2000 if asked == 1 else 0))

    async with create_async_worklet_kv_store(mine, url=served.url, token=token) as client:
        assert await client.increment("n") == 1
        assert await client.increment("n") == 2
    assert asked >= 2


def test_a_revoked_token_is_refused_and_a_later_one_is_not(served: Served) -> None:
    mine, now = served.worklet(), time.time()
    old = served.key.mint_worklet(mine, now=now - 10)
    with served.store(mine, token=old) as client:
        client.set("k", 1)
        served.run(served.admin.revoke(mine, now - 5))
        for refused in (lambda: client.get("k"), lambda: client.set("k", 2), lambda: client.transaction().commit()):
            with pytest.raises(KVPermissionError) as caught:
                refused()
            assert caught.value.hint == "KV_REVOKED"
    with served.store(mine) as client:
        assert client.get("k") == 1


def test_a_revoked_token_ends_a_watch(served: Served) -> None:
    mine, now = served.worklet(), time.time()
    with served.store(mine, token=served.key.mint_worklet(mine, now=now - 10)) as client, served.store(mine) as other:
        other.set("k", 1)
        changes = client.watch("", cursor="0")
        assert next(changes).value == 1
        served.run(served.admin.revoke(mine, now - 5))
        other.set("k", 2)
        with pytest.raises(KVPermissionError):
            for _ in changes:
                pass


def test_a_removed_worklet_is_gone_with_all_it_kept(served: Served) -> None:
    mine = served.worklet()
    with served.store(mine) as client:
        client.mset({"a": 1, "b": 2})
        served.run(served.admin.remove(mine))
        with pytest.raises(KVPermissionError) as caught:
            client.get("a")
        assert caught.value.hint == "KV_FORBIDDEN"
    served.run(served.admin.register(mine, str(uuid.uuid4()), "again", max_keys=None, max_bytes=None))
    with served.store(mine) as client:
        assert client.export_data() == {}
        assert client.get_stats().keys == 0


def test_a_person_reaches_worklets_of_theirs_and_no_others(served: Served) -> None:
    owner, stranger = str(uuid.uuid4()), str(uuid.uuid4())
    mine = served.worklet(owner)
    with served.store(mine) as client:
        client.set("k", 1)
    with served.store(mine, token=served.key.mint_person(owner)) as client:
        assert client.get("k") == 1
        assert client.increment("k") == 2
    with served.store(mine, token=served.key.mint_person(stranger)) as client:
        for refused in (lambda: client.get("k"), lambda: client.set("k", 5), client.get_stats, client.clear_all):
            with pytest.raises(KVPermissionError):
                refused()
    with served.store(mine) as client:
        assert client.get("k") == 2


# Time


def test_an_expiry_is_reckoned_by_the_database(store: WorkletKVStore) -> None:
    for ttl in (60.5, 86_400.25, 315_360_000):
        store.set("k", 1, ttl=ttl)
        entry = store.entry("k")
        assert entry is not None
        assert entry.expires_at is not None
        assert abs(entry.expires_at - entry.updated_at - timedelta(seconds=ttl)) < timedelta(seconds=5)
    store.set("k", 2)
    entry = store.entry("k")
    assert entry is not None
    assert entry.expires_at is None


async def test_what_has_expired_is_absent_before_and_after_the_sweep(served: Served) -> None:
    with served.store() as client:
        client.mset({"a": 1, "b": "text", "c": [1]}, ttl=0.2)
        client.set("stays", 1, ttl=3600)
        version = client.entry("stays").version  # type: ignore[union-attr]
        watching = client.watch("", cursor=str(version))
        await until(lambda: not any(client.has(key) for key in "abc"), what="the keys to expire")
        assert [entry.key for entry in client.list()] == ["stays"]
        assert client.set("a", 5, if_version=1) is None
        assert client.increment("c") == 1
        assert served.run(served.admin.sweep()) >= 2
        assert [entry.key for entry in client.list()] == ["c", "stays"]
        assert client.get_stats().keys == 2
        told = {}
        while set(told) != {"a", "b", "c"} or told["c"] == "deleted":
            change = next(watching)
            told[change.key] = "deleted" if change.deleted else change.value
        assert told == {"a": "deleted", "b": "deleted", "c": 1}
        watching.close()
        assert client.append("b", "new") == 3


def test_times_are_the_databases_and_grow(store: WorkletKVStore) -> None:
    before = datetime.fromisoformat("2020-01-01T00:00:00+00:00")
    store.set("k", 1)
    first = store.entry("k")
    store.set("k", 2)
    second = store.entry("k")
    assert first is not None
    assert second is not None
    assert before < first.created_at == second.created_at <= first.updated_at <= second.updated_at


# Watching


async def test_a_watch_goes_on_after_a_restart_of_the_gateway(served: Served) -> None:
    mine = served.worklet()
    token = served.key.mint_worklet(mine)
    async with create_async_worklet_kv_store(mine, url=served.url, token=token, timeout=30.0) as client:
        seen: list[tuple[str, Any]] = []
        begun = asyncio.Event()

        async def follow() -> None:
            async for change in client.watch("", cursor="0"):
                seen.append((change.key, change.value))
                begun.set()

        following = asyncio.create_task(follow())
        await client.set("before", 1)
        await asyncio.wait_for(begun.wait(), _SECONDS)
        await asyncio.to_thread(served.stop)
        writing = asyncio.create_task(client.set("meanwhile", 2))
        await asyncio.to_thread(served.start)
        await writing
        await client.set("after", 3)
        await until(lambda: len(seen) == 3, _SECONDS, "all three changes")
        following.cancel()
    assert seen == [("before", 1), ("meanwhile", 2), ("after", 3)]


async def test_a_waiting_watch_is_rung_by_another_client(served: Served) -> None:
    """Also one of another process: a second gateway over the same store."""
    mine = served.worklet()
    with Served(served.source) as elsewhere, elsewhere.store(mine) as other:
        async with create_async_worklet_kv_store(mine, url=served.url, token=served.key.mint_worklet(mine)) as client:
            changes = client.watch("", cursor="0")
            coming = asyncio.create_task(anext(changes))
            done, _ = await asyncio.wait([coming], timeout=0.1)
            assert not done
            await asyncio.to_thread(other.set, "k", "from elsewhere")
            change = await asyncio.wait_for(coming, _SECONDS)
            assert (change.key, change.value) == ("k", "from elsewhere")
            await changes.aclose()


async def test_nobody_is_told_of_another_worklets_changes(served: Served) -> None:
    with served.store() as mine, served.store() as stranger:
        changes = mine.watch("", cursor="0")
        stranger.set("k", SECRET)
        mine.set("k", 1)
        change = await asyncio.to_thread(next, changes)
        assert change.value == 1
        changes.close()


# Limits


def test_a_quota_of_keys_refuses_more_and_leaves_what_is_there(served: Served) -> None:
    with served.store(served.worklet(max_keys=3)) as client:
        client.mset({"a": 1, "b": 2, "c": 3})
        for refused in (
            lambda: client.set("d", 1),
            lambda: client.mset({"a": 9, "d": 1}),
            lambda: client.increment("d"),
            lambda: client.append("d", 1),
            lambda: client.transaction().set("a", 9).set("d", 1).commit(),
        ):
            with pytest.raises(KVQuotaError) as caught:
                refused()
            assert caught.value.hint == "KV_QUOTA_KEYS"
        assert client.export_data() == {"default": {"a": 1, "b": 2, "c": 3}}
        client.set("a", 4)
        client.delete("b")
        client.set("d", 5)
        assert client.transaction().delete("d").set("e", 6).commit()
        assert client.get_stats().keys == 3
        assert client.get_stats().max_keys == 3


def test_a_quota_of_bytes_refuses_more_and_leaves_what_is_there(served: Served) -> None:
    with served.store(served.worklet(max_bytes=2000)) as client:
        client.set("a", "x" * 1000)
        for refused in (
            lambda: client.set("b", "y" * 1500),
            lambda: client.set("a", "y" * 2500),
            lambda: client.append("a", "y" * 1500),
            lambda: client.mset({"b": "y" * 800, "c": "y" * 800}),
        ):
            with pytest.raises(KVQuotaError) as caught:
                refused()
            assert caught.value.hint == "KV_QUOTA_BYTES"
        assert client.export_data() == {"default": {"a": "x" * 1000}}
        client.set("a", "z")
        client.set("b", "y" * 1500)
        client.clear()
        assert (client.get_stats().keys, client.get_stats().bytes) == (0, 0)


def test_too_many_operations_are_told_when_to_come_back(served: Served) -> None:
    mine = served.worklet()
    with Served(served.source, rate=5.0) as slow:  # fewer than the slowest machine asks
        token = slow.key.mint_worklet(mine)
        answers = [raw(slow, "kv_get", {"p_namespace": "default", "p_key": "k"}, token) for _ in range(60)]
        refused = [(headers, body) for status, headers, body in answers if status == 429]
        assert refused
        assert {status for status, _, _ in answers} == {200, 429}
        for headers, body in refused:
            assert 0 < float(headers["Retry-After"]) < 10
            told = json.loads(body)
            assert (told["code"], told["hint"]) == ("KV429", "KV_RATE")
        with slow.store(mine, timeout=20.0) as client:  # waits as it was told
            for _ in range(15):
                client.increment("n")
            assert client.get("n") == 15
        other = slow.worklet()
        status, _, _ = raw(slow, "kv_get", {"p_namespace": "default", "p_key": "k"}, slow.key.mint_worklet(other))
        assert status == 200


# The wire


def raw(
    served: Served, function: str, body: object, token: str | None = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One request. `body`: what is sent as JSON, or bytes as they are."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=_SECONDS)
    try:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        own = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {}), **headers}
        connection.request("POST", f"/rest/v1/rpc/{function}", sent, own)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def _refusals(served: Served) -> Iterator[tuple[str, object, str | None, int, str, str | None]]:
    """(function, body, token, status, code, hint)"""
    mine, other = served.worklet(), served.worklet()
    good = served.key.mint_worklet(mine)
    key = {"p_namespace": "default", "p_key": SECRET}
    with served.store(mine) as client:
        client.set(SECRET, [SECRET])
        client.set(f"{SECRET}-text", SECRET)
        client.set(f"{SECRET}-object", {SECRET: SECRET})
    yield "kv_get", key, None, 401, "PGRST302", None
    yield "kv_get", key, f"{SECRET}.x.y", 401, "PGRST301", None
    yield "kv_get", key, good[:-3] + "AAA", 401, "PGRST301", None
    yield "kv_get", key, served.key.mint_worklet(mine, now=1000.0), 401, "PGRST303", None
    yield "kv_get", {**key, "p_worklet_id": other}, good, 403, "42501", "KV_FORBIDDEN"
    yield "kv_get", key, served.key.mint_worklet(str(uuid.uuid4())), 403, "42501", "KV_FORBIDDEN"
    yield "kv_get", key, served.key.mint_person(str(uuid.uuid4())), 403, "42501", "KV_FORBIDDEN"
    yield "kv_none", key, good, 404, "PGRST202", None
    yield "kv_get", {"p_namespace": "default"}, good, 400, "22023", "KV_INVALID"
    yield "kv_get", {**key, SECRET: SECRET}, good, 400, "22023", "KV_INVALID"
    yield "kv_get", [SECRET], good, 400, "22023", "KV_INVALID"
    yield "kv_get", f'{{"p_namespace": "{SECRET}'.encode(), good, 400, "22023", "KV_INVALID"
    yield "kv_get", {**key, "p_worklet_id": SECRET}, good, 400, "22023", "KV_INVALID"
    yield "kv_set", {**key, "p_value": f"[{SECRET}"}, good, 400, "22023", "KV_INVALID"
    yield "kv_set", {**key, "p_value": json.dumps(f"{SECRET}\0")}, good, 400, "22023", "KV_INVALID"
    yield "kv_set", {**key, "p_value": json.dumps(f"{SECRET}\ud800")}, good, 400, "22023", "KV_INVALID"
    yield "kv_set", {**key, "p_value": "1e999"}, good, 400, "22023", "KV_INVALID"
    yield "kv_set", {**key, "p_value": json.dumps(SECRET * 160_000)}, good, 413, "54000", "KV_TOO_LARGE"
    yield "kv_set", {**key, "p_value": "1", "p_ttl": SECRET}, good, 400, "22023", "KV_INVALID"
    yield "kv_set", {**key, "p_value": "1", "p_if_version": SECRET}, good, 400, "22023", "KV_INVALID"
    yield "kv_set", {"p_namespace": SECRET * 40, "p_key": "k", "p_value": "1"}, good, 400, "22023", "KV_INVALID"
    yield "kv_increment", key, good, 400, "22023", "KV_NOT_A_NUMBER"
    yield "kv_append", {**key, "p_key": f"{SECRET}-object", "p_value": "1"}, good, 400, "22023", "KV_NOT_APPENDABLE"
    yield "kv_append", {**key, "p_key": f"{SECRET}-text", "p_value": "1"}, good, 400, "22023", "KV_NOT_APPENDABLE"
    yield "kv_list", {"p_namespace": SECRET, "p_limit": 1001}, good, 400, "22023", "KV_INVALID"
    yield "kv_watch", {"p_namespace": SECRET, "p_cursor": SECRET}, good, 400, "22023", "KV_INVALID"
    yield "kv_transaction", {"p_operations": f'[{{"op": "{SECRET}"}}]'}, good, 400, "22023", "KV_INVALID"
    yield "kv_mset", {"p_namespace": "n", "p_entries": f'["{SECRET}"]'}, good, 400, "22023", "KV_INVALID"
    yield "kv_set", b'"' + SECRET.encode() * 3_000_000 + b'"', good, 413, "54000", "KV_TOO_LARGE"


def test_refusals_have_postgrests_shape_and_tell_no_secret(served: Served) -> None:
    wrong = []
    for function, body, token, status, code, hint in _refusals(served):
        got, headers, said = raw(served, function, body, token)
        told = json.loads(said)
        if (got, told["code"], told["hint"]) != (status, code, hint):
            wrong.append((function, str(body)[:80], status, code, hint, "got", got, told))
        assert told.keys() == {"code", "message", "details", "hint"}
        assert told["details"] is None
        everything = said.decode() + str(headers)
        assert SECRET not in everything, (function, str(body)[:80], everything)
        assert not token or len(token) < 50 or token.split(".")[-1] not in everything
        assert headers["Content-Type"].startswith("application/json")
    assert wrong == []


def test_answers_are_json_with_status_200_and_a_publishable_key_does_no_harm(served: Served) -> None:
    mine = served.worklet()
    token = served.key.mint_worklet(mine)
    for function, body, wanted in (
        ("kv_get", {"p_namespace": "default", "p_key": "k"}, None),
        ("kv_has", {"p_namespace": "default", "p_key": "k"}, False),
        ("kv_mget", {"p_namespace": "default", "p_keys": []}, []),
        ("kv_clear", {"p_namespace": None}, 0),
        ("kv_list_namespaces", {}, []),
        ("kv_get", {"p_namespace": "default", "p_key": "k", "p_worklet_id": mine}, None),
        ("kv_get", {"p_namespace": "default", "p_key": "k", "p_worklet_id": mine.upper()}, None),
    ):
        status, headers, said = raw(served, function, body, token, apikey="sb_publishable_none")
        assert (status, json.loads(said)) == (200, wanted)
        assert headers["Content-Type"].startswith("application/json")


def test_the_clients_own_rules_are_the_gateways(served: Served) -> None:
    """What the client refuses before it sends, the gateway refuses too: nobody has to use our client."""
    token = served.key.mint_worklet(served.worklet())
    for body in (
        {"p_namespace": "", "p_key": "k", "p_value": "1"},
        {"p_namespace": "n" * 257, "p_key": "k", "p_value": "1"},
        {"p_namespace": "n", "p_key": "", "p_value": "1"},
        {"p_namespace": "n", "p_key": "é" * 257, "p_value": "1"},
        {"p_namespace": "n", "p_key": "a\0", "p_value": "1"},
        {"p_namespace": "n", "p_key": "\ud800", "p_value": "1"},
        {"p_namespace": "n", "p_key": "k", "p_value": "NaN"},
        {"p_namespace": "n", "p_key": "k", "p_value": "-Infinity"},
        {"p_namespace": "n", "p_key": "k", "p_value": ""},
        {"p_namespace": "n", "p_key": "k", "p_value": "1 2"},
        {"p_namespace": "n", "p_key": "k", "p_value": "[" * 129 + "]" * 129},
        {"p_namespace": "n", "p_key": "k", "p_value": '{"\\u0000": 1}'},
        {"p_namespace": "n", "p_key": "k", "p_value": 1},
        {"p_namespace": "n", "p_key": "k", "p_value": None},
        {"p_namespace": "n", "p_key": "k", "p_value": "1", "p_ttl": 0},
        {"p_namespace": "n", "p_key": "k", "p_value": "1", "p_ttl": 315_360_001},
        {"p_namespace": "n", "p_key": "k", "p_value": "1", "p_only_if_absent": "yes"},
    ):
        status, _, said = raw(served, "kv_set", body, token)
        assert (status, json.loads(said)["hint"]) == (400, "KV_INVALID"), body
    status, _, said = raw(served, "kv_list_namespaces", {}, token)
    assert json.loads(said) == []


def test_a_gateway_that_is_away_is_a_connection_error(served: Served) -> None:
    with served.store(timeout=4.0) as client:
        client.set("k", 1)
        served.stop()
        try:
            with pytest.raises(KVConnectionError) as caught:
                client.increment("k")
            assert caught.value.outcome_unknown is False
            with pytest.raises(KVConnectionError):
                client.get("k")
        finally:
            served.start()
        assert client.increment("k") == 2


def test_a_transaction_is_a_context_manager_and_tells_which_check_failed(store: WorkletKVStore) -> None:
    version = store.set("a", 1)
    with store.transaction() as work:
        work.check("a", version).set("b", 2)
    with pytest.raises(KVConflictError) as caught, store.transaction() as work:
        work.check("b", None).set("a", 5)
    assert caught.value.failed == 0
    with pytest.raises(KVValidationError):
        store.set("", 1)
    assert store.export_data() == {"default": {"a": 1, "b": 2}}
