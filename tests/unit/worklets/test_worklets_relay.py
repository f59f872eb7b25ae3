"""The relay as a real process: nothing lost, nothing twice, one owner, an exit that is kept."""

import asyncio
import ctypes
import json
import os
import random
import resource
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from relay_process import TOKEN, order, running_relay
from waiting import until
from websockets.asyncio.client import unix_connect
from websockets.exceptions import InvalidStatus

from worklets.errors import AgentGone
from worklets.events import Position
from worklets.link import Exit, Refused, RelayLink
from worklets.relay.forward import forward
from worklets.relay.journal import Journal, records
from worklets.relay.proof import NONCE, new_nonce
from worklets.relay.relay import hide
from worklets.relaydial import Unproven, dial


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    async with running_relay(tmp_path) as process:
        yield process


@pytest.fixture
async def links() -> AsyncIterator[list[RelayLink]]:
    made: list[RelayLink] = []
    yield made
    for link in made:
        await link.close()


async def connect(
    links: list[RelayLink], root: Path, position: Position | None = None, fence: int = 1, token: str = TOKEN
) -> RelayLink:
    link = RelayLink(root / "run", token, position, fence, notice=lambda _: None, rng=random.Random(1))
    links.append(link)
    await link.open(60)
    return link


async def next_line(link: RelayLink) -> dict[str, Any]:
    async for _, content in link.lines():
        assert isinstance(content, bytes)
        line: dict[str, Any] = json.loads(content)
        return line
    raise AssertionError("the link has ended")


def say(line: dict[str, Any]) -> dict[str, Any]:
    return order(f"say {json.dumps(line)}")


async def test_every_line_arrives_once_and_in_order_however_often_the_connection_breaks(
    relay: asyncio.subprocess.Process, tmp_path: Path, links: list[RelayLink]
) -> None:
    lines, inputs, cuts = 30_000, 300, 0
    rng = random.Random(7)
    numbers: list[int] = []
    echoes: list[int] = []
    position: Position | None = None
    link = await connect(links, tmp_path)
    await link.put("start", order(f"count {lines} 600"))

    async def write() -> None:
        for i in range(inputs):
            while True:
                try:
                    await link.put(f"in-{i}", {"type": "x", "n": i})
                    break
                except AgentGone:  # this app died before it knew: its successor sends the same again
                    await asyncio.sleep(0.002)

    async def read_for_a_while() -> None:
        nonlocal position
        async for number, content in link.lines():
            assert position is None or number == position.seq + 1
            position = Position(link.epoch, number)
            assert isinstance(content, bytes)
            line = json.loads(content)
            (numbers if line["type"] == "number" else echoes).append(line.get("n") or line["line"]["n"])
            if len(numbers) == lines and len(echoes) == inputs:
                return

    writer = asyncio.create_task(write())
    while len(numbers) < lines or len(echoes) < inputs:
        reader = asyncio.create_task(read_for_a_while())
        while not reader.done() and (cuts < 6 or rng.random() < 0.7):
            await asyncio.wait({reader}, timeout=rng.uniform(0.005, 0.04))
            if link._ws is not None:
                link._ws.abort()
                cuts += 1
        if not reader.done() and rng.random() < 0.5:  # the app itself dies; a new one goes on from what was stored
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            if position is not None:
                link.ack(position.seq)
            # The old one lives for a moment longer; its lower fence keeps it from coming back.
            old, link = link, await connect(links, tmp_path, position, fence=len(links) + 1)
            await old.close()
        else:
            await reader
    await writer
    assert numbers == list(range(1, lines + 1))
    assert [e for e in echoes if e] == list(range(1, inputs))  # 0 is taken for "no number" above
    assert len(echoes) == inputs
    assert cuts > 5


async def test_a_wrong_token_is_refused(relay: asyncio.subprocess.Process, tmp_path: Path, links: list[Any]) -> None:
    await connect(links, tmp_path)
    with pytest.raises(Unproven):
        await connect(links, tmp_path, token="wrong")


async def test_a_browsers_page_is_refused(relay: asyncio.subprocess.Process, tmp_path: Path, links: list[Any]) -> None:
    await connect(links, tmp_path)
    headers = {NONCE: new_nonce(), "Origin": "http://localhost"}
    with pytest.raises(InvalidStatus) as refused:
        await unix_connect(str(tmp_path / "run" / "relay.sock"), "ws://relay/", additional_headers=headers)
    assert refused.value.response.status_code == 403


async def test_the_newest_owner_wins_unless_its_fence_is_lower(
    relay: asyncio.subprocess.Process, tmp_path: Path, links: list[RelayLink]
) -> None:
    first = await connect(links, tmp_path, fence=5)
    second = await connect(links, tmp_path, fence=6)
    with pytest.raises(Refused):
        await next_line(first)
    with pytest.raises(Refused):
        await connect(links, tmp_path, fence=5)
    await second.put("a", {"type": "x"})
    assert (await next_line(second))["line"] == {"type": "x"}


async def test_an_input_is_applied_once_for_its_id(
    relay: asyncio.subprocess.Process, tmp_path: Path, links: list[RelayLink]
) -> None:
    link = await connect(links, tmp_path)
    for n in (1, 2):
        await link.put("same", {"type": "x", "n": n})
    await link.put("other", {"type": "x", "n": 3})
    assert [(await next_line(link))["line"]["n"] for _ in range(2)] == [1, 3]


@pytest.mark.parametrize("line", [{"no": "type"}, {"type": "user"}, {"type": "user", "message": {}}])
async def test_a_line_that_would_end_the_cli_is_not_written(
    relay: asyncio.subprocess.Process, tmp_path: Path, links: list[RelayLink], line: dict[str, Any]
) -> None:
    link = await connect(links, tmp_path)
    with pytest.raises(AgentGone, match="line"):
        await link.put("bad", line)
    await link.put("good", {"type": "x"})
    assert (await next_line(link))["type"] == "echo"


async def test_lines_of_many_megabytes_pass(
    relay: asyncio.subprocess.Process, tmp_path: Path, links: list[RelayLink]
) -> None:
    link = await connect(links, tmp_path)
    await link.put("a", order(f"big {6 << 20}"))
    assert len((await next_line(link))["pad"]) == 6 << 20


async def test_the_child_gets_its_environment_and_the_relay_leaves_no_secret(
    relay: asyncio.subprocess.Process, tmp_path: Path, links: list[RelayLink]
) -> None:
    link = await connect(links, tmp_path)
    await link.put("a", order("env"))
    said = await next_line(link)
    assert said["env"]["GREETING"] == "hello"
    assert said["env"]["HOME"] == str(tmp_path / "work" / "home")
    assert said["env"]["ANTHROPIC_BASE_URL"].startswith("http://127.0.0.1:")
    assert said["cwd"] == str(tmp_path / "work" / "workspace")
    assert TOKEN not in json.dumps(said)
    assert not (tmp_path / "run" / "spec.json").exists()


async def test_the_exit_is_kept_until_it_is_acknowledged(
    relay: asyncio.subprocess.Process, tmp_path: Path, links: list[RelayLink]
) -> None:
    link = await connect(links, tmp_path)
    await link.put("a", {"type": "x"})
    await link.put("b", order("exit 3"))
    await until(lambda: any(kind == "x" for kind, _, _ in records(tmp_path / "run" / "journal", link.epoch, 0)))
    await link.close()
    again = await connect(links, tmp_path)
    said = [content async for _, content in again.lines()]
    assert said[-1] == Exit(3, "last words\n")
    assert len(said) == 2
    assert relay.returncode is None
    again.ack(2)
    await asyncio.wait_for(relay.wait(), 60)
    assert not (tmp_path / "run" / "relay.sock").exists()


async def test_an_input_that_comes_after_the_end_waits_for_nothing(
    relay: asyncio.subprocess.Process, tmp_path: Path, links: list[RelayLink]
) -> None:
    """As a press on Allow in the moment in which the worklet ends, which nobody has read of yet."""
    link = await connect(links, tmp_path)
    await link.put("a", order("exit 3"))
    await until(lambda: link._exited)
    link.ack(link.held + 1)
    await asyncio.wait_for(relay.wait(), 30)
    await until(lambda: link._ws is None)
    async with asyncio.timeout(30):
        with pytest.raises(AgentGone):
            await link.put("b", {"type": "x"})
    said = [content async for _, content in link.lines()]
    assert said[-1] == Exit(3, "last words\n")


async def test_sigterm_ends_a_stubborn_child_and_records_it(
    relay: asyncio.subprocess.Process, tmp_path: Path, links: list[RelayLink]
) -> None:
    link = await connect(links, tmp_path)
    await link.put("a", order("stubborn"))
    await next_line(link)
    relay.terminate()
    said = [content async for _, content in link.lines()]
    assert said == [Exit(-signal.SIGKILL, "")]
    await asyncio.wait_for(relay.wait(), 60)


async def test_a_command_that_does_not_exist_is_an_exit(tmp_path: Path, links: list[RelayLink]) -> None:
    async with running_relay(tmp_path, ["no-such-program"]):
        link = await connect(links, tmp_path)
        (said,) = [content async for _, content in link.lines()]
    assert isinstance(said, Exit)
    assert said.code == 127
    assert "no-such-program could not be started" in said.stderr


async def test_unanswered_requests_of_the_cli_are_told_at_the_next_welcome(
    relay: asyncio.subprocess.Process, tmp_path: Path, links: list[RelayLink]
) -> None:
    link = await connect(links, tmp_path)
    await link.put("a", order("ask r1"))
    await link.put("b", order("ask r2"))
    for _ in range(2):
        await next_line(link)
    await link.put("c", {"type": "control_response", "response": {"request_id": "r1"}})
    await link.close()
    again = await dial(tmp_path / "run", TOKEN)
    await again.send(json.dumps({"type": "hello", "seq": 2, "epoch": link.epoch, "fence": 1}))
    welcome = json.loads(await again.recv())
    await again.close()
    assert [request["request_id"] for request in welcome["pending"]] == ["r2"]


@pytest.mark.parametrize(("hidden", "seen"), [(True, b"refused"), (False, b"open")])
def test_no_other_process_of_the_same_user_can_look_into_the_relay(hidden: bool, seen: bytes) -> None:
    out, into = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)  # root may look into everything
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # a change of user hides a process too: undo that
            if hidden:
                hide()
            if os.fork() == 0:
                try:
                    os.listdir(f"/proc/{os.getppid()}/fd")
                    os.write(into, b"open")
                except PermissionError:
                    os.write(into, b"refused")
                os._exit(0)
            os.wait()
        finally:
            os._exit(0)
    os.close(into)
    os.waitpid(pid, 0)
    with os.fdopen(out, "rb") as answer:
        assert answer.read() == seen


# The journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path, "e1", segment_bytes=100)
    yield journal
    journal.close()


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.log"))


def test_acknowledged_segments_are_deleted(journal: Journal, tmp_path: Path) -> None:
    for i in range(1, 10):
        assert journal.append([b"%030d" % i]) == i
    assert files(tmp_path) == ["e1-000000000001.log", "e1-000000000004.log", "e1-000000000007.log"]
    journal.ack(5)
    assert files(tmp_path) == ["e1-000000000004.log", "e1-000000000007.log"]
    assert (journal.first, journal.last) == (4, 9)
    assert journal.read(3) == []
    assert journal.read(5) == [b"%030d" % 5, b"%030d" % 6]


def test_reading_is_limited_in_bytes_but_gives_at_least_one_line(journal: Journal) -> None:
    journal.append([b"a" * 50, b"b" * 50, b"c"])
    assert journal.read(1, max_bytes=10) == [b"a" * 50]
    assert journal.read(2, max_lines=1) == [b"b" * 50]


def test_inputs_have_no_number(journal: Journal, tmp_path: Path) -> None:
    journal.append([b"{}"])
    journal.note_input("id-1", b'{"type":"x"}')
    journal.append([b'{"code":0}'], b"x")
    assert list(records(tmp_path, "e1", 0)) == [("o", 1, b"{}"), ("x", 2, b'{"code":0}')]
    assert list(records(tmp_path, "e1", 1)) == [("x", 2, b'{"code":0}')]
    assert journal.read(1) == [b"{}", b'{"code":0}']


def test_a_torn_last_line_and_a_forged_one_are_passed_over(journal: Journal, tmp_path: Path) -> None:
    journal.append([b"{}"])
    with (tmp_path / files(tmp_path)[0]).open("ab") as file:
        file.write(b'o nonsense\nz 3 {}\no 2 {"half"')
    assert list(records(tmp_path, "e1", 0)) == [("o", 1, b"{}")]


def test_a_symbolic_link_in_the_journal_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "e1-000000000001.log").symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="symbolic"):
        list(records(tmp_path, "e1", 0))


def test_a_full_disk_leaves_no_half_record(journal: Journal, tmp_path: Path) -> None:
    journal.append([b"first"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(OSError, match="large"):
            journal.append([b"x" * 40])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert journal.append([b"second"]) == 2
    assert [content for _, _, content in records(tmp_path, "e1", 0)] == [b"first", b"second"]


def test_a_new_process_starts_with_an_empty_journal(tmp_path: Path) -> None:
    (tmp_path / "old-000000000001.log").write_bytes(b"o 1 {}\n")
    Journal(tmp_path, "new").close()
    assert files(tmp_path) == ["new-000000000001.log"]


# The forwarder


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[int]:
    """The port of a forwarder to `tmp_path/gateway.sock`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(forward(listener, str(tmp_path / "gateway.sock"), patience=20))
        yield listener.getsockname()[1]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"answer to " + await reader.readline())
    await writer.drain()
    writer.close()


async def test_a_request_waits_for_a_gateway_that_is_away(door: int, tmp_path: Path) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door)
    writer.write(b"hello\n")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.2)
    async with await asyncio.start_unix_server(answer, tmp_path / "gateway.sock"):
        assert await asyncio.wait_for(reader.read(), 60) == b"answer to hello\n"
    writer.close()


async def test_what_a_client_gave_up_while_the_gateway_was_away_is_not_sent_later(door: int, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    client = socket.create_connection(("127.0.0.1", door))
    client.sendall(b"hello\n")
    with socket.socket(socket.AF_UNIX) as gateway:
        # It leaves, and the gateway listens again, between two looks of the forwarder.
        client.close()
        gateway.bind(str(tmp_path / "gateway.sock"))
        gateway.listen()
        gateway.setblocking(False)
        carried, _ = await asyncio.wait_for(loop.sock_accept(gateway), 60)
        with carried:
            assert await asyncio.wait_for(loop.sock_recv(carried, 100), 60) == b""


async def test_a_broken_gateway_breaks_the_connection(door: int, tmp_path: Path) -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with await asyncio.start_unix_server(hang_up, tmp_path / "gateway.sock"):
        reader, writer = await asyncio.open_connection("127.0.0.1", door)
        writer.write(b"hello\n")
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()


async def test_a_relay_that_stands_still_can_be_let_go_of(
    relay: asyncio.subprocess.Process, tmp_path: Path, links: list[RelayLink]
) -> None:
    link = await connect(links, tmp_path)
    await link.put("said", say({"type": "x"}))
    async for number, _ in link.lines():
        link.ack(number)
        break
    os.kill(relay.pid, signal.SIGSTOP)
    try:
        lost = link.post("a picture", order("x" * (16 << 20)))  # more than a socket holds
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await link.close()
        assert isinstance(lost.exception(), AgentGone)
    finally:
        os.kill(relay.pid, signal.SIGCONT)
