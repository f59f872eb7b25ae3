"""One turn as the Outbox keeps it: what it should look like, and what is known of its messages in Slack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bot.layout import Place
from bot.markdown import size
from bot.parts import FILE, PLAIN_LIMIT, ROOT, Part, brief, common, plain, sectioned, shortened, worded
from bot.renderer import TurnView
from bot.schedule import Method
from bot.store import Posted
from config.logging import get_logger
from sessions.types import SessionId, TurnId

if TYPE_CHECKING:
    from bot.delivery import Recipient
    from bot.nativestream import NativeStreams, Stream

log = get_logger(__name__)

BLOCKS, COMMON, SECTIONS, WORDS, PLAIN, HOPELESS = range(6)  # how simply a message has to be put for Slack to take it

STREAMED = "streamed"  # in place of a digest, of a message that a stream has written: equal to none


@dataclass(slots=True)
class Message:
    """`shown`: digest of what Slack has. `unknown`: a post may have happened. `lost`: nothing more is done about it.

    `noted`: the ts that its row has, as far as known here.
    """

    index: int
    ts: str | None = None
    shown: str | None = None
    unknown: bool = False
    intended: bool = False  # its row is in the table
    final: bool = False
    noted: str | None = None
    words: bool = False
    form: int = BLOCKS
    changed_at: float = float("-inf")
    reposted: bool = False
    lost: bool = False
    moves: int = 0  # how often it was posted anew to stand lower
    stream: Stream | None = None  # it grows as one of Slack's streams
    conflicts: int = 0  # how often Slack would not have it edited because it streams


@dataclass(frozen=True, slots=True)
class Action:
    """The next call to make for a turn. `part` None: the message is to go; `move`: to be posted anew further down."""

    method: Method
    message: Message
    part: Part | None
    move: bool = False


@dataclass(slots=True)
class Search:
    """A look-up in Slack under way: what its pages have shown so far, and where the next one begins."""

    found: dict[int, str] = field(default_factory=dict)
    cursor: str | None = None


@dataclass(slots=True)
class Answer:
    """A turn. `thread_ts` None until the root message, part `ROOT`, has opened the thread.

    `released`: it is shown no more, or by another process. `place`: the ts of its first message, as it was at first.
    """

    turn_id: TurnId
    session_id: SessionId
    channel: str
    thread_ts: str | None
    asked_ts: str
    root: Part | None = None
    view: TurnView = field(default_factory=TurnView)
    messages: dict[int, Message] = field(default_factory=dict)
    search: Search = field(default_factory=Search)
    released: bool = False
    place: tuple[int, int] | None = None
    native: NativeStreams | None = None
    streaming: bool = False  # it grows as streams, and Slack has not refused one
    recipient: Recipient | None = None

    def load(self, rows: list[Posted]) -> None:
        for row in rows:
            shown = row.digest if row.final else None
            self.messages[row.part] = Message(
                row.part, row.ts, shown, unknown=row.ts is None, intended=True, final=row.final, noted=row.ts
            )
        self.view = self.view.opened_at([Place.of(row.opens_at) for row in rows if row.opens_at])

    def assume_posted(self) -> None:
        """The table cannot be read: look in Slack before posting anything."""
        self.view = self.view.opened_at(())
        for index in (ROOT, 0):
            self.messages[index] = Message(index, unknown=True)

    def next_action(self) -> Action | None:
        """What differs first between what should be shown and what is; None: nothing that can be done now."""
        if self.thread_ts is None:
            return self._root_action()
        parts = self.parts()
        for part in parts:
            action = self._action_for(part)
            if self.native is not None:
                action = self.native.step(self, part, action)
            if action is not None:
                return action
        return (self._surplus_action(len(parts)) or self._file_action()) if self.view.settled else None

    def _file_action(self) -> Action | None:
        """A long answer is attached as a file too, once it stands in the thread."""
        if self.view.long_text is None:
            return None
        message = self.messages.setdefault(FILE, Message(FILE))
        return Action(Method.UPLOAD, message, None) if message.ts is None and not message.lost else None

    def parts(self) -> list[Part]:
        """What the messages should show. A look that cannot be made must not keep others from theirs."""
        try:
            return self.view.parts()
        except Exception:
            log.exception("an answer cannot be rendered; showing what there is of it", turn=self.turn_id)
            self.view.give_up()
            return self.view.parts()

    @property
    def lacks_post(self) -> bool:
        """Something of it is not in the thread yet."""
        if self.thread_ts is None:
            return self.root is not None
        messages = [self.messages.get(part.index) for part in self.parts()]
        return any(message is None or (message.ts is None and not message.lost) for message in messages)

    @property
    def hurried(self) -> bool:
        """Claude asks something, or has been answered, and people cannot see that yet."""
        if not self.view.ask_news:
            return False
        parts = self.parts()
        shown = {n for n in self.view.ask_news if n >= len(parts) or self._is_shown(parts[n])}
        self.view.ask_news.difference_update(shown)
        return bool(self.view.ask_news)

    def _is_shown(self, part: Part) -> bool:
        message = self.messages.get(part.index)
        return message is not None and (message.lost or message.shown == _in_form(part, message).digest)

    def _surplus_action(self, count: int) -> Action | None:
        """Messages that the final look has no use for are taken away; those that may be there are looked for."""
        for index, message in sorted(self.messages.items()):
            if index < count or message.lost:
                continue
            if message.unknown:
                return Action(Method.REPLIES, message, None)
            if message.ts is not None:
                return Action(Method.DELETE, message, None)
        return None

    def _root_action(self) -> Action | None:
        if self.root is None:
            return None
        message = self.messages.setdefault(ROOT, Message(ROOT))
        if message.unknown:
            return Action(Method.HISTORY, message, self.root)
        return Action(Method.POST, message, _in_form(self.root, message)) if message.ts is None else None

    def _action_for(self, part: Part) -> Action | None:
        message = self.messages.setdefault(part.index, Message(part.index))
        if message.lost:
            return None
        wanted = _in_form(part, message)
        if message.ts is None:
            return Action(Method.REPLIES if message.unknown else Method.POST, message, wanted)
        if message.form == PLAIN and part.final and size(plain(part).text) > PLAIN_LIMIT:
            # No edit holds so much text, but a post does: the whole answer goes out anew.
            return Action(Method.DELETE, message, None) if message.shown != plain(part).digest else None
        return Action(Method.EDIT, message, wanted) if wanted.digest != message.shown else None

    def adopt(self, found: dict[int, str]) -> None:
        """What a look-up in Slack found; what it did not find was never posted."""
        self.search = Search()
        for message in self.messages.values():
            message.unknown = False
        for index, ts in found.items():
            message = self.messages.setdefault(index, Message(index))
            message.ts = message.ts or ts


def _in_form(part: Part, message: Message) -> Part:
    """Plain text of any length can be posted, but not edited."""
    if message.form == BLOCKS:
        return part
    if message.form == COMMON:
        return common(part)
    if message.form == SECTIONS:
        return sectioned(part)
    if part.asks and any(block["type"] == "actions" for block in part.blocks):
        return brief(part)  # without its buttons nobody could answer it
    if message.form == WORDS:
        return worded(part)
    return plain(part) if message.ts is None else shortened(plain(part))
