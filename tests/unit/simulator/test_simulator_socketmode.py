import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest
from simulator_helpers import error_of, socket_url, web_client, wire

from simulator.clock import ManualClock
from simulator.manifest import Manifest
from simulator.slack import SlackSimulator


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def slack(clock: ManualClock) -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(clock=clock, limits=None) as simulator:
        yield simulator


async def handshake_status(url: str) -> int:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(url):
                return 101
        except aiohttp.WSServerHandshakeError as error:
            return error.status


async def test_a_ticket_works_once_and_not_for_long(slack: SlackSimulator, clock: ManualClock) -> None:
    url = await socket_url(slack)
    assert await handshake_status(url) == 101
    assert await handshake_status(url) == 403
    stale = await socket_url(slack)
    clock.advance(31)
    assert await handshake_status(stale) == 403


async def test_a_refused_handshake_uses_its_ticket_up(slack: SlackSimulator) -> None:
    slack.faults.refuse_handshakes(1)
    url = await socket_url(slack)
    assert await handshake_status(url) == 403
    assert await handshake_status(url) == 403
    assert await handshake_status(await socket_url(slack)) == 101


async def test_ten_sockets_and_no_more(slack: SlackSimulator) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(wire(slack))
        async with wire(slack, hello=False) as eleventh:
            frame = await eleventh.frame()
            assert (frame["type"], frame["reason"]) == ("disconnect", "too_many_websockets")
            assert (await eleventh.ws.receive()).type == aiohttp.WSMsgType.CLOSE


async def test_pings_are_answered_with_their_own_payload(slack: SlackSimulator, clock: ManualClock) -> None:
    url = await socket_url(slack)
    async with aiohttp.ClientSession() as session, session.ws_connect(url, autoping=False) as ws:
        assert (await ws.receive_json())["type"] == "hello"
        await ws.ping(b"sdk-ping-pong:1.5")
        pong = await ws.receive()
        assert (pong.type, pong.data) == (aiohttp.WSMsgType.PONG, b"sdk-ping-pong:1.5")
        clock.advance(10)
        assert (await ws.receive()).type == aiohttp.WSMsgType.PING


async def test_a_mention_arrives_as_two_events_of_one_message(slack: SlackSimulator) -> None:
    async with wire(slack) as line:
        ts = await slack.post("maya", "#general", "@Flow hello")
        frames = [await line.frame(), await line.frame()]
    payloads = [frame["payload"] for frame in frames]
    events = [payload["event"] for payload in payloads]
    assert [event["type"] for event in events] == ["message", "app_mention"]
    assert {event["ts"] for event in events} == {ts}
    assert events[0]["client_msg_id"] == events[1]["client_msg_id"]
    assert events[0]["channel_type"] == "channel"
    assert "channel_type" not in events[1]
    assert events[0]["text"] == f"<@{slack.bot_user_id}> hello"
    assert payloads[0]["event_id"] != payloads[1]["event_id"]
    assert payloads[0]["authorizations"][0]["user_id"] == slack.bot_user_id
    assert frames[0]["retry_attempt"] == 0


async def test_a_direct_message_is_one_event(slack: SlackSimulator) -> None:
    async with wire(slack) as line:
        await slack.post("maya", "dm", "hello @Flow")
        await slack.post("maya", "dm", "next")
        first, second = [(await line.frame())["payload"]["event"] for _ in range(2)]
    assert (first["type"], first["channel_type"]) == ("message", "im")
    assert second["text"] == "next"


async def test_an_unacknowledged_event_comes_again_on_slacks_schedule(
    slack: SlackSimulator, clock: ManualClock
) -> None:
    async with wire(slack) as line:
        await slack.post("maya", "#general", "hello")
        frames = [await line.frame()]
        for wait in (3, 63, 303):
            clock.advance(wait)
            frames.append(await line.frame())
        clock.advance(4000)
        await slack.post("maya", "#general", "other")
        following = await line.frame()
    assert [frame["retry_attempt"] for frame in frames] == [0, 1, 2, 3]
    assert [frame["retry_reason"] for frame in frames] == ["", "timeout", "timeout", "timeout"]
    assert len({frame["payload"]["event_id"] for frame in frames}) == 1
    assert len({frame["envelope_id"] for frame in frames}) == 4
    assert following["payload"]["event"]["text"] == "other"


async def test_an_acknowledged_event_does_not_come_again(slack: SlackSimulator, clock: ManualClock) -> None:
    async with wire(slack) as line:
        await slack.post("maya", "#general", "one")
        await line.ack(await line.frame())
        await slack.wait_for(lambda: slack.acks)
        clock.advance(400)
        await slack.post("maya", "#general", "two")
        assert (await line.frame())["payload"]["event"]["text"] == "two"
    assert [(ack.type, ack.late, ack.attempt) for ack in slack.acks] == [("events_api", False, 0)]


async def test_an_ack_on_another_socket_counts_and_is_recorded(slack: SlackSimulator, clock: ManualClock) -> None:
    async with wire(slack) as first, wire(slack) as second:
        await slack.post("maya", "#general", "one")
        frame = await first.frame()
        await second.ack(frame)
        await slack.wait_for(lambda: slack.acks)
    assert slack.acks[0].other_socket


async def test_each_envelope_goes_to_one_socket(slack: SlackSimulator) -> None:
    async with wire(slack) as first, wire(slack) as second:
        await slack.post("maya", "#general", "one")
        await slack.post("maya", "#general", "two")
        texts = [(await line.frame())["payload"]["event"]["text"] for line in (first, second)]
    assert texts == ["one", "two"]


async def test_edits_deletions_and_the_bots_own_messages_are_events(slack: SlackSimulator) -> None:
    client = web_client(slack)
    async with wire(slack) as line:
        posted = await client.chat_postMessage(channel="#general", text="one")
        await client.chat_update(channel=posted["channel"], ts=posted["ts"], text="two")
        await client.chat_delete(channel=posted["channel"], ts=posted["ts"])
        own, changed, deleted = [(await line.frame())["payload"]["event"] for _ in range(3)]
    assert own["bot_id"] == slack.app.bot.bot_id
    assert (changed["subtype"], changed["hidden"]) == ("message_changed", True)
    assert (changed["message"]["text"], changed["previous_message"]["text"]) == ("two", "one")
    assert "user" not in changed
    assert (deleted["subtype"], deleted["deleted_ts"]) == ("message_deleted", posted["ts"])


async def test_reactions_and_the_home_tab_are_events(slack: SlackSimulator) -> None:
    async with wire(slack) as line:
        ts = await slack.post("maya", "#general", "one")
        await slack.react("jonas", ts, "eyes")
        await slack.open_home("maya")
        _, reaction, home = [(await line.frame())["payload"]["event"] for _ in range(3)]
    assert (reaction["type"], reaction["reaction"], reaction["item"]["ts"]) == ("reaction_added", "eyes", ts)
    assert (home["type"], home["tab"], home["channel"]) == ("app_home_opened", "home", slack.dm("maya").id)


async def test_events_need_membership_and_a_subscription(clock: ManualClock) -> None:
    manifest = Manifest(events=frozenset({"app_mention"}))
    async with SlackSimulator(clock=clock, manifest=manifest, limits=None) as slack, wire(slack) as line:
        await slack.post("maya", "#random", "@Flow elsewhere")
        await slack.post("maya", "#general", "plain")
        await slack.post("maya", "#general", "@Flow here")
        event = (await line.frame())["payload"]["event"]
    assert (event["type"], event["text"]) == ("app_mention", f"<@{slack.bot_user_id}> here")


async def test_an_event_for_nobody_waits_for_its_retries(slack: SlackSimulator, clock: ManualClock) -> None:
    await slack.post("maya", "#general", "early")
    clock.advance(1)
    async with wire(slack) as line:
        clock.advance(61)
        frame = await line.frame()
    assert (frame["payload"]["event"]["text"], frame["retry_attempt"]) == ("early", 2)


@pytest.mark.parametrize("reason", ["refresh_requested", "link_disabled", "warning"])
async def test_disconnect_frames(slack: SlackSimulator, clock: ManualClock, reason: str) -> None:
    async with wire(slack) as line:
        slack.faults.disconnect(reason)
        assert (await line.frame())["reason"] == reason
        assert slack.connected() == (reason == "warning")
        if reason == "warning":
            clock.advance(10)
            assert (await line.frame())["reason"] == "refresh_requested"
        clock.advance(1)
        assert (await line.ws.receive()).type == aiohttp.WSMsgType.CLOSE


async def test_a_reset_socket_ends_without_a_close_frame(slack: SlackSimulator) -> None:
    async with wire(slack) as line:
        slack.faults.reset_sockets()
        message = await line.ws.receive()
        assert line.ws.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
    assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    await slack.wait_for(lambda: not slack.connected())


async def test_a_deaf_socket_swallows_and_the_event_comes_again_elsewhere(
    slack: SlackSimulator, clock: ManualClock
) -> None:
    async with wire(slack) as deaf:
        slack.faults.deafen_sockets()
        await slack.post("maya", "#general", "hello")
        with pytest.raises(TimeoutError):
            await deaf.frame(0.1)
        async with wire(slack) as second:
            clock.advance(3)
            frames = slack.deliveries
            assert frames[0].timed_out
            assert (await second.frame())["retry_attempt"] == 1


async def test_events_can_be_doubled_delayed_and_reordered(slack: SlackSimulator, clock: ManualClock) -> None:
    async with wire(slack) as line:
        slack.faults.duplicate_events(1)
        await slack.post("maya", "#general", "twice")
        pair = [await line.frame(), await line.frame()]
        assert len({frame["payload"]["event_id"] for frame in pair}) == 1

        slack.faults.delay_events(30)
        await slack.post("maya", "#general", "slow")
        await slack.post("maya", "#general", "quick")
        assert (await line.frame())["payload"]["event"]["text"] == "quick"
        for frame in pair:
            await line.ack(frame)
        await slack.wait_for(lambda: len(slack.acks) == 2)

    async with wire(slack) as line:
        slack.faults.reorder_events(2)
        await slack.post("maya", "#general", "first")
        await slack.post("maya", "#general", "second")
        texts = [(await line.frame())["payload"]["event"]["text"] for _ in range(2)]
    assert texts == ["second", "first"]


async def test_socket_latency_delays_both_ways_in_order() -> None:
    async with SlackSimulator(limits=None) as slack, wire(slack) as line:
        slack.faults.socket_latency = 0.05
        await slack.post("maya", "#general", "one")
        await slack.post("maya", "#general", "two")
        frames = [await line.frame(), await line.frame()]
        await asyncio.gather(*(line.ack(frame) for frame in frames))
        await slack.wait_for(lambda: len(slack.acks) == 2)
    assert [frame["payload"]["event"]["text"] for frame in frames] == ["one", "two"]
    assert min(ack.latency for ack in slack.acks) >= 0.1


async def test_opening_connections_can_fail(slack: SlackSimulator) -> None:
    slack.faults.fail("apps.connections.open", error="internal_error")
    assert await error_of(web_client(slack).apps_connections_open(app_token=slack.app_token)) == "internal_error"
    assert (await web_client(slack).apps_connections_open(app_token=slack.app_token))["ok"]


async def test_socket_mode_switched_off_lets_nobody_stay(slack: SlackSimulator, clock: ManualClock) -> None:
    async with wire(slack) as line:
        slack.faults.switch_socket_mode(on=False)
        frame = await line.frame()
        assert (frame["type"], frame["reason"]) == ("disconnect", "link_disabled")
        clock.advance(1)
        assert (await line.ws.receive()).type == aiohttp.WSMsgType.CLOSE
    async with wire(slack, hello=False) as line:
        assert (await line.frame())["reason"] == "link_disabled"
    slack.faults.switch_socket_mode(on=True)
    async with wire(slack):
        assert slack.connected()


async def test_only_the_oldest_socket_is_closed_when_asked(slack: SlackSimulator) -> None:
    async with wire(slack) as first, wire(slack) as second:
        slack.faults.disconnect("refresh_requested", oldest=1)
        assert (await first.frame())["reason"] == "refresh_requested"
        await slack.post("maya", "#general", "to the other")
        assert (await second.frame())["type"] == "events_api"


async def test_an_event_held_for_reordering_leaves_alone_after_a_while(
    slack: SlackSimulator, clock: ManualClock
) -> None:
    async with wire(slack) as line:
        slack.faults.reorder_events(2)
        await slack.post("maya", "#general", "alone")
        assert slack.deliveries == []
        clock.advance(2)
        assert (await line.frame())["payload"]["event"]["text"] == "alone"
