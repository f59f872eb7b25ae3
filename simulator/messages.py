"""Messages: written, edited, deleted, reacted to, and shown as the Web API answers them."""

import copy
import uuid
from typing import Any

from simulator.events import Events
from simulator.state import App, Channel, Record, Stream, Upload, User, Workspace
from simulator.text import normalise, rich_text

Json = dict[str, Any]


class Messages:
    """The one place that changes messages: every change is a revision, an event and news for readers."""

    def __init__(self, workspace: Workspace, events: Events) -> None:
        self._workspace = workspace
        self._events = events
        self.base_url = ""

    def by_person(
        self, user: User, channel: Channel, text: str, thread_ts: str | None = None, files: list[Upload] | None = None
    ) -> Record:
        """What a person typed; `text` may hold references such as `<@U1>`."""
        stored = normalise(text)
        body: Json = {
            "client_msg_id": str(uuid.uuid4()),
            "type": "message",
            "user": user.id,
            "text": stored,
            "blocks": self.with_block_ids([rich_text(stored)]) if stored else [],
        }
        if files:
            body |= {"subtype": "file_share", "upload": False, "display_as_bot": False}
            body["files"] = [self.file_object(file) for file in files]
        return self._add(Record(channel, body), thread_ts)

    def by_app(self, app: App, channel: Channel, content: Json, thread_ts: str | None = None, **extra: Any) -> Record:
        """What an app posted; `content` holds the text, blocks and attachments, `extra` goes to the record."""
        body: Json = {
            "type": "message",
            "user": app.bot.id,
            "bot_id": app.bot.bot_id,
            "app_id": app.id,
            "team": self._workspace.team_id,
            "bot_profile": self.bot_profile(app),
            **content,
        }
        key = (channel.id, thread_ts or "")
        if self._workspace.statuses.get(key, {}).get("status"):  # an agent's session goes on; a loading text does not
            del self._workspace.statuses[key]
        return self._add(Record(channel, body, app_id=app.id, **extra), thread_ts)

    def _add(self, record: Record, thread_ts: str | None) -> Record:
        body = record.body
        body["ts"] = self._workspace.new_ts()
        if thread_ts:
            body["thread_ts"] = thread_ts
            parent = record.channel.messages.get(thread_ts)
            if parent is not None:
                body["parent_user_id"] = parent.body.get("user", "")
        record.channel.messages[record.ts] = record
        for shown in body.get("files") or []:
            self._workspace.files[shown["id"]].places.append((record.channel.id, body.get("thread_ts"), record.ts))
        record.revise(self._workspace.clock.now(), "post")
        self._told("message", record)
        self._events.posted(record)
        return record

    def update(self, record: Record, changes: Json, kind: str = "update") -> None:
        """Replaces parts of the body; a value of None removes the part."""
        previous = copy.deepcopy(record.body)
        for key, value in changes.items():
            if value is None:
                record.body.pop(key, None)
            else:
                record.body[key] = value
        record.revise(self._workspace.clock.now(), kind)
        self._told("message", record)
        self._events.edited(record, previous)

    def edit_by_person(self, record: Record, text: str) -> None:
        """The author's own edit, with the "(edited)" mark."""
        stored = normalise(text)
        edited = {"user": record.body["user"], "ts": self._workspace.new_ts()}
        self.update(record, {"text": stored, "blocks": self.with_block_ids([rich_text(stored)]), "edited": edited})

    def delete(self, record: Record) -> None:
        """Removes a message; the parent of a thread leaves a tombstone."""
        previous = copy.deepcopy(record.body)
        record.deleted = True
        record.revise(self._workspace.clock.now(), "delete")
        self._told("message", record)
        self._events.deleted(record, previous)

    def delete_file(self, file: Upload) -> None:
        """Its messages stay, with a tombstone in its place."""
        file.deleted, file.content = True, None
        for channel, _, ts in file.places:
            record = self._workspace.channels[channel].messages[ts]
            left = [self.file_object(file) if each["id"] == file.id else each for each in record.body["files"]]
            self.update(record, {"files": left})

    def react(self, user: User, record: Record, name: str) -> bool:
        """False when this user had reacted so already."""
        reactions = record.body.setdefault("reactions", [])
        entry = next((r for r in reactions if r["name"] == name), None)
        if entry is None:
            entry = {"name": name, "users": [], "count": 0}
            reactions.append(entry)
        if user.id in entry["users"]:
            return False
        entry["users"].append(user.id)
        entry["count"] += 1
        self._reacted("reaction_added", user, record, name)
        return True

    def unreact(self, user: User, record: Record, name: str) -> bool:
        """False when this user had not reacted so."""
        reactions = record.body.get("reactions", [])
        entry = next((r for r in reactions if r["name"] == name and user.id in r["users"]), None)
        if entry is None:
            return False
        entry["users"].remove(user.id)
        entry["count"] -= 1
        record.body["reactions"] = [r for r in reactions if r["users"]]
        if not record.body["reactions"]:
            del record.body["reactions"]
        self._reacted("reaction_removed", user, record, name)
        return True

    def _reacted(self, kind: str, user: User, record: Record, name: str) -> None:
        record.revise(self._workspace.clock.now(), "react")
        self._told("message", record)
        self._events.reaction(kind, user, name, record)

    def _told(self, kind: str, record: Record) -> None:
        self._workspace.changed(kind, channel=record.channel.id, ts=record.ts)

    def ephemeral(
        self, app: App | None, user: User, channel: Channel, content: Json, thread_ts: str | None = None
    ) -> Record:
        """A message that only `user` sees; without an app it comes from Slackbot."""
        author = {"user": app.bot.id, "bot_id": app.bot.bot_id, "app_id": app.id} if app else {"user": "USLACKBOT"}
        body: Json = {"type": "message", "is_ephemeral": True, "ts": self._workspace.new_ts(), **author, **content}
        if thread_ts:
            body["thread_ts"] = thread_ts
        record = Record(channel, {**body, "visible_to": user.id}, app_id=app.id if app else "")
        record.revise(self._workspace.clock.now(), "post")
        self._workspace.ephemerals.append(record)
        self._told("ephemeral", record)
        return record

    def drop_ephemeral(self, record: Record) -> None:
        record.deleted = True
        self._told("ephemeral", record)

    def replace_ephemeral(self, record: Record, content: Json) -> None:
        record.body = {k: v for k, v in record.body.items() if k not in ("text", "blocks", "attachments")} | content
        record.revise(self._workspace.clock.now(), "update")
        self._told("ephemeral", record)

    def present(self, record: Record, *, metadata: bool = False) -> Json:
        """A message as `conversations.replies` answers it, a parent with its thread's figures."""
        body = copy.deepcopy(record.body)
        body["team"] = self._workspace.team_id
        if record.deleted:
            body = {k: body[k] for k in ("type", "ts", "thread_ts") if k in body}
            body |= {"subtype": "tombstone", "hidden": True, "user": "USLACKBOT", "text": "This message was deleted."}
        if record.stream is not None:
            body["streaming_state"] = "in_progress" if self.streaming(record) else "completed"
        if metadata and record.metadata:
            body["metadata"] = copy.deepcopy(record.metadata)
        replies = [] if record.thread_ts else record.channel.replies(record.ts)
        if replies:
            users = list(dict.fromkeys(reply.body.get("user", "") for reply in replies))
            body |= {
                "thread_ts": record.ts,
                "reply_count": len(replies),
                "reply_users": users[:5],
                "reply_users_count": len(users),
                "latest_reply": replies[-1].ts,
                "is_locked": False,
                "subscribed": False,
            }
        return body

    def streaming(self, record: Record) -> bool:
        """Whether a stream is still open; one that outlived its 5 minutes is closed here."""
        stream: Stream | None = record.stream
        if stream and stream.open and self._workspace.clock.now() >= stream.expires:
            stream.open, stream.expired = False, True
            self._told("message", record)
        return bool(stream and stream.open)

    def with_block_ids(self, blocks: list[Json]) -> list[Json]:
        """Blocks as Slack stores them: each with an id; a `markdown` block never keeps the one it was given."""
        stored = copy.deepcopy(blocks)
        for block in stored:
            if block.get("type") == "markdown" or not block.get("block_id"):
                block["block_id"] = self._workspace.new_id("b")[1:7]
            for element in block.get("elements", []) if block.get("type") == "actions" else []:
                element.setdefault("action_id", self._workspace.new_id("a")[1:7])
        return stored

    def bot_profile(self, app: App) -> Json:
        return {
            "id": app.bot.bot_id,
            "app_id": app.id,
            "user_id": app.bot.id,
            "name": app.name,
            "icons": {},
            "deleted": False,
            "updated": 0,
            "team_id": self._workspace.team_id,
        }

    def file_object(self, file: Upload) -> Json:
        """As messages have it."""
        if file.deleted:
            return {"id": file.id, "mode": "tombstone"}
        if file.foreign:
            return {"id": file.id, "mode": "file_access", "file_access": "check_file_info", "created": 0}
        return self.full_file_object(file)

    def full_file_object(self, file: Upload) -> Json:
        url = f"{self.base_url}/files-pri/{self._workspace.team_id}-{file.id}/{file.name}"
        suffix = file.name.rpartition(".")[2].lower()
        return {
            "id": file.id,
            "created": file.created,
            "timestamp": file.created,
            "name": file.name,
            "title": file.title or file.name,
            "mimetype": file.mimetype,
            "filetype": {"txt": "text", "py": "python", "md": "markdown"}.get(suffix, suffix or "binary"),
            "user": file.user,
            "size": file.length,
            "mode": "hosted",
            "is_external": False,
            "is_public": True,
            "url_private": url,
            "url_private_download": url + "?download=1",
            "permalink": f"{self.base_url}/files/{file.user}/{file.id}/{file.name}",
        }
