"""The Socket Mode connection against the simulated workspace: tickets, refreshes, deafness, wrong tokens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from slack_bolt.async_app import AsyncApp
from waiting import until

from bot.inbound import Identity
from bot.socket import SlackAuthFailed, SlackSocket, SlackUnreachable, preflight, web_client
from bot.tasks import Tasks
from simulator.manifest import Manifest
from simulator.slack import SlackSimulator


class Listening:
    """A connected socket and what came through it."""

    def __init__(self, slack: SlackSimulator, deaf_after: float = 60) -> None:
        self.connects = 0
        self.going_on = asyncio.Event()  # commands wait for it
        self.going_on.set()
        self.socket = SlackSocket(
            app_token=slack.app_token,
            bot_token=slack.bot_token,
            api_url=slack.api_url,
            ping_interval=min(2, deaf_after / 6),
            deaf_after=deaf_after,
            on_connected=self._connected,
        )
        self.app = AsyncApp(client=web_client(slack.bot_token, slack.api_url), request_verification_enabled=False)
        self.heard: list[str] = []
        self.app.event("message")(self._hear)
        self.app.command("/flow")(self._obey)
        self.app.action("press")(self._press)
        self.commands: list[str] = []
        self.clicks: list[str] = []

    def _connected(self) -> None:
        self.connects += 1

    async def _obey(self, ack: Any, command: dict[str, str]) -> None:
        self.commands.append(command["text"])
        await self.going_on.wait()
        await ack(text=f"done {command['text']}")

    async def _press(self, ack: Any, action: dict[str, str]) -> None:
        self.clicks.append(action["value"])
        await ack()

    async def _hear(self, event: dict[str, str]) -> None:
        self.heard.append(event["text"])


@pytest.fixture
async def listening(slack: SlackSimulator) -> AsyncIterator[Listening]:
    made = Listening(slack)
    async with Tasks("test") as tasks:
        tasks.start(made.socket.run(made.app), "socket")
        await until(lambda: both(made))
        yield made


def both(listening: Listening) -> bool:
    return listening.socket.state()["connections"] == "2 of 2"


def opens(slack: SlackSimulator) -> int:
    return sum(call.method == "apps.connections.open" for call in slack.calls)


async def test_every_attempt_has_a_new_ticket(slack: SlackSimulator, listening: Listening) -> None:
    before = opens(slack)
    slack.faults.refuse_handshakes(2)
    slack.faults.close_sockets()
    await until(lambda: both(listening) and slack.connected())
    assert opens(slack) - before == 4
    await slack.post("maya", "#general", "back")
    await until(lambda: listening.heard == ["back"])
    assert listening.socket.state()["state"] == "connected"
    assert listening.connects == 3  # the first time, and once for each that was lost


async def test_the_first_handshake_may_fail_too(slack: SlackSimulator) -> None:
    slack.faults.refuse_handshakes(2)
    made = Listening(slack)
    async with Tasks("test") as tasks:
        tasks.start(made.socket.run(made.app), "socket")
        await until(lambda: both(made))
    assert opens(slack) == 4
    assert made.socket.state()["state"] == "down"


async def test_two_connections_share_what_comes_in(slack: SlackSimulator, listening: Listening) -> None:
    assert len(slack.sockets.open) == 2
    for number in range(10):
        await slack.post("maya", "#general", f"{number}")
    await until(lambda: len(listening.heard) == 10)
    assert {delivery.socket for delivery in slack.deliveries} == {1, 2}
    await until(lambda: len(slack.acks) == 10)
    assert not any(ack.other_socket for ack in slack.acks)


async def test_a_refresh_beside_another_connection_is_not_told(slack: SlackSimulator, listening: Listening) -> None:
    for number in range(3):
        slack.faults.disconnect(oldest=1)
        await until(lambda: opens(slack) == 3 + number and both(listening))  # noqa: B023 - awaited at once
    assert listening.connects == 1


async def test_a_connection_that_was_deaf_beside_another_is_told(slack: SlackSimulator) -> None:
    made = Listening(slack, deaf_after=1)
    async with Tasks("test") as tasks:
        tasks.start(made.socket.run(made.app), "socket")
        await until(lambda: both(made))
        before = made.connects
        slack.faults.deafen_sockets(oldest=1)
        await until(lambda: made.connects > before)


@pytest.mark.parametrize("reason", ["warning", "refresh_requested", "too_many_websockets"])
async def test_a_refresh_loses_nothing(slack: SlackSimulator, listening: Listening, reason: str) -> None:
    for number in range(20):
        await slack.post("maya", "#general", f"{number}")
        if number == 10:
            slack.faults.disconnect(reason)
        await asyncio.sleep(0)
    await until(lambda: {str(number) for number in range(20)} <= set(listening.heard))
    await until(lambda: {delivery.payload["event_id"] for delivery in slack.deliveries} == acknowledged(slack))
    assert listening.socket.connected


def acknowledged(slack: SlackSimulator) -> set[str]:
    return {delivery.payload["event_id"] for delivery in slack.deliveries if delivery.acked}


FAULTS: dict[str, Callable[[SlackSimulator], None]] = {
    "refresh": lambda slack: slack.faults.disconnect(oldest=1),
    "warning of one": lambda slack: slack.faults.disconnect("warning", oldest=1),
    "warning of both": lambda slack: slack.faults.disconnect("warning"),
    "too many": lambda slack: slack.faults.disconnect("too_many_websockets", oldest=1),
}


async def test_commands_and_clicks_survive_every_refresh(slack: SlackSimulator, listening: Listening) -> None:
    """Slack sends neither again: each has to be handled the one time that it comes, and its ack to arrive."""
    dice = random.Random(5)
    slack.faults.socket_latency = 0.02
    button = {"type": "button", "action_id": "press", "value": "b", "text": {"type": "plain_text", "text": "Press"}}
    web = web_client(slack.bot_token, slack.api_url)
    sent = await web.chat_postMessage(
        channel=slack.channel("#general").id, text="x", blocks=[{"type": "actions", "elements": [button]}]
    )
    asked: list[asyncio.Task[Any]] = []
    for number in range(60):
        asked.append(asyncio.create_task(slack.command("maya", "#general", "/flow", f"{number}")))
        asked.append(asyncio.create_task(slack.click("maya", sent["ts"], "press")))
        if number % 8 == 6:
            await until(lambda: sum(not socket.leaving for socket in slack.sockets.open) >= 2)
            FAULTS[dice.choice(list(FAULTS))](slack)
        await asyncio.sleep(0.02)
    results = await asyncio.gather(*asked)
    assert [result.error for result in results if not result.ok] == []
    assert sorted(listening.commands, key=int) == [str(number) for number in range(60)]
    assert len(listening.clicks) == 60
    assert {delivery.attempt for delivery in slack.deliveries} == {0}


async def test_a_reset_of_one_is_covered_by_the_other(slack: SlackSimulator, listening: Listening) -> None:
    slack.faults.reset_sockets(oldest=1)
    assert (await slack.command("maya", "#general", "/flow", "still here")).ok
    assert listening.socket.state()["state"] == "connected"
    await until(lambda: both(listening))
    assert listening.commands == ["still here"]


async def test_an_answer_goes_over_the_other_connection_when_its_own_is_gone(slack: SlackSimulator) -> None:
    made = Listening(slack)
    made.going_on.clear()
    async with Tasks("test") as tasks:
        tasks.start(made.socket.run(made.app), "socket")
        await until(lambda: both(made))
        asked = asyncio.create_task(slack.command("maya", "#general", "/flow"))
        await until(lambda: made.commands)
        assert slack.deliveries[0].socket == 1
        slack.faults.reset_sockets(oldest=1)
        await until(lambda: made.connects == 2)
        made.going_on.set()
        assert (await asked).ok
        assert [ack.other_socket for ack in slack.acks] == [True]


async def test_one_move_answers_three_disconnects(slack: SlackSimulator, listening: Listening) -> None:
    before = opens(slack)
    for _ in range(3):
        slack.faults.disconnect("warning")
    await until(lambda: opens(slack) >= before + 2 and both(listening))
    await slack.post("maya", "#general", "here")
    await until(lambda: "here" in listening.heard)
    assert opens(slack) - before == 2


async def test_a_cut_line_is_noticed(slack: SlackSimulator, listening: Listening) -> None:
    slack.faults.reset_sockets()
    await until(lambda: slack.connected() and both(listening))
    await slack.post("maya", "#general", "after")
    await until(lambda: "after" in listening.heard)


@pytest.mark.parametrize("oldest", [1, None])
async def test_a_deaf_line_is_replaced(slack: SlackSimulator, oldest: int | None) -> None:
    made = Listening(slack, deaf_after=3)
    async with Tasks("test") as tasks:
        tasks.start(made.socket.run(made.app), "socket")
        await until(lambda: both(made))
        deaf = {socket.number for socket in slack.sockets.open[: oldest or 2]}
        slack.faults.deafen_sockets(oldest=oldest)
        await until(lambda: both(made) and not deaf & {s.number for s in slack.sockets.open})
        for number in range(4):
            await slack.post("maya", "#general", f"can you hear me? {number}")
        await until(lambda: len(set(made.heard)) == 4)
        assert not any(delivery.timed_out for delivery in slack.deliveries)


async def test_socket_mode_switched_off_and_on_again(slack: SlackSimulator, listening: Listening) -> None:
    slack.faults.switch_socket_mode(on=False)
    await until(lambda: listening.socket.state().get("reason", "").startswith("Socket Mode is switched off"))
    await until(lambda: not listening.socket.connected)
    assert listening.socket.state()["state"] == "reconnecting"
    before = opens(slack)
    await until(lambda: opens(slack) >= before + 3)  # it keeps trying
    slack.faults.switch_socket_mode(on=True)
    await until(lambda: both(listening))
    state = listening.socket.state()
    assert (state["state"], "reason" in state) == ("connected", False)
    await slack.post("maya", "#general", "on again")
    await until(lambda: "on again" in listening.heard)


async def test_an_app_with_too_many_connections_says_so_and_gets_in_later(slack: SlackSimulator) -> None:
    made = Listening(slack)
    web = web_client(slack.bot_token, slack.api_url)
    async with aiohttp.ClientSession() as http, Tasks("test") as tasks:
        others = [
            await http.ws_connect((await web.apps_connections_open(app_token=slack.app_token))["url"])
            for _ in range(10)
        ]
        tasks.start(made.socket.run(made.app), "socket")
        await until(lambda: "too many open connections" in made.socket.state().get("reason", ""))
        for other in others:
            await other.close()
        await until(lambda: both(made))


async def test_a_revoked_app_token_is_named_and_tried_again(slack: SlackSimulator, listening: Listening) -> None:
    slack.faults.fail("apps.connections.open", error="invalid_auth", times=4)
    slack.faults.close_sockets()
    await until(lambda: "run `flow doctor`" in listening.socket.state().get("reason", ""))
    await until(lambda: both(listening))


async def test_listeners_may_end_and_acknowledge_when_the_program_does(slack: SlackSimulator) -> None:
    made = Listening(slack)
    made.going_on.clear()
    async with Tasks("test") as tasks:
        tasks.start(made.socket.run(made.app), "socket")
        await until(lambda: both(made))
        asked = asyncio.create_task(slack.command("maya", "#general", "/flow"))
        await until(lambda: made.commands)
        asyncio.get_running_loop().call_later(0.3, made.going_on.set)
    assert (await asked).ok


async def test_an_answer_at_the_end_goes_over_the_other_connection_when_its_own_is_gone(slack: SlackSimulator) -> None:
    made = Listening(slack)
    made.going_on.clear()

    async def when_it_ends() -> None:
        await until(lambda: made.socket._closing)
        made.going_on.set()

    async with Tasks("test") as tasks:
        tasks.start(made.socket.run(made.app), "socket")
        await until(lambda: both(made))
        asked = asyncio.create_task(slack.command("maya", "#general", "/flow"))
        await until(lambda: made.commands)
        slack.faults.reset_sockets(oldest=1)
        await until(lambda: made.connects == 2 and both(made))
        going_on = asyncio.create_task(when_it_ends())
    await going_on
    assert (await asked).ok
    assert [ack.other_socket for ack in slack.acks] == [True]


async def test_preflight_says_who_we_are(slack: SlackSimulator) -> None:
    me = await preflight(app_token=slack.app_token, bot_token=slack.bot_token, api_url=slack.api_url)
    assert isinstance(me, Identity)
    assert me.user_id == slack.bot_user_id
    assert me.bot_id == slack.app.bot.bot_id
    assert me.url.endswith("/")


@pytest.mark.parametrize(
    ("app_token", "bot_token", "said"),
    [
        ("", "good", "SLACK_APP_TOKEN is not set."),
        ("good", "", "SLACK_BOT_TOKEN is not set."),
        ("good", "xapp-1", "SLACK_BOT_TOKEN holds a token of another kind."),
        ("good", "xoxb-wrong", "Slack refuses the token in SLACK_BOT_TOKEN (invalid_auth)."),
        ("xapp-wrong", "good", "Slack refuses the token in SLACK_APP_TOKEN (invalid_auth)."),
    ],
)
async def test_wrong_tokens_fail_in_one_sentence(
    slack: SlackSimulator, app_token: str, bot_token: str, said: str
) -> None:
    tokens = {
        "app_token": slack.app_token if app_token == "good" else app_token,
        "bot_token": slack.bot_token if bot_token == "good" else bot_token,
    }
    with pytest.raises(SlackAuthFailed) as failed:
        await preflight(**tokens, api_url=slack.api_url)
    assert str(failed.value) == said
    assert failed.value.suggestion
    assert "\n" not in failed.value.sentence()


async def test_missing_scopes_are_named() -> None:
    manifest = Manifest(scopes=frozenset({"chat:write", "commands", "app_mentions:read", "im:history"}))
    async with SlackSimulator(manifest=manifest) as slack:
        with pytest.raises(
            SlackAuthFailed, match="lacks channels:history, files:read, files:write, groups:history, mpim:history"
        ):
            await preflight(app_token=slack.app_token, bot_token=slack.bot_token, api_url=slack.api_url)


async def test_a_slack_that_is_not_there_is_named() -> None:
    with pytest.raises(SlackUnreachable, match=r"does not answer at http://127\.0\.0\.1:9/api/"):
        await preflight(app_token="xapp-1", bot_token="xoxb-1", api_url="http://127.0.0.1:9/api/")


async def test_a_short_outage_at_the_start_is_waited_out(slack: SlackSimulator) -> None:
    slack.faults.fail("auth.test", status=503)
    slack.faults.fail("apps.connections.open", status=429, retry_after=1)
    await preflight(app_token=slack.app_token, bot_token=slack.bot_token, api_url=slack.api_url)
