"""Offers of previews under Slack's refusals, crashes and repetition: each is made once, or not at all."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from slackdoor import Flow, Start
from test_previews_slack import at_work, links, offer, offering, opens
from waiting import until

from sessions.previews import MOST, Links, Preview, Previews
from sessions.previews import previews as table

__all__ = ["links"]  # a fixture


def offers(flow: Flow, ts: str) -> int:
    return sum("runs at" in text for text in flow.thread("#general", ts))


async def the_rows(flow: Flow) -> list[sa.Row[tuple[object, ...]]]:
    async with flow.db.read() as connection:
        return list(await connection.execute(sa.select(table)))


async def noted(flow: Flow) -> bool:
    return all(row.message_ts for row in await the_rows(flow))


async def test_a_turn_that_is_told_again_reopens_nothing(flow: Flow, links: Links) -> None:
    ts, process = await at_work(flow)
    opens(process, "p1")
    message = await until(lambda: offer(flow, ts))
    await flow.slack.click("jonas", message, "preview_close")
    await flow.shows("#general", ts, "localhost:3000 was closed by @jonas")
    opens(process, "p1")
    opens(process, "p2", port=4000)
    await flow.shows("#general", ts, "localhost:4000")
    assert [row.port for row in await the_rows(flow)] == [4000]
    opens(process, "p3")
    await until(lambda: offers(flow, ts) == 2)
    assert links.url


async def test_a_thread_has_so_many_previews_and_is_told_once(flow: Flow, links: Links) -> None:
    ts, process = await at_work(flow)
    process.say()
    (session,) = await flow.sessions.list()
    assert flow.door.previews is not None
    previews = flow.door.previews.previews
    await flow.door.previews._tasks.__aexit__(None, None, None)  # nobody posts these
    for port in range(5000, 5000 + MOST):
        made = await previews.announce(session.id, port, title="", path="/", command=None)
        assert made is not None
        await previews.posted(made.id, f"1.{port}")
    await flow.door.previews.__aenter__()
    for number in range(3):
        opens(process, f"x{number}", port=6000 + number)
    opens(process, "again", port=5000)
    await flow.shows("#general", ts, f"A thread may have {MOST} previews")
    await until(lambda: not flow.door.previews._announcing)
    assert sum("may have" in text for text in flow.thread("#general", ts)) == 1
    assert len(await the_rows(flow)) == MOST
    assert offers(flow, ts) == 0
    assert links.url


async def test_slack_has_no_time_and_is_asked_again(flow: Flow, links: Links) -> None:
    ts, process = await at_work(flow)
    await flow.shows("#general", ts, "Thinking")
    flow.slack.faults.fail("chat.postMessage", status=429, error="ratelimited", times=2)
    opens(process)
    await until(lambda: offer(flow, ts))
    await until_noted(flow)
    assert offers(flow, ts) == 1
    assert len([call for call in flow.calls("conversations.replies") if call.get("include_all_metadata")]) == 0
    assert links.url


async def test_where_nothing_can_be_said_nobody_tries_for_ever(flow: Flow, links: Links) -> None:
    ts, process = await at_work(flow)
    await flow.shows("#general", ts, "Thinking")
    flow.slack.faults.fail("chat.postMessage", error="is_archived")
    opens(process)

    async def given_up() -> bool:
        return [row.failed for row in await the_rows(flow)] == ["is_archived"]

    await until(given_up)
    assert flow.door.previews is not None
    assert await flow.door.previews.previews.unposted() == []
    assert offers(flow, ts) == 0
    opens(process, "p2")
    await until(lambda: offer(flow, ts))
    assert links.url


async def test_an_offer_that_slack_took_without_a_word_is_found(flow: Flow, links: Links) -> None:
    ts, process = await at_work(flow)
    await flow.shows("#general", ts, "Thinking")
    flow.slack.faults.reset("chat.postMessage", after=True)
    opens(process)
    await until(lambda: offer(flow, ts))
    await until_noted(flow)
    assert offers(flow, ts) == 1
    assert links.url


async def test_an_offer_of_a_process_that_died_is_found(start: Start, tmp_path: Path) -> None:
    async with start(flush=False) as flow, offering(flow, tmp_path):
        ts, process = await at_work(flow)
        opens(process)
        message = await until(lambda: offer(flow, ts))
        await until_noted(flow)
        async with flow.db.transaction() as connection:
            await connection.execute(sa.update(table).values(message_ts=None))
    async with start() as flow:
        dead = Previews(flow.db, flow.sessions.store.clock, "dead")
        mine = Previews(flow.db, flow.sessions.store.clock, flow.sessions.owner)
        (preview,) = await the_rows(flow)
        assert await mine.claim(preview.id) is None, "it may be at work"
        async with flow.db.transaction() as connection:
            await connection.execute(sa.update(table).values(until=preview.created_at))
        async with offering(flow, tmp_path):
            await until_noted(flow)
        assert offers(flow, ts) == 1
        assert [row.message_ts for row in await the_rows(flow)] == [message["ts"]]
        assert await dead.unposted() == []


async def until_noted(flow: Flow) -> None:
    async def done() -> bool:
        return await noted(flow)

    await until(done)


async def test_claims(start: Start) -> None:
    async with start() as flow:
        await at_work(flow)
        (session,) = await flow.sessions.list()
        clock = flow.sessions.store.clock
        one, other = Previews(flow.db, clock, "one"), Previews(flow.db, clock, "other")
        made: list[Preview] = []
        for port in (5, 1, 3):
            preview = await one.announce(session.id, port, title="", path="/", command=None)
            assert preview is not None
            made.append(preview)
        assert [preview.port for preview in await other.unposted()] == [5, 1, 3]
        first = made[0].id
        assert await one.claim(first) == (made[0], False)
        assert await other.claim(first) is None
        assert await one.claim(first) == (made[0], True)
        assert [preview.port for preview in await other.unposted()] == [1, 3]
        await one.unclaim(first)
        assert await other.claim(first) == (made[0], False)
