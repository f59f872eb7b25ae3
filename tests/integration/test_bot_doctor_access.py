"""What `flow doctor` says of who may use Flow, and of limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from slackdoor import MANIFEST

from bot.doctor import find
from bot.doctorfinding import Finding
from config.settings import load
from simulator.slack import SlackSimulator


@pytest.fixture
async def slack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlackSimulator]:
    monkeypatch.chdir(tmp_path)
    async with SlackSimulator(manifest=MANIFEST) as running:
        for name, value in {
            "SLACK_BOT_TOKEN": running.bot_token,
            "SLACK_APP_TOKEN": running.app_token,
            "SLACK_API_URL": running.api_url,
        }.items():
            monkeypatch.setenv(name, value)
        yield running


async def test_without_admins_nobody_is_named_in_a_refusal(slack: SlackSimulator) -> None:
    found = await find("access", load())
    assert found.state == "warn"
    assert found.text == "everybody, in all channels, no guests or other workspaces; no admin"
    assert "FLOW_ADMINS" in found.advice


async def test_groups_without_the_scope_are_found(slack: SlackSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_ADMINS", "U1")
    monkeypatch.setenv("FLOW_USERS", "U1,U2")
    monkeypatch.setenv("FLOW_EXTERNAL", "true")
    assert await find("access", load()) == Finding(
        "ok", "named people (2), in all channels, other workspaces too; admins: 1"
    )
    monkeypatch.setenv("FLOW_GROUPS", slack.add_usergroup("maya"))
    found = await find("access", load())
    assert found.state == "fail"
    assert "missing_scope" in found.text
    assert "usergroups:read" in found.advice


async def test_limits_need_somebody_who_may_raise_them(slack: SlackSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await find("limits", load())).state == "skip"
    monkeypatch.setenv("FLOW_LIMIT_DAY", "50")
    assert (await find("limits", load())).state == "warn"
    monkeypatch.setenv("FLOW_APPROVERS", "U1")
    assert await find("limits", load()) == Finding("ok", "1 set; who may allow more: 1")
