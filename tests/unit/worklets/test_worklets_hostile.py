"""What an agent can do from inside its run directory must not hang, crash or fill Flow."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from relay_process import forged_relay
from waiting import until

from worklets import rundir, sockets
from worklets.agent import Agent, read_tail
from worklets.errors import AgentGone
from worklets.events import AgentExited
from worklets.monitor import Gauge, Monitor
from worklets.relay.journal import Budget, Journal, records
from worklets.relay.proof import Sealed
from worklets.runtime import WorkletSpec

WELCOME = {"type": "welcome", "epoch": "e1", "first": 1, "last": 0, "state": "running", "pending": [], "init": None}
Talk = Callable[[Sealed], Awaitable[None]]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    (directory / "journal").mkdir(parents=True)
    return directory


async def _attach(run_dir: Path) -> Agent:
    return await Agent.attach(run_dir, "t", None, 1, worklet_id="c1", timeout=60)


async def _events(agent: Agent) -> AsyncIterator[Any]:
    async for batch in agent.events():
        yield batch


@pytest.mark.parametrize("frame", [b"no number\n{}\n", "not json", '{"type": "unheard of"}', "[]"])
async def test_a_forged_relay_that_talks_nonsense_ends_the_agent(run_dir: Path, frame: str | bytes) -> None:
    async def talk(ws: Sealed) -> None:
        await ws.recv()
        await ws.send(json.dumps(WELCOME))
        await ws.send(frame)
        await ws.send(json.dumps({"type": "refused", "why": "superseded"}))  # else it would be tried again

    async with forged_relay(run_dir / "relay.sock", talk, "t"):
        agent = await _attach(run_dir)
        async with asyncio.timeout(60):
            with pytest.raises(AgentGone):
                async for _ in _events(agent):
                    pass
        await agent.close()


async def test_a_listener_that_hangs_up_while_flow_reconnects_does_not_leave_the_turn_waiting(run_dir: Path) -> None:
    async def drop(ws: Sealed) -> None:
        await ws.recv()
        await ws.send(json.dumps(WELCOME))
        ws.abort()

    hung_up = asyncio.Event()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        hung_up.set()

    path = run_dir / "relay.sock"
    async with forged_relay(path, drop, "t"):
        agent = await _attach(run_dir)
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(hang_up, str(path))
    async with asyncio.timeout(60):
        await hung_up.wait()
        server.close()
        path.unlink(missing_ok=True)
        with pytest.raises(AgentGone):
            async for _ in _events(agent):
                pass
    await agent.close()


AA = "a" * 16
GOOD = b'o 1 {"type":"assistant","message":{"id":"m","model":"x","content":[{"type":"text","text":"said"}]}}\n'


def test_a_journal_of_a_terabyte_costs_no_memory(run_dir: Path) -> None:
    (run_dir / f"journal/{AA}-000000000001.log").write_bytes(GOOD)
    os.truncate(run_dir / f"journal/{AA}-000000000001.log", 1 << 40)
    batches = read_tail(run_dir, None).batches
    assert [str(events) for _, events in batches] == ["[Text(text='said')]"]


def test_journals_of_many_processes_share_one_budget(run_dir: Path) -> None:
    """Eight that fill it each; and more that no relay can have written."""
    names = [f"{number:016x}-000000000001.log" for number in range(40)]
    for name in [*names, "zz-000000000001.log", f"{AA}-1.log"]:
        (run_dir / "journal" / name).write_bytes(GOOD)
    batches = read_tail(run_dir, None).batches
    assert [position.epoch for position, _ in batches] == [name[:16] for name in names[-8:]]
    os.truncate(run_dir / "journal" / names[-8], 1 << 40)
    assert len(read_tail(run_dir, None).batches) == 1, "the first has used it up"


def test_short_records_cost_what_they_take_in_memory(run_dir: Path) -> None:
    (run_dir / f"journal/{AA}-000000000001.log").write_bytes(b"o 1 {}\n" * 100)
    assert len(list(records(run_dir / "journal", AA, 0, Budget(2_630)))) == 10


def test_nonsense_in_a_dead_relays_journal_is_passed_over(run_dir: Path) -> None:
    nonsense = b'o 2 {"type":"assistant"}\no 3 {"type":["x"]}\nx 4 {"code":null,"stderr":"\\ud83d"}\n'
    (run_dir / f"journal/{AA}-000000000001.log").write_bytes(GOOD + nonsense)
    tail = read_tail(run_dir, None)
    assert [len(events) for _, events in tail.batches] == [1, 0, 0]
    assert tail.exited == AgentExited(-1, "\ufffd")


def test_a_number_with_thousands_of_digits_is_no_record(run_dir: Path) -> None:
    (run_dir / f"journal/{AA}-000000000001.log").write_bytes(b"o " + b"9" * 5000 + b" {}\n")
    assert read_tail(run_dir, None).batches == []


def test_a_journal_that_is_a_link_to_elsewhere_is_not_read(run_dir: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"{AA}-000000000001.log").write_bytes(b'o 1 {"type":"system"}\n')
    (run_dir / "journal").rmdir()
    (run_dir / "journal").symlink_to(elsewhere)
    assert read_tail(run_dir, None).batches == []


@pytest.mark.parametrize("name", ["spec.json", "relay.sock", "journal", "gateway.sock", "journal/a.log"])
@pytest.mark.parametrize("kind", ["directory", "link", "file"])
def test_nothing_that_the_agent_left_in_the_way_keeps_a_worklet_from_starting(
    tmp_path: Path, name: str, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").write_text("kept")
    run = rundir.prepare(tmp_path, "w", None)
    if kind == "directory":
        (run / name / "deep").mkdir(parents=True)
        (run / name / "deep" / "out").symlink_to(victim)
    elif kind == "link":
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).symlink_to(victim)
    else:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("in the way")
    for _ in range(2):  # what is put aside the first time is deleted the second
        rundir.write_spec(run, rundir.told(WorkletSpec("w", ("true",), "t"), cwd="/", home="/", env={}), agent=None)
        sockets.listen(run, "gateway.sock").close()
    assert json.loads((run / "spec.json").read_text())["command"] == ["true"]
    Journal(run / "journal", "new").close()
    assert sorted(path.name for path in run.iterdir()) == ["gateway.sock", "journal", "spec.json"]
    assert (victim / "kept").read_text() == "kept"


async def test_a_forged_relay_that_floods_figures_is_slowed_down(run_dir: Path) -> None:
    """They come on the loop that serves all: what one says is taken at a pace, and its own connection waits."""
    sent = 0

    async def talk(ws: Sealed) -> None:
        nonlocal sent
        await ws.recv()
        await ws.send(json.dumps(WELCOME))
        while True:
            await ws.send(json.dumps({"type": "stat", "cpu": 1, "memory": sent, "pids": 1, "pad": "x" * 10_000}))
            sent += 1

    monitor = Monitor()
    taken = 0

    class Counting(Gauge):
        def note(self, frame: Any) -> None:
            nonlocal taken
            taken += 1
            super().note(frame)

    async with forged_relay(run_dir / "relay.sock", talk, "t"):
        gauge = Counting(monitor, "w", time.monotonic)
        began = time.monotonic()
        agent = await Agent.attach(run_dir, "t", None, 1, timeout=60, gauge=gauge)
        await until(lambda: taken >= 4)
        assert taken <= 2 + (time.monotonic() - began) / 0.2
        assert sent < 10_000, "what is not taken is not kept either"
        await agent.close()
