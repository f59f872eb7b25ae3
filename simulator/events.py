"""Events API: what happened in the workspace, told to every app that subscribed and stands in the channel."""

import copy
from collections.abc import Callable
from typing import Any

from simulator.state import App, Channel, Record, User, Workspace
from simulator.text import mentions

Json = dict[str, Any]
CHANNEL_TYPES = {"channel": "channel", "group": "group", "im": "im", "mpim": "mpim"}
MESSAGE_EVENTS = {"channel": "message.channels", "group": "message.groups", "im": "message.im", "mpim": "message.mpim"}


class Events:
    """Builds `event_callback` payloads and hands them to `deliver(app, payload)`."""

    def __init__(self, workspace: Workspace, deliver: Callable[[App, Json], None]) -> None:
        self._workspace = workspace
        self._deliver = deliver

    def posted(self, record: Record) -> None:
        """`message`, and for a mentioned bot `app_mention` with an `event_id` of its own and the same `ts`."""
        channel = record.channel
        event = {**self._shown(record), "channel": channel.id, "event_ts": record.ts}
        self._message_event(channel, {**event, "channel_type": CHANNEL_TYPES[channel.kind]})
        if channel.kind == "im":
            return
        for user_id in sorted(mentions(record.body.get("text", ""))):
            app = self._workspace.app_of(user_id)
            if app and user_id in channel.members and app.manifest.subscribes("app_mention"):
                self._send(app, {**event, "type": "app_mention"})

    def edited(self, record: Record, previous: Json) -> None:
        """`message_changed`; also for every edit that a bot makes to its own message."""
        event = {
            **self._hidden(record.channel, "message_changed"),
            "message": self._shown(record),
            "previous_message": previous,
        }
        self._message_event(record.channel, event)

    def deleted(self, record: Record, previous: Json) -> None:
        event = {
            **self._hidden(record.channel, "message_deleted"),
            "deleted_ts": record.ts,
            "previous_message": previous,
        }
        self._message_event(record.channel, event)

    def reaction(self, kind: str, user: User, name: str, record: Record) -> None:
        """`kind` is "reaction_added" or "reaction_removed"."""
        event = {
            "type": kind,
            "user": user.id,
            "reaction": name,
            "item_user": record.body.get("user", ""),
            "item": {"type": "message", "channel": record.channel.id, "ts": record.ts},
            "event_ts": self._workspace.new_ts(),
        }
        for app in self._apps_in(record.channel, kind):
            self._send(app, copy.deepcopy(event))

    def home_opened(self, app: App, user: User, channel: Channel, tab: str) -> None:
        event: Json = {
            "type": "app_home_opened",
            "user": user.id,
            "channel": channel.id,
            "tab": tab,
            "event_ts": self._workspace.new_ts(),
        }
        if tab == "home" and user.id in app.home:
            event["view"] = app.home[user.id]
        if app.manifest.subscribes("app_home_opened"):
            self._send(app, event)

    def agent_stopped(self, app: App, user: User, channel: Channel, thread_ts: str, streams: list[str]) -> None:
        """`agent_session_stopped`; `streams`: the ts of streams that Slack has stopped."""
        event: Json = {
            "type": "agent_session_stopped",
            "channel": channel.id,
            "user": user.id,
            "thread_ts": thread_ts,
            "streaming_message_ts": streams,
            "event_ts": self._workspace.new_ts(),
        }
        if app.manifest.subscribes("agent_session_stopped"):
            self._send(app, event)

    def joined(self, user: User, channel: Channel) -> None:
        """`member_joined_channel`."""
        event = {
            "type": "member_joined_channel",
            "user": user.id,
            "channel": channel.id,
            "team": self._workspace.team_id,
        }
        for app in self._apps_in(channel, "member_joined_channel"):
            self._send(app, {**event, "event_ts": self._workspace.new_ts()})

    def _shown(self, record: Record) -> Json:
        return {**copy.deepcopy(record.body), "team": self._workspace.team_id}

    def _hidden(self, channel: Channel, subtype: str) -> Json:
        ts = self._workspace.new_ts()
        return {
            "type": "message",
            "subtype": subtype,
            "hidden": True,
            "channel": channel.id,
            "channel_type": CHANNEL_TYPES[channel.kind],
            "ts": ts,
            "event_ts": ts,
        }

    def _message_event(self, channel: Channel, event: Json) -> None:
        for app in self._apps_in(channel, MESSAGE_EVENTS[channel.kind]):
            self._send(app, copy.deepcopy(event))

    def _apps_in(self, channel: Channel, subscription: str) -> list[App]:
        return [
            app
            for app in self._workspace.apps.values()
            if app.bot.id in channel.members and app.manifest.subscribes(subscription)
        ]

    def _send(self, app: App, event: Json) -> None:
        team = self._workspace.team_id
        authorization = {
            "enterprise_id": None,
            "team_id": team,
            "user_id": app.bot.id,
            "is_bot": True,
            "is_enterprise_install": False,
        }
        payload = {
            "token": "simulated-verification-token",
            "team_id": team,
            "context_team_id": team,
            "context_enterprise_id": None,
            "api_app_id": app.id,
            "event": event,
            "type": "event_callback",
            "event_id": self._workspace.new_id("Ev"),
            "event_time": int(self._workspace.clock.now()),
            "authorizations": [authorization],
            "is_ext_shared_channel": False,
            "event_context": f"4-{self._workspace.new_id('EC')}",
        }
        self._deliver(app, payload)
