"""What people do to an app besides writing: commands, clicks, shortcuts; and the `response_url`s they carry."""

import uuid
from dataclasses import dataclass
from typing import Any

from simulator.envelopes import Answer, Envelopes
from simulator.errors import SlackError
from simulator.inputs import view_values
from simulator.messages import Messages
from simulator.state import App, Channel, Record, User, Workspace
from simulator.text import normalise
from simulator.validation import check_content

Json = dict[str, Any]
TRIGGER_LIFETIME = 3.0
RESPONSE_URL_LIFETIME = 30 * 60.0
RESPONSE_URL_USES = 5


@dataclass(slots=True)
class Trigger:
    """A `trigger_id`: good for one view, for 3 seconds."""

    app: App
    user: User
    expires: float
    used: bool = False
    view_id: str = ""


@dataclass(slots=True)
class ResponseUrl:
    """5 uses within 30 minutes, for one person in one channel; `record` is the message it came with."""

    app: App
    user: User
    channel: Channel
    expires: float
    record: Record | None = None
    thread_ts: str | None = None
    uses: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """How an app answered; `error` as Slack's clients name it; `message` is the ephemeral or post that resulted."""

    ok: bool
    ack: Any = None
    error: str | None = None
    message: Json | None = None


class Interactions:
    """Sends commands and interactions to apps and does what their acknowledgement asks for."""

    def __init__(self, workspace: Workspace, envelopes: Envelopes, messages: Messages) -> None:
        self._workspace = workspace
        self._envelopes = envelopes
        self._messages = messages
        self.base_url = ""
        self.triggers: dict[str, Trigger] = {}
        self.response_urls: dict[str, ResponseUrl] = {}
        self._states: dict[tuple[str, str], Json] = {}  # what a person has ticked in a message, by user and ts

    # --- slash commands

    async def command(self, user: User, channel: Channel, name: str, text: str) -> Result:
        """A slash command, typed in a channel (Slack's clients refuse them in threads)."""
        app = self._app_with(name)
        if app is None:
            message = self._slackbot(user, channel, f"{name} is not a valid command.")
            return Result(False, error="unknown_command", message=message)
        payload = {
            "token": "simulated-verification-token",
            "team_id": self._workspace.team_id,
            "team_domain": self._workspace.domain,
            "channel_id": channel.id,
            "channel_name": {"im": "directmessage", "group": "privategroup"}.get(channel.kind, channel.name),
            "user_id": user.id,
            "user_name": user.name,
            "command": name,
            "text": text,
            "api_app_id": app.id,
            "is_enterprise_install": "false",
            "response_url": self.response_url(ResponseUrl(app, user, channel, 0)),
            "trigger_id": self.trigger(app, user),
        }

        def show(response: Any) -> Result:
            try:
                return Result(True, response, message=self._ack_message(app, user, channel, response))
            except SlackError:
                return self._command_failed(user, channel, name, "invalid_command_response")

        answer = await self._envelopes.ask(app, "slash_commands", payload, accepts_response=True, on_payload=show)
        if answer.ok:
            assert isinstance(answer.effect, Result)
            return answer.effect
        return self._command_failed(user, channel, name, str(answer.error))

    def _command_failed(self, user: User, channel: Channel, name: str, error: str) -> Result:
        message = self._slackbot(user, channel, f'{name} failed with the error "{error}"')
        return Result(False, error=error, message=message)

    def _app_with(self, command: str) -> App | None:
        apps = self._workspace.apps.values()
        return next((app for app in apps if command in {name for name, _ in app.manifest.commands}), None)

    def _ack_message(self, app: App, user: User, channel: Channel, payload: Any) -> Json | None:
        if isinstance(payload, str) and payload:
            payload = {"text": payload}
        if not isinstance(payload, dict) or not (payload.get("text") or payload.get("blocks")):
            return None
        return self._show(app, user, channel, payload, None)

    def _slackbot(self, user: User, channel: Channel, text: str) -> Json:
        return self._messages.ephemeral(None, user, channel, {"text": text}).body

    def _show(self, app: App, user: User, channel: Channel, payload: Json, thread_ts: str | None) -> Json:
        content = self._content(payload)
        if payload.get("response_type") == "in_channel":
            return self._messages.by_app(app, channel, content, thread_ts).body
        return self._messages.ephemeral(app, user, channel, content, thread_ts).body

    def _content(self, payload: Json) -> Json:
        check_content(payload)
        content: Json = {"text": normalise(str(payload.get("text") or ""))}
        if payload.get("blocks"):
            content["blocks"] = self._messages.with_block_ids(payload["blocks"])
        return content

    # --- triggers and response_urls

    def trigger(self, app: App, user: User) -> str:
        trigger_id = f"{self._workspace.new_id('1')}.{uuid.uuid4().hex}"
        self.triggers[trigger_id] = Trigger(app, user, self._workspace.clock.now() + TRIGGER_LIFETIME)
        return trigger_id

    def redeem_trigger(self, app: App, trigger_id: str) -> Trigger:
        """SlackError if the trigger is unknown, older than 3 seconds, or used."""
        trigger = self.triggers.get(trigger_id)
        if trigger is None or trigger.app is not app:
            raise SlackError("invalid_trigger_id")
        if self._workspace.clock.now() > trigger.expires:
            raise SlackError("expired_trigger_id")
        if trigger.used:
            raise SlackError("exchanged_trigger_id")
        trigger.used = True
        return trigger

    def response_url(self, target: ResponseUrl) -> str:
        token = uuid.uuid4().hex
        target.expires = self._workspace.clock.now() + RESPONSE_URL_LIFETIME
        self.response_urls[token] = target
        return f"{self.base_url}/response/{token}"

    def respond(self, token: str, payload: Json) -> None:
        """A POST to a `response_url`; SlackError("expired_url" | "used_url" | …) when it does not count."""
        target = self.response_urls.get(token)
        if target is None or self._workspace.clock.now() > target.expires:
            raise SlackError("expired_url")
        if target.uses >= RESPONSE_URL_USES:
            raise SlackError("used_url")
        target.uses += 1
        if payload.get("delete_original") and target.record:
            self._remove(target.record)
        elif payload.get("replace_original") and target.record:
            self._replace(target.record, self._content(payload))
        else:
            thread_ts = payload.get("thread_ts") or target.thread_ts
            self._show(target.app, target.user, target.channel, payload, thread_ts)

    def _remove(self, record: Record) -> None:
        if record.body.get("is_ephemeral"):
            self._messages.drop_ephemeral(record)
        else:
            self._messages.delete(record)

    def _replace(self, record: Record, content: Json) -> None:
        if record.body.get("is_ephemeral"):
            self._messages.replace_ephemeral(record, content)
        else:
            self._messages.update(record, {"blocks": None, **content})

    # --- clicks, shortcuts

    def common(self, kind: str, app: App, user: User) -> Json:
        return {
            "type": kind,
            "team": {"id": self._workspace.team_id, "domain": self._workspace.domain},
            "user": {
                "id": user.id,
                "username": user.name,
                "name": user.name,
                "team_id": user.team or self._workspace.team_id,
            },
            "api_app_id": app.id,
            "token": "simulated-verification-token",
            "trigger_id": self.trigger(app, user),
            "enterprise": None,
            "is_enterprise_install": False,
        }

    def _state(self, user: User, record: Record, action: Json) -> Json:
        """`state.values` of a message: what was chosen there so far, by this person, in blocks that still stand."""
        kept = self._states.setdefault((user.id, record.ts), {})
        if action["type"] not in ("button", "overflow", "feedback_buttons", "icon_button"):
            chosen = {key: value for key, value in action.items() if key == "type" or key.startswith("selected_")}
            kept.setdefault(action["block_id"], {})[action["action_id"]] = chosen
        state = view_values(record.body.get("blocks") or [], {})
        return {block: elements | kept.get(block, {}) for block, elements in state.items()}

    async def click(self, user: User, record: Record, action: Json) -> Result:
        """`block_actions` of a message; `action` is the element as it stands in the message, with its `block_id`."""
        app = self._workspace.apps[record.app_id]
        channel = record.channel
        ephemeral = bool(record.body.get("is_ephemeral"))
        container = {"type": "message", "message_ts": record.ts, "channel_id": channel.id, "is_ephemeral": ephemeral}
        if thread_ts := record.body.get("thread_ts"):
            container["thread_ts"] = thread_ts
        payload = {
            **self.common("block_actions", app, user),
            "container": container,
            "channel": {"id": channel.id, "name": channel.name or "directmessage"},
            "message": self._messages.present(record),
            "state": {"values": self._state(user, record, action)},
            "response_url": self.response_url(ResponseUrl(app, user, channel, 0, record, record.body.get("thread_ts"))),
            "actions": [{**action, "action_ts": self._workspace.new_ts()}],
        }
        return self.result(await self._envelopes.ask(app, "interactive", payload, accepts_response=True))

    async def click_home(self, app: App, user: User, action: Json) -> Result:
        """`block_actions` of the app's home tab."""
        view = app.home[user.id]
        payload = {
            **self.common("block_actions", app, user),
            "container": {"type": "view", "view_id": view["id"]},
            "view": view,
            "actions": [{**action, "action_ts": self._workspace.new_ts()}],
        }
        return self.result(await self._envelopes.ask(app, "interactive", payload, accepts_response=True))

    async def shortcut(self, app: App, user: User, callback_id: str, record: Record | None) -> Result:
        """A message shortcut on `record`, or a global one."""
        payload = self.common("message_action" if record else "shortcut", app, user)
        payload |= {"callback_id": callback_id, "action_ts": self._workspace.new_ts()}
        if record:
            channel = record.channel
            payload |= {
                "channel": {"id": channel.id, "name": channel.name or "directmessage"},
                "message_ts": record.ts,
                "message": self._messages.present(record),
                "response_url": self.response_url(
                    ResponseUrl(app, user, channel, 0, None, record.body.get("thread_ts"))
                ),
            }
        return self.result(await self._envelopes.ask(app, "interactive", payload, accepts_response=False))

    def result(self, answer: Answer) -> Result:
        return Result(answer.ok, answer.payload, answer.error)
