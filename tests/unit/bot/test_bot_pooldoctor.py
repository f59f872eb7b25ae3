"""What `flow doctor` says of the worklets that stand ready."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.pooldoctor import pool
from config.settings import Settings, load


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_POOL_SIZE", "2-8")
    return load()


def test_memory_for_all_of_them(settings: Settings) -> None:
    assert pool(settings, lambda: 16 << 30).state == "ok"
    assert pool(settings, lambda: None).state == "ok"
    short = pool(settings, lambda: 2 << 30)
    assert short.state == "warn"
    assert "2 to 8" in short.text
    assert "FLOW_POOL_SIZE" in short.advice


def test_without_a_pool(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_POOL_SIZE", "0")
    found = pool(load(), lambda: 0)
    assert (found.state, "FLOW_POOL_SIZE=0" in found.text) == ("ok", True)
