"""Who may: the rules, what is remembered, and what happens while Slack does not answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from slack_sdk.errors import SlackApiError

from bot.access import Access, Facts, Reason, Verdict
from bot.inbound import Identity
from config.settings import AccessSettings

ME = Identity("T1", "UBOT", "B1")
WELCOME = Verdict()


class Slack:
    """What Access asks of Slack; `error` is what it answers instead."""

    def __init__(self) -> None:
        self.users: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, list[str]] = {}
        self.error = ""
        self.asked: list[str] = []

    def _refuse(self, error: str) -> None:
        if error:
            raise SlackApiError(error, {"ok": False, "error": error})

    async def users_info(self, *, user: str) -> dict[str, Any]:
        self.asked.append(user)
        self._refuse(self.error)
        return {"user": {"id": user, "team_id": "T1", **self.users.get(user, {})}}

    async def usergroups_users_list(self, *, usergroup: str) -> dict[str, Any]:
        self.asked.append(usergroup)
        self._refuse(self.error or ("" if usergroup in self.groups else "no_such_subteam"))
        return {"users": self.groups[usergroup]}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def access(slack: Slack, clock: Clock | None = None, **settings: Any) -> Access:
    return Access(AccessSettings(**settings), slack, ME, clock=clock or Clock(), again=(0.01, 0.01))  # type: ignore[arg-type]


async def test_what_is_remembered_is_decided_without_waiting() -> None:
    slack, clock = Slack(), Clock()
    who = access(slack, clock)
    assert who.known("U1", "C1") is None
    assert await who.decide("U1", "C1") == WELCOME
    assert who.known("U1", "C2") == WELCOME
    await who.decide("U1", "C1")
    assert slack.asked == ["U1"]
    clock.now = 601
    assert who.known("U1", "C1") is None
    slack.users["U1"] = {"is_restricted": True}
    assert await who.decide("U1", "C1") == Verdict(Reason.GUEST)
    assert who.known("U1", "C1") == Verdict(Reason.GUEST)


async def test_for_a_press_the_answer_of_the_last_hour_will_do() -> None:
    slack, clock = Slack(), Clock()
    who = access(slack, clock)
    await who.decide("U1", "C1")
    clock.now = 3_599
    assert who.known("U1", "C1") is None
    assert who.known("U1", "C1", lately=True) == WELCOME
    clock.now = 3_600
    assert who.known("U1", "C1", lately=True) is None


@pytest.mark.parametrize(
    ("user", "settings", "reason"),
    [
        ({"is_restricted": True}, {}, Reason.GUEST),
        ({"is_restricted": True, "is_ultra_restricted": True}, {}, Reason.GUEST),
        ({"is_ultra_restricted": True}, {"guests": True}, None),
        ({"team_id": "T2"}, {}, Reason.EXTERNAL),
        ({"is_stranger": True}, {"guests": True}, Reason.EXTERNAL),
        ({"team_id": "T2"}, {"external": True}, None),
        ({"team_id": "T2", "enterprise_user": {"teams": ["T1", "T2"]}}, {}, None),
        ({"is_restricted": True}, {"users": ("U1",)}, None),
        ({"team_id": "T2"}, {"admins": ("U1",)}, None),
        ({}, {"users": ("U2",)}, Reason.PERSON),
        ({}, {"groups": ("S1",)}, None),
        ({}, {"groups": ("S2",)}, Reason.PERSON),
        ({}, {"users": ("U2",), "groups": ("S2", "S1")}, None),
        ({"is_restricted": True}, {"groups": ("S1",)}, Reason.GUEST),
        ({}, {"groups": ("S9",)}, Reason.PERSON),
        ({}, {"channels": ("C2",)}, Reason.CHANNEL),
        ({}, {"channels": ("C2",), "admins": ("U1",)}, Reason.CHANNEL),
        ({}, {"channels": ("C2", "C1")}, None),
    ],
)
async def test_the_rules(user: dict[str, Any], settings: dict[str, Any], reason: Reason | None) -> None:
    slack = Slack()
    slack.users["U1"] = user
    slack.groups |= {"S1": ["U1", "U3"], "S2": ["U3"]}
    assert await access(slack, **settings).decide("U1", "C1") == Verdict(reason)


async def test_direct_messages_need_no_channel_on_the_list() -> None:
    who = access(Slack(), channels=("C1",), guests=True, external=True)
    assert who.known("U1", "D1") == who.known("U1", None) == WELCOME
    assert who.known("U1", "C9") == Verdict(Reason.CHANNEL)


async def test_while_slack_is_down_the_last_answer_counts() -> None:
    slack, clock = Slack(), Clock()
    who = access(slack, clock)
    await who.decide("U1", "C1")
    clock.now, slack.error = 10_000, "internal_error"
    assert await who.decide("U1", "C1") == WELCOME
    assert who.known("U1", "C1") == WELCOME, "for a while"
    slack.error = ""
    slack.users["U1"] = {"is_restricted": True}
    clock.now = 10_700
    assert await who.decide("U1", "C1") == Verdict(Reason.GUEST)


async def test_who_was_never_told_waits_until_slack_answers() -> None:
    slack = Slack()
    slack.error = "internal_error"
    who = access(slack)
    waiting = asyncio.create_task(who.decide("U1", "C1"))
    while len(slack.asked) < 3:
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.sleep(0.001)
    slack.error = ""
    assert await waiting == WELCOME


async def test_people_who_wait_together_ask_once() -> None:
    slack = Slack()
    who = access(slack)
    assert await asyncio.gather(*(who.decide("U1", "C1") for _ in range(5))) == [WELCOME] * 5
    assert slack.asked == ["U1"]


async def test_somebody_whom_the_workspace_does_not_know_is_external() -> None:
    slack = Slack()
    slack.error = "user_not_found"
    assert await access(slack).decide("U1", "C1") == Verdict(Reason.EXTERNAL)


async def test_without_the_scope_nobody_is_let_in_unchecked() -> None:
    slack = Slack()
    slack.error = "missing_scope"
    who = access(slack, admins=("U7", "U8"))
    verdict = await who.decide("U1", "C1")
    assert verdict == Verdict(Reason.UNCHECKED)
    assert who.sentence(verdict).endswith("Ask <@U7> or <@U8> about it.")
    assert access(slack).whom_to_ask() == "Ask whoever runs me here about it."


async def test_what_is_told_of_a_person_is_passed_on() -> None:
    learned: list[Any] = []
    who = Access(AccessSettings(), Slack(), ME, learned=learned.append)  # type: ignore[arg-type]
    await who.decide("U1", "C1")
    assert [user["id"] for user in learned] == ["U1"]
    who.remember("U2", Facts(external=True))
    assert who.known("U2", "C1") == Verdict(Reason.EXTERNAL)
