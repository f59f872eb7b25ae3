"""Doors that several bots know of: what one grants, takes back or closes is not put back by another's old copy."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from waiting import until

from worklets.gatewayclient import GatewayClient
from worklets.gatewaycontrol import holder
from worklets.gatewaymodel import Credential
from worklets.identity import Identity

Bot = Callable[[], GatewayClient]


class Heard:
    """How often a bot was connected."""

    def __init__(self, client: GatewayClient) -> None:
        self.client, self.times = client, 0
        client.on("connected", self._hear)

    def _hear(self, _fields: dict[str, object]) -> None:
        self.times += 1

    async def again(self) -> None:
        """It loses its connection, and the process lives on."""
        before = self.times
        assert self.client._channel is not None
        await self.client._channel.aclose()
        await until(lambda: self.times > before, timeout=60)


@pytest.fixture
async def bot(tmp_path: Path) -> AsyncIterator[Bot]:
    async with AsyncExitStack() as stack:

        def made() -> GatewayClient:
            client = GatewayClient(
                tmp_path, Identity.load(tmp_path), "http://model.invalid", Credential(), environ=dict(os.environ)
            )
            stack.push_async_callback(client.aclose)
            return client

        yield made
    if pid := holder(tmp_path):
        os.kill(pid, signal.SIGKILL)
        await until(lambda: holder(tmp_path) is None)


def run_dir(tmp_path: Path, name: str) -> Path:
    path = tmp_path / "worklets" / name / "run"
    path.mkdir(parents=True, exist_ok=True)
    return path


async def test_who_connects_again_does_not_bring_back_what_another_took_away(bot: Bot, tmp_path: Path) -> None:
    one, other = bot(), bot()
    heard = Heard(other)
    for name in ("w", "x"):
        await one.open(name, run_dir(tmp_path, name), None, {"thing": 1})
    await other.open("v", run_dir(tmp_path, "v"), None, {"thing": 3})
    assert set(other.grants()) == {"v", "w", "x"}
    await one.open("w", run_dir(tmp_path, "w"), None, {"thing": 2})
    await one.close("x")
    await heard.again()
    now = {"w": {"thing": 2}, "v": {"thing": 3}}
    assert other.grants() == now
    third = bot()
    await third.open("u", run_dir(tmp_path, "u"))
    assert third.grants() == {**now, "u": {}}


async def test_what_a_session_may_is_said_by_whoever_runs_it_now(bot: Bot, tmp_path: Path) -> None:
    before, after = bot(), bot()
    heard = Heard(before)
    await before.open("w", run_dir(tmp_path, "w"), None, {"thing": 1})
    before.runs = lambda _name: False
    await after.open("w", run_dir(tmp_path, "w"), None, {"thing": 2})
    await heard.again()
    assert before.grants() == {"w": {"thing": 2}}
    await after.regrant("w", "other", 1)
    await after.regrant("unknown", "other", 1)
    third = bot()
    await third.open("u", run_dir(tmp_path, "u"))
    assert third.grants() == {"w": {"thing": 2, "other": 1}, "u": {}}


async def test_a_late_word_changes_nothing_that_was_said_since(bot: Bot, tmp_path: Path) -> None:
    late, now = bot(), bot()
    await now.open("w", run_dir(tmp_path, "w"), None, {"thing": 1, "other": 1})
    await late.open("v", run_dir(tmp_path, "v"))
    await now.open("w", run_dir(tmp_path, "w"), None, {"thing": 2, "other": 2})
    assert late.grants()["w"] == {"thing": 1, "other": 1}
    await late.regrant("w", "thing", 0, 1)
    await late.look()
    assert late.grants()["w"] == {"thing": 2, "other": 2}
    await late.regrant("w", "thing", 3, 2)
    await late.regrant("w", "another", 4)
    await late.look()
    assert late.grants()["w"] == {"thing": 3, "other": 2, "another": 4}


async def test_a_door_that_the_agent_took_away_is_as_it_was_when_the_next_bot_comes(bot: Bot, tmp_path: Path) -> None:
    before, after, there = bot(), bot(), run_dir(tmp_path, "w")
    await before.open("w", there, None, {"egress": {"within": [["example.org"]]}})
    await before.aclose()
    (there / "gateway.sock").unlink()
    await after.open("v", run_dir(tmp_path, "v"))
    await after.look()
    assert (there / "gateway.sock").is_socket()
    assert after.grants()["w"] == {"egress": {"within": [["example.org"]]}}


async def test_a_new_process_is_told_of_doors_that_nobody_has_taken_up_yet(bot: Bot, tmp_path: Path) -> None:
    one = bot()
    await one.open("w", run_dir(tmp_path, "w"), None, {"thing": 1})
    await one.aclose()
    other = bot()
    heard = Heard(other)
    await other.open("v", run_dir(tmp_path, "v"))
    pid = holder(tmp_path)
    assert pid is not None
    before = heard.times
    os.kill(pid, signal.SIGKILL)
    await until(lambda: heard.times > before, timeout=60)
    third = bot()
    await third.open("u", run_dir(tmp_path, "u"))
    assert third.grants() == {"w": {"thing": 1}, "v": {}, "u": {}}
