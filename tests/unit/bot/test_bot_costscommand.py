"""`flow costs`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import schema
import sqlalchemy as sa

from bot.costscommand import show_costs
from config.settings import Settings, load
from sessions.costs import costs, day_of
from sessions.db import open_database


@pytest.fixture
async def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    settings = load()
    await schema.migrated(settings.sessions.dsn)
    return settings


async def spend(settings: Settings, *rows: tuple[str, str, int, float | None]) -> None:
    """(person, channel, days ago, dollars): a hundred tokens each."""
    database = open_database(settings.sessions.dsn)
    now = datetime.now(UTC)
    try:
        async with database.transaction() as connection:
            for number, (user_id, channel, days, cost) in enumerate(rows):
                at = now - timedelta(days=days)
                values = {
                    "session_id": "s",
                    "epoch": "e",
                    "seq": number,
                    "part": 0,
                    "turn_id": f"t{number}",
                    "team": "T1",
                    "channel": channel,
                    "user_id": user_id,
                    "at": at,
                    "day": day_of(at),
                    "input_tokens": 90,
                    "output_tokens": 10,
                    "cache_read_tokens": 0,
                    "cache_write_tokens": 0,
                    "cost": cost,
                    "final": True,
                }
                await connection.execute(sa.insert(costs).values(values))
    finally:
        await database.close()


async def test_a_table_by_person_channel_and_day(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    await spend(settings, ("U1", "C1", 0, 1.5), ("U2", "C1", 1, 4.0), ("U2", "C2", 40, 9.0), ("U3", "C2", 0, None))
    assert await show_costs(settings, by="person", days=30, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["person", "U2", "U1", "U3", "all"]
    assert "$4.00" in lines[1]
    assert "100 tokens of unknown price" in lines[3]
    assert "$0" not in lines[3]
    assert "$5.50 and 100 tokens of unknown price" in lines[4]
    await show_costs(settings, by="channel", days=100, as_json=False)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["channel", "C2", "C1", "all"]
    await show_costs(settings, by="day", days=100, as_json=False)
    assert len(capsys.readouterr().out.splitlines()) == 5


async def test_json_for_programs(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    await spend(settings, ("U1", "C1", 0, 1.5), ("U1", "C1", 0, None))
    await show_costs(settings, by="person", days=1, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["by"] == "person"
    assert told["rows"][0] | {"turns": 2, "cost": 1.5, "unpriced": 100} == told["rows"][0]
    assert told["total"]["input_tokens"] == 180


async def test_nothing_spent(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    await show_costs(settings, by="day", days=2, as_json=False)
    assert capsys.readouterr().out.startswith("nothing was spent from ")
