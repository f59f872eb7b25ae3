"""What the listeners of the Slack door share."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from bot.access import Access
from bot.answerers import Answerers
from bot.backlog import Backlog
from bot.files import Downloads
from bot.guard import Guard
from bot.home import Homes
from bot.inbound import Identity
from bot.parts import Block
from bot.people import People
from bot.reactions import Reactions
from bot.reading import Reader
from bot.repositories import Catalog
from bot.show import Show
from bot.store import ReactionStore
from bot.tasks import Tasks
from config.logging import get_logger
from config.settings import AccessSettings
from sessions.egress import Egress
from sessions.manager import Sessions
from sessions.types import ThreadId

if TYPE_CHECKING:
    from bot.previews import PreviewOffers

log = get_logger(__name__)

Ack = Callable[..., Awaitable[Any]]
Respond = Callable[..., Awaitable[Any]]


class Door:
    """`version` and `runtime` are words for people. `now` gives seconds since 1970.

    Whoever makes a door calls `attend` before sessions begin to work, enters `after`, and calls `connected` whenever
    Slack can be heard again after something may have been missed.
    """

    def __init__(
        self,
        sessions: Sessions,
        show: Show,
        client: AsyncWebClient,
        me: Identity,
        version: str,
        runtime: str,
        now: Callable[[], float] = time.time,
        access: AccessSettings | None = None,
        answerers: Answerers | None = None,
        reactions: bool = True,
    ) -> None:
        self.sessions = sessions
        self.show = show
        self.client = client
        self.me = me
        self.version = version
        self.runtime = runtime
        self.now = now
        self.answerers = answerers or Answerers()
        #: What goes on after an acknowledgement. With `process_before_response` the ack leaves when the listener
        #: returns.
        self.after = Tasks("slack")
        self.people = People(client, me)
        self.access = Access(access or AccessSettings(), client, me, learned=self.people.learn)
        self.reader = Reader(client)
        self.reactions = Reactions(client, self.after, ReactionStore(sessions.store.db), now, on=reactions)
        self.acted = Recent()
        self._one_by_one: WeakValueDictionary[ThreadId, asyncio.Lock] = WeakValueDictionary()
        self._on_connected: list[Callable[[], None]] = []
        self._cleaning = False
        self.guard = Guard(self)
        self.homes = Homes(self)
        self.previews: PreviewOffers | None = None  # where servers in worklets can be opened
        self.catalog: Catalog | None = None  # the repositories to start with, and the startup scripts
        self.egress: Egress | None = None  # where people decide on hosts

    def attend(self) -> None:
        """From now on reactions say how far each asked turn is, and Claude hears what a thread said before it."""
        self.sessions.observe(self.reactions.observe)
        self.sessions.files.fetch = Downloads(self.client).fetch
        self.sessions.authors(self.people.author)
        self.sessions.backlog(Backlog(self.sessions, self.reader, self.people, self.me).collect)

    def connected(self) -> None:
        """Slack can be heard, for the first time or after something may have been missed. Returns at once."""
        if not self._cleaning and self.after.open:
            self._cleaning = True
            self.after.start(self.reactions.keep_clean(), "left-over reactions")
        for call in self._on_connected:
            call()

    def when_connected(self, call: Callable[[], None]) -> None:
        self._on_connected.append(call)

    def one_by_one(self, thread: ThreadId) -> asyncio.Lock:
        """To be held by what is done in a thread in the order in which it was written."""
        return self._one_by_one.setdefault(thread, asyncio.Lock())

    def ts(self) -> str:
        """Now, in the form of a message's ts."""
        return f"{self.now():.6f}"

    async def whisper(self, thread: ThreadId, user_id: str, text: str, blocks: Sequence[Block] | None = None) -> None:
        """Visible to one person. Slack shows nothing of it in a thread that has no reply yet."""
        try:
            await self.client.chat_postEphemeral(
                channel=thread.channel, thread_ts=thread.thread_ts, user=user_id, text=text, blocks=blocks
            )
        except SlackApiError as error:
            log.warning("cannot answer privately", error=error.response.get("error"))


class Recent:
    """What was acted on lately: Slack may tell of one thing twice, and not all of it is in the database."""

    def __init__(self, most: int = 1_000) -> None:
        self._most = most
        self._keys: OrderedDict[str, None] = OrderedDict()

    def first(self, key: str) -> bool:
        """True the first time."""
        known = key in self._keys
        self._keys[key] = None
        if len(self._keys) > self._most:
            self._keys.popitem(last=False)
        return not known

    def forget(self, key: str) -> None:
        """It failed: the next time is the first again."""
        self._keys.pop(key, None)
