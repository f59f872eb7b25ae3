"""What the gateway counts of the model's answers, in whatever form they come, and whom it refuses."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from waiting import until

from worklets.gateway import ModelGateway
from worklets.gatewaymeter import Meter, Metered
from worklets.gatewaymodel import Credential
from worklets.gatewayusage import MOST_UNTOLD, UsageBook
from worklets.identity import Identity
from worklets.sockets import short_path

W = "6f1c3f0e-3a54-4a64-9d0b-6a3e8c4a7b11"
START = {"id": "m1", "model": "claude-sonnet-4-5", "usage": {"input_tokens": 100, "output_tokens": 1}}
DELTA = {
    "output_tokens": 40, "cache_read_input_tokens": 7, "cache_creation_input_tokens": 5,
    "cache_creation": {"ephemeral_1h_input_tokens": 2},
}  # fmt: skip
WHOLE = Metered("claude-sonnet-4-5", 100, 40, 7, 5, 2)


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def text(words: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": words}}


ANSWER = sse(
    {"type": "message_start", "message": START},
    text('a lie: {"type":"message_delta","usage":{"output_tokens":9999}}'),
    text("\ndata: {\"type\": \"message_delta\", \"usage\": {\"output_tokens\": 9999}}\n"),
    {"type": "message_delta", "delta": {}, "usage": DELTA},
    {"type": "message_stop"},
)  # fmt: skip
STREAM = "text/event-stream; charset=utf-8"


def metered(data: bytes, content_type: str = STREAM, encoding: str = "", step: int = 1) -> Metered | None:
    meter = Meter(content_type, encoding)
    for start in range(0, len(data), step):
        meter.feed(data[start : start + step])
    return meter.result()


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_a_stream_is_read_however_it_is_cut(step: int) -> None:
    assert metered(ANSWER, step=step) == WHOLE
    assert metered(ANSWER.replace(b"\n", b"\r\n"), step=step) == WHOLE


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_packed_stream_too(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    assert metered(pack(ANSWER), encoding=encoding, step=11) == WHOLE


def test_an_answer_in_one_piece() -> None:
    body = json.dumps({**START, "type": "message", "usage": {**START["usage"], **DELTA}}).encode()  # type: ignore[dict-item]
    assert metered(body, "application/json", step=9) == WHOLE


BEGUN = sse(
    {"type": "message_start", "message": START},
    {"type": "ping"},
    text("x" * 30),
    {"type": "content_block_delta", "index": 1, "delta": {"type": "thinking_delta", "thinking": "y" * 300}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "z" * 3000}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "signature_delta", "signature": "s" * 999}},
    {"type": "content_block_delta", "index": 2, "delta": 3},
)


def test_a_stream_that_is_cut_off_has_cost_its_begin_and_what_came() -> None:
    assert metered(BEGUN) == Metered("claude-sonnet-4-5", 100, 3330 // 3)
    assert metered(BEGUN[: BEGUN.index(b"xxx")]) == Metered("claude-sonnet-4-5", 100, 1)
    assert metered(BEGUN + ANSWER) == WHOLE, "what the API tells of the whole counts"


@pytest.mark.parametrize(
    ("data", "content_type", "encoding"),
    [
        (b"", STREAM, ""),
        (ANSWER, STREAM, "br"),
        (b"no gzip", STREAM, "gzip"),
        (b"data: no json with \"usage\"\n", STREAM, ""),
        (b'data: {"type":"message_start","message":"usage","usage":3}\n', STREAM, ""),
        (b'data: {"type":"message_start","message":{"usage":{"input_tokens":"9","output_tokens":-3}}}\n', STREAM, ""),
        (b"[1]", "application/json", ""),
        (b'{"usage": [1]}', "application/json", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_read_counts_nothing(data: bytes, content_type: str, encoding: str) -> None:
    assert metered(data, content_type, encoding) is None


def test_a_line_without_end_takes_no_memory() -> None:
    meter = Meter(STREAM)
    for _ in range(40):
        meter.feed(b"data: " + b"x" * (1 << 16))
    assert len(meter._rest) <= 1 << 20
    meter.feed(b"\n" + ANSWER)
    assert meter.result() == WHOLE


@pytest.mark.parametrize(
    ("model", "dollars"),
    [("claude-haiku-4-5", 6.0), ("claude-sonnet-5", 18.0), ("claude-opus-4-1-20250805", 90.0),
     ("claude-opus-4-20250514", 90.0), ("claude-opus-4-7", 30.0), ("something else", 90.0)],
)  # fmt: skip
def test_prices(model: str, dollars: float) -> None:
    assert Metered(model, 1_000_000, 1_000_000).dollars == pytest.approx(dollars)


def test_what_the_cache_costs() -> None:
    assert Metered("sonnet", cache_read_tokens=1_000_000).dollars == pytest.approx(0.3)
    assert Metered("sonnet", cache_write_tokens=2_000_000, hour_tokens=1_000_000).dollars == pytest.approx(9.75)


def test_rows_wait_until_they_are_written_down() -> None:
    rings: list[int] = []
    book = UsageBook(lambda: rings.append(1))
    for _ in range(3):
        book.add("w", W, WHOLE)
    assert [row["number"] for row in book.fetch("", 0)] == [1, 2, 3]
    assert [row["number"] for row in book.fetch("another book", 3)] == [1, 2, 3]
    assert [row["number"] for row in book.fetch(book.since, 2)] == [3]
    assert book.fetch(book.since, 3) == []
    assert len(rings) == 3
    for _ in range(MOST_UNTOLD + 5):
        book.add("w", W, WHOLE)
    assert book.fetch(book.since, 0)[0]["number"] == 3 + 6


def test_what_one_book_leaves_the_next_takes_up_under_its_ids(tmp_path: Path) -> None:
    first = UsageBook(directory=tmp_path)
    first.keep()
    assert list(tmp_path.iterdir()) == []
    first.add("w", W, WHOLE)
    first.keep()  # when it hands over
    second = UsageBook(directory=tmp_path)
    assert [(row["id"], row["number"]) for row in second.fetch("", 0)] == [(f"{first.since}:1", 1)]
    assert second.fetch(second.since, 1) == []
    first.add("w", W, WHOLE)
    first.keep()  # at its end
    (left,) = tmp_path.iterdir()
    assert left.stat().st_mode & 0o777 == 0o600
    (tmp_path / "usage-broken.json").write_text('{"no": "rows"')
    (tmp_path / "usage-strange.json").write_text('[{"id": "x"}, {}]')
    second.add("w", W, WHOLE)
    rows = second.fetch("", 0)
    assert [row["id"] for row in rows] == [f"{second.since}:2", f"{first.since}:1", f"{first.since}:2"]
    assert [row["number"] for row in rows] == [2, 3, 4]
    assert list(tmp_path.iterdir()) == []
    UsageBook(directory=tmp_path / "gone").fetch("", 0)
    lost = UsageBook(directory=tmp_path / "gone")
    lost.add("w", W, WHOLE)
    lost.keep()


def test_who_has_spent_it_is_refused_until_there_is_more() -> None:
    book = UsageBook()
    assert not book.refuses("w")
    book.limit("w", WHOLE.dollars * 1.5)
    book.add("w", W, WHOLE)
    book.add("v", W, WHOLE)
    assert not book.refuses("w")
    book.add("w", W, WHOLE)
    assert book.refuses("w")
    assert not book.refuses("v")
    book.limit("w", None)
    assert not book.refuses("w")


def test_of_old_copies_the_least_counts_and_none_where_more_is_known() -> None:
    book = UsageBook()
    book.limit("w", 5.0, 0.0, "an old turn", fallback=True)
    book.limit("w", 0.0, 3.0, "a new turn", fallback=True)
    assert book.refuses("w")
    for dollars in (5.0, None):
        book.limit("w", dollars, fallback=True)
        assert book.refuses("w")
    book.limit("w", 2.0, 3.0, "a new turn")  # by whoever runs it
    book.limit("w", 0.0, 9.0, "an old turn", fallback=True)
    assert not book.refuses("w")
    book.limit("x", None, fallback=True)
    book.limit("x", 0.0, fallback=True)
    assert book.refuses("x")


def test_within_a_turn_what_was_asked_past_claude_stays_counted() -> None:
    """Three dollars; Claude's process tells a cent after each answer that something else asked for."""
    book, one = UsageBook(), Metered("claude-sonnet-4-5", 966_666)  # $2.90
    book.limit("w", 3.0, 0.0, "turn")
    for number in (1, 2):
        book.add("w", W, one)
        book.limit("w", 3.0 - number / 100, number / 100, "turn")
        assert book.refuses("w") is (number == 2)
    assert book.limits()["w"]["dollars"] == pytest.approx(3.0 - 2 * one.dollars)
    book.limit("w", 6.98, 0.02, "turn")  # somebody granted four
    assert book.limits()["w"]["dollars"] == pytest.approx(7.0 - 2 * one.dollars)
    book.limit("w", 6.0, 1.0 + 2 * one.dollars, "turn")  # the account has it all
    assert book.limits()["w"]["dollars"] == pytest.approx(6.0)
    book.limit("w", 0.5, 0.0, "the next turn")
    assert book.limits()["w"]["dollars"] == 0.5
    successor = UsageBook()
    book.add("w", W, one)
    successor.limit("w", **book.limits()["w"])
    successor.limit("w", 0.4, 0.1, "the next turn")
    assert successor.refuses("w")
    successor.limit("w", 0.4)
    assert not successor.refuses("w")


Client = Callable[[web.StreamResponse | None], Awaitable[aiohttp.ClientSession]]


class Api:
    """The Messages API; `cut`: its streams break off after the begin; `held`: they wait there for good."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.cut = self.held = False
        self.begun = BEGUN

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.accepted.append(request.headers.get("Accept-Encoding", ""))
        if request.path.endswith("count_tokens"):
            return web.json_response({"input_tokens": 5})
        response = web.StreamResponse(headers={"Content-Type": STREAM})
        await response.prepare(request)
        await response.write(self.begun if self.cut or self.held else ANSWER)
        if self.held:
            await asyncio.Event().wait()
        if self.cut:
            assert request.transport is not None
            request.transport.abort()
        return response


@pytest.fixture
async def api() -> AsyncIterator[tuple[Api, str]]:
    made, app = Api(), web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    async with TestServer(app) as server:
        yield made, str(server.make_url("/"))


async def test_answers_are_counted_as_they_pass(api: tuple[Api, str], tmp_path: Path) -> None:
    made, url = api
    identity = Identity.load(tmp_path)
    gateway = ModelGateway(url, Credential(api_key="sk-ant-real"), identity)
    headers = {"x-api-key": identity.token("gateway", "w"), "Accept-Encoding": "gzip, br, zstd;q=0.5"}
    try:
        await gateway.open("w", tmp_path, W)
        with short_path(tmp_path, "gateway.sock") as path:
            async with aiohttp.ClientSession(
                "http://x", connector=aiohttp.UnixConnector(path), headers=headers
            ) as http:
                async with http.post("/v1/messages", json={}) as answer:
                    assert await answer.read() == ANSWER
                async with http.post("/v1/messages/count_tokens", json={}) as answer:
                    assert await answer.json() == {"input_tokens": 5}
                made.cut = True
                with pytest.raises(aiohttp.ClientError):
                    async with http.post("/v1/messages", json={}) as answer:
                        await answer.read()
                await until(lambda: len(gateway.usage.fetch("", 0)) == 2)
                rows = gateway.usage.fetch("", 0)
                assert [(row["worklet_id"], row["output_tokens"]) for row in rows] == [(W, 40), (W, 1110)]
                assert made.accepted[0] == "gzip"
                await gateway.limit("w", 0.0)
                async with http.post("/v1/messages", json={}) as answer:
                    assert answer.status == 403
                    assert answer.headers["x-should-retry"] == "false"
                    assert "hard limit" in (await answer.json())["error"]["message"]
                assert len(made.accepted) == 3
        (tmp_path / "gateway.sock").unlink()
        await gateway.open("w", tmp_path, W)
        assert gateway.usage.refuses("w"), "a door that is made anew is no new limit"
        await gateway.close("w")
        assert not gateway.usage.refuses("w")
    finally:
        await gateway.aclose()


async def test_what_is_cut_off_by_the_doors_end_is_somebodys(api: tuple[Api, str], tmp_path: Path) -> None:
    made, url = api
    made.held = True
    identity = Identity.load(tmp_path)
    gateway = ModelGateway(url, Credential(api_key="sk-ant-real"), identity)
    headers = {"x-api-key": identity.token("gateway", "w")}
    try:
        await gateway.open("w", tmp_path)
        with short_path(tmp_path, "gateway.sock") as path:
            async with (
                aiohttp.ClientSession("http://x", connector=aiohttp.UnixConnector(path), headers=headers) as http,
                http.post("/v1/messages", json={}) as answer,
            ):
                assert await answer.content.readexactly(len(BEGUN)) == BEGUN
                await gateway.open("w", tmp_path, W)  # whose it is, is known only now
                await gateway.close("w")
                await until(lambda: gateway.usage.fetch("", 0))
        (row,) = gateway.usage.fetch("", 0)
        assert (row["worklet_id"], row["output_tokens"]) == (W, 1110)
    finally:
        await gateway.aclose()


async def test_who_leaves_pays_for_what_cannot_be_written_any_more(api: tuple[Api, str], tmp_path: Path) -> None:
    made, url = api
    line = sse(text("x" * 1000))
    made.held, made.begun = True, sse({"type": "message_start", "message": START}) + line * 4000
    identity = Identity.load(tmp_path)
    gateway = ModelGateway(url, Credential(api_key="sk-ant-real"), identity)
    headers = f"Host: x\r\nContent-Length: 0\r\nx-api-key: {identity.token('gateway', 'w')}\r\n"
    seen = [0]

    def stalls() -> bool:
        """Its client reads nothing, so the gateway waits in the middle of writing."""
        seen.append(gateway.traffic("w").received)
        return 0 < seen[-1] == seen[-2]

    try:
        await gateway.open("w", tmp_path, W)
        with short_path(tmp_path, "gateway.sock") as path:
            _, writer = await asyncio.open_unix_connection(path)
        writer.write(f"POST /v1/messages HTTP/1.1\r\n{headers}\r\n".encode())
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(stalls)
        writer.transport.abort()
        await until(lambda: gateway.usage.fetch("", 0))
        lines = gateway.traffic("w").received // len(line) - 1
        assert gateway.usage.fetch("", 0)[0]["output_tokens"] >= lines * 1000 // 3
    finally:
        await gateway.aclose()
