"""What is wrong with the engine is said once, and what builds on it is not looked at."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bot.doctor import doctor, find, find_all
from config.settings import load

ON_ENGINE = ("isolation", "worklet image", "base images", "networks")


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("FLOW_SHARE_DIR", str(tmp_path / "share"))
    monkeypatch.setenv("SLACK_BOT_ENABLED", "false")
    monkeypatch.setenv("FLOW_RUNTIME", "docker")
    for name in ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("unix:///nowhere/docker.sock", "No Docker engine answers"),
        ("tcp://127.0.0.1:9", "No Docker engine answers"),
        ("ssh://engine.test", "no engine that Flow speaks to"),
        ("tcp://engine.test:2376", "no certificates are set"),
    ],
)
async def test_an_engine_that_is_away_is_told_once(
    host: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    found = await find_all(load())
    assert [name for name, one in found.items() if words in one.text] == ["engine"]
    assert (found["engine"].state, bool(found["engine"].advice)) == ("fail", True)
    assert {found[name].state for name in ON_ENGINE} == {"skip"}
    assert found["disk"].text.endswith(f"free for {load().share_dir}")
    assert await find("isolation", load()) == found["isolation"]
    assert await doctor(load()) == 1
    printed = capsys.readouterr().out
    assert " ".join(printed.split()).count(words[:14]) == 1
    assert all(name in printed for name in found)


async def test_plain_processes_in_the_place_of_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setenv("FLOW_RUNTIME", "auto")
    found = await find_all(load())
    assert (found["engine"].state, "Worklets would be plain processes" in found["engine"].text) == ("warn", True)
    assert {found[name].text for name in ON_ENGINE} == {"not looked at before the engine is in order"}
    monkeypatch.setenv("FLOW_RUNTIME", "local")
    found = await find_all(load())
    assert found["engine"].state == "warn"
    assert found["isolation"].text == "the local runtime isolates nothing"


async def test_plain_processes_need_no_engine_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://engine.test")
    monkeypatch.setenv("FLOW_RUNTIME", "local")
    found = await find_all(load())
    assert not [name for name, one in found.items() if "ssh://" in one.text]


async def test_a_check_that_breaks_takes_no_other_line_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "share").write_text("a file where a directory is to be")
    assert await doctor(load()) == 1
    printed = capsys.readouterr().out
    found = await find_all(load())
    assert all(name in printed for name in found)
    broken = found["model gateway"]
    assert (broken.state, broken.text.partition(":")[0]) == ("fail", "NotADirectoryError")
    assert "bug of Flow's" in broken.advice
    assert found["git"].state != "fail"


async def test_a_line_that_builds_on_the_engine_takes_no_longer_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's own check is not waited for first: a home tab waits for the two."""
    both = asyncio.Event()
    connected: list[asyncio.StreamWriter] = []

    async def engine(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer)
        if len(connected) == 2:
            both.set()
        await both.wait()
        writer.close()

    async with await asyncio.start_server(engine, "127.0.0.1", 0) as server:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with asyncio.timeout(20):
            found = await find("worklet image", load())
    assert both.is_set()
    assert found.state == "skip"
