"""The workspace's data: people, channels, messages, apps, files. No I/O, no delivery."""

import copy
import itertools
import random
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from simulator.clock import Clock
from simulator.manifest import Manifest

Json = dict[str, Any]
ChannelKind = Literal["channel", "group", "im", "mpim"]


@dataclass(slots=True)
class User:
    """A person, or an app's bot user. `team`: another workspace's id, of somebody met in a shared channel."""

    id: str
    name: str
    real_name: str
    color: str = "4a154b"
    app_id: str = ""
    bot_id: str = ""
    guest: Literal["", "multi", "single"] = ""  # multi-channel or single-channel guest
    team: str = ""

    @property
    def is_bot(self) -> bool:
        return bool(self.bot_id)


@dataclass(slots=True)
class Revision:
    """A message from `time` (epoch seconds) on; `kind`: "post", "update", "append", "stop", "react" or "delete"."""

    time: float
    kind: str
    body: Json


@dataclass(slots=True)
class Stream:
    """A message that `chat.startStream` opened; `expires` in epoch seconds."""

    expires: float
    open: bool = True
    expired: bool = False
    markdown: str = ""
    display_mode: str = "timeline"


@dataclass(slots=True)
class Record:
    """A message with everything that ever happened to it. `body` has the shape that `conversations.replies` answers."""

    channel: "Channel"
    body: Json
    app_id: str = ""
    metadata: Json | None = None
    stream: Stream | None = None
    deleted: bool = False
    revisions: list[Revision] = field(default_factory=list)

    @property
    def ts(self) -> str:
        return str(self.body["ts"])

    @property
    def thread_ts(self) -> str | None:
        """The parent's `ts` when this is a reply."""
        thread_ts = self.body.get("thread_ts")
        return thread_ts if thread_ts and thread_ts != self.ts else None

    def revise(self, time: float, kind: str) -> None:
        self.revisions.append(Revision(time, kind, copy.deepcopy(self.body)))


@dataclass(slots=True)
class Channel:
    """A conversation; `messages` are ordered by `ts`."""

    id: str
    name: str
    kind: ChannelKind
    created: int
    creator: str = ""
    members: list[str] = field(default_factory=list)
    archived: bool = False
    messages: dict[str, Record] = field(default_factory=dict)

    def replies(self, thread_ts: str) -> list[Record]:
        return [record for record in self.messages.values() if record.thread_ts == thread_ts and not record.deleted]


@dataclass(slots=True)
class App:
    """An installed app: its bot, tokens, and what its manifest allows it."""

    id: str
    name: str
    bot: User
    bot_token: str
    app_token: str
    manifest: Manifest
    home: dict[str, Json] = field(default_factory=dict)


@dataclass(slots=True)
class Upload:
    """A file; `content` is None until its bytes have arrived, `shared` False until the upload was completed.

    `places`: channel and thread of each message with it. `foreign`: of a Slack Connect channel, shown as an id alone.
    """

    id: str
    name: str
    length: int
    user: str
    created: int
    title: str = ""
    mimetype: str = "application/octet-stream"
    content: bytes | None = None
    shared: bool = False
    deleted: bool = False
    foreign: bool = False
    places: list[tuple[str, str | None, str]] = field(default_factory=list)  # channel, thread_ts, ts


class Workspace:
    """All data of one team. `on_change(kind, data)` hears of everything that a reader could see."""

    def __init__(self, clock: Clock, name: str = "Flow Demo", domain: str = "flow-demo") -> None:
        self.clock = clock
        self.name = name
        self.domain = domain
        self.users: dict[str, User] = {}
        self.channels: dict[str, Channel] = {}
        self.apps: dict[str, App] = {}
        self.files: dict[str, Upload] = {}
        self.usergroups: dict[str, list[str]] = {}
        self.ephemerals: list[Record] = []
        self.statuses: dict[tuple[str, str], Json] = {}
        self.listeners: list[Callable[[str, Json], None]] = []
        self._sequence = itertools.count(1)
        self._last_ts = 0
        self.team_id = self.new_id("T")

    def new_id(self, prefix: str) -> str:
        """An id that looks like Slack's and never repeats in this workspace."""
        noise = "".join(random.choices(string.ascii_uppercase + string.digits, k=5))
        return f"{prefix}0{next(self._sequence):04X}{noise}"

    def new_ts(self) -> str:
        """A message's timestamp, `<seconds>.<6 digits>`; strictly growing."""
        self._last_ts = max(int(self.clock.now() * 1_000_000), self._last_ts + 1)
        return f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"

    def changed(self, kind: str, **data: Any) -> None:
        for listener in list(self.listeners):
            listener(kind, data)

    def add_user(self, name: str, real_name: str, color: str) -> User:
        user = User(self.new_id("U"), name, real_name, color)
        self.users[user.id] = user
        return user

    def add_channel(self, name: str, kind: ChannelKind, members: list[str]) -> Channel:
        channel = Channel(
            self.new_id({"im": "D", "mpim": "G"}.get(kind, "C")),
            name,
            kind,
            int(self.clock.now()),
            members[0] if members else "",
            list(members),
        )
        self.channels[channel.id] = channel
        self.changed("channel", channel=channel.id)
        return channel

    def direct(self, *users: str) -> Channel:
        """The direct conversation of exactly these users, made when there is none yet."""
        kind: ChannelKind = "im" if len(users) == 2 else "mpim"
        for channel in self.channels.values():
            if channel.kind == kind and set(channel.members) == set(users):
                return channel
        name = "mpdm-" + "--".join(self.users[user].name for user in users) + "-1" if kind == "mpim" else ""
        return self.add_channel(name, kind, list(users))

    def user(self, user: str) -> User:
        """A user by id, or by name with or without `@`; KeyError if there is none."""
        found = self.users.get(user) or self.user_named(user.lstrip("@"))
        if found is None:
            raise KeyError(f"nobody here is called {user!r}; people: {', '.join(u.name for u in self.users.values())}")
        return found

    def user_named(self, name: str) -> User | None:
        wanted = name.casefold()
        return next((u for u in self.users.values() if wanted in (u.name.casefold(), u.real_name.casefold())), None)

    def channel(self, channel: str) -> Channel:
        """A channel by id, or by name with or without `#`; KeyError if there is none."""
        if channel in self.channels:
            return self.channels[channel]
        wanted = channel.lstrip("#")
        for candidate in self.channels.values():
            if candidate.name == wanted and wanted:
                return candidate
        raise KeyError(
            f"there is no channel {channel!r}; channels: {', '.join(c.name for c in self.channels.values())}"
        )

    def app_of(self, user_id: str) -> App | None:
        user = self.users.get(user_id)
        return self.apps.get(user.app_id) if user and user.app_id else None

    def names(self) -> dict[str, str]:
        """Ids of users and channels with the names that a reader sees."""
        return {u.id: u.real_name if u.is_bot else u.name for u in self.users.values()} | {
            c.id: c.name for c in self.channels.values()
        }
