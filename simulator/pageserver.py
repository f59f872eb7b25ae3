"""The page: a workspace that people can look at and write in, live.

`GET /` and `/static/…` are files; `/page/live` is a WebSocket that starts with everything one person may see and goes
on with every change; `POST /page/act` is what that person does. Only pages of this very origin are let in.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from simulator.inputs import block_elements, chosen
from simulator.interactions import Result
from simulator.state import Channel, Record, User

if TYPE_CHECKING:
    from simulator.slack import SlackSimulator

Json = dict[str, Any]
FILES = Path(__file__).parent / "page"
CONTENT_SECURITY = "default-src 'self'; img-src 'self' data: https:; connect-src 'self' ws: wss:; style-src 'self'"


class Page:
    """Serves the page of one workspace."""

    def __init__(self, slack: "SlackSimulator") -> None:
        self._slack = slack
        self._workspace = slack.workspace
        self._actions: dict[str, Callable[[User, Json], Awaitable[Json]]] = {
            "post": self._post,
            "command": self._command,
            "click": self._click,
            "submit": self._submit,
            "suggest": self._suggest,
            "close": self._close,
            "react": self._react,
            "edit": self._edit,
            "delete": self._delete,
            "home": self._home,
            "shortcut": self._shortcut,
            "invite": self._invite,
        }

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self._index),
            web.get("/archives/{channel}/{message}", self._index),  # a permalink: the page opens its thread
            web.get("/static/{name}", self._static),
            web.get("/page/live", self._live),
            web.post("/page/act", self._act),
            web.get("/page/files/{id}", self._file),
        ]

    async def _index(self, _request: web.Request) -> web.StreamResponse:
        headers = {"Content-Security-Policy": CONTENT_SECURITY, "Cache-Control": "no-store"}
        return web.FileResponse(FILES / "index.html", headers=headers)

    async def _static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        known = {path.name for path in FILES.iterdir()}
        if name not in known:
            raise web.HTTPNotFound(text="no such file")
        return web.FileResponse(FILES / name, headers={"Cache-Control": "no-store"})

    async def _file(self, request: web.Request) -> web.StreamResponse:
        file = self._workspace.files.get(request.match_info["id"])
        if file is None or file.content is None:
            raise web.HTTPNotFound(text="no such file")
        # Never let an uploaded file run as a page of this origin.
        headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=file.content, content_type=file.mimetype, headers=headers)

    # --- live

    async def _live(self, request: web.Request) -> web.StreamResponse:
        _require_same_origin(request)
        person = self._person(request.query.get("as", ""))
        ws = web.WebSocketResponse(heartbeat=20.0)
        await ws.prepare(request)
        news: asyncio.Queue[Json] = asyncio.Queue()

        def tell(kind: str, data: Json) -> None:
            if (frame := self._frame(person, kind, data)) is not None:
                news.put_nowait(frame)

        news.put_nowait(self._snapshot(person))
        self._workspace.listeners.append(tell)
        writer = asyncio.create_task(_write(ws, news))
        try:
            async for _ in ws:
                pass
        finally:
            self._workspace.listeners.remove(tell)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        return ws

    def _person(self, name: str) -> User:
        try:
            user = self._slack.user(name)
        except KeyError as error:
            raise web.HTTPNotFound(text=str(error)) from None
        if user.is_bot:
            raise web.HTTPForbidden(text="nobody can write as a bot")
        return user

    def _frame(self, person: User, kind: str, data: Json) -> Json | None:
        """The frame that tells this person of a change; None if it is none of their business."""
        match kind:
            case "message":
                channel = self._workspace.channels[data["channel"]]
                if person.id not in channel.members:
                    return None
                return {"type": "message", "message": self._shown(channel.messages[data["ts"]])}
            case "ephemeral" | "view" | "home" | "status" | "channel":
                return {"type": "personal", **self._personal(person)}
        return None

    def _snapshot(self, person: User) -> Json:
        messages = [self._shown(r) for c in self._channels(person) for r in c.messages.values()]
        everybody = self._workspace.users.values()
        return {
            "type": "snapshot",
            "team": self._workspace.name,
            "me": person.id,
            "people": [user.name for user in everybody if not user.is_bot],
            "messages": [message for message in messages if message is not None],
            **self._personal(person),
        }

    def _personal(self, person: User) -> Json:
        """Everything but messages: small, so it is sent whole."""
        now = self._workspace.clock.now()
        return {
            "users": {user.id: _user(user) for user in self._workspace.users.values()},
            "channels": [self._channel(person, channel) for channel in self._channels(person)],
            "apps": [self._app(app_id, person) for app_id in self._workspace.apps],
            "ephemerals": self._slack.ephemerals(person.name),
            "views": self._slack.views(person.name),
            "statuses": [
                {"channel": channel, "thread_ts": thread_ts, **status}
                for (channel, thread_ts), status in self._workspace.statuses.items()
                if status["expires"] > now
            ],
        }

    def _channels(self, person: User) -> list[Channel]:
        return [channel for channel in self._workspace.channels.values() if person.id in channel.members]

    def _channel(self, person: User, channel: Channel) -> Json:
        other = next((m for m in channel.members if m != person.id), "") if channel.kind == "im" else ""
        return {
            "id": channel.id,
            "name": channel.name or self._workspace.users[other].real_name,
            "kind": channel.kind,
            "other": other,
            "members": channel.members,
            "archived": channel.archived,
        }

    def _app(self, app_id: str, person: User) -> Json:
        app = self._workspace.apps[app_id]
        return {
            "id": app.id,
            "name": app.name,
            "bot": app.bot.id,
            "commands": [{"name": name, "description": text} for name, text in app.manifest.commands],
            "shortcuts": [{"name": n, "callback_id": c} for n, kind, c in app.manifest.shortcuts if kind == "message"],
            "home_tab": app.manifest.home_tab,
            "home": app.home.get(person.id),
        }

    def _shown(self, record: Record) -> Json:
        shown = self._slack.shown(record)
        gone = record.deleted and not record.channel.replies(record.ts)
        return shown | {"gone": gone, "expired": bool(record.stream and record.stream.expired)}

    # --- acting

    async def _act(self, request: web.Request) -> web.Response:
        _require_same_origin(request)
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="application/json, please")
        wish = await request.json()
        person = self._person(str(wish.get("as", "")))
        action = self._actions.get(str(wish.get("do", "")))
        if action is None:
            raise web.HTTPBadRequest(text=f"cannot do {wish.get('do')!r}")
        try:
            return web.json_response(await action(person, wish))
        except (KeyError, ValueError, PermissionError) as error:
            return web.json_response({"ok": False, "error": str(error.args[0] if error.args else error)})

    async def _post(self, person: User, wish: Json) -> Json:
        files = [(str(f["name"]), base64.b64decode(f["content"])) for f in wish.get("files", [])]
        ts = await self._slack.post(person.name, wish["channel"], wish["text"], wish.get("thread_ts"), files)
        return {"ok": True, "ts": ts}

    async def _command(self, person: User, wish: Json) -> Json:
        return _plain(await self._slack.command(person.name, wish["channel"], wish["command"], wish.get("text", "")))

    async def _click(self, person: User, wish: Json) -> Json:
        block_id, value = wish.get("block_id", ""), wish.get("value")
        if wish.get("view"):
            view = self._slack.view(person.name, wish["view"])
            element = _find(view.body["blocks"], wish["action_id"], block_id)
            return _plain(await self._slack.core.modals.click(view, chosen(element, value)))
        if wish.get("home"):
            app = self._workspace.apps[wish["home"]]
            element = _find(app.home[person.id]["blocks"], wish["action_id"], block_id)
            return _plain(await self._slack.core.interactions.click_home(app, person, chosen(element, value)))
        clicked = self._slack.click(person.name, wish["ts"], wish["action_id"], value=value, block_id=block_id)
        return _plain(await clicked)

    async def _submit(self, person: User, wish: Json) -> Json:
        return _plain(await self._slack.submit(person.name, wish.get("values", {}), wish["view"]))

    async def _suggest(self, person: User, wish: Json) -> Json:
        """What an external select shows for what is typed."""
        result = await self._slack.suggest(person.name, wish["action_id"], wish["typed"], wish["view"])
        answer = result.ack if isinstance(result.ack, dict) else {}
        groups = [one for group in answer.get("option_groups") or [] for one in group["options"]]
        return _plain(result) | {"options": [*(answer.get("options") or []), *groups] if result.ok else []}

    async def _close(self, person: User, wish: Json) -> Json:
        return _plain(await self._slack.close_view(person.name, wish["view"]))

    async def _react(self, person: User, wish: Json) -> Json:
        record = self._slack.record(wish["ts"])
        mine = any(r["name"] == wish["name"] and person.id in r["users"] for r in record.body.get("reactions", []))
        await (self._slack.unreact if mine else self._slack.react)(person.name, wish["ts"], wish["name"])
        return {"ok": True}

    async def _edit(self, person: User, wish: Json) -> Json:
        await self._slack.edit(person.name, wish["ts"], wish["text"])
        return {"ok": True}

    async def _delete(self, person: User, wish: Json) -> Json:
        await self._slack.delete(person.name, wish["ts"])
        return {"ok": True}

    async def _home(self, person: User, wish: Json) -> Json:
        await self._slack.open_home(person.name, wish.get("tab", "home"), self._workspace.apps[wish["app"]])
        return {"ok": True}

    async def _shortcut(self, person: User, wish: Json) -> Json:
        return _plain(await self._slack.shortcut(person.name, wish["callback_id"], wish["ts"]))

    async def _invite(self, _person: User, wish: Json) -> Json:
        name = str(wish.get("name", "")).lstrip("@").strip()
        user = self._slack.user(name)
        app = self._workspace.app_of(user.id)
        if app is None:
            raise ValueError(f"{user.real_name} is here already.")
        self._slack.invite(wish["channel"], app)
        return {"ok": True}


def _require_same_origin(request: web.Request) -> None:
    """A browser page of another site must not write here, although it can reach the loopback address."""
    origin = request.headers.get("Origin")
    if origin and origin.partition("://")[2] != request.host:
        raise web.HTTPForbidden(text="only the simulator's own page may do that")


async def _write(ws: web.WebSocketResponse, news: "asyncio.Queue[Json]") -> None:
    while True:
        frame = await news.get()
        try:
            await ws.send_str(json.dumps(frame))
        except ConnectionError:
            return


def _find(blocks: list[Json], action_id: str, block_id: str) -> Json:
    for block in blocks:
        for element in block_elements(block):
            if element.get("action_id") == action_id and block_id in ("", block.get("block_id")):
                return {**element, "block_id": block["block_id"]}
    raise KeyError(f"there is no element {action_id!r}")


def _plain(result: Result) -> Json:
    errors = result.ack.get("errors") if isinstance(result.ack, dict) else None
    return {"ok": result.ok, "error": result.error, "errors": errors}


def _user(user: User) -> Json:
    return {"name": user.name, "real_name": user.real_name, "color": user.color, "is_bot": user.is_bot}
