"""`flow worklets` against the socket of a Flow, with what hostile worklets may have said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from bot.cli import _parser
from config.errors import FlowError
from config.settings import Settings, load
from sessions.types import SessionId
from web.control import CONTROL_SOCKET, Control
from web.workletroutes import WorkletRoutes, ask_stderr, stream_rows
from worklets.errors import RuntimeUnavailable

STATS = {
    "cpu": 12.0, "memory": 200 << 20, "pids": 7, "memory_limit": 2 << 30, "pids_limit": None, "oom_kills": 1,
    "disk": None, "disk_limit": 10 << 30, "sent": 1024, "received": 1 << 20, "uptime": 90.0, "cpus": 0.254,
}  # fmt: skip
ROW = {
    "worklet": "w-1", "running": True, "session": "0123456789abcdef", "name": "build\x1b[2J it", "thread": "C1:1.2",
    "state": "working", "stats": STATS,
}  # fmt: skip
BARE = {**dict.fromkeys(ROW, None), "worklet": "w-2", "running": False}


class Flow:
    """What answers at the socket."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = [ROW, BARE]
        self.asked: list[bool] = []
        self.trouble: FlowError | None = None

    async def tell(self, fresh: bool) -> list[dict[str, Any]]:
        self.asked.append(fresh)
        if self.trouble is not None:
            raise self.trouble
        return self.rows

    async def stderr(self, session: str) -> str | None:
        return f"{session} failed" if session == "known" else None


async def _stop(_: SessionId) -> None: ...


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    for name, value in {"FLOW_SHARE_DIR": str(tmp_path / "data"), "FLOW_RUNTIME": "local"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "data").mkdir()
    return load()


@pytest.fixture
async def flow(settings: Settings) -> AsyncIterator[Flow]:
    made = Flow()
    control = Control(settings.share_dir, _stop, WorkletRoutes(made.tell, made.stderr))
    await control.start()
    yield made
    await control.aclose()


async def run(settings: Settings, *argv: str) -> int:
    args = _parser().parse_args(["worklets", *argv])
    code: int = await args.act(args, settings)
    return code


async def test_a_table_shows_what_they_use_and_obeys_no_name(
    flow: Flow, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(settings) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["session", "state", "cpu", "memory", "age", "thread", "name"]
    assert first.split() == ["01234567", "working", "25", "%", "200", "MiB", "1m30s", "C1:1.2", r"build\x1b[2J", "it"]
    assert second.split() == ["w-2", "ended", "-", "-", "-", "-", "-"]
    assert flow.asked == [False]
    await run(settings, "stats")
    assert "200 MiB of 2 GiB" in (out := capsys.readouterr().out)
    assert "1 MiB" in out
    assert flow.asked == [False, True]
    flow.rows = []
    await run(settings, "list")
    assert capsys.readouterr().out == "no worklets\n"


async def test_json_is_what_the_socket_says(flow: Flow, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    await run(settings, "stats", "--json")
    assert json.loads(capsys.readouterr().out) == [ROW, BARE]


async def test_watching_goes_on_until_flow_ends(
    flow: Flow, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The socket ends its streams at once: a stop of Flow waits for nobody who watches."""
    control = Control(settings.share_dir, _stop, WorkletRoutes(flow.tell, flow.stderr))
    await control.start()
    told = []
    async with aclosing(stream_rows(settings.share_dir / CONTROL_SOCKET, 60)) as stream:
        told.append(await anext(stream))
        async with asyncio.timeout(20):
            await control.aclose()
            told += [rows async for rows in stream]
    assert told == [[ROW, BARE]]
    with pytest.raises(FlowError, match="No Flow runs"):
        await run(settings, "stats", "--watch")


async def test_trouble_of_that_flow_is_a_sentence(flow: Flow, settings: Settings) -> None:
    flow.trouble = RuntimeUnavailable()
    with pytest.raises(FlowError, match="does not answer"):
        await run(settings, "stats")
    with pytest.raises(FlowError, match="does not answer"):
        await run(settings, "stats", "--watch")


async def test_stderr_is_of_one_session(flow: Flow, settings: Settings) -> None:
    socket = settings.share_dir / CONTROL_SOCKET
    assert await ask_stderr(socket, "known") == "known failed"
    assert await ask_stderr(socket, "unknown") is None
    assert await ask_stderr(settings.share_dir / "nobody.sock", "known") is None


async def test_without_a_flow_it_tells_at_least_which_run(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(settings, "list") == 0
    assert "no worklets" in capsys.readouterr().out
    with pytest.raises(FlowError, match="No Flow runs"):
        await run(settings, "stats")


@pytest.mark.parametrize("argv", [["logs"], ["logs", "x", "-n", "0"], ["stats", "--watch", "soon"], ["dance"]])
def test_wrong_usage_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _parser().parse_args(["worklets", *argv])
    assert ended.value.code == 2
