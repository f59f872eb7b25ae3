"""What the clients send, repeat and give up, against a server that misbehaves as written."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificate
from kvboth import KINDS, client
from kvscripted import (
    Deed,
    Scripted,
    answer,
    hang_up,
    raw,
    raw_body,
    refusal,
    reserved_port,
    reset,
    then_hang_up,
    wait_for,
)
from waiting import until

from kvstore import (
    KVConnectionError,
    KVError,
    KVPermissionError,
    KVQuotaError,
    KVValidationError,
    create_async_worklet_kv_store,
    create_worklet_kv_store,
)

WORKLET = "11111111-2222-3333-4444-555555555555"
VERSION = answer({"version": 7})
COUNTED = answer({"value": 5, "version": 7})
SECRET = "hunter2"

#: Each method that changes something, with what it answers, and whether it may be sent twice.
CHANGES: list[tuple[str, Any, Deed, bool]] = [
    ("set", lambda c: c.set("k", SECRET), VERSION, True),
    ("mset", lambda c: c.mset({"k": SECRET}), answer(1), True),
    ("delete", lambda c: c.delete("k"), answer(1), True),
    ("clear", lambda c: c.clear(), answer(1), True),
    ("conditional set", lambda c: c.set("k", SECRET, if_version=3), VERSION, False),
    ("set if absent", lambda c: c.set("k", SECRET, only_if_absent=True), VERSION, False),
    ("conditional delete", lambda c: c.delete("k", if_version=3), answer(1), False),
    ("increment", lambda c: c.increment("k"), COUNTED, False),
    ("append", lambda c: c.append("k", SECRET), answer({"length": 1, "version": 7}), False),
    ("transaction", lambda c: c.commit(("set", "k", SECRET)), answer({"committed": True, "results": [{}]}), False),
]
BY_NAME = pytest.mark.parametrize(
    ("change", "good", "repeatable"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES]
)
BOTH = pytest.mark.parametrize("kind", KINDS)


def at(server: Scripted, kind: str, **options: Any) -> Any:
    return client(kind, url=server.url, **{"token": "t", "timeout": 10.0, **options})


async def patiently(call: Any, *arguments: Any) -> Any:
    """On a busy machine even a good server may be too slow for a timeout that is there to be missed."""
    for _ in range(100):
        with suppress(KVConnectionError):
            return await call(*arguments)
    raise AssertionError("it never answers in time")


async def unanswered(call: Any, *arguments: Any) -> KVConnectionError:
    """How it ends once it has left: on a busy machine it may not even do that within a short timeout."""
    for _ in range(100):
        with pytest.raises(KVConnectionError) as caught:
            await call(*arguments)
        if caught.value.outcome_unknown:
            return caught.value
    raise AssertionError("it never leaves, or is never said to have left")


@pytest.fixture
def few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth pause is longer than any timeout: a call is given up after four attempts, not when its time is up."""
    monkeypatch.setattr("kvstore.calls.pause_before", lambda attempt: 0.01 if attempt < 3 else 3600.0)


@BOTH
async def test_a_request_is_postgrests(kind: str) -> None:
    with Scripted(VERSION) as server:
        async with at(server, kind, worklet_id=WORKLET, token="a.b.c", api_key="sb_publishable_1") as c:
            assert await c.set("k", {"ä": [1.5, None]}, namespace="n", ttl=5) == 7
        (request,) = server.requests
        assert request.path == "/rest/v1/rpc/kv_set"
        assert request.headers["authorization"] == "Bearer a.b.c"
        assert request.headers["apikey"] == "sb_publishable_1"
        assert request.headers["content-type"] == "application/json"
        assert request.headers["host"] == f"127.0.0.1:{server.port}"
        assert request.arguments == {
            "p_namespace": "n", "p_key": "k", "p_value": '{"ä":[1.5,null]}', "p_ttl": 5, "p_worklet_id": WORKLET,
        }  # fmt: skip


@BOTH
async def test_a_connection_is_kept(kind: str) -> None:
    with Scripted() as server:
        async with at(server, kind) as c:
            for _ in range(20):
                assert await c.get("k") is None
        assert (len(server.requests), server.connections) == (20, 1)


@BOTH
async def test_a_connection_that_was_closed_while_idle_is_noticed_before_it_is_used(kind: str) -> None:
    with Scripted(then_hang_up(COUNTED), then_hang_up(COUNTED), COUNTED) as server:
        async with at(server, kind) as c:
            for _ in range(3):
                assert await c.increment("k") == 5
                await until(lambda: server.open_connections == 0 or len(server.requests) == 3)
        assert (len(server.requests), server.connections) == (3, 3)


@BOTH
async def test_a_connection_that_was_idle_for_long_is_not_trusted_with_what_must_not_be_repeated(kind: str) -> None:
    with Scripted(answer(True), answer(True), COUNTED, answer(True)) as server:
        async with at(server, kind) as c:
            idle = c.store._operations.pool._idle
            for change, seconds in ((c.has, 10), (c.has, 10), (c.increment, 60), (c.has, 0)):
                await change("k")
                idle[0].used_at -= seconds
        assert [request.connection for request in server.requests] == [0, 0, 1, 2]


@BOTH
async def test_a_server_that_says_close_is_believed(kind: str) -> None:
    with Scripted(answer(True, Connection="close"), answer(True)) as server:
        async with at(server, kind) as c:
            assert await c.has("k")
            assert await c.has("k")
        assert server.connections == 2


@BOTH
@BY_NAME
@pytest.mark.parametrize("broken", [hang_up, reset, raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{")])
async def test_a_connection_lost_after_the_request(
    kind: str, change: Any, good: Deed, repeatable: bool, broken: Deed
) -> None:
    script = then_hang_up(broken) if broken not in (hang_up, reset) else broken
    with Scripted(script, good) as server:
        async with at(server, kind) as c:
            if repeatable:
                await change(c)
                assert len(server.requests) == 2
                assert server.requests[0].arguments == server.requests[1].arguments
                return
            with pytest.raises(KVConnectionError) as caught:
                await change(c)
            assert caught.value.outcome_unknown
            assert len(server.requests) == 1
            assert SECRET not in str(caught.value)


@BOTH
@BY_NAME
async def test_a_gateway_that_is_away(kind: str, change: Any, good: Deed, repeatable: bool) -> None:
    with Scripted(refusal(503, "PGRST000"), good) as server:
        async with at(server, kind) as c:
            if repeatable:
                await change(c)
            else:
                with pytest.raises(KVConnectionError) as caught:
                    await change(c)
                assert caught.value.outcome_unknown
                assert (caught.value.code, caught.value.status) == ("PGRST000", 503)
        assert len(server.requests) == (2 if repeatable else 1)


@BOTH
@BY_NAME
async def test_what_was_not_done_is_repeated(kind: str, change: Any, good: Deed, repeatable: bool) -> None:
    with Scripted(refusal(429, "KV429", "KV_RATE", Retry_After="0.01"), good) as server:
        async with at(server, kind) as c:
            await change(c)
        assert len(server.requests) == 2


@BOTH
@BY_NAME
@pytest.mark.usefixtures("few_attempts")  # one that is under way when the time is up may have arrived
async def test_a_gateway_that_began_nothing_is_asked_again(
    kind: str, change: Any, good: Deed, repeatable: bool
) -> None:
    not_begun = refusal(503, "PGRST000", "KV_NOT_BEGUN", "The database cannot be reached.")
    with Scripted(not_begun, not_begun, good) as server:
        async with at(server, kind) as c:
            await change(c)
        assert len(server.requests) == 3
    with Scripted() as server:
        server.otherwise = not_begun
        async with at(server, kind, timeout=60) as c:
            with pytest.raises(KVConnectionError, match="cannot be reached") as caught:
                await change(c)
        assert not caught.value.outcome_unknown
        assert len(server.requests) == 4


@BOTH
@pytest.mark.parametrize(
    ("refused", "error"),
    [
        (refusal(403, "42501", "KV_REVOKED"), KVPermissionError),
        (refusal(413, "54000", "KV_QUOTA_KEYS"), KVQuotaError),
        (refusal(429, "KV429", "KV_RATE", Retry_After="60"), KVQuotaError),
        (refusal(401, "PGRST303"), KVPermissionError),
        (refusal(500, "XX000"), KVError),
    ],
)
async def test_a_refusal_after_a_lost_answer_tells_that_the_change_may_have_been_made(
    kind: str, refused: Deed, error: type[KVError]
) -> None:
    with Scripted(hang_up, refused, refused, hang_up, refused) as server:
        async with at(server, kind) as c:
            with pytest.raises(error) as caught:
                await c.set("k", SECRET)
            assert caught.value.outcome_unknown
            with pytest.raises(error) as caught:
                await c.set("k", SECRET)
            assert not caught.value.outcome_unknown
            with pytest.raises(error) as caught:
                await c.get("k")
            assert not caught.value.outcome_unknown


@BOTH
@pytest.mark.parametrize("name", ["delete", "clear", "clear_all"])
async def test_none_deleted_is_not_believed_after_an_answer_was_lost(kind: str, name: str) -> None:
    arguments = ["k"] if name == "delete" else []
    with Scripted(answer(0), hang_up, answer(0), hang_up, answer(2)) as server:
        async with at(server, kind) as c:
            assert await getattr(c, name)(*arguments) == 0
            with pytest.raises(KVConnectionError, match="whether this call deleted it") as caught:
                await getattr(c, name)(*arguments)
            assert caught.value.outcome_unknown
            assert await getattr(c, name)(*arguments) == (True if name == "delete" else 2)


def test_a_key_of_a_namespace_whose_deletion_got_no_answer_is_not_called_missing() -> None:
    with (
        Scripted(hang_up, answer(0)) as server,
        create_worklet_kv_store(url=server.url, token="t") as store,
        pytest.raises(KVConnectionError),
    ):
        del store.namespace("n")["k"]


@BOTH
async def test_no_entries_are_no_request(kind: str) -> None:
    with Scripted() as server:
        async with at(server, kind) as c:
            await c.mset({})
            with pytest.raises(KVValidationError):
                await c.mset({}, ttl=-1)
        assert server.requests == []


@BOTH
@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_a_transaction_that_the_database_took_back_is_repeated(kind: str, code: str) -> None:
    with Scripted(refusal(500, code), refusal(409, code), COUNTED) as server:
        async with at(server, kind) as c:
            assert await c.increment("k") == 5
        assert len(server.requests) == 3


@BOTH
@pytest.mark.parametrize("status", [502, 504])
async def test_a_proxy_whose_server_is_away(kind: str, status: int) -> None:
    with Scripted(raw_body(b"<h1>Bad gateway</h1>", status), answer(True), raw_body(b"", status)) as server:
        async with at(server, kind) as c:
            assert await c.has("k")
            with pytest.raises(KVConnectionError, match=rf"HTTP {status}") as caught:
                await c.append("k", 1)
            assert caught.value.outcome_unknown
        assert len(server.requests) == 3


@BOTH
@pytest.mark.usefixtures("few_attempts")
async def test_a_read_is_repeated_and_its_outcome_is_never_unknown(kind: str) -> None:
    with Scripted(hang_up, refusal(503, "PGRST000"), answer(True)) as server:
        async with at(server, kind) as c:
            assert await c.has("k")
    with Scripted() as server:
        server.otherwise = hang_up
        async with at(server, kind, timeout=60) as c:
            with pytest.raises(
                KVConnectionError, match=r"http://127\.0\.0\.1:\d+: the connection was closed"
            ) as caught:
                await c.get("k")
        assert not caught.value.outcome_unknown
        assert len(server.requests) == 4


@BOTH
async def test_a_connection_that_was_closed_unread_is_as_good_as_none_for_reads(kind: str) -> None:
    with Scripted(answer(True)) as server:
        server.before = 2
        async with at(server, kind) as c:
            assert await c.has("k")
        assert len(server.requests) == 1


@BOTH
async def test_nothing_listens_yet(kind: str) -> None:
    with reserved_port() as port:
        async with client(kind, url=f"http://127.0.0.1:{port}", token="t", timeout=60) as c:
            counting = asyncio.create_task(c.increment("k"))  # never arrived, so it may be sent again
            await asyncio.sleep(0.2)
            with Scripted(COUNTED, port=port) as server:
                assert await counting == 5
                assert len(server.requests) == 1


@BOTH
async def test_nothing_listens_at_all(kind: str) -> None:
    with reserved_port() as port:
        began = time.monotonic()
        async with client(kind, url=f"http://127.0.0.1:{port}", token="t", timeout=2) as c:
            with pytest.raises(KVConnectionError, match="Connection refused") as caught:
                await c.increment("k")
        assert not caught.value.outcome_unknown
        assert time.monotonic() - began < 30


@BOTH
@pytest.mark.usefixtures("few_attempts")
async def test_what_may_have_arrived_once_stays_unknown_though_nothing_answers_any_more(kind: str) -> None:
    with Scripted() as server:

        def die(sock: socket.socket, request: Any) -> None:
            server.deafen()
            hang_up(sock, request)

        server.otherwise = die
        async with at(server, kind, timeout=60) as c:
            with pytest.raises(KVConnectionError) as caught:
                await c.set("k", 1)
        assert caught.value.outcome_unknown
        assert len(server.requests) == 1


@BOTH
async def test_a_change_that_got_no_answer_after_it_was_refused_once_is_unknown(kind: str) -> None:
    too_many = refusal(429, "KV429", "KV_RATE", Retry_After="0.01")
    for _ in range(20):  # on a busy machine the time may be up before it is asked the second time
        released = threading.Event()
        with Scripted(too_many, wait_for(released, COUNTED)) as server:
            async with at(server, kind, timeout=1.0) as c:
                with pytest.raises(KVError) as caught:
                    await c.increment("k")
            released.set()
        if len(server.requests) == 2:
            break
    assert len(server.requests) == 2
    assert isinstance(caught.value, KVConnectionError)
    assert "no answer within" in str(caught.value)
    assert caught.value.outcome_unknown


@BOTH
async def test_a_name_that_is_no_host(kind: str) -> None:
    async with client(kind, url="http://no-such-host.invalid", token="t", timeout=0.3) as c:
        with pytest.raises(KVConnectionError, match=r"no-such-host\.invalid"):
            await c.get("k")


@BOTH
async def test_a_host_with_a_name(kind: str) -> None:
    with Scripted(answer(True)) as server:
        async with client(kind, url=f"http://localhost:{server.port}", token="t") as c:
            assert await c.has("k")


@BOTH
@BY_NAME
async def test_no_answer_in_time(kind: str, change: Any, good: Deed, repeatable: bool) -> None:
    released = threading.Event()
    with Scripted(wait_for(released, good)) as server:
        server.otherwise = answer(True)
        async with at(server, kind, timeout=0.15) as c:
            assert "no answer within 0.15 s" in str(await unanswered(change, c))
            released.set()  # the late answer must not be taken for the next one's
            assert await patiently(c.has, "k") is True
        assert set(server.functions[1:]) == {"kv_has"}


@BOTH
async def test_a_rate_that_asks_for_more_patience_than_there_is(kind: str) -> None:
    with Scripted(refusal(429, "KV429", "KV_RATE", "Too many operations a second.", Retry_After="60")) as server:
        async with at(server, kind, timeout=30.0) as c:
            began = time.monotonic()
            with pytest.raises(KVQuotaError) as caught:
                await c.get("k")
            assert time.monotonic() - began < 20
        assert (caught.value.hint, caught.value.code) == ("KV_RATE", "KV429")


@BOTH
@pytest.mark.parametrize(
    ("deed", "error", "words"),
    [
        (raw(b"SSH-2.0-OpenSSH_9\r\n\r\n"), KVConnectionError, "does not speak HTTP"),
        (raw(b"HTTP/2 200\r\n\r\n"), KVConnectionError, "does not speak HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), KVConnectionError, "length is no number"),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: br\r\n\r\n"), KVConnectionError, "encoding is unknown"),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), KVConnectionError, "chunks are broken"),
        (raw(b"HTTP/1.1 101 Switching\r\n\r\n"), KVConnectionError, "another protocol"),
        (raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000), KVConnectionError, "does not speak HTTP"),
        (raw_body(b"<html>hunter2</html>"), KVConnectionError, "no key-value store"),
        (raw_body(b"\xff\xfe"), KVConnectionError, "no key-value store"),
        (raw_body(b"[" * 100_000), KVConnectionError, "no key-value store"),
        (raw_body(b"<html>", 404), KVError, "no store at this address"),
        (raw_body(b"", 302, Location="/login"), KVError, "no store at this address"),
        (raw_body(b"hunter2", 500), KVError, r"failed \(HTTP 500\)"),
        (answer({"value": "hunter2"}), KVError, "too old"),
        (answer([1, 2]), KVError, "too old"),
        (answer("hunter2"), KVError, "too old"),
    ],
)
async def test_nonsense_is_named_at_once(kind: str, deed: Deed, error: type[KVError], words: str) -> None:
    with Scripted(deed) as server:
        async with at(server, kind) as c:
            with pytest.raises(error, match=words) as caught:
                await c.entry("k")
            assert SECRET not in str(caught.value)
            assert await c.get("k") is None
        assert len(server.requests) == 2


@BOTH
@pytest.mark.parametrize(
    ("status", "code", "hint", "error"),
    [
        (400, "22023", "KV_INVALID", KVValidationError),
        (400, "22P02", None, KVValidationError),
        (400, "22P05", None, KVValidationError),
        (400, "23514", None, KVValidationError),
        (413, "54000", "KV_TOO_LARGE", KVValidationError),
        (400, "22023", "KV_NOT_A_NUMBER", KVValidationError),
        (413, "54000", "KV_QUOTA_BYTES", KVQuotaError),
        (413, "54000", "KV_QUOTA_KEYS", KVQuotaError),
        (403, "42501", "KV_REVOKED", KVPermissionError),
        (401, "PGRST302", None, KVPermissionError),
        (404, "PGRST202", None, KVError),
        (500, "XX000", None, KVError),
        (400, "22P02", "See hunter2.", KVValidationError),
    ],
)
async def test_errors_are_sorted_by_code_and_hint(
    kind: str, status: int, code: str, hint: str | None, error: type[KVError]
) -> None:
    with Scripted(
        refusal(status, code, hint, "own words" if hint and SECRET not in hint else f"words with {SECRET}")
    ) as server:
        async with at(server, kind) as c:
            with pytest.raises(KVError) as caught:
                await c.get("k")
        assert type(caught.value) is error
        ours = hint if hint is not None and hint.startswith("KV_") else None
        assert (caught.value.code, caught.value.hint, caught.value.status) == (code, ours, status)
        assert SECRET not in str(caught.value)  # only the store's own words are shown, not PostgreSQL's
        assert "secret-details" not in str(caught.value)
        assert ours is None or str(caught.value) == "own words"
        assert len(server.requests) == 1


@BOTH
async def test_close_ends_what_is_under_way(kind: str) -> None:
    released = threading.Event()
    with Scripted(wait_for(released, answer(None))) as server:
        async with at(server, kind, timeout=60) as c:
            waiting = asyncio.create_task(c.get("k"))
            await until(lambda: server.requests)
            await (c.close() if kind == "blocking" else c.aclose())
            with pytest.raises(KVError, match="was closed"):
                await asyncio.wait_for(waiting, 30)
            with pytest.raises(KVError, match="was closed"):
                await c.get("k")
        released.set()
        assert len(server.requests) == 1


async def test_a_cancelled_call_leaves_no_answer_to_the_next() -> None:
    released = threading.Event()
    with Scripted(wait_for(released, answer("old"))) as server:
        server.otherwise = answer(True)
        async with create_async_worklet_kv_store(url=server.url, token="t") as store:
            waiting = asyncio.create_task(store.get("k"))
            await until(lambda: server.requests)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            released.set()
            assert await store.has("k") is True
        assert server.connections == 2


async def test_calls_cancelled_at_any_moment() -> None:
    with Scripted() as server:
        server.otherwise = lambda sock, request: answer(_entry(request.arguments["p_key"]))(sock, request)
        async with create_async_worklet_kv_store(url=server.url, token="t") as store:
            for turn in range(60):
                calls = {f"{turn}-{i}": asyncio.create_task(store.get(f"{turn}-{i}")) for i in range(4)}
                await asyncio.sleep(turn * 0.00005)
                for key, call in calls.items():
                    if key.endswith(("0", "2")):
                        call.cancel()
                results = await asyncio.gather(*calls.values(), return_exceptions=True)
                for key, result in zip(calls, results, strict=True):
                    assert result == key or (isinstance(result, asyncio.CancelledError) and key.endswith(("0", "2")))


async def test_connecting_can_be_cancelled_and_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        others = []
        for _ in range(3):  # the queue is full now: a connection hangs
            other = socket.socket()
            other.setblocking(False)
            other.connect_ex(("127.0.0.1", port))
            others.append(other)
        async with create_async_worklet_kv_store(url=f"http://127.0.0.1:{port}", token="t", timeout=0.3) as store:
            with pytest.raises(KVConnectionError, match="no answer within"):
                await store.increment("k")
        async with create_async_worklet_kv_store(url=f"http://127.0.0.1:{port}", token="t", timeout=60) as store:
            call = asyncio.create_task(store.increment("k"))
            await asyncio.sleep(0.05)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        for other in others:
            other.close()


def test_one_async_store_in_several_event_loops() -> None:
    with Scripted(answer(True), answer(True)) as server:
        store = create_async_worklet_kv_store(url=server.url, token="t")
        for _ in range(2):
            assert asyncio.run(store.has("k")) is True
        assert server.connections == 1
        asyncio.run(store.aclose())


async def test_the_event_loop_goes_on_while_a_call_waits() -> None:
    released = threading.Event()
    with Scripted(wait_for(released, answer(True))) as server:
        async with create_async_worklet_kv_store(url=server.url, token="t") as store:
            waiting = asyncio.create_task(store.has("k"))
            await until(lambda: server.requests)
            assert not waiting.done()
            released.set()
            assert await waiting


def test_threads_get_their_own_answers() -> None:
    with Scripted() as server:
        server.otherwise = lambda sock, request: answer(_entry(request.arguments["p_key"]))(sock, request)
        with create_worklet_kv_store(url=server.url, token="t") as store:
            wrong: list[Any] = []

            def work(number: int) -> None:
                for turn in range(50):
                    key = f"{number}:{turn}"
                    if (got := store.get(key)) != key:
                        wrong.append((key, got))

            threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert wrong == []
        assert server.connections <= 12


def test_a_fork_leaves_the_parents_connection_alone() -> None:
    with Scripted() as server:
        server.otherwise = lambda sock, request: answer(_entry(request.arguments["p_key"]))(sock, request)
        program = (
            "import os, sys\n"
            "from kvstore import create_worklet_kv_store\n"
            f"store = create_worklet_kv_store(url={server.url!r}, token='t')\n"
            "assert store.get('before') == 'before'\n"
            "child = os.fork()\n"
            "for turn in range(20):\n"
            "    key = f'{child == 0}{turn}'\n"
            "    assert store.get(key) == key\n"
            "if child == 0: os._exit(0)\n"
            "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        )
        done = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=Path(__file__).parents[3], timeout=60)
        assert done.returncode == 0
        by_connection: dict[int, set[str]] = {}
        for request in server.requests[1:]:
            by_connection.setdefault(request.connection, set()).add(request.arguments["p_key"].rstrip("0123456789"))
        assert by_connection == {0: {"False"}, 1: {"True"}}


def test_a_child_that_closes_a_store_breaks_no_call_of_its_parent() -> None:
    arrived, released = threading.Event(), threading.Event()
    with Scripted() as server:

        def do(sock: socket.socket, request: Any) -> None:
            if request.function == "kv_increment":
                arrived.set()
                released.wait(30)
                COUNTED(sock, request)
                return
            arrived.wait(30)
            if request.arguments["p_key"] == "closed":
                released.set()
            answer(True)(sock, request)

        server.otherwise = do
        program = (
            "import os, threading\n"
            "from kvstore import create_worklet_kv_store\n"
            f"store = create_worklet_kv_store(url={server.url!r}, token='t', timeout=30)\n"
            "told = []\n"
            "calling = threading.Thread(target=lambda: told.append(store.increment('k')))\n"
            "calling.start()\n"
            "assert store.has('under way')\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    store.close()\n"
            "    os._exit(0)\n"
            "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
            "assert store.has('closed')\n"
            "calling.join()\n"
            "assert told == [5], told\n"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], timeout=60)
        assert done.returncode == 0
        assert server.functions.count("kv_increment") == 1


def test_an_interrupted_call_does_not_poison_its_connection() -> None:
    with Scripted() as server:
        server.otherwise = answer(True)
        with create_worklet_kv_store(url=server.url, token="t") as store:

            def interrupt(sock: socket.socket, request: Any) -> None:
                os.kill(os.getpid(), 2)
                time.sleep(0.2)
                answer("old")(sock, request)

            server.script.append(interrupt)
            with pytest.raises(KeyboardInterrupt):
                store.get("k")
            assert store.has("k") is True


@BOTH
async def test_tls(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    big = "x" * 300_000
    with Scripted(answer(_entry(big)), VERSION, then_hang_up(answer(True)), answer(True), tls=context) as server:
        async with at(server, kind, timeout=30) as c:
            began = time.monotonic()
            with pytest.raises(KVConnectionError, match="certificate is not trusted"):
                await c.get("k")
            assert time.monotonic() - began < 20, "waiting would not mend it"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with at(server, kind) as c:
            assert await c.get("k") == big
            assert await c.set("k", big) == 7
            assert await c.has("k")
            await until(lambda: server.open_connections == 0)
            assert await c.has("k")
        assert server.requests[1].arguments["p_value"] == f'"{big}"'
        assert [request.connection for request in server.requests] == [1, 1, 1, 2]


@BOTH
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_an_answer_in_small_chunks(kind: str, size: int) -> None:
    body = b'{"version": 12345678901234567}'
    chunks = b"".join(b"%x;x=y\r\n%s\r\n" % (len(part), part) for part in _cut(body, size))
    told = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunks
        + b"0\r\nT: 1\r\n\r\n"
    )

    def dribble(sock: socket.socket, _: Any) -> None:
        for part in _cut(told, size):
            sock.sendall(part)

    with Scripted(dribble, VERSION) as server:
        async with at(server, kind) as c:
            assert await c.set("k", 1) == 12345678901234567
            assert await c.set("k", 1) == 7
        assert server.connections == 1


@BOTH
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
async def test_an_answer_before_the_request_was_read(
    kind: str, secured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = None
    if secured:
        certificate, key = make_certificate(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Scripted(VERSION, tls=context) as server:
        server.unread = refusal(413, "54000", "KV_TOO_LARGE", "too large")
        async with at(server, kind) as c:
            with pytest.raises(KVValidationError, match="too large"):
                await c.mset({f"k{n}": "x" * 1_000_000 for n in range(12)})
        assert server.connections == 1


@BOTH
async def test_a_server_that_says_more_than_it_was_asked_is_not_asked_again_there(kind: str) -> None:
    twice = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue" * 2
    with Scripted(raw(twice), answer(False)) as server:
        async with at(server, kind) as c:
            assert await c.has("k") is True
            assert await c.has("k") is False
        assert server.connections == 2


@BOTH
async def test_a_body_until_the_end_of_the_connection(kind: str) -> None:
    with Scripted(then_hang_up(raw(b"HTTP/1.0 200 OK\r\n\r\ntrue")), answer(False)) as server:
        async with at(server, kind) as c:
            assert await c.has("k") is True
            assert await c.has("k") is False


def _entry(value: Any) -> dict[str, Any]:
    when = "2026-01-02T03:04:05.678+00:00"
    return {"key": "k", "value": value, "version": 3, "created_at": when, "updated_at": when, "expires_at": None}


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def test_the_asynchronous_client_has_every_method_of_the_blocking_one() -> None:
    from inspect import signature

    from kvstore import AsyncWorkletKVStore, WorkletKVStore

    for name in [name for name in vars(WorkletKVStore) if not name.startswith("_")]:
        twin = "aclose" if name == "close" else name
        assert hasattr(AsyncWorkletKVStore, twin), name
        ours, theirs = signature(getattr(WorkletKVStore, name)), signature(getattr(AsyncWorkletKVStore, twin))
        assert ours.parameters == theirs.parameters, name
