"""Watching with the clients, against a server that misbehaves as written."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from kvboth import KINDS, client
from kvscripted import Deed, Scripted, answer, hang_up, raw, refusal, reserved_port, then_hang_up, wait_for
from waiting import until

from kvstore import KVPermissionError, KVValidationError, create_async_worklet_kv_store, create_worklet_kv_store

BOTH = pytest.mark.parametrize("kind", KINDS)


def changes(*versions: int, cursor: str | None = None, reset: bool = False, deleted: bool = False) -> Deed:
    found = [
        {"namespace": "default", "key": f"k{v}", "version": v, "deleted": deleted, "updated_at": "2026-01-02T03:04:05Z"}
        | ({} if deleted else {"value": v})
        for v in versions
    ]
    return answer({"changes": found, "cursor": cursor or str(versions[-1]), "reset": reset})


def asked(server: Scripted) -> list[Any]:
    return [request.arguments.get("p_cursor") for request in server.requests]


@BOTH
async def test_changes_come_in_order_and_the_next_look_begins_after_them(kind: str) -> None:
    with Scripted(changes(cursor="5"), changes(6, 8), changes(9, deleted=True)) as server:
        async with client(kind, url=server.url, token="t") as c:
            watching = await c.watching("k", namespace="n")
            found = [await watching.next() for _ in range(3)]
            await watching.close()
            assert await watching.next() is None
        assert [(f.key, f.value, f.version, f.deleted, f.cursor, f.reset) for f in found] == [
            ("k6", 6, 6, False, "6", False), ("k8", 8, 8, False, "8", False), ("k9", None, 9, True, "9", False),
        ]  # fmt: skip
        assert asked(server) == [None, "5", "8"]
        assert server.requests[1].arguments == {
            "p_namespace": "n", "p_prefix": "k", "p_cursor": "5", "p_wait": 20.0,
        }  # fmt: skip


@BOTH
async def test_from_now_on_means_from_when_the_watch_was_made(kind: str) -> None:
    with Scripted(changes(cursor="5")) as server:
        async with client(kind, url=server.url, token="t") as c:
            await c.watching()
            assert asked(server) == [None]


@BOTH
async def test_a_cursor_that_is_no_version_repeats_rather_than_misses(kind: str) -> None:
    with Scripted(changes(6, 8, cursor="8-20")) as server:
        async with client(kind, url=server.url, token="t") as c:
            watching = await c.watching(cursor="0")
            assert [(await watching.next()).cursor for _ in range(2)] == ["0", "8-20"]


@BOTH
async def test_a_reset_is_told_once_and_never_lost(kind: str) -> None:
    with Scripted(changes(1, 2, reset=True), changes(cursor="5", reset=True), changes(6, 7)) as server:
        async with client(kind, url=server.url, token="t") as c:
            watching = await c.watching(cursor="0")
            assert [(await watching.next()).reset for _ in range(4)] == [True, False, True, False]


@BOTH
async def test_a_watch_survives_what_passes(kind: str) -> None:
    trouble = [
        hang_up, refusal(503, "PGRST000"), refusal(500, "XX000"), raw(b"nonsense\r\n\r\n"),
        refusal(429, "KV429", "KV_RATE", Retry_After="0.01"), then_hang_up(changes(7)), hang_up, refusal(502, "x"),
    ]  # fmt: skip
    with Scripted(changes(6), *trouble, changes(8)) as server:
        async with client(kind, url=server.url, token="t", timeout=10) as c:
            watching = await c.watching(cursor="5")
            assert [(await watching.next()).version for _ in range(3)] == [6, 7, 8]
        assert asked(server) == ["5", *["6"] * 6, *["7"] * 3]


@BOTH
async def test_a_watch_survives_a_restart_of_the_server(kind: str) -> None:
    with reserved_port() as port, Scripted(changes(6), port=port) as server:
        async with client(kind, url=server.url, token="t", timeout=0.3) as c:
            watching = await c.watching(cursor="5")
            assert (await watching.next()).version == 6
            server.stop()
            waiting = asyncio.create_task(watching.next())
            await asyncio.sleep(0.5)  # longer than one call is given
            assert not waiting.done()
            with Scripted(changes(7), port=server.port) as again:
                assert (await asyncio.wait_for(waiting, 30)).version == 7
                assert asked(again) == ["6"]
            await watching.close()


@BOTH
@pytest.mark.parametrize(
    ("refused", "error"),
    [
        (refusal(403, "42501", "KV_REVOKED"), KVPermissionError),
        (refusal(401, "PGRST303"), KVPermissionError),
        (refusal(400, "22023", "KV_INVALID"), KVValidationError),
    ],
)
async def test_what_waiting_cannot_mend_is_raised(kind: str, refused: Deed, error: type[Exception]) -> None:
    with Scripted(refused) as server:
        async with client(kind, url=server.url, token="t") as c:
            watching = await c.watching(cursor="5")
            with pytest.raises(error):
                await watching.next()
        assert len(server.requests) == 1


@BOTH
async def test_an_expired_token_is_waited_for_where_somebody_renews_it(kind: str, tmp_path: Any) -> None:
    file = tmp_path / "t"
    file.write_text("old")
    expired = refusal(401, "PGRST303")

    def late(sock: Any, request: Any) -> None:
        file.write_text("renewed")
        expired(sock, request)

    with Scripted(expired, expired, expired, late, changes(6)) as server:
        async with client(kind, url=server.url, token_file=file) as c:
            watching = await c.watching(cursor="5")
            assert (await watching.next()).version == 6
        assert server.requests[-1].headers["authorization"] == "Bearer renewed"


@BOTH
async def test_where_the_answer_comes_at_once_the_client_waits_itself(kind: str) -> None:
    with Scripted() as server:
        server.otherwise = changes(cursor="5")
        async with client(kind, url=server.url, token="t") as c:
            watching = await c.watching(cursor="5")
            began = time.monotonic()
            waiting = asyncio.create_task(watching.next())
            await until(lambda: len(server.requests) >= 3)
            assert time.monotonic() - began > 0.5, "it asks without a pause"
            server.otherwise = changes(6)
            assert (await asyncio.wait_for(waiting, 30)).version == 6


@BOTH
async def test_close_ends_a_watch_that_waits_for_the_server(kind: str) -> None:
    released = threading.Event()
    with Scripted(wait_for(released, changes(6))) as server:
        async with client(kind, url=server.url, token="t") as c:
            watching = await c.watching(cursor="5")
            waiting = asyncio.create_task(watching.next())
            await until(lambda: server.requests)
            await watching.close()
            assert await asyncio.wait_for(waiting, 30) is None
            await watching.close()
        released.set()


@BOTH
@pytest.mark.parametrize("trouble", [hang_up, changes(cursor="5")], ids=["between attempts", "between looks"])
async def test_close_ends_a_watch_that_waits_by_itself(kind: str, trouble: Deed) -> None:
    with Scripted() as server:
        server.otherwise = trouble
        async with client(kind, url=server.url, token="t") as c:
            watching = await c.watching(cursor="5")
            waiting = asyncio.create_task(watching.next())
            await until(lambda: len(server.requests) > 2)
            await watching.close()
            assert await asyncio.wait_for(waiting, 30) is None


@BOTH
async def test_close_ends_a_long_wait(kind: str) -> None:
    with Scripted() as server:
        server.otherwise = refusal(429, "KV429", "KV_RATE", Retry_After="25")
        async with client(kind, url=server.url, token="t", timeout=60) as c:
            watching = await c.watching(cursor="5")
            waiting = asyncio.create_task(watching.next())
            await until(lambda: server.requests)
            await asyncio.sleep(0.1)
            await watching.close()
            assert await asyncio.wait_for(waiting, 15) is None


@BOTH
async def test_closing_the_store_ends_its_watches(kind: str) -> None:
    released = threading.Event()
    with Scripted(wait_for(released, changes(6))) as server:
        async with client(kind, url=server.url, token="t") as c:
            watching = await c.watching(cursor="5")
            waiting = asyncio.create_task(watching.next())
            await until(lambda: server.requests)
        assert await asyncio.wait_for(waiting, 30) is None
        released.set()


async def test_a_look_that_is_cancelled_loses_nothing() -> None:
    with Scripted() as server:
        async with create_async_worklet_kv_store(url=server.url, token="t") as store:
            watch = store.watch(cursor="0")
            for version in range(1, 40):
                released = threading.Event()
                server.script.append(wait_for(released, changes(version)))
                server.otherwise = changes(version)  # what is asked again is told again
                waiting = asyncio.create_task(anext(watch))
                before = len(server.requests)
                await until(lambda before=before: len(server.requests) > before)
                released.set()
                await asyncio.sleep(version * 0.00005)
                waiting.cancel()
                try:
                    change = await waiting
                except asyncio.CancelledError:
                    server.script.clear()
                    change = await anext(watch)
                assert change.version == version


async def test_a_loop_over_changes_ends_with_its_watch() -> None:
    with Scripted(changes(1, 2, 3)) as server:
        async with create_async_worklet_kv_store(url=server.url, token="t") as store:
            found = []
            async with store.watch_all(cursor="0") as watch:
                async for change in watch:
                    found.append(change.version)
                    if change.version == 2:
                        await watch.aclose()
        assert found == [1, 2]
        assert server.requests[0].arguments["p_namespace"] is None


def test_a_blocking_loop_over_changes_ends_with_its_watch() -> None:
    with Scripted(changes(1, 2, 3)) as server, create_worklet_kv_store(url=server.url, token="t") as store:
        found = []
        with store.watch_all(cursor="0") as watch:
            for change in watch:
                found.append(change.version)
                if change.version == 2:
                    watch.close()
        assert found == [1, 2]


@BOTH
async def test_bad_arguments_are_refused_before_anything_is_sent(kind: str) -> None:
    with Scripted() as server:
        async with client(kind, url=server.url, token="t") as c:
            for options in (
                {"cursor": 5},
                {"cursor": "a\0"},
                {"namespace": ""},
                {"prefix": "\ud800"},
                {"prefix": None},
            ):
                with pytest.raises(KVValidationError):
                    await c.watching(**options)
        assert server.connections == 0


def test_watching_does_not_keep_a_store_busy() -> None:
    """A watch has a connection of its own, so that other calls need not wait for it."""
    released = threading.Event()
    with (
        Scripted(wait_for(released, changes(6))) as server,
        create_worklet_kv_store(url=server.url, token="t") as store,
    ):
        watch = store.watch(cursor="5")
        thread = threading.Thread(target=next, args=(watch,))
        thread.start()
        while not server.requests:
            time.sleep(0.001)
        assert store.get("k") is None
        released.set()
        thread.join()
        assert server.connections == 2


@BOTH
async def test_those_who_share_a_watch_get_each_change_once(kind: str) -> None:
    twice, released = threading.Event(), threading.Event()

    def do(sock: Any, request: Any) -> None:
        cursor = request.arguments.get("p_cursor")
        if cursor is None:
            changes(cursor="5")(sock, request)
        elif cursor == "5":
            if asked(server).count("5") == 1:
                twice.wait(0.3)
            else:
                twice.set()
            changes(6, 7, 8)(sock, request)
        else:
            wait_for(released, changes(cursor="8"))(sock, request)

    with Scripted() as server:
        server.otherwise = do
        async with client(kind, url=server.url, token="t") as c:
            watching = await c.watching()
            found: list[int] = []

            async def take() -> None:
                while (change := await watching.next()) is not None:
                    found.append(change.version)

            takers = [asyncio.create_task(take()) for _ in range(2)]
            await until(lambda: len(found) >= 3 and "8" in asked(server))
            await watching.close()
            released.set()
            await asyncio.gather(*takers)
        assert sorted(found) == [6, 7, 8]
        assert asked(server).count("5") == 1
