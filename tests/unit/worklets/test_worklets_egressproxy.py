"""The forward proxy at its socket, with real peers on loopback, which an injected dialer takes for the outside."""

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from waiting import until

from config.slices.egress import EgressSettings
from worklets.egress import EgressPolicy, told
from worklets.egressdial import LOOKUPS_OF_ONE, Dialer, Lookups
from worklets.egressdoors import Egress
from worklets.egressproxy import SHARE, EgressDoor, Tally, Times

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
EVERYTHING = tuple(range(1, 65536))
BIG = 32 << 20


def policy_of(mode: str, hosts: str = "", ports: tuple[int, ...] = EVERYTHING, **more: object) -> EgressPolicy:
    """As it arrives in the gateway's process."""
    return EgressPolicy.of(told(EgressSettings(mode=mode, hosts=hosts, ports=ports, **more)))  # type: ignore[arg-type]


class Way:
    """A worklet's door to the outside; `names` is what its resolver knows."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.policy = EgressPolicy("open", ports=EVERYTHING)
        self.names: dict[str, list[list[str]]] = {}
        self.lookups: list[str] = []
        self.checked: list[str] = []
        self.tally = Tally()
        self.writers: list[asyncio.StreamWriter] = []
        self.dialer = Dialer(self.resolve, self.permits)

    def resolve(self, host: str) -> list[str]:
        self.lookups.append(host)
        answers = self.names.get(host, [["127.0.0.1"]])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def permits(self, address: str) -> bool:
        self.checked.append(address)
        return address != "127.0.0.66"

    @asynccontextmanager
    async def opened(self, **options: object) -> AsyncIterator[EgressDoor]:
        door = EgressDoor("w", self.run_dir, lambda: self.policy, self.dialer, self.tally, **options)  # type: ignore[arg-type]
        await door.listen()
        try:
            yield door
        finally:
            await door.close()
            assert door.connections == 0

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connection = await asyncio.open_unix_connection(self.run_dir / "proxy.sock")
        self.writers.append(connection[1])
        return connection

    async def aclose(self) -> None:
        self.dialer.close()
        for writer in self.writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self.writers), return_exceptions=True)

    async def ask(self, request: str | bytes, *, eof: bool = False) -> bytes:
        """All that the proxy answers to it."""
        reader, writer = await self.connect()
        writer.write(request.encode() if isinstance(request, str) else request)
        if eof:
            writer.write_eof()
        try:
            return await asyncio.wait_for(reader.read(), 30)
        finally:
            writer.close()

    async def tunnel(self, port: int, host: str = "peer.test") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.connect()
        writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
        return reader, writer


@pytest.fixture
async def way(tmp_path: Path) -> AsyncIterator[Way]:
    way = Way(tmp_path)
    yield way
    await way.aclose()


@asynccontextmanager
async def serving(handle: Handler) -> AsyncIterator[int]:
    """The port of a peer."""
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    await asyncio.Event().wait()


class Recorder:
    """Answers each connection with `answer` and keeps what came until `ends` or the connection's end."""

    def __init__(
        self,
        answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ends: tuple[bytes, ...] = (b"\r\n\r\n",),
    ) -> None:
        self.answer, self.ends = answer, ends
        self.heard: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.heard)
        self.heard.append(b"")
        while not self.heard[number].endswith(self.ends) and (data := await reader.read(1 << 16)):
            self.heard[number] += data
        writer.write(self.answer)
        writer.write_eof()
        while data := await reader.read(1 << 16):
            self.heard[number] += data


# What goes through


async def test_a_tunnel_carries_bytes_both_ways(way: Way) -> None:
    async with serving(echo) as port, way.opened():
        reader, writer = await way.tunnel(port)
        writer.write(b"\x16\x03\x01hello")
        assert await reader.readexactly(8) == b"\x16\x03\x01hello"
        writer.close()
    assert (way.tally.allowed, way.tally.sent, way.tally.received) == (1, 8, 8)


async def test_bytes_sent_with_the_connect_itself_are_not_lost(way: Way) -> None:
    async with serving(echo) as port, way.opened():
        answer = await way.ask(f"CONNECT peer.test:{port} HTTP/1.1\r\n\r\nearly", eof=True)
        assert answer.endswith(b"\r\n\r\nearly")


async def test_a_request_goes_to_the_host_of_its_address_line(way: Way) -> None:
    peer = Recorder()
    async with serving(peer) as port, way.opened():
        answer = await way.ask(
            f"GET http://Peer.test:{port}/x HTTP/1.1\r\nHost: evil.test\r\nProxy-Connection: x\r\n\r\n"
        )
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    assert peer.heard == [f"GET /x HTTP/1.1\r\nHost: peer.test:{port}\r\nConnection: close\r\n\r\n".encode()]
    assert way.lookups == ["peer.test"]


async def test_a_second_request_behind_the_first_is_not_passed_on(way: Way) -> None:
    peer = Recorder(ends=(b"abc", b"0\r\n\r\n"))
    smuggled = "GET /admin HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    async with serving(peer) as port, way.opened():
        for framing, body in (
            ("Content-Length: 3", "abc"),
            ("Transfer-Encoding: chunked", "1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\n"),
        ):
            await way.ask(f"POST http://peer.test:{port}/ HTTP/1.1\r\n{framing}\r\n\r\n{body}{smuggled}", eof=True)
    assert peer.heard[0].endswith(b"\r\n\r\nabc")
    assert peer.heard[1].endswith(b"\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")
    assert b"evil" not in b"".join(peer.heard)


@pytest.mark.parametrize(
    "request_", ["CONNECT evil.test:443 HTTP/1.1\r\n\r\n", "GET http://evil.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n"]
)
async def test_a_refusal_can_be_read_by_people_and_programs(way: Way, request_: str) -> None:
    way.policy = policy_of("allow-list", "good.test", ports=(80, 443))
    async with way.opened():
        head, _, body = (await way.ask(request_)).decode().partition("\r\n\r\n")
    status, *fields = head.split("\r\n")
    sentence = "Flow's administrator allows good.test; ask for it to be added to FLOW_EGRESS_HOSTS."
    assert status.startswith("HTTP/1.1 403 Flow blocked evil.test:")
    assert status.endswith(sentence)
    assert body.endswith(f"{sentence}\n")
    assert "X-Blocked-By: Flow" in fields
    assert way.lookups == []  # a refused name is not even looked up: that would tell it
    assert way.tally.refused == 1


# Addresses


async def test_a_name_that_changes_its_address_is_dialled_where_it_was_checked(way: Way) -> None:
    way.names["rebound.test"] = [["127.0.0.1"], ["127.0.0.66"]]
    async with serving(echo) as port, way.opened():
        await way.tunnel(port, "rebound.test")
        assert way.lookups == ["rebound.test"]  # once: the second answer was never asked for
        assert b"403" in await way.ask(f"CONNECT rebound.test:{port} HTTP/1.1\r\n\r\n")
    assert way.checked == ["127.0.0.1", "127.0.0.66"]


async def test_of_several_addresses_only_permitted_ones_are_dialled(way: Way) -> None:
    reached: list[str] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(writer.get_extra_info("sockname")[0])
        writer.close()

    way.names["both.test"] = [["127.0.0.66", "127.0.0.5"]]
    server = await asyncio.start_server(note, "0.0.0.0", 0)
    async with server, way.opened():
        reader, _ = await way.tunnel(server.sockets[0].getsockname()[1], "both.test")
        assert await reader.read() == b""
        server.close()
    assert reached == ["127.0.0.5"]


async def test_without_an_injected_check_loopback_is_refused(way: Way) -> None:
    way.dialer.close()
    way.dialer = Dialer(lambda host: ["127.0.0.1"])
    async with serving(echo) as port, way.opened():
        answer = await way.ask(f"CONNECT peer.test:{port} HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"its address is not one of the public internet" in answer


async def test_a_host_that_is_away_is_told_so(way: Way) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with way.opened():
            answer = await way.ask(f"CONNECT peer.test:{closed.getsockname()[1]} HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"X-Blocked-By" not in answer
    assert b"Flow cannot reach peer.test" in answer
    assert way.tally.failed == 1


# Bounds


async def test_a_head_without_end_is_refused(way: Way) -> None:
    async with way.opened():
        answer = await way.ask(b"GET http://peer.test/ HTTP/1.1\r\nX: " + b"x" * (1 << 17))
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_a_head_that_does_not_come_is_waited_for_so_long(way: Way) -> None:
    async with way.opened(times=Times(head=0.1)):
        answer = await way.ask("GET http://peer.test/ HTTP/1.1\r\nX: ")
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_worklet_has_so_many_connections(way: Way) -> None:
    async with serving(echo) as port, way.opened(most=2) as door:
        open_ = [await way.tunnel(port) for _ in range(2)]
        answer = await way.ask(f"CONNECT peer.test:{port} HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"2 connections open already" in answer
        open_[0][1].close()
        await until(lambda: door.connections == 1)
        await way.tunnel(port)


async def test_all_worklets_together_have_so_many_connections(way: Way) -> None:
    way.tally.most = SHARE
    async with serving(echo) as port, way.opened() as door:
        open_ = [await way.tunnel(port) for _ in range(SHARE)]
        answer = await way.ask(f"CONNECT peer.test:{port} HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert f"Flow's worklets have {SHARE} connections open already".encode() in answer
        open_[0][1].close()
        await until(lambda: door.connections == SHARE - 1)
        await way.tunnel(port)


async def test_others_cannot_take_a_worklets_share(way: Way, tmp_path: Path) -> None:
    way.tally.most = SHARE + 8
    greedy = Way(tmp_path / "greedy")
    greedy.run_dir.mkdir()
    greedy.tally = way.tally
    async with serving(echo) as port, greedy.opened(), way.opened():
        for _ in range(SHARE):
            await greedy.tunnel(port)
        for _ in range(SHARE):
            await way.tunnel(port)
        assert b" 503 " in await way.ask(f"CONNECT peer.test:{port} HTTP/1.1\r\n\r\n")
    assert (way.tally.open, way.tally.asking) == (0, 0)
    await greedy.aclose()


async def test_connections_that_say_nothing_take_nobody_elses_place(way: Way, tmp_path: Path) -> None:
    way.tally.most = 2 * SHARE
    silent = Way(tmp_path / "silent")
    silent.run_dir.mkdir()
    silent.tally = way.tally
    async with serving(echo) as port, silent.opened() as door, way.opened():
        for _ in range(2 * SHARE):
            await silent.connect()
        await until(lambda: door.connections == 2 * SHARE)
        for _ in range(SHARE + 4):
            await way.tunnel(port)
        assert way.tally.asking == SHARE + 4
    await silent.aclose()


async def test_two_hundred_connections_at_once(way: Way) -> None:
    async with serving(echo) as port, way.opened() as door:

        async def end(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
            writer.write(b"%d" % number)
            writer.write_eof()
            return await reader.read()

        tunnels = await asyncio.gather(*(way.tunnel(port) for _ in range(200)))
        assert door.connections == 200
        ends = await asyncio.gather(*(end(number, *tunnel) for number, tunnel in enumerate(tunnels)))
        assert ends == [b"%d" % number for number in range(200)]
        assert way.tally.allowed == 200


# Ends


async def test_half_closed_the_other_half_goes_on(way: Way) -> None:
    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard = await reader.read()
        writer.write(b"you said " + heard)
        await writer.drain()

    async with serving(answer_at_the_end) as port, way.opened():
        reader, writer = await way.tunnel(port)
        writer.write(b"all")
        writer.write_eof()
        assert await reader.read() == b"you said all"


async def test_a_half_closed_connection_that_says_nothing_ends(way: Way) -> None:
    async with serving(hold) as port, way.opened(times=Times(half_closed=0.1)) as door:
        reader, writer = await way.tunnel(port)
        writer.write_eof()
        assert await reader.read() == b""
        _, asker = await way.connect()
        asker.write(f"GET http://peer.test:{port}/ HTTP/1.1\r\n\r\n".encode())
        asker.write_eof()
        await until(lambda: way.tally.allowed == 2 and door.connections == 0)


async def test_a_host_may_answer_before_it_has_read_all(way: Way) -> None:
    async def too_large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!")
        writer.write_eof()
        while await reader.read(1 << 16):  # as servers do, lest the answer be lost
            pass

    async with serving(too_large) as port, way.opened():
        head = f"POST http://peer.test:{port}/ HTTP/1.1\r\nContent-Length: {BIG}\r\n\r\n".encode()
        answer = await way.ask(head + b"x" * (1 << 18))
    assert answer == b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!"


async def test_interim_answers_are_passed_on(way: Way) -> None:
    peer = Recorder(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
    async with serving(peer) as port, way.opened():
        answer = await way.ask(f"GET http://peer.test:{port}/ HTTP/1.1\r\n\r\n", eof=True)
    assert answer == b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


async def test_interim_answers_without_end_are_not_collected(way: Way) -> None:
    async def stammer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nX: " + b"x" * 60_000 + b"\r\n\r\n")
            await writer.drain()

    async with serving(stammer) as port, way.opened() as door:
        answer = await way.ask(f"GET http://peer.test:{port}/ HTTP/1.1\r\n\r\n")
        assert 1 < answer.count(b"HTTP/1.1 103") <= 20
        await until(lambda: door.connections == 0)
    assert way.tally.failed == 1


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 17)])
async def test_what_is_no_web_server_is_told_so(way: Way, answer: bytes) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with serving(other) as port, way.opened():
        told = await way.ask(f"GET http://peer.test:{port}/ HTTP/1.1\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 502 ")
    assert b"did not answer as a web server does" in told


@pytest.mark.parametrize(
    "body", [b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcde\r\n0\r\n\r\n", b"Content-Length: 9\r\n\r\nabc"]
)
async def test_a_broken_body_breaks_the_request(way: Way, body: bytes) -> None:
    async with serving(hold) as port, way.opened():
        told = await way.ask(b"POST http://peer.test:%d/ HTTP/1.1\r\n" % port + body, eof=True)
    assert told.startswith(b"HTTP/1.1 400 ")


# Back-pressure


async def test_a_huge_download_arrives_whole_and_is_not_collected(way: Way) -> None:
    block = os.urandom(1 << 20)
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(BIG // len(block)):
            writer.write(block)
            await writer.drain()
            sent += len(block)

    async with serving(pour) as port, way.opened():
        reader, _ = await way.tunnel(port)
        before = -1
        while sent != before:  # until it stands still, since nobody reads
            before = sent
            await asyncio.sleep(0.2)
        assert sent < BIG
        digest, size = hashlib.sha256(), 0
        while data := await reader.read(1 << 16):
            digest.update(data)
            size += len(data)
    assert size == BIG
    assert digest.digest() == hashlib.sha256(block * (BIG // len(block))).digest()


async def test_a_slow_reader_gets_the_end_too(way: Way) -> None:
    """What is on its way when the host has said all is not cut off, however long the worklet takes."""
    sizes = range(64 << 10, 512 << 10, 16 << 10)  # some of them end in the proxy's own buffer

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int((await reader.readuntil(b"\r\n\r\n")).split()[1][1:])
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * size)
        await writer.drain()

    async with serving(answer) as port, way.opened(), AsyncExitStack() as stack:
        slow = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in sizes]
        for connection, size in zip(slow, sizes, strict=True):
            connection.connect(str(way.run_dir / "proxy.sock"))
            connection.sendall(f"GET http://peer.test:{port}/{size} HTTP/1.1\r\n\r\n".encode())
        await asyncio.sleep(2.5)  # longer than the proxy lingers
        for connection, size in zip(slow, sizes, strict=True):
            connection.settimeout(20)
            assert (await asyncio.to_thread(_all, connection)).count(b"x") == size


def _all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


# What is logged, and changes


async def test_each_decision_is_logged_with_its_bytes(way: Way) -> None:
    way.policy = policy_of("open", deny="evil.test")
    with capture_logs() as lines:
        async with serving(echo) as port, way.opened() as door:
            reader, writer = await way.tunnel(port)
            writer.write(b"12345")
            await reader.readexactly(5)
            writer.close()
            await until(lambda: door.connections == 0)
            await way.ask("CONNECT evil.test:443 HTTP/1.1\r\n\r\n")
    told = [{k: v for k, v in line.items() if k != "log_level"} for line in lines]
    where = {"worklet": "w", "host": "peer.test", "port": port}
    assert told == [
        {"event": "egress allowed", **where},
        {"event": "egress ended", **where, "sent": 5, "received": 5},
        {
            "event": "egress refused",
            "worklet": "w",
            "host": "evil.test",
            "port": 443,
            "reason": "Flow blocked evil.test:443: Flow's administrator has denied it (FLOW_EGRESS_DENY).",
        },
    ]


async def test_a_flood_of_requests_does_not_flood_the_log(way: Way) -> None:
    way.policy = EgressPolicy()
    with capture_logs() as lines:
        async with way.opened():
            for _ in range(300):
                assert b"FLOW_EGRESS=none" in await way.ask("CONNECT a.test:443 HTTP/1.1\r\n\r\n", eof=True)
    assert len(lines) == 242  # and that lines are left out, and in the end how many
    assert way.tally.refused == 300


async def test_a_changed_policy_cuts_off_what_it_forbids_and_nothing_else(way: Way) -> None:
    async with serving(echo) as port, way.opened() as door:
        kept, kept_writer = await way.tunnel(port, "good.test")
        cut, _ = await way.tunnel(port, "evil.test")
        way.policy = policy_of("allow-list", "good.test", ports=(port,))
        door.enforce()
        assert await cut.read() == b""
        kept_writer.write(b"still here")
        assert await kept.readexactly(10) == b"still here"


TOLD = told(EgressSettings(mode="open", ports=EVERYTHING))


async def test_doors_follow_the_mode(tmp_path: Path) -> None:
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        run.mkdir()
    egress = Egress(Dialer(lambda host: ["127.0.0.1"], lambda address: True))
    await egress.open("a", runs[0])
    assert not (runs[0] / "proxy.sock").exists()  # none: there is nothing that could be attacked
    await egress.configure(TOLD)
    await egress.open("b", runs[1])
    async with serving(echo) as port:
        ways = [Way(run) for run in runs]
        for way in ways:
            await way.tunnel(port)
        assert egress.state() == {
            "mode": "open", "connections": 2, "allowed": 2, "refused": 0, "failed": 0, "sent": 0, "received": 0,
        }  # fmt: skip
        await egress.configure(None)
        await until(lambda: egress.state()["connections"] == 0)
        assert b"FLOW_EGRESS=none" in await ways[0].ask("CONNECT peer.test:443 HTTP/1.1\r\n\r\n")
    await egress.close("a")
    with pytest.raises(ConnectionRefusedError):
        await ways[0].connect()
    for way in ways:
        await way.aclose()
    await egress.aclose()


async def test_a_removed_socket_is_made_anew(tmp_path: Path) -> None:
    egress = Egress(Dialer(lambda host: [], lambda address: True))
    await egress.configure(TOLD)
    await egress.open("w", tmp_path)
    (tmp_path / "proxy.sock").unlink()
    (tmp_path / "proxy.sock").write_text("planted")
    await egress.open("w", tmp_path)
    _, writer = await asyncio.open_unix_connection(tmp_path / "proxy.sock")
    writer.close()
    await writer.wait_closed()
    await egress.aclose()


async def test_connections_end_in_their_own_time_when_another_takes_over(way: Way) -> None:
    async with serving(echo) as port, way.opened() as door:
        reader, writer = await way.tunnel(port)
        finishing = asyncio.create_task(door.finish(30))
        await until(lambda: door._listener is None)
        writer.write(b"go on")
        assert await reader.readexactly(5) == b"go on"
        writer.close()
        await finishing


async def test_a_slow_lookup_holds_up_nobody_else(way: Way) -> None:
    go_on = threading.Event()

    def slow(host: str) -> list[str]:
        if host == "slow.test":
            go_on.wait(30)
        return ["127.0.0.1"]

    way.dialer.close()
    way.dialer = Dialer(slow, lambda address: True)
    async with serving(echo) as port, way.opened():
        _, writer = await way.connect()
        writer.write(b"CONNECT slow.test:443 HTTP/1.1\r\n\r\n")
        await way.tunnel(port)
        go_on.set()


async def test_dead_name_servers_of_many_worklets_hold_up_nobodys_first_lookup(way: Way) -> None:
    go_on = threading.Event()

    def dead(host: str) -> list[str]:
        if host == "dead.test":
            go_on.wait(60)
        return ["127.0.0.1"]

    dialer = Dialer(dead, lambda address: True)
    crowd = [Lookups() for _ in range(20)]
    waiting = [
        asyncio.create_task(dialer.dial("dead.test", 1, lookups)) for lookups in crowd for _ in range(LOOKUPS_OF_ONE)
    ]
    try:
        await until(lambda: all(lookups.places.locked() for lookups in crowd))
        async with serving(echo) as port:
            _, writer = await asyncio.wait_for(dialer.dial("peer.test", port, Lookups()), 30)
            writer.close()
            await writer.wait_closed()
    finally:
        go_on.set()
        await asyncio.gather(*waiting, return_exceptions=True)
        dialer.close()


async def test_of_a_flood_of_addresses_a_few_are_looked_at(way: Way) -> None:
    """Looking is a system call each, on the loop that carries the model's streams."""
    way.names["many.test"] = [["127.0.0.66"] * 4000]
    way.names["good.test"] = [[f"127.0.1.{number}" for number in range(200)]]
    async with way.opened():
        assert b"403" in await way.ask("CONNECT many.test:443 HTTP/1.1\r\n\r\n")
        assert len(way.checked) <= 32
        way.checked.clear()
        await way.ask("CONNECT good.test:1 HTTP/1.1\r\n\r\n")
        assert len(way.checked) == 6


async def test_a_network_that_is_denied_now_is_cut_off(way: Way) -> None:
    way.names["other.test"] = [["127.0.0.2"]]
    async with serving(echo) as port, way.opened() as door:
        reader, _ = await way.tunnel(port)
        way.policy = policy_of("open", deny_networks="127.0.0.0/31")
        door.enforce()
        assert await asyncio.wait_for(reader.read(), 30) == b""


async def test_refusals_do_not_crowd_out_what_went_out(way: Way) -> None:
    way.policy = policy_of("open", deny="evil.test")
    with capture_logs() as lines:
        async with serving(echo) as port, way.opened() as door:
            for _ in range(250):
                await way.ask("CONNECT evil.test:443 HTTP/1.1\r\n\r\n")
            _, writer = await way.tunnel(port)
            writer.close()
            await until(lambda: door.connections == 0)
    events = [line["event"] for line in lines]
    assert events.count("egress refused") == 240
    assert events[-3:] == ["egress allowed", "egress ended", "egress that was not logged"]
    assert (lines[-1]["went_out"], lines[-1]["refused_or_failed"]) == (0, 10)
