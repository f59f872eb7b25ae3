"""What the runtime's news of worklets lead to in log, thread and reaper, and what a flood of them does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs
from waiting import until

from bot.watching import Watching
from sessions.errors import StoreUnavailable
from worklets.monitor import Monitor
from worklets.news import News, Tell


class Parts:
    """The runtime, the sessions and the reaper, as far as news go."""

    def __init__(self) -> None:
        self.tell: Tell = lambda _: None
        self.ends: list[str] = []
        self.rings = 0
        self.down = False
        self.elsewhere: set[str] = set()  # sessions that another replica runs

    async def watch(self, tell: Tell) -> None:
        self.tell = tell
        await asyncio.Event().wait()

    def is_live(self, session_id: str) -> bool:
        return session_id not in self.elsewhere

    async def ring(self) -> None:
        self.rings += 1

    async def ended(self, worklet: str) -> None:
        self.ends.append(worklet)

    async def session_of(self, worklet: str) -> Any:
        if self.down:
            raise StoreUnavailable
        return SimpleNamespace(id=f"session of {worklet}") if worklet.startswith("w") else None


@pytest.fixture
async def parts() -> AsyncIterator[tuple[Parts, Monitor]]:
    made, monitor = Parts(), Monitor()
    async with Watching(made, monitor, made, made):  # type: ignore[arg-type] - what it needs of each is here
        await asyncio.sleep(0)
        yield made, monitor


async def test_memory_that_runs_out_is_counted_and_told_in_the_log(parts: tuple[Parts, Monitor]) -> None:
    made, monitor = parts
    with capture_logs() as logs:
        made.tell(News("oom", "w1"))
        made.tell(News("oom", "nobody's"))
        await until(lambda: len(logs) == 2)
    assert [(line["worklet"], line["session"]) for line in logs] == [("w1", "session of w1"), ("nobody's", None)]
    assert monitor.ends == {"oom": 2}
    assert made.ends == []


async def test_a_worklet_that_eats_memory_again_and_again_is_counted_and_logged_once(
    parts: tuple[Parts, Monitor],
) -> None:
    made, monitor = parts
    with capture_logs() as logs:
        for _ in range(50):
            made.tell(News("oom", "w1"))
            await asyncio.sleep(0)
        made.tell(News("missed"))
        await until(lambda: made.rings)
    assert monitor.ends["oom"] == 50
    assert len([line for line in logs if "memory ran out" in line["event"]]) == 1


async def test_an_end_that_flow_makes_is_no_news(parts: tuple[Parts, Monitor]) -> None:
    made, monitor = parts
    monitor.expect_end("w1")
    with capture_logs() as logs:
        made.tell(News("exit", "w1", 137))
        made.tell(News("exit", "w2", 1))
        await until(lambda: made.ends)
    assert made.ends == ["w2"]
    assert [(line["worklet"], line["code"]) for line in logs] == [("w2", 1)]
    assert monitor.ends == {"exit": 1}
    made.tell(News("exit", "w1", 137))
    await until(lambda: made.ends == ["w2", "w1"])


async def test_an_end_in_another_replica_or_of_nobodys_worklet_is_no_alarm_here(parts: tuple[Parts, Monitor]) -> None:
    made, monitor = parts
    made.elsewhere = {"session of w1"}
    with capture_logs() as logs:
        made.tell(News("exit", "w1", 137))
        made.tell(News("exit", "nobody's", 137))
        made.tell(News("exit", "w2", 1))
        await until(lambda: made.ends)
    assert made.ends == ["w2"]
    assert [line["worklet"] for line in logs] == ["w2"]
    assert monitor.ends == {"exit": 1}


async def test_a_database_that_is_away_ends_nothing(parts: tuple[Parts, Monitor]) -> None:
    made, _ = parts
    made.down = True
    made.tell(News("exit", "w1"))
    made.tell(News("missed"))
    await until(lambda: made.rings)
    made.down = False
    made.tell(News("exit", "w2"))
    await until(lambda: made.ends == ["w2"])


def test_ends_that_are_expected_and_never_heard_of_take_no_memory() -> None:
    now = [0.0]
    monitor = Monitor(lambda: now[0])
    for number in range(5_000):
        monitor.expect_end(f"w{number}")
    assert not monitor.was_expected("w0")
    assert monitor.was_expected("w4999")
    assert not monitor.was_expected("w4999"), "once"
    now[0] = 1_000.0
    assert not monitor.was_expected("w4998"), "that was another end"
