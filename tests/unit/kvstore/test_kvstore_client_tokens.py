"""Where the clients get their token and their address from, and what they do when it is refused."""

from __future__ import annotations

import asyncio
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from kvboth import KINDS, client
from kvscripted import Scripted, answer, refusal

from kvstore import (
    KVConflictError,
    KVConnectionError,
    KVError,
    KVPermissionError,
    KVValidationError,
    create_async_worklet_kv_store,
    create_worklet_kv_store,
)

BOTH = pytest.mark.parametrize("kind", KINDS)
EXPIRED, BAD, NONE = (refusal(401, code) for code in ("PGRST303", "PGRST301", "PGRST302"))
WORKLET = "11111111-2222-3333-4444-555555555555"


def bearers(server: Scripted) -> list[str]:
    return [request.headers["authorization"].removeprefix("Bearer ") for request in server.requests]


@BOTH
async def test_a_token_file_is_read_again_when_it_changes(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "kv.token"
    file.write_text("one\n")
    with Scripted() as server:
        async with client(kind, url=server.url, token_file=file) as c:
            await c.get("k")
            await c.get("k")
            fresh = tmp_path / "fresh"
            fresh.write_text("two")
            fresh.rename(file)
            await c.get("k")
        assert bearers(server) == ["one", "one", "two"]


@BOTH
@pytest.mark.parametrize("refused", [EXPIRED, BAD], ids=["expired", "bad"])
async def test_a_refused_token_is_read_once_more(kind: str, tmp_path: Path, refused: Any) -> None:
    file = tmp_path / "kv.token"
    file.write_text("old")
    seen = os.stat(file)

    def renew(sock: Any, request: Any) -> None:
        file.write_text("new")  # of the same length, and made to look untouched
        os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        refused(sock, request)

    with Scripted(renew, answer({"value": 1, "version": 1}), refused, refused) as server:
        async with client(kind, url=server.url, token_file=file) as c:
            assert await c.increment("k") == 1
            with pytest.raises(KVPermissionError):
                await c.get("k")
        assert bearers(server) == ["old", "new", "new", "new"]


@BOTH
async def test_a_fixed_token_is_not_tried_again(kind: str) -> None:
    with Scripted(EXPIRED) as server:
        async with client(kind, url=server.url, token="hunter2") as c:
            with pytest.raises(KVPermissionError, match="has expired") as caught:
                await c.get("k")
        assert bearers(server) == ["hunter2"]
        assert "hunter2" not in str(caught.value)
        assert "hunter2" not in repr(c.store)


@BOTH
async def test_no_token_is_no_reason_to_ask_again(kind: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("t")
    with Scripted(NONE) as server:
        async with client(kind, url=server.url, token_file=tmp_path / "t") as c:
            with pytest.raises(KVPermissionError, match="wants a token"):
                await c.get("k")
        assert len(server.requests) == 1


@BOTH
async def test_a_function_is_asked_before_each_request(kind: str) -> None:
    tokens = iter(["a", "b", "c"])
    with Scripted(answer(None), EXPIRED) as server:
        async with client(kind, url=server.url, token=lambda: next(tokens)) as c:
            await c.get("k")
            await c.get("k")
        assert bearers(server) == ["a", "b", "c"]


async def test_an_asynchronous_function_for_the_token() -> None:
    async def token() -> str:
        await asyncio.sleep(0)
        return "awaited"

    with Scripted() as server:
        async with create_async_worklet_kv_store(url=server.url, token=token) as store:
            await store.get("k")
        assert bearers(server) == ["awaited"]


@BOTH
@pytest.mark.parametrize("token", ["", "a b", "a\r\nX-Evil: 1", "tökén", "a\n", 5, None])
async def test_what_is_no_token_is_not_sent(kind: str, token: Any) -> None:
    with Scripted() as server:
        async with client(kind, url=server.url, token=lambda: token) as c:
            with pytest.raises(KVPermissionError) as caught:
                await c.get("k")
            assert not token or str(token) not in str(caught.value).replace("token", "")
        assert server.connections == 0


@BOTH
async def test_a_token_file_that_cannot_be_read(kind: str, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with Scripted() as server:
        for name, why in (("missing", "No such file"), ("", "Is a directory"), ("binary", "no text")):
            async with client(kind, url=server.url, token_file=tmp_path / name) as c:
                with pytest.raises(KVPermissionError, match=f"{tmp_path}.*{why}.*in a worklet"):
                    await c.get("k")
        assert server.connections == 0


@BOTH
async def test_without_any_token(kind: str) -> None:
    with Scripted() as server:
        async with client(kind, url=server.url) as c:
            with pytest.raises(KVPermissionError, match="FLOW_KV_TOKEN_FILE"):
                await c.get("k")
        assert server.connections == 0


@BOTH
async def test_a_worklet_has_everything_in_its_environment(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").write_text("from-file")
    with Scripted() as server:
        monkeypatch.setenv("FLOW_KV_URL", server.url + "/")
        monkeypatch.setenv("FLOW_WORKLET_ID", WORKLET)
        monkeypatch.setenv("FLOW_KV_TOKEN_FILE", str(tmp_path / "t"))
        monkeypatch.setenv("FLOW_KV_APIKEY", "sb_1")
        async with client(kind) as c:
            assert await c.get("k") is None
        (request,) = server.requests
        assert (request.path, request.headers["apikey"]) == ("/rest/v1/rpc/kv_get", "sb_1")
        assert bearers(server) == ["from-file"]
        assert request.arguments == {"p_namespace": "default", "p_key": "k", "p_worklet_id": WORKLET}


def test_without_an_address() -> None:
    with pytest.raises(KVError, match="FLOW_KV_URL is not set") as caught:
        create_worklet_kv_store()
    assert caught.value.code == "KV_NO_ADDRESS"


@pytest.mark.parametrize(
    "url", ["localhost:1", "ftp://a", "http://", "http://u:hunter2@a", "http://a:0", "http://a:70000", "http://a b",
            "http://a/\r\nX: 1", "http://a/?apikey=hunter2", "http://a/#f", "http://ä"]
)  # fmt: skip
def test_bad_addresses(url: str) -> None:
    with pytest.raises(KVValidationError) as caught:
        create_worklet_kv_store(url=url, token="t")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("path", ["", "/", "/rest/v1", "/rest/v1/"])
def test_the_url_of_a_supabase_project_with_and_without_its_path(path: str) -> None:
    with Scripted() as server, create_worklet_kv_store(url=server.url + path, token="t") as store:
        store.get("k")
        assert server.requests[0].path == "/rest/v1/rpc/kv_get"


def test_a_store_behind_a_path() -> None:
    with Scripted() as server, create_worklet_kv_store(url=f"{server.url}/kv/rest/v1", token="t") as store:
        store.get("k")
        assert server.requests[0].path == "/kv/rest/v1/rpc/kv_get"


@pytest.mark.parametrize(
    "options",
    [{"worklet_id": ""}, {"worklet_id": "x"}, {"worklet_id": 5}, {"timeout": 0}, {"timeout": -1},
     {"timeout": float("nan")}, {"timeout": "5"}, {"timeout": True}, {"api_key": "a\nb"}, {"namespace": ""},
     {"namespace": 5}],
)  # fmt: skip
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(KVValidationError) as caught:
        create_worklet_kv_store(url="http://127.0.0.1:1", token="t", **options)
    assert caught.value.hint == "KV_INVALID"


def test_errors_can_be_sent_to_another_process() -> None:
    for error in (
        KVValidationError("v", code="22023", hint="KV_INVALID", status=400),
        KVConflictError("c", failed=3),
        KVConnectionError("n", outcome_unknown=True, code="PGRST000"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
