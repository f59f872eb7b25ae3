"""What people do and see, as a Python API: the hands of the simulator."""

import copy
import mimetypes
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from simulator.core import Core
from simulator.events import Events
from simulator.inputs import block_elements, chosen, view_values
from simulator.interactions import Interactions, Result
from simulator.messages import Messages
from simulator.modals import Modals, View
from simulator.state import App, Channel, Record, Revision, Upload, User, Workspace
from simulator.text import pings, visible_text

Json = dict[str, Any]

_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)


class People:
    """Users and channels go by id or name ("maya", "#general"); "dm" is the person's conversation with the bot."""

    core: Core
    workspace: Workspace
    app: App
    _messages: Messages
    _interactions: Interactions
    _modals: Modals
    _events: Events

    # --- names

    def user(self, name: str) -> User:
        return self.workspace.user(name)

    def channel(self, name: str, user: str = "") -> Channel:
        """A channel by name or id; "dm" with a user: their conversation with the first app's bot."""
        return self.dm(user) if name in ("dm", "@dm") else self.workspace.channel(name)

    def dm(self, user: str, app: App | None = None) -> Channel:
        return self.workspace.direct(self.user(user).id, (app or self.app).bot.id)

    def mention(self, app: App | None = None) -> str:
        """The bot's reference as it stands in message text."""
        return f"<@{(app or self.app).bot.id}>"

    def add_user(
        self, name: str, real_name: str = "", *, guest: Literal["", "multi", "single"] = "", team: str = ""
    ) -> User:
        """One more person, in every public channel. `team`: of that other workspace, in channels shared with it."""
        user = self.workspace.add_user(name, real_name or name.title(), "1264a3")
        user.guest, user.team = guest, team
        for channel in self.workspace.channels.values():
            if channel.kind == "channel":
                channel.members.append(user.id)
        return user

    def add_usergroup(self, *members: str) -> str:
        """A user group of these people; its id."""
        group_id = self.workspace.new_id("S")
        self.workspace.usergroups[group_id] = [self.user(member).id for member in members]
        return group_id

    def add_channel(
        self, name: str, *, private: bool = False, members: Sequence[str] = (), with_bot: bool = True
    ) -> Channel:
        """A new channel with everybody in it, or only `members`."""
        people = [self.user(m).id for m in members] or [u.id for u in self.workspace.users.values() if not u.is_bot]
        bots = [self.app.bot.id] if with_bot else []
        return self.workspace.add_channel(name, "group" if private else "channel", people + bots)

    def invite(self, channel: str, app: App | None = None) -> None:
        """Brings the bot into a channel."""
        target, bot = self.channel(channel), (app or self.app).bot
        if bot.id not in target.members:
            target.members.append(bot.id)
            self._events.joined(bot, target)
            self.workspace.changed("channel", channel=target.id)

    def remove(self, channel: str, app: App | None = None) -> None:
        """Takes the bot out of a channel."""
        self.channel(channel).members.remove((app or self.app).bot.id)

    def archive(self, channel: str) -> None:
        self.channel(channel).archived = True

    # --- doing

    async def post(
        self,
        user: str,
        channel: str,
        text: str,
        thread_ts: str | None = None,
        files: Sequence[tuple[str, bytes]] | None = None,
        foreign: bool = False,
    ) -> str:
        """A person writes; `@Name` and `<@U…>` mention. `files`: (name, content). The message's `ts`.

        `foreign`: the files come from another workspace (Slack Connect), so the message has nothing but their ids.
        """
        author = self.user(user)
        target = self.channel(channel, user)
        if target.archived:
            raise ValueError(f"#{target.name} is archived; nobody can write there.")
        if thread_ts and thread_ts not in target.messages:
            raise KeyError(f"there is no message {thread_ts} in {target.name or target.id}")
        uploads = [self._upload(author, name, content) for name, content in files or ()]
        for upload in uploads:
            upload.foreign = foreign
        return self._messages.by_person(author, target, self._with_mentions(text), thread_ts, uploads).ts

    async def delete_file(self, user: str, file_id: str) -> None:
        """A person deletes an own file; PermissionError if it is somebody else's."""
        file = self.workspace.files[file_id]
        if file.user != self.user(user).id:
            raise PermissionError(f"{user} did not upload {file.name}")
        self._messages.delete_file(file)

    def _upload(self, author: User, name: str, content: bytes) -> Upload:
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        now = int(self.workspace.clock.now())
        upload = Upload(self.workspace.new_id("F"), name, len(content), author.id, now, name, kind, content, True)
        self.workspace.files[upload.id] = upload
        return upload

    def _with_mentions(self, text: str) -> str:
        """Never in code: a package's name, say, is none."""
        parts = _CODE.split(text)
        for user in self.workspace.users.values():
            for name in (user.real_name, user.name, user.name.title(), user.name.lower()):
                parts[::2] = [_mentioned(part, name, user.id) for part in parts[::2]]
        return "".join(parts)

    async def command(self, user: str, channel: str, command: str, text: str = "") -> Result:
        """A slash command; waits for its acknowledgement, at most 3 seconds on the simulator's clock."""
        return await self._interactions.command(self.user(user), self.channel(channel, user), command, text)

    async def click(
        self,
        user: str,
        message: Mapping[str, Any] | str,
        action_id: str,
        *,
        value: str | None = None,
        block_id: str = "",
        stale: Sequence[Mapping[str, Any]] = (),
    ) -> Result:
        """Presses a button (or chooses `value` in a menu) of a message, ephemeral ones too; KeyError if it has none.

        `stale` are blocks that the person's client still shows, whatever the message has become since.
        """
        record = self.record(message)
        for block in stale or record.body.get("blocks") or []:
            for element in block_elements(block):
                if element.get("action_id") == action_id and block_id in ("", block.get("block_id")):
                    action = chosen({**element, "block_id": block["block_id"]}, value)
                    return await self._interactions.click(self.user(user), record, action)
        raise KeyError(f"message {record.ts} shows no element {action_id!r}")

    async def shortcut(self, user: str, callback_id: str, message: Mapping[str, Any] | str | None = None) -> Result:
        """A message shortcut, or without a message a global one."""
        record = self.record(message) if message is not None else None
        return await self._interactions.shortcut(self.app, self.user(user), callback_id, record)

    async def edit(self, user: str, message: Mapping[str, Any] | str, text: str) -> None:
        """A person edits an own message; PermissionError if it is somebody else's."""
        record = self._own(user, message)
        self._messages.edit_by_person(record, self._with_mentions(text))

    async def delete(self, user: str, message: Mapping[str, Any] | str) -> None:
        """A person deletes an own message; PermissionError if it is somebody else's."""
        self._messages.delete(self._own(user, message))

    async def react(self, user: str, message: Mapping[str, Any] | str, name: str) -> None:
        self._messages.react(self.user(user), self.record(message), name)

    async def unreact(self, user: str, message: Mapping[str, Any] | str, name: str) -> None:
        self._messages.unreact(self.user(user), self.record(message), name)

    async def open_home(self, user: str, tab: str = "home", app: App | None = None) -> None:
        """Opens the app's home (`tab` "home" or "messages"): `app_home_opened`."""
        chosen_app = app or self.app
        self._events.home_opened(chosen_app, self.user(user), self.dm(user, chosen_app), tab)

    async def stop_agent(self, user: str, channel: str, thread_ts: str, app: App | None = None) -> None:
        """Presses Slack's own Stop button, which there is while the agent's session is `processing`.

        Slack stops the session's open streams and tells the app; the session's status is the app's to change.
        """
        chosen_app, place = app or self.app, self.channel(channel, user)
        status = self.workspace.statuses.get((place.id, thread_ts))
        if not chosen_app.manifest.agent or status is None or status["status"]:
            raise LookupError(f"there is no Stop button in the thread {thread_ts}: no agent is at work there")
        streams = [
            record
            for record in place.messages.values()
            if record.body.get("thread_ts") == thread_ts and self._messages.streaming(record)
        ]
        for record in streams:
            assert record.stream is not None
            record.stream.open = False
            self._messages.update(record, {}, "stop")
        self._events.agent_stopped(chosen_app, self.user(user), place, thread_ts, [record.ts for record in streams])

    # --- modals

    def views(self, user: str) -> list[Json]:
        """The modals that a person has open, the top one last."""
        wanted = self.user(user)
        views = self._modals.views.values()
        return [self._modals.view_object(view) for view in views if view.user is wanted and view.open]

    async def submit(self, user: str, values: Mapping[str, str] | None = None, view_id: str = "") -> Result:
        """Fills the top modal (values by `action_id`) and submits it.

        Into an external select the value is typed first, where it was not offered yet: what the app does not offer
        cannot be chosen (KeyError).
        """
        view, wanted = self.view(user, view_id), values or {}
        for block in view.body["blocks"]:
            for element in block_elements(block):
                value = wanted.get(str(element.get("action_id")))
                if value and element["type"] == "external_select":
                    await self._choose(view, {**element, "block_id": block["block_id"]}, value)
        return await self._modals.submit(view, view_values(view.body["blocks"], wanted, view.offered))

    async def _choose(self, view: View, element: Json, value: str) -> None:
        def offered() -> bool:
            return any(one.get("value") == value for one in view.offered.get(element["action_id"], ()))

        if not offered():
            await self._modals.suggest(view, element, value)
        if not offered():
            raise KeyError(f"{element['action_id']} does not offer {value!r}")

    async def suggest(self, user: str, action_id: str, typed: str, view_id: str = "") -> Result:
        """Types into an external select of the top modal; `ack` of the result is what the app answers.

        KeyError: it has none of that name.
        """
        view = self.view(user, view_id)
        for block in view.body["blocks"]:
            for element in block_elements(block):
                if element.get("action_id") == action_id and element["type"] == "external_select":
                    return await self._modals.suggest(view, {**element, "block_id": block["block_id"]}, typed)
        raise KeyError(f"the modal has no external select {action_id!r}")

    async def close_view(self, user: str, view_id: str = "") -> Result:
        return await self._modals.cancel(self.view(user, view_id))

    def view(self, user: str, view_id: str = "") -> View:
        """The named or top modal of a person; KeyError if there is none."""
        wanted = self.user(user)
        for view in reversed(list(self._modals.views.values())):
            if view.user is wanted and view.open and view_id in ("", view.id):
                return view
        raise KeyError(f"{user} has no modal open")

    def home(self, user: str, app: App | None = None) -> Json | None:
        """The home view that the app published for this person."""
        return (app or self.app).home.get(self.user(user).id)

    # --- seeing

    def messages(self, channel: str, thread_ts: str | None = None, user: str = "") -> list[Json]:
        """Messages of a channel without its threads' replies; or a thread, its parent first. Each has its `channel`."""
        target = self.channel(channel, user)
        if thread_ts is None:
            shown = [
                r for r in target.messages.values() if not r.thread_ts or r.body.get("subtype") == "thread_broadcast"
            ]
            shown = [record for record in shown if not record.deleted or target.replies(record.ts)]
        else:
            parent = target.messages.get(thread_ts)
            shown = ([parent] if parent else []) + target.replies(thread_ts)
        return [self.shown(record) for record in shown]

    def shown(self, record: Record) -> Json:
        """A message as a reader's client has it, metadata included."""
        return {**self._messages.present(record, metadata=True), "channel": record.channel.id}

    def ephemerals(self, user: str, channel: str = "") -> list[Json]:
        """Messages that only this person sees."""
        wanted = self.user(user).id
        place = self.channel(channel, user).id if channel else ""
        return [
            {**copy.deepcopy(record.body), "channel": record.channel.id}
            for record in self.workspace.ephemerals
            if record.body["visible_to"] == wanted and not record.deleted and place in ("", record.channel.id)
        ]

    def history(self, message: Mapping[str, Any] | str) -> list[Revision]:
        """Every state the message ever had, with the time of each."""
        return self.record(message).revisions

    def visible_text(self, message: Mapping[str, Any]) -> str:
        """What a reader sees, names resolved."""
        return visible_text(message, self.workspace.names())

    def pings(self, message: Mapping[str, Any]) -> set[str]:
        """Whom a message notifies: "@U1", "!channel"…"""
        return pings(message)

    def status(self, channel: str, thread_ts: str) -> str:
        """The loading text under a thread ("" when there is none or it is older than two minutes)."""
        status = self.workspace.statuses.get((self.channel(channel).id, thread_ts))
        return status["status"] if status and status["expires"] > self.workspace.clock.now() else ""

    def record(self, message: Mapping[str, Any] | str) -> Record:
        """A message by itself or by its `ts`, ephemeral ones too; KeyError if there is none."""
        ts = message if isinstance(message, str) else str(message["ts"])
        for channel in self.workspace.channels.values():
            if ts in channel.messages:
                return channel.messages[ts]
        for record in self.workspace.ephemerals:
            if record.ts == ts:
                return record
        raise KeyError(f"there is no message {ts}")

    def _own(self, user: str, message: Mapping[str, Any] | str) -> Record:
        record = self.record(message)
        if record.body.get("user") != self.user(user).id:
            raise PermissionError(f"{user} did not write message {record.ts}")
        return record


def _mentioned(text: str, name: str, user_id: str) -> str:
    marker = f"@{name}"
    start = 0
    while (found := text.find(marker, start)) >= 0:
        end = found + len(marker)
        before, after = text[found - 1 : found], text[end : end + 1]
        if before == "<" or before.isalnum() or after.isalnum() or after in ("_", "-", ".", "/"):
            start = end
            continue
        text = f"{text[:found]}<@{user_id}>{text[end:]}"
        start = found + len(user_id) + 3
    return text
