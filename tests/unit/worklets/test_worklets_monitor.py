"""What worklets use, from a real relay to whoever asks; and what a hostile one may say."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from relay_process import TOKEN, running_relay
from waiting import until

from worklets.agent import Agent
from worklets.monitor import Monitor
from worklets.stats import Stats, stderr_of

FRAME = {"cpu": 1.5, "memory": 1000, "pids": 3, "memory_limit": 2000, "sent": 7, "received": 9, "oom_kills": 0}


async def test_a_relay_tells_by_itself_and_when_asked(tmp_path: Path) -> None:
    monitor = Monitor()
    async with running_relay(tmp_path):
        agent = await Agent.attach(tmp_path / "run", TOKEN, None, 1, gauge=monitor.gauge("alpha"))
        await until(monitor.readings, what="a reading that nobody asked for")
        await agent.send("1", "count 10 10")
        first = monitor.readings()["alpha"]
        second = (await monitor.fresh(10))["alpha"]
        assert second.at > first.at
        assert second.stats.cpu >= first.stats.cpu > 0
        assert second.stats.memory > 0
        assert second.cpus is not None
        await agent.close()
    assert monitor.readings() == {}, "nothing is kept of a worklet that nobody is connected to"


async def test_the_last_of_stderr_comes_along(tmp_path: Path) -> None:
    monitor, script = (
        Monitor(),
        "import sys; print('x' * 9000 + 'the end', file=sys.stderr, flush=True); sys.stdin.read()",
    )
    async with running_relay(tmp_path, ["python3", "-c", script]):
        agent = await Agent.attach(tmp_path / "run", TOKEN, None, 1, gauge=monitor.gauge("alpha"))

        async def told() -> bool:
            readings = await monitor.fresh(10)
            return readings["alpha"].stderr.rstrip().endswith("the end")

        await until(told)
        assert len(monitor.readings()["alpha"].stderr) <= 4000
        await agent.close()


async def test_what_the_forwarder_carries_is_counted(tmp_path: Path) -> None:
    """To a gateway that nobody is: the request reaches the socket, the answer the client."""
    monitor = Monitor()
    run = tmp_path / "run"
    run.mkdir()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"y" * 5000)
        await writer.drain()
        writer.close()

    gateway = await asyncio.start_unix_server(answer, run / "gateway.sock")
    async with gateway, running_relay(tmp_path):
        agent = await Agent.attach(run, TOKEN, None, 1, gauge=monitor.gauge("alpha"))
        port = await _port(agent)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x" * 99 + b"\n")
        assert len(await reader.read(-1)) == 5000
        writer.close()

        async def counted() -> bool:
            stats = (await monitor.fresh(10))["alpha"].stats
            return (stats.sent, stats.received) == (100, 5000)

        await until(counted)
        await agent.close()


async def _port(agent: Agent) -> int:
    """Where the worklet's programs find the gateway."""
    await agent.send("1", "env")
    async for _, content in agent._link.lines():
        assert isinstance(content, bytes)
        message = json.loads(content)
        if message.get("type") == "env":
            return int(message["env"]["ANTHROPIC_BASE_URL"].rpartition(":")[2])
    raise AssertionError


async def test_a_relay_of_before_is_not_asked(tmp_path: Path) -> None:
    """It would close the connection on a frame that it does not know."""
    monitor = Monitor()
    async with running_relay(tmp_path):
        agent = await Agent.attach(tmp_path / "run", TOKEN, None, 1, gauge=monitor.gauge("alpha"))
        agent._link._has_stats = False
        agent._link.ask_stat()
        assert not [task for task in agent._link._tasks if task.get_coro().__qualname__.endswith("_send")]  # type: ignore[union-attr]
        await agent.close()


def test_an_older_connections_end_leaves_the_newer_ones_figures() -> None:
    monitor = Monitor(lambda: 1.0)
    older, newer = monitor.gauge("alpha"), monitor.gauge("alpha")
    newer.note(FRAME)
    older.leave()
    assert monitor.readings()["alpha"].stats.memory == 1000
    newer.leave()
    assert monitor.readings() == {}


def test_processors_are_the_growth_of_their_time() -> None:
    now = [0.0]
    monitor = Monitor(lambda: now[0])
    gauge = monitor.gauge("alpha")

    def tell(at: float, cpu: float) -> float | None:
        now[0] = at
        gauge.note(FRAME | {"cpu": cpu})
        return monitor.readings()["alpha"].cpus

    assert tell(0, 1) is None
    assert tell(10, 6) == 0.5
    assert tell(10.1, 6) == 0.5, "too short a time to say"
    assert tell(20, 0) == 0, "a relay that starts anew, or lies"


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"cpu": "1", "memory": 1, "pids": 1},
        {"cpu": math.nan, "memory": 1, "pids": 1},
        {"cpu": math.inf, "memory": 1, "pids": 1},
        {"cpu": -1, "memory": 1, "pids": 1},
        {"cpu": 1, "memory": 10**400, "pids": 1},
        {"cpu": True, "memory": 1, "pids": 1},
        {"cpu": 1, "memory": [1], "pids": 1},
    ],
)
def test_what_no_relay_says_is_no_reading(frame: dict[str, Any]) -> None:
    assert Stats.of(frame) is None


def test_odd_figures_beside_good_ones_are_left_out() -> None:
    odd = Stats.of(FRAME | {"disk": "much", "sent": -5, "memory_limit": math.nan, "pids": None, "oom_kills": 2.7})
    assert odd == Stats(1.5, 1000, 0, received=9, oom_kills=2)
    assert stderr_of({"stderr": "x" * 5000 + "\ud800"}) == "x" * 3999 + "?"
    assert stderr_of({"stderr": 5}) == ""


async def test_who_does_not_answer_keeps_what_it_told_before() -> None:
    monitor = Monitor()
    silent, gone = monitor.gauge("silent"), monitor.gauge("gone")
    silent.note(FRAME)
    gone.note(FRAME)
    gone.ask = gone.leave
    assert set(await monitor.fresh(0.05)) == {"silent"}


def test_starts_are_counted_with_their_time() -> None:
    now = [0.0]
    monitor = Monitor(lambda: now[0])
    with monitor.timed("wake"):
        assert monitor.starting == 1
        now[0] = 0.3
    with pytest.raises(OSError, match="no"), monitor.timed("start"):
        raise OSError("no")
    assert monitor.starting == 0
    assert monitor.starts["wake"].counts[2] == 1
    assert monitor.starts["wake"].total == 0.3
    assert monitor.failures == {"start": 1}
