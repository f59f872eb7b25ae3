"""RelayClient against a real relay, through a proxy that cuts."""

import asyncio
import json
import random
import ssl
from pathlib import Path
from typing import Any, ClassVar

import pytest
from certificates import make_certificate
from cutting import cutting
from stdiorelay_parts import TOKEN, running
from waiting import until
from websockets.asyncio.server import serve

from worklets.stdiorelay.access import client_tls, server_tls
from worklets.stdiorelay.client import RelayClient, State
from worklets.stdiorelay.errors import RelayGone
from worklets.stdiorelay.protocol import Exited, Gap, Line, Started

NOBODY = "ws://127.0.0.1:9/"  # the discard port: nobody listens


def client(url: str, token: str = TOKEN, **options: Any) -> RelayClient:
    return RelayClient(url, token, **{"rng": random.Random(1), **options})


def is_failure(answer: dict[str, Any], code: str) -> bool:
    """The documents' shape, all of it."""
    assert set(answer) == {"success", "error", "code", "details"}
    assert answer["success"] is False
    assert answer["error"]
    assert answer["details"]["suggestion"]
    return bool(answer["code"] == code)


async def test_every_line_arrives_once_and_in_order_however_often_the_connection_is_cut() -> None:
    total, inputs, cuts = 40_000, 300, 0
    rng = random.Random(7)
    async with running(journal_limit=8 << 20) as it, cutting(it.url) as proxy, client(proxy.url) as relay:
        loop, next_cut = asyncio.get_running_loop(), 100

        async def write() -> None:
            for number in range(inputs):
                await relay.send(f"echo {number}")
            await relay.drain()

        await relay.send(f"count {total} 600")
        writing = asyncio.create_task(write())
        counted, echoed, seqs = [], [], []
        async for event in relay.events():
            assert isinstance(event, Line)
            seqs.append(event.seq)
            (echoed if event.data.startswith(b"echo") else counted).append(int(event.data.split()[-1][:8].rstrip(b"x")))
            if len(seqs) == total + inputs:
                break
            if len(seqs) > next_cut:
                next_cut += rng.randint(500, 3000)
                cuts += proxy.cut()
                loop.call_later(rng.uniform(0, 0.1), proxy.cut)  # sometimes in the middle of a greeting
        await writing
        assert seqs == list(range(1, total + inputs + 1))
        assert counted == list(range(1, total + 1))
        assert echoed == list(range(inputs))
        assert cuts > 5


async def test_a_later_client_goes_on_where_an_earlier_one_stopped() -> None:
    async with running() as it:
        async with client(it.url) as first:
            await first.send("count 10 0")
            numbers = first.lines()
            for n in range(1, 5):
                assert int(await anext(numbers)) == n
            position = first.position  # the fourth is not dealt with yet
            await first.close(resume=True)
        assert position is not None
        async with client(it.url, start=position) as second:
            numbers = second.lines()
            assert int(await anext(numbers)) <= 4
            got = [int(await anext(numbers)) for _ in range(10 - position.seq - 1)]
            assert got == list(range(position.seq + 2, 11))


async def test_now_leaves_out_what_was() -> None:
    async with running() as it, client(it.url) as first:
        await first.send("old")
        assert await anext(first.lines()) == b"old"
        async with client(it.url, start="now") as second:
            await first.send("new")
            assert await anext(second.lines()) == b"new"


async def test_what_is_dealt_with_is_acknowledged() -> None:
    async with running() as it, client(it.url) as relay:
        await relay.send("count 3 0")
        lines = relay.lines()
        for _ in range(3):
            await anext(lines)
        waiting = asyncio.ensure_future(anext(lines))  # asking for more: the third is dealt with
        await until(lambda: it.relay._readers.lowest == 3)
        await relay.send("last")
        assert await waiting == b"last"


async def test_the_end_of_the_process_ends_the_lines() -> None:
    states: list[State] = []
    async with running(linger=20) as it, client(it.url, on_state=states.append) as relay:
        await relay.send("one")
        await relay.send("exit 3")
        events = [event async for event in relay.events()]
        assert events == [Line(1, b"one"), Exited(2, 3, "last words\n", None)]
        assert relay.exited == events[1]
        await until(lambda: relay.state.name == "gone")
        assert is_failure(await relay.call({"method": "echo"}), "GONE")
        with pytest.raises(RelayGone, match="ended with 3"):
            await relay.send("more")
        assert [state.name for state in states] == ["connected", "gone"]


async def test_calls_are_answered_each_by_its_own_response() -> None:
    async with running() as it, client(it.url, calls_only=True) as relay:
        answers = await asyncio.gather(*(relay.call({"method": "echo", "params": [n]}) for n in range(50)))
        assert [answer["result"] for answer in answers] == [[n] for n in range(50)]
        answer = await relay.call({"id": 7, "method": "echo", "params": {}})
        assert answer == {"jsonrpc": "2.0", "id": 7, "result": {}}


async def test_lines_that_answer_no_call_are_left_to_be_read() -> None:
    async with running() as it, client(it.url) as relay:
        await relay.send("notice")
        assert (await relay.call({"method": "echo", "params": 1}))["result"] == 1
        await relay.send("other")
        lines = relay.lines()
        assert [await anext(lines), await anext(lines)] == [b"notice", b"other"]


async def test_a_call_under_way_is_answered_after_the_reconnect_and_a_new_one_at_once() -> None:
    states: list[State] = []
    async with (
        running() as it,
        cutting(it.url) as proxy,
        client(proxy.url, calls_only=True, on_state=states.append) as relay,
    ):
        calling = asyncio.create_task(relay.call({"method": "wait"}))
        await relay.drain()
        await until(lambda: relay._calls)
        await relay.drain()
        proxy.open = False
        proxy.cut()
        await until(lambda: relay.state.name == "degraded")
        assert is_failure(await relay.call({"method": "echo"}), "CONNECTION_REFUSED")
        await until(lambda: proxy.refused > 1)  # it goes on trying
        assert not calling.done()
        async with client(it.url) as other:
            await other.send("release")
            await other.drain()
        proxy.open = True
        assert (await calling)["result"] == "late"
        assert relay.state.name == "connected"
    assert [state.name for state in states if state.name != "gone"][:2] == ["connected", "degraded"]
    assert states[-2].name == "connected"


async def test_a_call_without_an_answer_ends_with_timeout() -> None:
    async with running() as it, client(it.url, calls_only=True) as relay:
        assert is_failure(await relay.call({"method": "wait"}, timeout=0.1), "TIMEOUT")


async def test_a_call_whose_process_dies_is_told_and_the_next_goes_to_the_new_process() -> None:
    states: list[State] = []
    async with running(restart=True) as it, client(it.url, calls_only=True, on_state=states.append) as relay:
        assert is_failure(await relay.call({"method": "die"}), "GONE")
        await until(lambda: relay.state.name == "connected" and it.relay.health()["starts"] == 2)
        assert (await relay.call({"method": "echo", "params": 2}))["result"] == 2
        assert [state.name for state in states] == ["connected", "degraded", "connected"]


async def test_ends_of_former_processes_are_read_and_change_nothing() -> None:
    async with running(restart=True) as it, client(it.url) as first:
        await first.send("exit 3")
        await until(lambda: it.relay.health()["starts"] == 2)
        async with client(it.url) as second:
            kinds: list[type] = []
            await second.send("hello")
            async for event in second.events():
                kinds.append(type(event))
                assert second.state.name == "connected"
                if isinstance(event, Line):
                    break
            assert kinds == [Exited, Started, Line]


async def test_a_wrong_token_is_gone_and_not_tried_again() -> None:
    async with running() as it, client(it.url, "wrong") as relay:
        assert relay.state.name == "gone"
        assert is_failure(await relay.call({"method": "echo"}), "UNAUTHORIZED")
        with pytest.raises(RelayGone, match="token"):
            await relay.connected()
        with pytest.raises(RelayGone, match="token"):
            await anext(relay.lines())


async def test_nobody_there_is_degraded_and_after_its_patience_gone() -> None:
    async with client(NOBODY) as relay:
        assert relay.state.name == "degraded"
        assert is_failure(await relay.call({"method": "echo"}), "CONNECTION_REFUSED")
        with pytest.raises(RelayGone, match="cannot be reached"):
            await relay.connected(0.05)
    async with client(NOBODY, patience=0.05) as relay:
        with pytest.raises(RelayGone, match="cannot be reached"):
            await relay.connected()
        assert relay.state.name == "gone"
        assert is_failure(await relay.call({"method": "echo"}), "CONNECTION_REFUSED")


async def test_a_relay_that_was_started_anew_is_gone() -> None:
    async with running() as it, cutting(it.url) as proxy, client(proxy.url) as relay:
        await relay.connected()
        async with running() as other:
            proxy.retarget(other.url)
            proxy.cut()
            with pytest.raises(RelayGone, match="started anew"):
                await anext(relay.lines())


async def test_who_is_no_relay_is_gone() -> None:
    async def babble(ws: Any) -> None:
        await ws.recv()
        await ws.send(json.dumps({"hello": "there"}))
        await ws.wait_closed()

    async with serve(babble, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with client(f"ws://127.0.0.1:{port}/") as relay:
            with pytest.raises(RelayGone, match="no relay of Flow's"):
                await relay.connected()
    async with client("nonsense") as relay:
        with pytest.raises(RelayGone, match="no relay's address"):
            await relay.connected()


async def test_dropped_lines_are_told_as_a_gap() -> None:
    async with running(journal_limit=1 << 19, drop_oldest=True) as it, client(it.url) as relay:
        async with client(it.url, start="now") as other:
            await other.send("count 8000 1000")  # more than is sent ahead
            await until(lambda: it.relay.health()["last"] == 8000)
        seen = 0
        gaps: list[Gap] = []
        async for event in relay.events():
            if isinstance(event, Gap):
                assert event.first == seen + 1
                gaps.append(event)
                seen = event.last
            else:
                assert isinstance(event, Line)
                assert event.seq == seen + 1
                seen = event.seq
            if seen == 8000:
                break
        assert len(gaps) == 1


async def test_input_is_bounded_and_one_line() -> None:
    async with running() as it, client(it.url) as relay:
        with pytest.raises(ValueError, match="one line"):
            await relay.send("two\nlines")
        await relay.send("deaf\n")
        assert await anext(relay.lines()) == b"deaf"

        async def flood() -> None:
            while True:
                await relay.send("z" * 100_000)

        flooding = asyncio.create_task(flood())
        await until(lambda: relay._outbox._bytes >= 1 << 20)
        assert relay._outbox._bytes < (1 << 20) + 100_001
        flooding.cancel()


async def test_leaving_says_goodbye() -> None:
    async with running() as it:
        async with client(it.url):
            assert it.relay.health()["readers"] == 1
        await until(lambda: it.relay.health()["readers"] == 0)
        assert it.relay.health()["readers_away"] == 0


async def test_tls_by_certificate_files(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    async with running(tls=server_tls(cert, key)) as it:
        assert it.url.startswith("wss://")
        async with client(it.url, tls=client_tls(cert), calls_only=True) as relay:
            assert (await relay.call({"method": "echo", "params": 1}))["result"] == 1
        async with client(it.url, tls=ssl.create_default_context()) as stranger:
            with pytest.raises(RelayGone, match="not trusted"):
                await stranger.connected()


async def test_tries_again_ever_more_seldom_with_jitter() -> None:
    class Dice(random.Random):
        rolls: ClassVar[list[tuple[float, float]]] = []

        def uniform(self, a: float, b: float) -> float:
            self.rolls.append((a, b))
            return 0

    dice = Dice()
    async with client(NOBODY, rng=dice):
        await until(lambda: len(dice.rolls) >= 10)
    assert [low for low, _ in dice.rolls[:10]] == [0] * 10
    assert [high for _, high in dice.rolls[:10]] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30])


async def test_where_one_client_is_let_in_the_next_waits_until_it_has_left() -> None:
    async with running(single=True) as it, client(it.url) as first:
        await first.connected()
        async with client(it.url) as second:
            assert (second.state.name, second.state.reason) == ("degraded", "Another client has the relay.")
            await first.close()
            await second.connected()


async def test_what_was_received_and_not_dealt_with_is_not_acknowledged_by_a_reconnect() -> None:
    async with running() as it, cutting(it.url) as proxy, client(proxy.url) as relay:
        await relay.send("count 3 0")
        await until(lambda: relay._inbox.read == 3)
        proxy.cut()
        await until(lambda: relay.state.name == "degraded")
        await relay.connected()
        assert it.relay._readers.lowest == 0


async def test_input_that_waited_at_the_relay_when_the_connection_was_cut_is_written_once() -> None:
    async with running(restart=True) as it, cutting(it.url) as proxy, client(proxy.url) as relay:
        await relay.send("exit 1")
        await until(lambda: it.relay.health()["process"] == "waiting")
        for number in range(3):
            await relay.send(f"line {number}")
        await until(lambda: relay._outbox._sent == 3 or it.relay.health()["starts"] == 2)
        proxy.cut()
        lines = relay.lines()
        assert [await anext(lines) for _ in range(3)] == [b"line 0", b"line 1", b"line 2"]
        await relay.drain()
        assert (await relay.call({"method": "echo", "params": 1}))["result"] == 1
        assert it.relay.health()["last"] == 6  # the end, the start, three lines, one answer
