"""Answers as Slack's own streams: while a message grows, what is new is appended to it; at the end it is edited.

Slack's streams only grow, end by themselves after five minutes (measured by others; undocumented), and cannot be edited
while they are open. So a stream is but the way in which a message comes to its look: `started` in place of a post,
`appended` while the text grows as it did so far, then `stopped` and edited to exactly what edits would have made of
it. That is also how it goes on when its time is over, when Slack refuses an append, when the text was taken back, and
after a restart: a message that Slack will not edit because it streams is stopped first.
A stream cannot carry metadata until it is stopped; its turn and part stand in the id of its first block.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from bot.answer import Action, Answer, Message
from bot.below import STOP_TURN
from bot.delivery import Delivery, Recipient, stream_mark
from bot.parts import Block, Part
from bot.refusals import Meaning, Refusal
from bot.schedule import Clock, Method
from sessions.types import Session, Turn, TurnId

Mode: TypeAlias = Literal["auto", "edits", "native"]
Chunk: TypeAlias = Block

LIFE = 255.0  # seconds after which a stream is stopped; Slack ends it at about 280
_PAUSE = 1.0  # seconds without a new word after which the last one is taken to be whole
_OURS = re.compile(r"[\s>]*(?:`{3,}|~{3,}|\|(?:---\|)+)\s*")
_TITLE = 250  # characters of a task's title; Slack takes 256
_CONFLICTS = 3  # times that a message is stopped because Slack says that it streams

_METHODS = (Method.START, Method.APPEND, Method.STOP)


@dataclass(slots=True)
class Stream:
    """An open stream. `text`: what the message said at the last look, since `at`; `sent`: what of it was appended."""

    until: float
    sent: str = ""
    status: str = ""
    text: str = ""
    at: float = 0.0
    closing: bool = False
    chunks: list[Chunk] = field(default_factory=list)  # of the append that is under way


class NativeStreams:
    """Decides for each conversation, and for each step towards a look, whether it is one of a stream.

    `wake(turn_id)`: have the outbox look at the turn again.
    """

    def __init__(self, mode: Mode, wake: Callable[[TurnId], None], clock: Clock = time.monotonic) -> None:
        self._mode = mode
        self._wake = wake
        self._clock = clock
        self._ending = False

    def adopt(self, answer: Answer, session: Session, turn: Turn) -> None:
        """Has the answer streamed, if its kind of conversation is. One that another process left streaming is seen to
        in any case."""
        direct = session.thread.channel.startswith("D")
        answer.native = self
        answer.streaming = self._mode == "native" or (self._mode == "auto" and direct)
        answer.recipient = None if direct else Recipient(turn.user_id, session.thread.team)

    def end_all(self) -> None:
        """From now on every open stream is to be stopped, and none is started."""
        self._ending = True

    # ---- deciding ----

    def step(self, answer: Answer, part: Part, action: Action | None) -> Action | None:
        """The step towards `part` that an open stream needs in place of `action`; None: nothing to do now."""
        if action is None or action.method not in (Method.POST, Method.EDIT, Method.DELETE):
            return action
        message = action.message
        stream = message.stream
        if stream is None:
            grows = message.index >= 0 and not part.final and not self._ending
            fit = action.method is Method.POST and grows and answer.streaming and not part.asks
            return replace(action, method=Method.START) if fit and _stop_row(part) is not None else action
        over = part.final or _stop_row(part) is None  # what follows stands in another message
        if over or action.method is Method.DELETE or self._ending:
            stream.closing = True
        elif self._clock() >= stream.until and not stream.closing:
            stream.closing = True
            answer.view.step_below()  # what comes goes into a new message, which is a stream again
        if not stream.closing:
            stream.chunks = self._news(answer, stream, part)
        if stream.closing:
            return replace(action, method=Method.STOP)
        return replace(action, method=Method.APPEND) if stream.chunks else None

    def _news(self, answer: Answer, stream: Stream, part: Part) -> list[Chunk]:
        """What can be appended; a text that does not go on as it began ends the stream."""
        text, status, now = _grown(_text(part)), _status(part), self._clock()
        if text != stream.text:
            stream.text, stream.at = text, now
        if not text.startswith(stream.sent):
            stream.closing = True
            return []
        sure = text if now - stream.at >= _PAUSE else _whole_words(text)
        if sure != text:
            self._later(_PAUSE, answer)
        chunks: list[Chunk] = []
        if status and status != stream.status:
            chunks.append(_task(status, "in_progress"))
        if len(sure) > len(stream.sent):
            chunks.append({"type": "markdown_text", "text": sure[len(stream.sent) :]})
        return chunks

    # ---- doing ----

    async def start(self, delivery: Delivery, answer: Answer, action: Action) -> str:
        """The new message's ts. Raises what the client raises."""
        part = action.part
        row = _stop_row(part) if part is not None else None
        assert part is not None
        assert row is not None
        assert answer.thread_ts is not None
        row = {**row, "block_id": stream_mark(answer.turn_id, part.index)}
        chunks: list[Chunk] = [{"type": "blocks", "blocks": [row]}]
        status = _status(part)
        if status:
            chunks.append(_task(status, "in_progress"))
        ts = await delivery.start_stream(answer.channel, answer.thread_ts, chunks, answer.recipient)
        action.message.stream = Stream(self._clock() + LIFE, status=status)
        self._later(LIFE, answer)
        return ts

    def _later(self, seconds: float, answer: Answer) -> None:
        asyncio.get_running_loop().call_later(seconds, self._wake, answer.turn_id)

    async def append(self, delivery: Delivery, answer: Answer, action: Action) -> None:
        stream, ts = action.message.stream, action.message.ts
        assert stream is not None
        assert ts is not None
        chunks = stream.chunks
        await delivery.append_stream(answer.channel, ts, chunks)
        for chunk in chunks:
            if chunk["type"] == "markdown_text":
                stream.sent += chunk["text"]
            else:
                stream.status = chunk["title"]

    async def stop(self, delivery: Delivery, answer: Answer, action: Action) -> None:
        """Afterwards the message can be edited, and is known by its metadata."""
        message = action.message
        assert message.stream is not None
        assert message.ts is not None
        done = [_task(message.stream.status, "complete")] if message.stream.status else []
        working = answer.channel.startswith("D") and not answer.view.settled
        await delivery.stop_stream(answer.channel, message.ts, answer.turn_id, message.index, done, working=working)
        message.stream = None

    # ---- failing ----

    def refused(self, answer: Answer, action: Action, said: Refusal) -> bool:
        """Slack said no to a step of a stream, or to an edit because of one: the message goes on by edits.

        False: it has nothing to do with streams, or the step is to be tried again.
        """
        message, method = action.message, action.method
        if method in (Method.EDIT, Method.DELETE):
            return self._is_open(message, method, said)
        if method not in _METHODS or said.meaning in (Meaning.LIMITED, Meaning.TOKEN):
            return False
        unknown = said.meaning is Meaning.UNKNOWN
        if method is Method.START:
            answer.streaming = False
        elif method is Method.APPEND and message.stream is not None:
            message.stream.closing = True  # it may have been appended: what the message shows is not known any more
            if said.error in ("message_not_in_streaming_state", "stopped_by_user"):
                message.stream = None
        elif not unknown:
            message.stream = None
        return not unknown

    @staticmethod
    def _is_open(message: Message, method: Method, said: Refusal) -> bool:
        if said.error == "message_not_in_streaming_state":  # it was to be stopped before it is deleted
            message.stream = None
            return True
        error = "streaming_state_conflict" if method is Method.EDIT else "cant_delete_message"
        if said.error != error or message.conflicts >= _CONFLICTS:
            return False
        message.conflicts += 1
        message.stream = Stream(0.0, closing=True)
        return True


def _stop_row(part: Part) -> Block | None:
    """The row with the Stop button: a message that has none does not grow, or not yet."""
    for block in part.blocks:
        if block["type"] == "actions" and any(one.get("action_id") == STOP_TURN for one in block["elements"]):
            return block
    return None


def _text(part: Part) -> str:
    return "\n\n".join(str(block["text"]) for block in part.blocks if block["type"] == "markdown")


def _status(part: Part) -> str:
    """The last line that is not Claude's text: what it does now."""
    lines = [
        str(one.get("text", "")) for block in part.blocks if block["type"] == "context" for one in block["elements"]
    ]
    last = lines[-1].strip().splitlines()[-1:] if lines else []
    return last[0].removeprefix("⏳").strip()[:_TITLE] if last else ""


def _task(title: str, status: str) -> Chunk:
    return {"type": "task_update", "id": "now", "title": title, "status": status}


def _grown(text: str) -> str:
    """Without the last line where Flow wrote it: the end of a fence that is open, the dashes below a table's header."""
    shown, _, last = text.rpartition("\n")
    return shown if _OURS.fullmatch(last) else text


def _whole_words(text: str) -> str:
    """Up to the last white space: what comes may be the second half of a word, or of a mark of Markdown."""
    return text[: len(text) - len(text.split()[-1])] if text.split() and not text[-1].isspace() else text
