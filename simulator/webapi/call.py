"""One Web API call: its arguments, its caller, and the table of methods."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web

from simulator.core import Core
from simulator.errors import SlackError
from simulator.state import App, Channel, Record, User

Json = dict[str, Any]
Caller = Literal["bot", "app", "anyone"]
STRUCTURED = ("blocks", "attachments", "chunks", "view", "metadata", "files", "loading_messages", "prompts", "message")
SCOPE_FAMILY = {"channel": "channels", "group": "groups", "im": "im", "mpim": "mpim"}


@dataclass(slots=True)
class Call:
    """What a handler is given. `app` is the caller; its token has been checked."""

    core: Core
    app: App
    method: str
    args: Json

    def text(self, name: str, default: str = "") -> str:
        value = self.args.get(name)
        return default if value is None else str(value)

    def required(self, name: str) -> str:
        """SlackError("invalid_arguments") with Slack's message when the argument is missing."""
        value = self.text(name)
        if not value:
            raise SlackError("invalid_arguments", f"[ERROR] missing required field: {name}")
        return value

    def flag(self, name: str) -> bool:
        return str(self.args.get(name, "")).lower() in ("1", "true")

    def number(self, name: str, default: int, top: int) -> int:
        try:
            value = int(self.args.get(name) or default)
        except ValueError:
            raise SlackError("invalid_arguments", f"[ERROR] must be an integer: {name}") from None
        return max(1, min(value, top))

    def structured(self, name: str, error: str = "invalid_json") -> Any:
        """An argument that is JSON: a value in a JSON body, a string in a form or query. None when absent."""
        value = self.args.get(name)
        if isinstance(value, str) and value:
            try:
                return json.loads(value)
            except ValueError:
                raise SlackError(error) from None
        return None if value == "" else value

    def need(self, *scopes: str) -> None:
        """SlackError("missing_scope") unless the app has one of the scopes."""
        manifest = self.app.manifest
        if scopes and not any(manifest.allows(scope) for scope in scopes):
            raise SlackError("missing_scope", needed=",".join(scopes), provided=manifest.granted())

    def channel(self, name: str = "channel") -> Channel:
        """The channel of an argument, by id or `#name`; private ones exist only for members."""
        wanted = self.required(name)
        workspace = self.core.workspace
        try:
            channel = workspace.channel(wanted)
        except KeyError:
            raise SlackError("channel_not_found") from None
        if channel.kind != "channel" and self.app.bot.id not in channel.members:
            raise SlackError("channel_not_found")
        return channel

    def readable_channel(self) -> Channel:
        channel = self.channel()
        self.need(f"{SCOPE_FAMILY[channel.kind]}:history")
        if self.app.bot.id not in channel.members:
            raise SlackError("not_in_channel")
        return channel

    def record(self, channel: Channel, ts: str) -> Record:
        record = channel.messages.get(ts)
        if record is None or record.deleted:
            raise SlackError("message_not_found")
        return record

    def user(self, name: str = "user") -> User:
        user = self.core.workspace.users.get(self.required(name))
        if user is None:
            raise SlackError("user_not_found")
        return user


Handler = Callable[[Call], Awaitable[Json]]


@dataclass(frozen=True, slots=True)
class Method:
    """A Web API method: who may call it, with which scopes (any one of them)."""

    handler: Handler
    scopes: tuple[str, ...]
    caller: Caller


METHODS: dict[str, Method] = {}


def method(name: str, *scopes: str, caller: Caller = "bot") -> Callable[[Handler], Handler]:
    """Registers a handler under its Slack name."""

    def register(handler: Handler) -> Handler:
        METHODS[name] = Method(handler, scopes, caller)
        return handler

    return register


async def read_args(request: web.Request) -> Json:
    """Arguments from query, form and JSON body together: slack_sdk uses all three, depending on the method."""
    args: Json = dict(request.query)
    if request.content_type == "application/json":
        raw = await request.text()
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            raise SlackError("invalid_json") from None
        if not isinstance(body, dict):
            raise SlackError("json_not_object")
        args |= body
    elif request.content_type in ("application/x-www-form-urlencoded", "multipart/form-data"):
        args |= {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
    return {name: value for name, value in args.items() if value is not None}


def cursor_page(items: list[Any], cursor: str, limit: int) -> tuple[list[Any], str]:
    """One page of a list and the cursor of the next ("" at the end)."""
    try:
        start = int(cursor.removeprefix("next:")) if cursor else 0
    except ValueError:
        raise SlackError("invalid_cursor") from None
    end = start + limit
    return items[start:end], f"next:{end}" if end < len(items) else ""
