"""The Socket Mode connection against the simulated workspace: tickets, refreshes, deafness, wrong tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from slack_bolt.async_app import AsyncApp
from slackdoor import MANIFEST
from waiting import until

from bot.inbound import Identity
from bot.socket import SlackAuthFailed, SlackSocket, SlackUnreachable, preflight, web_client
from bot.tasks import Tasks
from simulator.manifest import Manifest
from simulator.slack import SlackSimulator


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(manifest=MANIFEST, retry_delays=(0.1, 0.2, 0.3)) as running:
        yield running


class Listening:
    """A connected socket and what came through it."""

    def __init__(self, slack: SlackSimulator, deaf_after: float) -> None:
        self.socket = SlackSocket(
            app_token=slack.app_token,
            bot_token=slack.bot_token,
            api_url=slack.api_url,
            ping_interval=2,
            deaf_after=deaf_after,
        )
        self.app = AsyncApp(client=web_client(slack.bot_token, slack.api_url), request_verification_enabled=False)
        self.heard: list[str] = []
        self.app.event("message")(self._hear)

    async def _hear(self, event: dict[str, str]) -> None:
        self.heard.append(event["text"])


@pytest.fixture
async def listening(slack: SlackSimulator) -> AsyncIterator[Listening]:
    made = Listening(slack, deaf_after=60)
    async with Tasks("test") as tasks:
        tasks.start(made.socket.run(made.app), "socket")
        await until(lambda: made.socket.connected)
        yield made


def opens(slack: SlackSimulator) -> int:
    return sum(call.method == "apps.connections.open" for call in slack.calls)


async def test_every_attempt_has_a_new_ticket(slack: SlackSimulator, listening: Listening) -> None:
    before = opens(slack)
    slack.faults.refuse_handshakes(2)
    slack.faults.close_sockets()
    await until(lambda: slack.connected() and listening.socket.connected)
    assert opens(slack) - before == 3
    await slack.post("maya", "#general", "back")
    await until(lambda: listening.heard == ["back"])
    assert listening.socket.state()["state"] == "connected"


async def test_the_first_handshake_may_fail_too(slack: SlackSimulator) -> None:
    slack.faults.refuse_handshakes(2)
    made = Listening(slack, deaf_after=60)
    async with Tasks("test") as tasks:
        tasks.start(made.socket.run(made.app), "socket")
        await until(lambda: made.socket.connected)
    assert opens(slack) == 3
    assert made.socket.state()["state"] == "down"


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


async def test_one_move_answers_three_disconnects(slack: SlackSimulator, listening: Listening) -> None:
    before = opens(slack)
    for _ in range(3):
        slack.faults.disconnect("warning")
    await until(lambda: opens(slack) > before and listening.socket.connected)
    await slack.post("maya", "#general", "here")
    await until(lambda: "here" in listening.heard)
    assert opens(slack) - before == 1


async def test_a_cut_line_is_noticed(slack: SlackSimulator, listening: Listening) -> None:
    slack.faults.reset_sockets()
    await until(lambda: slack.connected() and listening.socket.connected)
    await slack.post("maya", "#general", "after")
    await until(lambda: "after" in listening.heard)


async def test_a_deaf_line_is_replaced(slack: SlackSimulator, listening: Listening) -> None:
    before = opens(slack)
    slack.faults.deafen_sockets()
    await until(lambda: opens(slack) > before)
    await until(lambda: slack.connected() and listening.socket.connected)
    await slack.post("maya", "#general", "can you hear me?")
    await until(lambda: "can you hear me?" in listening.heard)


async def test_the_watchdog_replaces_a_client_that_died_inside(slack: SlackSimulator) -> None:
    made = Listening(slack, deaf_after=1.0)
    async with Tasks("test") as tasks:
        tasks.start(made.socket.run(made.app), "socket")
        await until(lambda: made.socket.connected)
        dead = made.socket._client
        assert dead is not None
        for task in (dead.current_session_monitor, dead.message_receiver):
            assert task is not None
            task.cancel()
        await until(lambda: made.socket._client is not dead and made.socket.connected)
        await slack.post("maya", "#general", "alive")
        await until(lambda: "alive" in made.heard)


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
        with pytest.raises(SlackAuthFailed, match="lacks channels:history, groups:history, mpim:history"):
            await preflight(app_token=slack.app_token, bot_token=slack.bot_token, api_url=slack.api_url)


async def test_a_slack_that_is_not_there_is_named() -> None:
    with pytest.raises(SlackUnreachable, match=r"does not answer at http://127\.0\.0\.1:9/api/"):
        await preflight(app_token="xapp-1", bot_token="xoxb-1", api_url="http://127.0.0.1:9/api/")


async def test_a_short_outage_at_the_start_is_waited_out(slack: SlackSimulator) -> None:
    slack.faults.fail("auth.test", status=503)
    slack.faults.fail("apps.connections.open", status=429, retry_after=1)
    await preflight(app_token=slack.app_token, bot_token=slack.bot_token, api_url=slack.api_url)
