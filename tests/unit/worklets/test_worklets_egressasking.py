"""Connections that wait for people, at a worklet's real socket; people are the test."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from config.slices.egress import EgressSettings
from worklets.egress import told
from worklets.egressasking import MOST_ASKED, MOST_QUESTIONS, MOST_WAITING
from worklets.egressdial import Dialer
from worklets.egressdoors import Egress


class Thread:
    """One worklet's way out, and what the bot hears of it."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.events: list[tuple[str, str]] = []
        self.egress = Egress(Dialer(lambda host: ["127.0.0.1"], lambda address: True), self._hear)
        self.grant: dict[str, Any] = {"asks": True}

    def _hear(self, kind: str, **fields: Any) -> None:
        assert fields.pop("worklet") == "w"
        self.events.append((kind, f"{fields['host']}:{fields['port']}"))

    async def decide(self, **changes: Any) -> None:
        self.grant |= changes
        await self.egress.open("w", self.run_dir, self.grant)

    async def allow(self, **settings: Any) -> None:
        wanted = EgressSettings(mode="allow-list", ask=("*",), ports=(443, self.port), **settings)
        await self.egress.configure(told(wanted))
        await self.decide()

    async def connect(self, host: str = "wanted.test") -> str:
        """The first line of the answer to a CONNECT."""
        reader, writer = await asyncio.open_unix_connection(self.run_dir / "proxy.sock")
        writer.write(f"CONNECT {host}:{self.port} HTTP/1.1\r\n\r\n".encode())
        try:
            return (await asyncio.wait_for(reader.readline(), 60)).decode().strip()
        finally:
            writer.close()
            await writer.wait_closed()

    def connections(self, count: int, host: str = "wanted.test") -> list[asyncio.Task[str]]:
        return [asyncio.create_task(self.connect(host)) for _ in range(count)]

    async def wanted(self, *hosts: str) -> None:
        expected = {("egress wanted", f"{host}:{self.port}") for host in hosts}
        await until(lambda: set(self.events) >= expected)

    port = 0


GONE = "HTTP/1.1 200 Connection established"


@pytest.fixture
async def thread(tmp_path: Path) -> AsyncIterator[Thread]:
    made = Thread(tmp_path)

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made
        await made.egress.aclose()


async def test_all_connections_to_one_host_wait_for_one_answer(thread: Thread) -> None:
    await thread.allow(hosts=("open.test",))
    waiting = thread.connections(3)
    await thread.wanted("wanted.test")
    await until(lambda: thread.egress.state()["connections"] == 3)
    assert await thread.connect("open.test") == GONE  # others go on
    assert len(thread.events) == 1
    await thread.decide(granted=[f"wanted.test:{thread.port}"])
    assert await asyncio.gather(*waiting) == [GONE] * 3
    assert await thread.connect() == GONE
    assert len(thread.events) == 1


async def test_a_no_is_told_and_nobody_is_asked_again(thread: Thread) -> None:
    await thread.allow()
    (waiting,) = thread.connections(1)
    await thread.wanted("wanted.test")
    await thread.decide(refused=[f"wanted.test:{thread.port}"])
    told = f"HTTP/1.1 403 Flow blocked wanted.test:{thread.port}: people in the thread have refused it."
    assert await waiting == await thread.connect() == told
    assert [kind for kind, _ in thread.events] == ["egress wanted", "egress blocked"]


async def test_who_is_not_answered_in_time_hears_that_the_question_stands(thread: Thread) -> None:
    await thread.allow(ask_wait=1)
    first, second = await asyncio.gather(*thread.connections(2))
    assert first == second
    assert "did not answer within 1 seconds; the question stands" in first
    await thread.allow(ask_wait=60)
    waiting = thread.connections(1)
    await until(lambda: len(thread.events) == 2)  # the bot hears of it anew: it may have lost it
    await thread.decide(granted=[f"wanted.test:{thread.port}"])
    assert await waiting[0] == GONE


async def test_questions_and_who_waits_are_bounded(thread: Thread) -> None:
    await thread.allow(hosts=("open.test",))
    hosts = [f"h{number}.test" for number in range(MOST_QUESTIONS)]
    waiting = [task for host in hosts for task in thread.connections(1, host)]
    await thread.wanted(*hosts)
    assert f"asked for {MOST_QUESTIONS} other hosts already" in await thread.connect("one-more.test")
    assert thread.events[-1] == ("egress blocked", f"one-more.test:{thread.port}")
    waiting += thread.connections(MOST_WAITING - MOST_QUESTIONS, hosts[0])
    await until(lambda: thread.egress.state()["connections"] == MOST_WAITING)
    assert f"{MOST_WAITING} connections wait" in await thread.connect(hosts[0])
    assert await thread.connect("open.test") == GONE
    await thread.decide(asks=False)  # the turn has ended
    answers = await asyncio.gather(*waiting)
    assert all("nobody works with Claude just now" in answer for answer in answers)
    assert await thread.connect() == answers[0].replace("h0", "wanted")


async def test_people_are_not_flooded_with_questions(thread: Thread) -> None:
    await thread.allow(ask_wait=1)
    for number in range(MOST_QUESTIONS):
        assert "did not answer" in await thread.connect(f"h{number}.test")
    assert "wait for their answer" in await thread.connect("one-more.test")  # though nobody waits any more
    await thread.allow(ask_wait=60)
    for number in range(MOST_ASKED):
        (waiting,) = thread.connections(1, f"h{number}.test")
        await thread.wanted(f"h{number}.test")
        answered = [f"h{each}.test:{thread.port}" for each in range(max(number + 1, MOST_QUESTIONS))]
        await thread.decide(refused=answered)
        assert "people in the thread have refused it" in await waiting
    assert f"asked for {MOST_ASKED} hosts already" in await thread.connect("one-more.test")
    await thread.decide(asks=False)
    await thread.decide(asks=True)  # the next turn
    await thread.allow(ask_wait=1)
    assert "did not answer" in await thread.connect("one-more.test")


async def test_what_was_allowed_once_is_cut_off_when_that_is_over(thread: Thread, tmp_path: Path) -> None:
    await thread.allow()
    await thread.decide(granted=[f"held.test:{thread.port}"])
    held = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        settings = EgressSettings(mode="allow-list", ask=("*",), ports=(port,))
        await thread.egress.configure(told(settings))
        await thread.decide(granted=[f"held.test:{port}"])
        reader, writer = await asyncio.open_unix_connection(tmp_path / "proxy.sock")
        writer.write(f"CONNECT held.test:{port} HTTP/1.1\r\n\r\n".encode())
        await held.wait()
        await thread.decide(granted=[], asks=False)
        assert (await asyncio.wait_for(reader.read(), 30)).startswith(GONE.encode())
        writer.close()
        await writer.wait_closed()


async def test_the_end_of_the_process_lets_nobody_wait(thread: Thread) -> None:
    await thread.allow()
    (waiting,) = thread.connections(1)
    await thread.wanted("wanted.test")
    await thread.egress.finish()
    assert "Flow was restarted before people had answered" in await waiting


async def test_who_asks_only_while_the_process_ends_does_not_wait_for_people(thread: Thread) -> None:
    """Nobody would be asked any more: the bots are let go of."""
    await thread.allow()
    reader, writer = await asyncio.open_unix_connection(thread.run_dir / "proxy.sock")
    writer.write(b"CONNECT wanted.test:")
    await until(lambda: thread.egress.state()["connections"] == 1)
    ending = asyncio.create_task(thread.egress.finish())
    (door,) = thread.egress._doors.values()
    await until(lambda: door._listener is None)
    writer.write(f"{thread.port} HTTP/1.1\r\n\r\n".encode())
    assert "Flow was restarted before people had answered" in (await asyncio.wait_for(reader.readline(), 30)).decode()
    writer.close()
    await ending
    assert thread.events == []


async def test_blocked_hosts_are_told_of_without_a_flood(thread: Thread) -> None:
    await thread.egress.configure(told(EgressSettings(mode="allow-list", hosts=("open.test",), ports=(thread.port,))))
    await thread.decide()
    for number in range(60):
        await thread.connect(f"h{number}.test")
        await thread.connect("h0.test")
    assert len(thread.events) == len(set(thread.events)) == 50
    assert {kind for kind, _ in thread.events} == {"egress blocked"}


async def test_a_host_that_leads_inwards_is_told_of(thread: Thread) -> None:
    thread.egress = Egress(Dialer(lambda host: ["127.0.0.1"], lambda address: False), thread._hear)
    await thread.allow()
    await thread.decide(granted=[f"wanted.test:{thread.port}"])
    assert "403 Flow blocked" in await thread.connect()
    assert thread.events == [("egress blocked", f"wanted.test:{thread.port}")]


async def test_what_is_taken_back_in_the_moment_of_the_yes_is_not_let_through(thread: Thread) -> None:
    await thread.allow()
    (waiting,) = thread.connections(1)
    await thread.wanted("wanted.test")
    await thread.decide(granted=[f"wanted.test:{thread.port}"])  # without a pause: the connection has not gone on yet
    await thread.decide(granted=[])
    assert "403 Flow blocked" in await waiting
    assert thread.egress.state()["allowed"] == 0
