"""Pushes that wait for people: asked once, decided in the table, told to the gateway; and whose commits they are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from heart import Heart, Start
from waiting import until

from bot.asksubject import headline
from sessions.asks import PULL_REQUEST, PUSH, Ask, AskState, Decision
from sessions.decisions import decisions
from sessions.events import AskClosed, AskOpened
from sessions.pushing import Pushes
from sessions.types import Done, SessionId, SessionState, Submitted
from worklets.events import Remark, TextDelta

OWN = "flow/x-1"


@dataclass
class Gateway:
    """The gateway's side: what it wants, and how often it was told what is granted."""

    heart: Heart
    pushes: Pushes
    told: list[str] = field(default_factory=list)

    def want(self, asked: Submitted, request: str, **changes: Any) -> None:
        fields = {"session": asked.session.id, "request": request, "what": "push", "repository": "app", "branch": OWN}
        self.pushes.wanted({**fields, "own": OWN, "title": "", **changes})

    async def answers(self, asked: Submitted) -> dict[str, bool | str]:
        return dict((await self.pushes.decided(asked.session.id, OWN)).answers or {})


@asynccontextmanager
async def opened(heart: Heart) -> AsyncIterator[Gateway]:
    told: list[str] = []

    async def tell(session_id: SessionId) -> None:
        told.append(session_id)

    pushes = Pushes(heart.sessions, tell)
    yield Gateway(heart, pushes, told)
    await pushes.close()


@pytest.fixture
async def gateway(heart: Heart) -> AsyncIterator[Gateway]:
    async with opened(heart) as made:
        yield made


def asks(heart: Heart, asked: Submitted, kind: type = AskOpened) -> list[Ask]:
    return [event.ask for event in heart.events(asked.turn.id) if isinstance(event, kind)]


async def test_a_push_is_asked_about_once_and_its_answer_is_told(heart: Heart, gateway: Gateway) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    gateway.want(asked, "r1")
    gateway.want(asked, "r1")  # its event comes again while it waits
    (ask,) = await until(lambda: asks(heart, asked))
    assert (ask.tool, ask.input, ask.suggestions) == (PUSH, {"repository": "app", "branch": OWN}, (PUSH,))
    assert await gateway.answers(asked) == {}
    await heart.sessions.decide(ask.id, Decision("allow"), "U1")
    await until(lambda: gateway.told)
    assert await gateway.answers(asked) == {"r1": True}
    assert not (await gateway.pushes.decided(asked.session.id, OWN)).granted, "once is once"
    assert not process.heard, "it is not Claude's to hear"
    gateway.want(asked, "r2")
    second = (await until(lambda: asks(heart, asked)[1:]))[0]
    await heart.sessions.decide(second.id, Decision("deny", message="not\non a Friday"), "U1")
    await until(lambda: len(asks(heart, asked, AskClosed)) == 2)
    assert await gateway.answers(asked) == {"r1": True, "r2": "people in the thread said no: not on a Friday"}
    process.answer("done")
    assert await heart.settled(asked) == Done()
    assert len(asks(heart, asked)) == 2


async def test_who_tries_again_waits_for_the_same_answer(heart: Heart, gateway: Gateway) -> None:
    asked = await heart.ask("HOLD")
    await heart.process(asked)
    gateway.want(asked, "r1")
    (ask,) = await until(lambda: asks(heart, asked))
    gateway.want(asked, "r2")
    gateway.want(asked, "r3", branch="another")
    await until(lambda: len(asks(heart, asked)) == 2)
    await until(lambda: "r2" in gateway.pushes._joined)
    await heart.sessions.decide(ask.id, Decision("allow"), "U1")
    await until(lambda: gateway.told)
    assert await gateway.answers(asked) == {"r1": True, "r2": True}
    gateway.want(asked, "r4")
    await until(lambda: len(asks(heart, asked)) == 3)
    assert await gateway.answers(asked) == {"r1": True, "r2": True}, "that question is answered"


async def test_the_same_push_is_asked_about_once_when_claude_is_heard_again_after_a_restart(start: Start) -> None:
    async with start() as before:
        asked = await before.ask("HOLD")
        process = await before.process(asked)
        process.say(TextDelta("half"))
        await until(lambda: TextDelta("half") in before.events(asked.turn.id))
    process.say(TextDelta("more"))
    process.prepared.clear()  # attached to, and not heard yet
    async with start() as after, opened(after) as gateway:
        await after.reaper.sweep()
        await until(lambda: after.sessions.has_agent(asked.session.id))
        requests = {f"r{number}" for number in range(6)}
        for request in sorted(requests):
            gateway.want(asked, request)
        await until(lambda: gateway.pushes._asking == requests)
        process.prepared.set()
        await until(lambda: not gateway.pushes._asking)
        (ask,) = asks(after, asked)
        await after.sessions.decide(ask.id, Decision("allow"), "U1")
        assert await gateway.answers(asked) == dict.fromkeys(requests, True)
        process.answer("done")
        await after.settled(asked)


async def test_no_more_than_four_are_asked_about_at_once_when_claude_is_heard_again(start: Start) -> None:
    async with start() as before:
        asked = await before.ask("HOLD")
        process = await before.process(asked)
        process.say(TextDelta("half"))
        await until(lambda: TextDelta("half") in before.events(asked.turn.id))
    process.say(TextDelta("more"))
    process.prepared.clear()
    async with start() as after, opened(after) as gateway:
        await after.reaper.sweep()
        await until(lambda: after.sessions.has_agent(asked.session.id))
        for number in range(6):
            gateway.want(asked, f"r{number}", branch=f"b{number}")
        await until(lambda: len(gateway.pushes._asking) == 6)
        process.prepared.set()
        await until(lambda: not gateway.pushes._asking)
        assert len(asks(after, asked)) == 4
        assert ["too often" in str(one) for one in (await gateway.answers(asked)).values()] == [True, True]
        process.answer("done")
        await after.settled(asked)


async def test_a_push_that_a_rule_lets_through_does_not_wait_until_claude_is_heard(start: Start) -> None:
    async with start() as before:
        asked = await before.ask("HOLD")
        process = await before.process(asked)
        process.say(TextDelta("half"))
        await until(lambda: TextDelta("half") in before.events(asked.turn.id))
    process.say(TextDelta("more"))
    process.prepared.clear()
    async with start() as after, opened(after) as gateway:
        await after.reaper.sweep()
        await until(lambda: after.sessions.has_agent(asked.session.id))
        gateway.want(asked, "r1")
        await until(lambda: "r1" in gateway.pushes._asking)
        await after.sessions.add_rule("session", asked.session.id, "allow", PUSH, "U1")
        gateway.want(asked, "r2")
        await until(lambda: "r2" in gateway.pushes._passed)
        process.prepared.set()
        await until(lambda: "r1" in gateway.pushes._passed)
        assert not asks(after, asked), "nobody is asked about what was allowed meanwhile"
        process.answer("done")
        await after.settled(asked)


async def test_a_rule_is_about_the_sessions_own_branch(heart: Heart, gateway: Gateway) -> None:
    asked = await heart.ask("HOLD")
    await heart.process(asked)
    gateway.want(asked, "r1", branch="another")
    (ask,) = await until(lambda: asks(heart, asked))
    assert ask.suggestions == ()
    gateway.want(asked, "r2", what="pull request", title="Fix")
    pull = (await until(lambda: asks(heart, asked)[1:]))[0]
    assert (pull.tool, pull.input["title"], pull.suggestions) == (PULL_REQUEST, "Fix", (PULL_REQUEST,))
    await heart.sessions.decide(pull.id, Decision("allow", "channel"), "U1")
    decided = await gateway.pushes.decided(asked.session.id, OWN)
    assert (decided.granted, decided.refused, decided.pulls) == (frozenset(), frozenset(), True)
    await heart.sessions.add_rule("session", asked.session.id, "allow", PUSH, "U1")
    assert (await gateway.pushes.decided(asked.session.id, OWN)).granted == {OWN}
    await heart.sessions.add_rule("session", asked.session.id, "deny", PUSH, "U1")
    decided = await gateway.pushes.decided(asked.session.id, OWN)
    assert decided.refused == {"*"}, "no branch at all"
    gateway.told.clear()
    gateway.want(asked, "r3", branch="a third")
    await until(lambda: gateway.told)
    assert len(asks(heart, asked)) == 2, "nobody is asked about what rules deny"


async def test_the_gateway_hears_of_rules_at_once(heart: Heart, gateway: Gateway) -> None:
    asked = await heart.ask("HOLD")
    await heart.process(asked)
    await heart.sessions.add_rule("session", asked.session.id, "deny", PUSH, "U1")
    await until(lambda: gateway.told)


async def test_what_rules_want_asked_is_asked(heart: Heart, gateway: Gateway) -> None:
    asked = await heart.ask("HOLD")
    await heart.process(asked)
    for tool in (PUSH, PULL_REQUEST):
        for behavior in ("allow", "ask"):
            await heart.sessions.add_rule("session", asked.session.id, behavior, tool, "U1")
    decided = await gateway.pushes.decided(asked.session.id, OWN)
    assert (decided.granted, decided.pulls, decided.asked, decided.pulls_asked) == (frozenset(), None, True, True)


async def test_a_worklet_does_not_flood_the_thread(heart: Heart, gateway: Gateway) -> None:
    asked = await heart.ask("HOLD")
    await heart.process(asked)
    for number in range(4):
        gateway.want(asked, f"r{number}", branch=f"b{number}")
    await until(lambda: len(asks(heart, asked)) == 4)
    gateway.want(asked, "r4", branch="b4")
    await until(lambda: gateway.told)
    assert "too often" in str((await gateway.answers(asked))["r4"]), "people said nothing"
    for number in range(5, 21):
        await heart.sessions.decide(asks(heart, asked)[-1].id, Decision("deny"), "U1")
        gateway.want(asked, f"r{number}", branch=f"b{number}")
        await until(lambda number=number: len(asks(heart, asked)) == number)
    await heart.sessions.decide(asks(heart, asked)[-1].id, Decision("deny"), "U1")
    gateway.want(asked, "r99", branch="b99")
    await until(lambda: "r99" in gateway.pushes._unasked)
    assert len(asks(heart, asked)) == 20


async def test_the_thread_hears_of_what_was_opened_as_its_host_calls_it(heart: Heart, gateway: Gateway) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    told = {"session": asked.session.id, "number": 7, "title": "Fix", "change": "", "url": "https://h/7"}
    gateway.pushes.opened({**told, "called": "merge request"})
    gateway.pushes.opened({**told, "called": "pull request"})
    process.answer("done")
    await heart.settled(asked)
    said = [event.text for event in heart.events(asked.turn.id) if isinstance(event, Remark)]
    assert said == ["Merge request !7: Fix\nhttps://h/7", "Pull request 7: Fix\nhttps://h/7"]


async def test_a_yes_that_comes_late_counts_once(heart: Heart, gateway: Gateway) -> None:
    asked = await heart.ask("HOLD")
    await heart.process(asked)
    gateway.want(asked, "r1")
    (ask,) = await until(lambda: asks(heart, asked))
    await until(lambda: gateway.pushes._waiting)
    gateway.pushes.unanswered({"session": asked.session.id, "request": "r1"})
    await heart.sessions.decide(ask.id, Decision("allow"), "U1")
    await until(lambda: gateway.told)
    gateway.told.clear()
    gateway.want(asked, "r2")
    await until(lambda: gateway.told)
    assert (await gateway.answers(asked))["r2"]
    gateway.want(asked, "r3")
    await until(lambda: len(asks(heart, asked)) == 2)
    assert "r3" not in await gateway.answers(asked)


async def test_a_yes_counts_for_the_next_push_when_the_first_gave_up_while_it_was_being_asked_about(
    heart: Heart, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ask_people = await heart.ask("HOLD"), heart.sessions.ask_people
    await heart.process(asked)

    async def late(*given: Any, **more: Any) -> Ask | None:
        ask = await ask_people(*given, **more)
        gateway.pushes.unanswered({"session": asked.session.id, "request": "r1"})
        return ask

    monkeypatch.setattr(heart.sessions, "ask_people", late)
    gateway.want(asked, "r1")
    (ask,) = await until(lambda: asks(heart, asked))
    await until(lambda: ask.id in gateway.pushes._waiting)
    await heart.sessions.decide(ask.id, Decision("allow"), "U1")
    await until(lambda: gateway.told)
    gateway.told.clear()
    gateway.want(asked, "r2")
    await until(lambda: gateway.told or len(asks(heart, asked)) == 2)
    assert len(asks(heart, asked)) == 1
    assert (await gateway.answers(asked))["r2"] is True


async def test_nobody_is_asked_where_no_turn_runs(heart: Heart, gateway: Gateway) -> None:
    asked = await heart.ask("hello")
    await heart.settled(asked)
    await heart.in_state(asked, SessionState.IDLE)
    gateway.want(asked, "r1")
    await until(lambda: gateway.told)
    assert "nobody could be asked" in str((await gateway.answers(asked))["r1"])
    assert not asks(heart, asked)


async def test_a_push_that_waits_over_a_restart_is_asked_about_when_its_turn_is_taken_up(start: Start) -> None:
    async with start() as before:
        asked = await before.ask("HOLD")
        await before.process(asked)
        await until(lambda: "Started" in before.kinds(asked.turn.id))
    async with start() as after, opened(after) as gateway:
        after.host.gate.clear()
        await after.reaper.sweep()
        await until(lambda: len(after.host.opened) == 2)
        gateway.want(asked, "r1")
        for _ in range(20):  # many times the queries that a refusal takes
            await after.sessions.turns(asked.session.id)
        assert await gateway.answers(asked) == {}
        after.host.gate.set()
        await until(lambda: after.sessions.has_agent(asked.session.id))
        gateway.want(asked, "r1")  # as it does every few seconds
        await until(lambda: asks(after, asked))


async def test_what_a_rule_lets_through_is_in_the_audit_before_it_goes(heart: Heart, gateway: Gateway) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    await heart.sessions.add_rule("session", asked.session.id, "allow", PUSH, "U1")
    for _ in range(3):  # its event comes again while it waits
        gateway.want(asked, "r1", deletes=True)
    await until(lambda: "r1" in gateway.pushes._passed)
    assert await gateway.answers(asked) == {"r1": True}
    (row,) = await decisions(heart.db, session_id=asked.session.id)
    assert (row.tool, row.behavior, row.by, row.rules, row.turn_id) == (PUSH, "allow", None, (PUSH,), asked.turn.id)
    assert json.loads(row.input) == {"repository": "app", "branch": OWN, "deletes": True}
    assert not asks(heart, asked)
    gateway.want(asked, "r2", branch="another")  # no rule speaks of other branches
    (ask,) = await until(lambda: asks(heart, asked))
    assert "deletes" not in ask.input
    process.answer("done")
    await heart.settled(asked)
    await heart.in_state(asked, SessionState.IDLE)
    gateway.want(asked, "r3")  # nobody works, and nobody need be asked
    await until(lambda: "r3" in gateway.pushes._passed)
    assert (await gateway.answers(asked))["r3"] is True
    last = (await decisions(heart.db))[-1]
    assert (last.turn_id, last.rules) == ("", (PUSH,))


async def test_what_the_settings_let_through_has_an_end(heart: Heart, gateway: Gateway) -> None:
    gateway.pushes._allows = True
    asked = await heart.ask("HOLD")
    await heart.process(asked)
    gateway.want(asked, "r0", what="pull request", title="Fix")
    await until(lambda: gateway.told)
    (row,) = await decisions(heart.db)
    assert (row.tool, row.rules) == (PULL_REQUEST, ("FLOW_PUSH=allow",))
    gateway.pushes._counted[asked.session.id] = 200
    gateway.want(asked, "r1")
    await until(lambda: len(gateway.told) == 2)
    assert "too often" in str((await gateway.answers(asked))["r1"])
    assert len(await decisions(heart.db)) == 1
    await heart.sessions.add_rule("session", asked.session.id, "ask", PUSH, "U1")
    gateway.want(asked, "r2")
    assert (await until(lambda: asks(heart, asked)))[0].tool == PUSH, "a rule that wants it asked goes first"


async def test_a_deletion_is_asked_about_as_one(heart: Heart, gateway: Gateway) -> None:
    asked = await heart.ask("HOLD")
    await heart.process(asked)
    gateway.want(asked, "r1", deletes=True)
    (ask,) = await until(lambda: asks(heart, asked))
    assert (headline(ask), ask.suggestions) == (f"to delete the branch `{OWN}` of `app`", ())
    gateway.want(asked, "r2")
    push = (await until(lambda: asks(heart, asked)[1:]))[0]
    assert headline(push) == f"to push to `{OWN}` of `app`", (
        "another question, which a yes to the first does not answer"
    )


async def test_the_end_of_a_turn_is_a_no_to_what_waits(heart: Heart, gateway: Gateway) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    gateway.want(asked, "r1")
    await until(lambda: asks(heart, asked))
    process.answer("done")
    await heart.settled(asked)
    assert [one.state for one in asks(heart, asked, AskClosed)] == [AskState.WITHDRAWN]
    await until(lambda: gateway.told)


async def test_a_yes_to_something_else_is_none_to_pushing(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    process.ask("Bash", {"command": "ls"}, suggestions=("Bash(ls)", PUSH, f"{PULL_REQUEST}(x)"))
    (ask,) = await until(lambda: asks(heart, asked))
    assert ask.suggestions == ("Bash(ls)",)


async def test_commits_are_those_of_whoever_asks(heart: Heart) -> None:
    async def author(user_id: str) -> tuple[str, str]:
        if user_id == "U3":
            raise RuntimeError("Slack is away")
        return f"Name of {user_id}", f"{user_id}@example.org"

    heart.sessions.authors(author)
    for number, user_id in enumerate(("U1", "U2", "U3")):
        await heart.settled(await heart.ask(f"hello {number}", user_id=user_id))
    worklet = heart.host.introduced[0][0]
    assert heart.host.introduced == [
        (worklet, "Name of U1", "U1@example.org"),
        (worklet, "Name of U2", "U2@example.org"),
        (worklet, "U3", "u3@flow.invalid"),
    ]
