"""Hosts that worklets want: asked in the turn that runs, told to the gateway, taken back with the turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from heart import Heart, Start
from waiting import until

from sessions.asks import Ask, AskKind, AskState, Decision
from sessions.egress import Egress, Grants
from sessions.egressstore import EgressStore, decide_within
from sessions.events import AskClosed, AskOpened
from sessions.types import Done, Failed, SessionId, SessionState, Submitted
from worklets.events import Asked, Remark, Text, TextDelta
from worklets.profile import Origin, Profile


class Gateway:
    """What it was told of each worklet, the newest last."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.looks = self.regrants = self.failures = 0
        self.doors: dict[str, dict[str, Any]] = {}  # that an earlier run of the program opened

    def grants(self) -> dict[str, dict[str, Any]]:
        return self.doors

    async def look(self) -> None:
        self.looks += 1

    async def regrant(self, name: str, subject: str, value: Mapping[str, Any], was: Mapping[str, Any] | None) -> None:
        if self.doors[name].get(subject) == was:
            self.doors[name] = {**self.doors[name], subject: dict(value)}
        self.regrants += 1

    async def grant(self, name: str, subject: str, value: Mapping[str, Any]) -> None:
        assert subject == "egress"
        if self.failures:
            self.failures -= 1
            raise OSError("the gateway is away")
        self.told.append((name, dict(value)))

    def now(self, asked: Submitted) -> dict[str, Any] | None:
        return next((value for name, value in reversed(self.told) if name == asked.session.worklet), None)


class People:
    """What is about hosts in one run of the program."""

    def __init__(self, heart: Heart) -> None:
        self.heart, self.gateway = heart, Gateway()
        self.grants = Grants(heart.db, asked=True)
        self.egress = Egress(heart.sessions, self.grants, self.gateway.grant, self.gateway)

    async def open(self, asked: Submitted) -> None:
        """As the worklets' host does, at each opening of a door."""
        origin = Origin(asked.session.id, "U1", "C1")
        await self.grants.part(asked.session.worklet, origin, Profile())

    async def working(self, **more: Any) -> Submitted:
        asked = await self.heart.ask("HOLD", **more)
        await self.open(asked)
        await self.heart.process(asked)
        await until(lambda: "Started" in self.heart.kinds(asked.turn.id))
        return asked

    def wanted(self, asked: Submitted, host: str = "a.test") -> None:
        self.egress.wanted({"worklet": asked.session.worklet, "host": host, "port": 443})

    def blocked(self, asked: Submitted, host: str, reason: str = "") -> None:
        self.egress.blocked({"worklet": asked.session.worklet, "host": host, "port": 443, "reason": reason})

    def opened(self, asked: Submitted) -> list[Ask]:
        return [event.ask for event in self.heart.events(asked.turn.id) if isinstance(event, AskOpened)]

    async def asked(self, asked: Submitted, number: int = 1) -> Ask:
        return (await until(lambda: found if len(found := self.opened(asked)) >= number else None))[number - 1]

    async def hears(self, asked: Submitted, **expected: Any) -> None:
        await until(lambda: self.gateway.now(asked) == {"granted": [], "refused": [], "asks": True} | expected)


@asynccontextmanager
async def people(heart: Heart) -> AsyncIterator[People]:
    made = People(heart)
    try:
        yield made
    finally:
        await made.egress.close()


async def test_a_host_is_asked_for_once_and_the_gateway_hears_the_answer(heart: Heart) -> None:
    async with people(heart) as they:
        asked = await they.working()
        for _ in range(5):  # the gateway repeats itself while somebody waits
            they.wanted(asked)
        ask = await they.asked(asked)
        they.wanted(asked)
        they.wanted(asked, "b.test")
        other = await they.asked(asked, 2)
        assert (ask.kind, ask.input, other.input["host"]) == (AskKind.EGRESS, {"host": "a.test", "port": 443}, "b.test")
        await heart.sessions.decide(ask.id, Decision("allow"), "U2")
        await heart.sessions.decide(other.id, Decision("deny"), "U2")
        await they.hears(asked, granted=["a.test:443"], refused=["b.test:443"])
        (await heart.process(asked)).answer("done")
        assert await heart.settled(asked) == Done()
        await they.hears(asked, refused=["b.test:443"], asks=False)  # once is over, the no stays, and nobody is there
        assert len(they.opened(asked)) == 2


async def test_what_was_said_before_a_host_was_wanted_stands_above_the_question_after_a_restart(start: Start) -> None:
    async with start() as before, people(before) as they:
        asked = await they.working()
        process = await before.process(asked)
        process.say(TextDelta("half"))
        await until(lambda: TextDelta("half") in before.events(asked.turn.id))
    process.say(Text("half and whole"))
    process.prepared.clear()  # attached to, and not heard yet
    async with start() as after, people(after) as they:
        await after.reaper.sweep()
        await until(lambda: after.sessions.has_agent(asked.session.id))
        await they.open(asked)
        they.wanted(asked)
        for _ in range(20):  # many times the queries that a question takes
            await after.sessions.turns(asked.session.id)
        assert not they.opened(asked)
        process.prepared.set()
        ask = await they.asked(asked)
        told = after.events(asked.turn.id)
        assert told.index(Text("half and whole")) < told.index(AskOpened(ask))
    async with start() as later, people(later) as they:  # and so it is told again
        await later.reaper.sweep()
        await they.asked(asked)
        told = later.events(asked.turn.id)
        assert told.index(Text("half and whole")) < told.index(AskOpened(ask))


async def test_nobody_is_asked_while_nobody_works(heart: Heart) -> None:
    async with people(heart) as they:
        asked = await they.working()
        (await heart.process(asked)).answer("done")
        assert await heart.settled(asked) == Done()
        await heart.in_state(asked, SessionState.IDLE)
        they.gateway.told.clear()
        they.wanted(asked)
        await until(lambda: they.gateway.told)
        await they.hears(asked, asks=False)
        assert not they.opened(asked)
        they.egress.wanted({"worklet": "unknown", "host": "a.test", "port": 443})  # another Flow's


async def test_an_open_question_ends_with_its_turn(heart: Heart) -> None:
    async with people(heart) as they:
        asked = await they.working()
        they.wanted(asked)
        ask = await they.asked(asked)
        await heart.sessions.interrupt(asked.session.id, "U1")
        await heart.settled(asked)
        (closed,) = [event.ask for event in heart.events(asked.turn.id) if isinstance(event, AskClosed)]
        assert (closed.id, closed.state) == (ask.id, AskState.WITHDRAWN)
        await they.hears(asked, asks=False)
        again = await they.working()
        they.wanted(again)
        assert (await they.asked(again)).id != ask.id


async def test_always_here_and_taking_it_back_reach_all_worklets_of_the_channel(heart: Heart) -> None:
    async with people(heart) as they:
        first = await they.working()
        second = await they.working(thread="1700000000.000200")
        they.wanted(first)
        they.wanted(second)
        moot = await they.asked(second)
        await heart.sessions.decide((await they.asked(first)).id, Decision("allow", "channel"), "U1")
        for one in (first, second):
            await they.hears(one, granted=["a.test:443"])
        closed = await until(lambda: [e.ask for e in heart.events(second.turn.id) if isinstance(e, AskClosed)])
        assert [(ask.id, ask.state) for ask in closed] == [(moot.id, AskState.WITHDRAWN)]
        (grant,) = await they.egress.of_channel("T1", "C1")
        assert await they.egress.revoke(grant.id, "U9") == grant
        for one in (first, second):
            await they.hears(one)
        assert await they.egress.revoke(grant.id, "U9") is None


async def test_what_was_blocked_is_told_once_at_the_end(heart: Heart) -> None:
    async with people(heart) as they:
        asked = await they.working()
        for host in ("a.test", "b.test", "a.test"):
            they.blocked(asked, host)
        (await heart.process(asked)).answer("done")
        assert await heart.settled(asked) == Done()
        remarks = [event.text for event in heart.events(asked.turn.id) if isinstance(event, Remark)]
        assert remarks == ["Flow blocked 2 hosts: a.test:443, b.test:443."]
        stopped = await they.working()
        they.blocked(stopped, "c.test", "nobody allows it; ask for it")
        await heart.sessions.interrupt(stopped.session.id, "U1")
        await heart.settled(stopped)
        told = Remark("Flow blocked a host: c.test:443. Why: nobody allows it; ask for it.")
        assert told in heart.events(stopped.turn.id)
        they.blocked(asked, "late.test")  # between turns there is nobody to tell
        flood = await they.working()
        for number in range(1000):
            they.blocked(flood, f"h{number}.test")
        (await heart.process(flood)).answer("done")
        assert await heart.settled(flood) == Done()
        (remark,) = [event.text for event in heart.events(flood.turn.id) if isinstance(event, Remark)]
        assert remark.startswith("Flow blocked more than 10 hosts: h0.test:443, ")
        assert remark.endswith("h9.test:443 and more.")


async def asked_before(start: Start) -> tuple[Submitted, Ask]:
    """A turn and its question, from a run of the program that has ended."""
    async with start() as before, people(before) as they:
        asked = await they.working()
        they.wanted(asked)
        ask = await they.asked(asked)
        await before.sessions.drain(0)
    return asked, ask


async def test_a_question_outlives_the_program_and_is_shown_once(start: Start) -> None:
    asked, ask = await asked_before(start)
    async with start() as after, people(after) as they:
        await they.open(asked)
        after.sessions.ring(asked.session.id)
        assert await they.asked(asked) == ask
        await after.process(asked)
        they.wanted(asked)  # the connection still waits
        await after.sessions.decide(ask.id, Decision("allow", "session"), "U1")
        await they.hears(asked, granted=["a.test:443"])
        assert they.opened(asked) == [ask]


async def test_people_are_asked_in_a_turn_that_is_yet_to_be_taken_up(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ask = await asked_before(start)
    async with start() as after, people(after) as they:
        go_on, next_work = asyncio.Event(), after.sessions.store.next_work

        async def later(session_id: SessionId) -> Any:
            await go_on.wait()
            return await next_work(session_id)

        monkeypatch.setattr(after.sessions.store, "next_work", later)
        await they.open(asked)
        after.sessions.ring(asked.session.id)
        await they.asked(asked)
        assert after.sessions.running(asked.session.id) is None
        await after.sessions.decide(ask.id, Decision("allow", "session"), "U1")
        await they.hears(asked, granted=["a.test:443"])
        go_on.set()


async def test_a_tool_call_cannot_pass_for_a_question_of_ours(heart: Heart) -> None:
    """The ids of tool calls come out of the worklet: a yes to a command must not become one to a host, or to money."""
    async with people(heart) as they:
        asked = await they.working()
        process = await heart.process(asked)
        process.say(Asked("forged", "Bash", {"command": "ls"}, f"egress a.test:443 {asked.turn.id}"))
        forged = await they.asked(asked)
        assert forged.kind is AskKind.PERMISSION
        await heart.sessions.decide(forged.id, Decision("allow"), "U1")
        they.wanted(asked)
        real = await they.asked(asked, 2)
        assert (real.kind, real.is_open) == (AskKind.EGRESS, True)
        assert real.id != forged.id
        they.gateway.told.clear()
        await heart.sessions.decide(real.id, Decision("deny"), "U1")
        await they.hears(asked, refused=["a.test:443"])


async def test_an_open_question_does_not_stop_the_turns_clock(start: Start) -> None:
    async with start(turn_timeout=timedelta(seconds=5)) as heart, people(heart) as they:
        asked = await they.working()
        they.wanted(asked)
        await they.asked(asked)
        outcome = await heart.settled(asked, timeout=60)
        assert isinstance(outcome, Failed)
        assert "This took longer than" in outcome.reason


async def test_what_was_taken_back_within_a_turn_is_asked_for_anew(heart: Heart) -> None:
    async with people(heart) as they:
        asked = await they.working()

        def opened(number: int) -> bool:
            they.wanted(asked)  # the gateway repeats itself
            return len(they.opened(asked)) == number

        for number in (1, 2):
            await until(lambda number=number: opened(number))  # type: ignore[misc]
            ask = they.opened(asked)[-1]
            await heart.sessions.decide(ask.id, Decision("allow", "session"), "U1")
            await they.hears(asked, granted=["a.test:443"])
            (grant,) = await they.egress.of_session(asked.session.id)
            await they.egress.revoke(grant.id, "U1")
            await they.hears(asked)
        await until(lambda: opened(3))
        assert len({one.id for one in they.opened(asked)}) == 3


async def test_before_claude_begins_nobody_is_asked(heart: Heart) -> None:
    """A worklet's startup script runs then: its connections must not wait for people who are asked nothing."""
    async with people(heart) as they:
        heart.host.gate.clear()
        asked = await heart.ask("HOLD")
        await until(lambda: heart.sessions.running(asked.session.id))
        await they.open(asked)
        they.wanted(asked)
        await they.hears(asked, asks=False)
        assert not they.opened(asked)
        heart.host.gate.set()
        await they.hears(asked, asks=True)


async def test_what_a_crash_left_untold_is_told_when_the_gateway_is_there(start: Start) -> None:
    """The door is one that the run before opened: what tightens it is known from there."""
    async with start() as before, people(before) as they:
        asked = await they.working()
        they.wanted(asked)
        await before.sessions.decide((await they.asked(asked)).id, Decision("allow"), "U1")
        await they.hears(asked, granted=["a.test:443"])
        (await before.process(asked)).answer("done")
        assert await before.settled(asked) == Done()
    held = {"within": [["a.test"]], "granted": ["a.test:443"], "refused": [], "asks": True}
    async with start() as after, people(after) as they:
        they.gateway.doors = {asked.session.worklet: {"git": 1, "egress": held}, "unknown": {"egress": held}}
        they.egress.connected({})
        told = {"git": 1, "egress": held | {"granted": [], "asks": False}}
        await until(lambda: they.gateway.doors[asked.session.worklet] == told)
        assert they.gateway.doors["unknown"] == {"egress": held}


async def test_what_another_flow_took_back_is_followed_also_when_that_one_died(heart: Heart) -> None:
    """It had stored it, and told nobody: neither the gateway nor who runs the session."""
    async with people(heart) as they:
        asked = await they.working()
        they.wanted(asked)
        await heart.sessions.decide((await they.asked(asked)).id, Decision("allow", "channel"), "U1")
        await they.hears(asked, granted=["a.test:443"])
        they.gateway.doors = {asked.session.worklet: {}}
        await they.egress.look()  # what it looks like by now
        await until(lambda: they.gateway.told.count(they.gateway.told[-1]) >= 2)
        (grant,) = await they.egress.of_session(asked.session.id)
        await EgressStore(heart.db).remove(grant.id)
        they.egress.watch(0.01)
        await they.hears(asked)
        told, looks = len(they.gateway.told), they.gateway.looks
        await until(lambda: they.gateway.looks >= looks + 3)
        assert len(they.gateway.told) == told, "nothing has changed since"


async def test_what_a_flow_that_died_had_not_told_is_told_for_it(start: Start) -> None:
    """Its gateway's process lives on beside another Flow, which was connected all the time."""
    async with start() as before, people(before) as they:
        asked = await they.working()
        they.wanted(asked)
        await before.sessions.decide((await they.asked(asked)).id, Decision("allow", "channel"), "U1")
        await they.hears(asked, granted=["a.test:443"])
        (grant,) = await they.egress.of_session(asked.session.id)
        await EgressStore(before.db).remove(grant.id)
        await before.sessions.drain(0)
    async with start() as after, people(after) as they:
        they.gateway.doors = {
            asked.session.worklet: {"egress": {"granted": ["a.test:443"], "refused": [], "asks": True}}
        }
        they.egress.watch(0.01)
        told = {"egress": {"granted": [], "refused": [], "asks": True}}
        await until(lambda: they.gateway.doors[asked.session.worklet] == told)


async def test_a_late_word_about_a_session_that_another_flow_has_taken_up_changes_nothing(start: Start) -> None:
    served = asyncio.Event()

    class Slow(Grants):
        waits = False

        async def of(self, *args: Any, **more: Any) -> dict[str, Any]:
            self.waits = True
            await served.wait()  # the database did not serve
            return await super().of(*args, **more)

    async with start() as before, people(before) as they:
        asked = await they.working()
        await before.sessions.drain(0)
    async with start() as after, people(after) as they:
        name, slow = asked.session.worklet, Slow(after.db, asked=True)
        they.egress._grants = slow
        they.gateway.doors = {name: {"git": "old", "egress": {"granted": ["a.test:443"], "refused": [], "asks": False}}}
        they.egress.connected({})
        await until(lambda: slow.waits)
        theirs = {"git": "new", "egress": {"granted": ["b.test:443"], "refused": [], "asks": True}}
        they.gateway.doors[name] = theirs
        served.set()
        await until(lambda: they.gateway.regrants)
        assert they.gateway.doors[name] == theirs


async def test_what_could_not_be_told_is_told_again(heart: Heart) -> None:
    async with people(heart) as they:
        asked = await they.working()
        they.wanted(asked)
        await heart.sessions.decide((await they.asked(asked)).id, Decision("allow", "channel"), "U1")
        await they.hears(asked, granted=["a.test:443"])
        they.gateway.doors = {asked.session.worklet: {}}
        await they.egress.look()
        await until(lambda: they.gateway.told.count(they.gateway.told[-1]) >= 2)
        (grant,) = await they.egress.of_session(asked.session.id)
        await EgressStore(heart.db).remove(grant.id)
        they.gateway.failures = 2
        they.egress.watch(0.01)
        await they.hears(asked)


async def test_what_is_decided_anew_is_seen_whatever_the_clock_says(heart: Heart) -> None:
    async with people(heart) as they:
        asked = await they.working()
        they.wanted(asked)
        ask = await they.asked(asked)
        await heart.sessions.decide(ask.id, Decision("allow", "session"), "U1")
        await they.hears(asked, granted=["a.test:443"])
        store = EgressStore(heart.db)
        (grant,), before = await store.of_session(asked.session.id), await store.stamp()
        assert await store.stamp() == before
        async with heart.db.transaction() as connection:
            await decide_within(heart.db, connection, ask, Decision("deny"), "U1", grant.at - timedelta(hours=1))
        assert await store.stamp() != before


async def test_a_worklet_that_works_goes_on_asking_after_a_restart(start: Start) -> None:
    async with start() as before, people(before) as they:
        asked = await they.working()
        await before.sessions.drain(0)
    async with start() as after, people(after) as they:
        they.gateway.doors = {asked.session.worklet: {}}
        they.egress.connected({})
        people_say = {"granted": [], "refused": [], "asks": True}
        await until(lambda: they.gateway.doors[asked.session.worklet] == {"egress": people_say})


async def test_a_session_that_is_run_elsewhere_is_not_told_of(start: Start) -> None:
    async with start() as before, people(before) as they:
        asked, other = await they.working(), await they.working(thread="1700000000.000200")
        await before.sessions.drain(0)
    async with start() as after, people(after) as they:
        for one in (asked, other):
            await they.open(one)
        after.sessions.ring(other.session.id)
        await after.process(other)
        assert they.egress.runs(other.session.worklet)
        assert not they.egress.runs(asked.session.worklet)
        await until(lambda: (they.wanted(other), they.opened(other))[1])
        await after.sessions.decide(they.opened(other)[0].id, Decision("allow", "channel"), "U1")
        await they.hears(other, granted=["a.test:443"])
        assert they.gateway.now(asked) is None


async def test_an_answer_pressed_at_another_flow_is_heard_with_the_bell(heart: Heart) -> None:
    """That one writes it into the table, and rings."""
    async with people(heart) as they:
        asked = await they.working()
        they.wanted(asked)
        ask = await they.asked(asked)
        store = heart.sessions.store
        await store.asks.decide(ask.id, Decision("allow"), "U1", store.clock())
        heart.sessions.ring(asked.session.id)
        closed = await until(lambda: [e.ask for e in heart.events(asked.turn.id) if isinstance(e, AskClosed)])
        assert [(one.id, one.state) for one in closed] == [(ask.id, AskState.ALLOWED)]
        await they.hears(asked, granted=["a.test:443"])
