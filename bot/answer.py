"""One turn as the Outbox keeps it: what it should look like, and what is known of its messages in Slack."""

from __future__ import annotations

from dataclasses import dataclass, field

from bot.markdown import size
from bot.parts import PLAIN_LIMIT, ROOT, Part, plain, sectioned, shortened
from bot.renderer import TurnView
from bot.schedule import Method
from bot.store import Posted
from sessions.types import SessionId, TurnId

BLOCKS, SECTIONS, PLAIN, HOPELESS = range(4)  # how simply a message has to be put for Slack to take it


@dataclass(slots=True)
class Message:
    """`shown`: digest of what Slack has. `unknown`: a post may have happened. `lost`: nothing more is done about it."""

    index: int
    ts: str | None = None
    shown: str | None = None
    unknown: bool = False
    intended: bool = False  # its row is in the table
    final: bool = False
    words: bool = False
    form: int = BLOCKS
    changed_at: float = float("-inf")
    reposted: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """The next call to make for a turn. `part` None: the message is to go."""

    method: Method
    message: Message
    part: Part | None


@dataclass(slots=True)
class Answer:
    """A turn. `thread_ts` None until the root message, part `ROOT`, has opened the thread."""

    turn_id: TurnId
    session_id: SessionId
    channel: str
    thread_ts: str | None
    asked_ts: str
    root: Part | None = None
    view: TurnView = field(default_factory=TurnView)
    messages: dict[int, Message] = field(default_factory=dict)

    def load(self, rows: list[Posted]) -> None:
        for row in rows:
            shown = row.digest if row.final else None
            self.messages[row.part] = Message(
                row.part, row.ts, shown, unknown=row.ts is None, intended=True, final=row.final
            )

    def assume_posted(self) -> None:
        """The table cannot be read: look in Slack before posting anything."""
        for index in (ROOT, 0):
            self.messages[index] = Message(index, unknown=True)

    def next_action(self) -> Action | None:
        """What differs first between what should be shown and what is; None: nothing that can be done now."""
        if self.thread_ts is None:
            return self._root_action()
        parts = self.view.parts()
        for part in parts:
            if (action := self._action_for(part)) is not None:
                return action
        if self.view.settled:
            for index, message in self.messages.items():
                if index >= len(parts) and message.ts is not None and not message.lost:
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
        for message in self.messages.values():
            message.unknown = False
        for index, ts in found.items():
            message = self.messages.setdefault(index, Message(index))
            message.ts = message.ts or ts


def _in_form(part: Part, message: Message) -> Part:
    """Plain text of any length can be posted, but not edited."""
    if message.form == BLOCKS:
        return part
    if message.form == SECTIONS:
        return sectioned(part)
    return plain(part) if message.ts is None else shortened(plain(part))
