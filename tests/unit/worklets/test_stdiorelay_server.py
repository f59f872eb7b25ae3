"""The relay as its connections see it, frame by frame."""

import asyncio
import json
import signal
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from stdiorelay_parts import TOKEN, Running, raw, running
from waiting import until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from worklets.stdiorelay.process import environment
from worklets.stdiorelay.protocol import NOT_UNDERSTOOD, OCCUPIED, OTHER_EPOCH, WINDOW


async def status(url: str, headers: dict[str, str]) -> int:
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, additional_headers=headers)
    return refused.value.response.status_code


async def close_code(url: str, hello: Any) -> int | None:
    async with connect(url, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as ws:
        await ws.send(json.dumps(hello))
        with suppress(ConnectionClosed):
            while True:
                await asyncio.wait_for(ws.recv(), 60)
        return ws.close_code


async def health(url: str) -> tuple[int, dict[str, Any]]:
    address = url.replace("ws", "http", 1) + "health"
    async with aiohttp.ClientSession() as http, http.get(address) as answer:
        return answer.status, await answer.json()


# The door


async def test_only_the_token_opens() -> None:
    async with running() as it:
        assert await status(it.url, {}) == 401
        assert await status(it.url, {"Authorization": "Bearer wrong"}) == 401
        async with raw(it.url) as client:
            assert client.welcome["process"] == "running"


async def test_pages_are_refused_but_those_of_an_allowed_origin() -> None:
    async with running(origins=["https://tools.example.com"]) as it:
        token = {"Authorization": f"Bearer {TOKEN}"}
        assert await status(it.url, {**token, "Origin": "https://evil.example.com"}) == 403
        # A page cannot send an Authorization header: it gives the token as a subprotocol.
        offered: Any = ["flow-relay", f"bearer.{TOKEN}"]
        async with connect(it.url, origin="https://tools.example.com", subprotocols=offered) as ws:  # type: ignore[arg-type]
            assert ws.subprotocol == "flow-relay"
        wrong: Any = ["flow-relay", "bearer.wrong"]
        with pytest.raises(InvalidStatus):
            await connect(it.url, origin="https://tools.example.com", subprotocols=wrong)  # type: ignore[arg-type]


async def test_another_path_is_not_found() -> None:
    async with running() as it:
        assert await status(it.url + "elsewhere", {"Authorization": f"Bearer {TOKEN}"}) == 404


async def test_health_tells_of_process_numbers_and_readers() -> None:
    async with running(linger=20) as it, raw(it.url) as client:
        await client.put(1, "one")
        await client.lines(1)
        code, body = await health(it.url)
        assert (code, body["process"], body["exit_code"]) == (200, "running", None)
        assert (body["first"], body["last"], body["readers"], body["starts"]) == (1, 1, 1, 1)
        assert body["journal_bytes"] > 0
        assert body["uptime"] > 0
        await client.put(2, "exit 7")
        await client.notice("exit")
        code, body = await health(it.url)
        assert (code, body["process"], body["exit_code"], body["last"]) == (503, "exited", 7, 2)
        await client.ack(2)
        assert await it.task == 7


@pytest.mark.parametrize(
    "hello",
    [
        {"type": "ack", "seq": 1},
        {"type": "hello"},
        {"type": "hello", "client": "", "seq": 1},
        {"type": "hello", "client": "c", "seq": -1},
        {"type": "hello", "client": "c", "seq": "later"},
        {"type": "hello", "client": "c", "seq": 0, "ack": "all"},
        ["hello"],
    ],
)
async def test_a_hello_that_is_none_ends_the_connection(hello: Any) -> None:
    async with running() as it:
        assert await close_code(it.url, hello) == NOT_UNDERSTOOD


async def test_another_epoch_is_refused() -> None:
    async with running() as it:
        hello = {"type": "hello", "client": "c", "epoch": "another", "seq": 3}
        assert await close_code(it.url, hello) == OTHER_EPOCH


@pytest.mark.parametrize("frame", ["no json", '{"type": "dance"}', '{"type": "ack"}', b"1", b"1\ntwo\nlines", b"x\ny"])
async def test_a_frame_that_is_none_ends_the_connection(frame: str | bytes) -> None:
    async with running() as it, raw(it.url) as client:
        await client.ws.send(frame)
        with pytest.raises(ConnectionClosed) as closed:
            await client.lines(1)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == NOT_UNDERSTOOD


# Out


async def test_lines_come_as_they_are() -> None:
    async with running(linger=20) as it, raw(it.url) as client:
        await client.put(1, "raw " + b"a\n\n\xff\x00\r\nlast".hex())
        await client.put(2, "exit 0")
        assert [line.data for line in await client.lines(4)] == [b"a", b"", b"\xff\x00\r", b"last"]


async def test_every_reader_gets_every_line_and_a_late_one_from_the_start_or_from_now() -> None:
    async with running() as it, raw(it.url, "a") as a, raw(it.url, "b") as b:
        await a.put(1, "one")
        assert await a.lines(1) == await b.lines(1) == [(1, b"one")]
        async with raw(it.url, "late") as late, raw(it.url, "new", "now") as new:
            assert await late.lines(1) == [(1, b"one")]
            await a.put(2, "two")
            assert await late.lines(1) == await new.lines(1) == [(2, b"two")]


async def test_a_reader_resumes_by_number() -> None:
    async with running() as it:
        async with raw(it.url, "a") as a:
            await a.put(1, "count 5 0")
            await a.lines(5)
            epoch = a.welcome["epoch"]
        async with raw(it.url, "a", 3, epoch=epoch) as again:
            assert [line.seq for line in await again.lines(2)] == [4, 5]


async def test_what_all_readers_acknowledged_is_let_go_and_no_more() -> None:
    async with running(journal_limit=1 << 20) as it, raw(it.url, "a") as a, raw(it.url, "b") as b:
        await a.put(1, "count 500 1000")  # half the limit; a file has 131 of them at most: its limit and one chunk
        await a.lines(500)
        await b.lines(500)
        before = (await health(it.url))[1]
        await a.ack(500)
        await until(lambda: _acked(it, "a") == 500)
        assert (await health(it.url))[1]["journal_bytes"] == before["journal_bytes"]
        await b.ack(400)
        await until(lambda: it.relay.health()["first"] > 400 - 131 - 1)
        assert it.relay.health()["first"] <= 401
        async with raw(it.url, "c", 10, epoch=a.welcome["epoch"]) as c:
            assert await c.frame() == {"type": "gap", "first": 11, "last": it.relay.health()["first"] - 1}


def _acked(it: Running, client: str) -> int:
    return it.relay._readers._known[client].acked


async def test_a_reader_that_went_is_waited_for_until_it_is_forgotten() -> None:
    async with running(journal_limit=1 << 19, forget=0.5) as it:
        async with raw(it.url, "gone") as gone:
            await gone.put(1, "count 2000 1000")
        await until(lambda: it.relay.health()["held_back"])
        async with raw(it.url, "b") as b:
            got = 0
            while got < 2000:  # it goes on only because the other is forgotten
                frame = await b.frame()
                if isinstance(frame, list):
                    got = frame[-1].seq
                    await b.ack(got)
            assert it.relay.health()["readers_away"] == 0


async def test_a_full_journal_holds_the_process_back_and_nothing_is_lost() -> None:
    async with running(journal_limit=1 << 19) as it, raw(it.url, "a") as a:
        await a.put(1, "count 3000 1000")
        await until(lambda: it.relay.health()["held_back"])
        last = it.relay.health()["last"]
        assert last < 2000
        assert it.relay.health()["journal_bytes"] < (1 << 19) + (1 << 18)
        numbers: list[int] = []
        while len(numbers) < 3000:
            frame = await a.frame()
            if isinstance(frame, list):
                numbers += [int(line.data[:8]) for line in frame]
                await a.ack(frame[-1].seq)
        assert numbers == list(range(1, 3001))


async def test_one_line_longer_than_the_journal_passes() -> None:
    async with running(journal_limit=1 << 17) as it, raw(it.url, "a") as a:
        for number in range(1, 4):
            await a.put(number, "count 1 1000000")
            line = (await a.lines(1))[0]
            assert len(line.data) == 1_000_008
            await a.ack(line.seq)


async def test_dropping_the_oldest_lets_the_process_go_on_and_tells_of_the_gap() -> None:
    async with running(journal_limit=1 << 19, drop_oldest=True) as it:
        async with raw(it.url, "a") as a:
            await a.put(1, "count 3000 1000")
            await until(lambda: it.relay.health()["last"] == 3000)
        async with raw(it.url, "a", 0, epoch=a.welcome["epoch"]) as again:
            gap = await again.frame()
            assert gap["type"] == "gap"
            assert gap["first"] == 1
            lines = await again.lines(3000 - gap["last"])
            assert [line.seq for line in lines] == list(range(gap["last"] + 1, 3001))


async def test_a_reader_that_does_not_read_keeps_nobody_waiting() -> None:
    total = 12_000  # of 1 KB each: three windows
    async with running() as it, raw(it.url, "slow") as slow, raw(it.url, "fast") as fast:
        await fast.put(1, f"count {total} 1000")
        got = 0
        while got < total:
            frame = await fast.frame()
            if isinstance(frame, list):
                got = frame[-1].seq
                await fast.ack(got)
        sent = it.relay._connections["slow"]._under_way_bytes
        assert WINDOW <= sent < WINDOW + (1 << 17)
        last = 0
        while last < total:
            frame = await slow.frame()
            assert [line.seq for line in frame] == list(range(last + 1, last + 1 + len(frame)))
            last = frame[-1].seq
            await slow.ack(last)


# In


async def test_an_input_is_written_once_whatever_is_repeated() -> None:
    async with running() as it:
        async with raw(it.url, "a") as a:
            await a.put(1, "one")
            await a.put(1, "one")
            await a.put(2, "two")
            assert [line.data for line in await a.lines(2)] == [b"one", b"two"]
        async with raw(it.url, "a", 2, epoch=a.welcome["epoch"]) as again:
            assert again.welcome["applied"] == 2
            await again.put(2, "two")
            assert (await again.frame()) == {"type": "inack", "id": 2}
            await again.put(3, "three")
            assert [line.data for line in await again.lines(1)] == [b"three"]


async def test_an_input_without_its_predecessor_is_refused() -> None:
    async with running() as it, raw(it.url) as client:
        await client.put(2, "two")
        with pytest.raises(ConnectionClosed) as closed:
            await client.lines(1)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == NOT_UNDERSTOOD


async def test_writers_share_the_process_line_by_line() -> None:
    line = "x" * 70_000  # more than a pipe takes at once
    async with running() as it, raw(it.url, "a") as a, raw(it.url, "b") as b:
        for number in range(1, 11):
            await asyncio.gather(a.put(number, f"a{number}{line}"), b.put(number, f"b{number}{line}"))
        lines = [one.data.decode() for one in await a.lines(20)]
        assert all(one.endswith(line) for one in lines)
        heads = [one.removesuffix(line) for one in lines]
        assert [h for h in heads if h[0] == "a"] == [f"a{n}" for n in range(1, 11)]
        assert [h for h in heads if h[0] == "b"] == [f"b{n}" for n in range(1, 11)]


async def test_a_process_that_takes_no_input_does_not_keep_acknowledgements_away() -> None:
    async with running() as it, raw(it.url, "a") as a:
        await a.put(1, "deaf")
        assert [line.data for line in await a.lines(1)] == [b"deaf"]
        for number in range(2, 6):
            await a.put(number, "y" * 100_000)
        await a.ack(1)
        await until(lambda: _acked(it, "a") == 1)


async def test_single_keeps_a_second_client_out_until_the_first_has_left() -> None:
    async with running(single=True) as it:
        async with raw(it.url, "a") as a:
            assert await close_code(it.url, {"type": "hello", "client": "b", "seq": "now"}) == OCCUPIED
            async with raw(it.url, "a") as again:  # itself it does not keep out
                assert again.welcome["type"] == "welcome"
                await again.ws.send('{"type": "bye"}')
                await until(lambda: it.relay.health()["readers"] == 0)
            with suppress(ConnectionClosed):
                await a.lines(1)
        async with raw(it.url, "b") as b:
            assert b.welcome["type"] == "welcome"


# The end


async def test_readers_are_told_how_it_ended_and_what_it_said_last(capfd: pytest.CaptureFixture[str]) -> None:
    async with running(linger=20) as it, raw(it.url) as client:
        await client.put(1, "exit 5")
        told = await client.notice("exit")
        assert told == {"type": "exit", "seq": 1, "code": 5, "stderr": "last words\n", "again": None}
        await client.ack(1)
        assert await it.task == 5
    assert "last words" in capfd.readouterr().err


async def test_the_end_is_kept_for_a_reader_that_comes_late() -> None:
    async with running(["sh", "-c", "echo hi; exit 2"], linger=20) as it:
        await until(lambda: it.relay.health()["process"] == "exited")
        async with raw(it.url) as client:
            assert await client.lines(1) == [(1, b"hi")]
            assert (await client.notice("exit"))["code"] == 2
            await client.ack(2)
        assert await it.task == 2


async def test_a_process_is_started_again_and_input_waits_for_it() -> None:
    async with running(restart=True) as it, raw(it.url) as client:
        await client.put(1, "exit 5")
        told = await client.notice("exit")
        assert told["again"] is not None
        await client.put(2, "hello")
        assert (await client.notice("started"))["seq"] == told["seq"] + 1
        assert [line.data for line in await client.lines(1)] == [b"hello"]
        assert it.relay.health()["starts"] == 2


async def test_stopping_is_polite_first_and_forceful_then() -> None:
    async with running(grace=60) as it, raw(it.url) as client:
        it.relay.stop()
        assert (await client.notice("exit"))["code"] == -signal.SIGTERM
        assert await it.task == -signal.SIGTERM
    async with running() as it, raw(it.url) as client:
        await client.put(1, "stubborn")
        await client.lines(1)
        it.relay.stop()
        assert (await client.notice("exit"))["code"] == -signal.SIGKILL


async def test_stopping_while_the_process_waits_for_its_next_start_ends_the_relay() -> None:
    async with running(["sh", "-c", "exit 4"], restart=True) as it:
        await until(lambda: it.relay.health()["process"] == "waiting")
        it.relay.stop()
        assert await it.task == 4


async def test_what_the_process_left_behind_is_killed_with_it() -> None:
    async with running(linger=20) as it, raw(it.url) as client:
        await client.put(1, "child")
        pid = int((await client.lines(1))[0].data)
        await client.put(2, "exit 0")
        await client.notice("exit")
        await until(lambda: not _alive(pid))


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_process_does_not_see_the_token() -> None:
    assert environment({"FLOW_RELAY_TOKEN": "secret", "PATH": "/bin"}) == {"PATH": "/bin"}


async def test_a_full_disk_holds_the_process_back(tmp_path: Any) -> None:
    async with running() as it, raw(it.url) as client:
        journal = it.relay._journal
        refuse = journal._fd
        with open("/dev/full", "wb") as full:
            journal._fd = full.fileno()
            await client.put(1, "kept")
            await until(lambda: it.relay.health()["journal_error"])
            journal._fd = refuse
            assert [line.data for line in await client.lines(1)] == [b"kept"]
        assert it.relay.health()["journal_error"] is None
        assert any("cannot be written" in said for said in it.said)
