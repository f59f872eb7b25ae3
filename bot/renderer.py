"""The answer to one turn as messages: a fold of what observers are told. Pure.

`TurnView.apply` is cheap, it keeps what came; `TurnView.parts` says what each message should show now, and renders
only what changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from bot.activity import Activity
from bot.asking import ask_messages
from bot.below import cut_part, ended_part, finished_buttons, footer, note, person, stop_button, waiting_buttons
from bot.layout import Layout, Mark, Page, Place, TextPiece, ToolsPiece, show_ask
from bot.markdown import clean, clip
from bot.parts import Block, Part, context, summary
from bot.toollines import ToolLine, lines_blocks, restart_line
from sessions.asks import Ask, AskId, AskState
from sessions.events import (
    AskClosed,
    AskOpened,
    LifeEvent,
    Preparing,
    Queued,
    Settled,
    Started,
    Stopping,
    WaitingForPlace,
)
from sessions.options import Level
from sessions.types import Cut, Done, Failed, Interrupted, TurnId, Withdrawn
from worklets.events import (
    AgentEvent,
    Asked,
    PreviewVoided,
    Remark,
    Restarted,
    Retrying,
    Text,
    TextDelta,
    Thinking,
    ToolFinished,
    ToolStarted,
    TurnEnded,
    Usage,
)

LONG = 8  # messages; a longer answer is attached as a file too
_PREPARING = {
    "cloning": "Cloning the repository…",
    "starting": "Starting a container…",
    "waking": "Waking up where we left off…",
    "resuming": "Picking the work up again…",
}


class TurnView:
    """What is known of one turn, and how it looks."""

    def __init__(
        self,
        turn_id: TurnId | None = None,
        *,
        opens_thread: bool = False,
        level: Level = Level.NORMAL,
        mention: str | None = None,
        plan: bool = False,
        breaks: Sequence[Place] = (),
    ) -> None:
        """`turn_id` None: without buttons. `opens_thread`: the message that opens it must not stand there alone.

        `breaks`: where messages were begun below what people wrote. `mention`: the user id of whom a last, short
        message tells that it is over. `plan`: checklists are plan blocks.
        """
        self._turn_id = turn_id
        self._opens_thread = opens_thread
        self._layout = Layout(breaks=breaks)
        self._heard: list[LifeEvent | AgentEvent] | None = []  # until it is known where messages were begun
        self._remake = partial(TurnView, turn_id, opens_thread=opens_thread, level=level, mention=mention, plan=plan)
        self._status = "Starting…"
        self._waits = False  # for the turns before it
        self._blocked = False  # one of them waits for people
        self._asks: dict[AskId, tuple[Ask, list[Page]]] = {}
        #: Numbers of the messages in which an ask was opened or closed; whoever has shown one takes it out.
        self.ask_news: set[int] = set()
        self._stopping = False
        self._activity = Activity(level, turn_id)
        self._mention = mention
        self._plan = plan
        self._preview: list[str] = []
        self._mark: Mark | None = None  # where the open preview began
        self._late: list[ToolLine] = []  # tools that started while a preview was open
        self._usage: Usage | None = None
        self._settled: Settled | None = None
        self._broken = False
        self._rendered: list[Part] = []
        self._looks: list[tuple[list[Block], bool]] = []  # of each rendered part: what is below it, if it is final
        self._question: Part | None = None
        self._told: Part | None = None

    @property
    def settled(self) -> bool:
        return self._settled is not None

    @property
    def has_words(self) -> bool:
        """Whether there is anything of the answer to show yet."""
        return bool(self._layout.pages)

    def apply(self, event: LifeEvent | AgentEvent) -> bool:
        """Takes an event in; False when it changes nothing that anybody sees."""
        handler = self._HANDLERS.get(type(event))
        if handler is None or self._settled is not None:
            return False
        if self._heard is not None:
            self._heard.append(event)
        handler(self, event)
        return True

    def opened_at(self, breaks: Sequence[Place]) -> TurnView:
        """The same turn with messages that begin where they did for a process before."""
        heard, self._heard = self._heard or [], None
        if not breaks:
            return self
        made = self._remake(breaks=breaks)
        made.block(self._blocked)
        for event in heard:
            made.apply(event)
        return made.opened_at(())

    def opens_at(self, index: int) -> str | None:
        """Where in the turn this message was begun, if it was for people's sake."""
        pages = self._layout.pages
        place = pages[index].opens_at if 0 <= index < len(pages) else None
        return None if place is None else str(place)

    def step_below(self) -> bool:
        """People wrote below the newest message: once there is more to say, it is said in a new one."""
        return self._settled is None and self._layout.step_below()

    @property
    def long_text(self) -> str | None:
        """All that Claude wrote, of an answer over more than LONG messages."""
        pages = sum(any(isinstance(piece, TextPiece) for piece in page.pieces) for page in self._layout.pages)
        return "\n\n".join(text.strip("\n") for text in self._layout.texts()) + "\n" if pages > LONG else None

    @property
    def asking(self) -> bool:
        """Claude waits for people."""
        return any(ask.is_open for ask, _ in self._asks.values())

    def block(self, blocked: bool) -> bool:
        """The turn waits behind one that waits for people. False: nobody sees that."""
        changed, self._blocked = blocked is not self._blocked, blocked
        return changed and self._waits and self._settled is None

    # ---- fold ----

    def _queued(self, event: Queued) -> None:
        self._waits = event.ahead > 0
        if event.ahead > 1:
            self._status = f"Waiting: I will start when the {event.ahead} messages before this one are answered."
        elif event.ahead == 1:
            self._status = "Waiting: I will start when the current answer is done."

    def _waiting(self, event: WaitingForPlace) -> None:
        places = "the only place is" if event.limit == 1 else f"all {event.limit} places are"
        self._status = f"Waiting for a place: {places} taken by working sessions. I will start when one is free."
        self._waits = False

    def _preparing(self, event: Preparing) -> None:
        self._status = _PREPARING.get(event.step, "Preparing…")
        self._waits = False

    def _started(self, _: Started) -> None:
        self._status = "Thinking…"
        self._waits = False

    def _stop_asked(self, _: Stopping) -> None:
        self._stopping = True

    def _thinking(self, event: Thinking) -> None:
        self._status = "Thinking…"
        self._add_line(self._activity.thought(event))

    def _delta(self, event: TextDelta) -> None:
        self._status = "Writing…"
        if self._mark is None:
            self._mark = self._layout.begin_text()
        text = clean(event.text)
        self._preview.append(text)
        self._layout.extend_text(text)

    def _voided(self, _: PreviewVoided) -> None:
        if self._mark is not None:
            self._layout.rollback(self._mark)
        self._close_preview()

    def _text(self, event: Text) -> None:
        text = clean(event.text)
        if self._mark is not None and "".join(self._preview) == text:
            self._layout.end_text()
        else:
            if self._mark is not None:
                self._layout.rollback(self._mark)
            self._layout.begin_text()
            self._layout.extend_text(text)
            self._layout.end_text()
        self._close_preview()
        self._status = "Thinking…"

    def _close_preview(self) -> None:
        self._mark, self._preview = None, []
        for line in self._late:
            self._layout.add_tool(line)
        self._late = []

    def _tool_started(self, event: ToolStarted) -> None:
        line, agent = self._activity.started(event)
        self._status = self._activity.status
        self._add_line(line)
        if agent is not None:
            self._layout.changed(agent)

    def _add_line(self, line: ToolLine | None) -> None:
        if line is not None and self._mark is not None:
            self._late.append(line)
        elif line is not None:
            self._layout.add_tool(line)

    def _tool_finished(self, event: ToolFinished) -> None:
        if (line := self._activity.finished(event)) is not None:
            self._layout.changed(line)
        if event.parent is None:
            self._status = "Thinking…"

    def _abandon(self) -> None:
        for line in self._activity.abandon():
            self._layout.changed(line)

    def _restarted(self, event: Restarted) -> None:
        # What the lost process had begun to say and did not finish is not in the transcript either.
        self._voided(PreviewVoided())
        self._abandon()
        self._layout.add_tool(restart_line(event.reason))
        self._status = "Picking the work up again…"

    def _remark(self, event: Remark) -> None:
        self._layout.add_tool(replace(restart_line(event.text), mark="⚠️"))

    def _retrying(self, event: Retrying) -> None:
        why = f"answers with status {event.status}" if event.status else "does not answer"
        self._status = f"Claude's API {why}; trying again ({event.attempt} of {event.max_attempts})…"

    def _asked(self, event: Asked) -> None:
        self._status = f"Claude asks whether it may use {clip(clean(event.tool), 60)}."

    def _ask_opened(self, event: AskOpened) -> None:
        if (known := self._asks.get(event.ask.id)) is not None:
            again = event.ask.asked_at > known[0].asked_at
            return self._show_ask(event.ask) if known[0].is_open or again else None
        if (mark := self._mark) is not None:
            # The stored events have the ask before the text that is being written: so a restart shows them.
            self._layout.rollback(mark)
        self._asks[event.ask.id] = event.ask, self._layout.add_ask(ask_messages(event.ask))
        self.ask_news.add(len(self._layout.pages) - 1)
        if mark is not None:
            self._mark = self._layout.begin_text()
            self._layout.extend_text("".join(self._preview))
        return None

    def _ask_closed(self, event: AskClosed) -> None:
        self._ask_opened(AskOpened(event.ask))
        self._status = "Thinking…"

    def _show_ask(self, ask: Ask) -> None:
        pages = self._asks[ask.id][1]
        self._asks[ask.id] = ask, pages
        show_ask(pages, ask_messages(ask))
        self.ask_news |= {number for number, page in enumerate(self._layout.pages) if page is pages[-1]}

    def _turn_ended(self, event: TurnEnded) -> None:
        self._usage = event.usage

    def _settle(self, event: Settled) -> None:
        if self._mark is not None:  # stopped in the middle of a sentence: what was written stays
            self._layout.end_text()
            self._close_preview()
        self._abandon()
        for ask, _ in list(self._asks.values()):
            if ask.is_open:
                self._show_ask(dataclasses.replace(ask, state=AskState.WITHDRAWN))
        self._settled = event

    _HANDLERS: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        Queued: _queued,
        WaitingForPlace: _waiting,
        Preparing: _preparing,
        Started: _started,
        Stopping: _stop_asked,
        Thinking: _thinking,
        TextDelta: _delta,
        PreviewVoided: _voided,
        Text: _text,
        ToolStarted: _tool_started,
        ToolFinished: _tool_finished,
        Remark: _remark,
        Restarted: _restarted,
        Retrying: _retrying,
        Asked: _asked,
        AskOpened: _ask_opened,
        AskClosed: _ask_closed,
        TurnEnded: _turn_ended,
        Settled: _settle,
    }

    def give_up(self) -> None:
        """The content cannot be laid out (a bug of ours): only how it goes is shown from now on."""
        self._layout, self._activity, self._mark, self._preview, self._late = Layout(), Activity(), None, [], []
        self._rendered, self._looks, self._asks, self.ask_news = [], [], {}, set()
        self._broken = True

    # ---- look ----

    def parts(self) -> list[Part]:
        """All messages of the turn; none of one that was taken back. What did not change is the same object as before.

        How a turn that was cut off goes on is asked in a message of its own, the last one.
        """
        self._layout.settle()
        if self._vanished:
            return []
        pages = self._layout.pages or [Page()]
        last = len(pages) - 1
        closing = [*self._checklist(pages[-1]), *self._closing()]
        for index, page in enumerate(pages):
            below = closing if index == last else []
            look = (below, self._is_final(index, last, page))
            if page.stale or index >= len(self._looks) or self._looks[index] != look:
                page.stale = False
                self._looks[index : index + 1] = [look]
                self._rendered[index : index + 1] = [_render(index, page, *look)]
        del self._rendered[len(pages) :], self._looks[len(pages) :]
        return [*self._rendered, *self._asking(len(pages)), *self._mentioning(len(pages))]

    @property
    def _vanished(self) -> bool:
        """Taken back before there was anything to see but that it waits."""
        taken_back = self._settled is not None and isinstance(self._settled.outcome, Withdrawn)
        return taken_back and not (self._opens_thread or self._layout.pages)

    def _asking(self, index: int) -> list[Part]:
        if self._settled is None or not isinstance(self._settled.outcome, Cut):
            return []
        if self._question is None:
            self._question = cut_part(index, self._settled.outcome.reason, self._turn_id)
        return [self._question]

    def _mentioning(self, index: int) -> list[Part]:
        """Slack notifies people of a new message, not of an edit."""
        if self._mention is None or self._settled is None or not isinstance(self._settled.outcome, Done | Failed):
            return []
        if self._told is None:
            self._told = ended_part(index, self._mention, isinstance(self._settled.outcome, Done))
        return [self._told]

    def _is_final(self, index: int, last: int, page: Page) -> bool:
        if self.settled:
            return True
        committed = last if self._mark is None else min(last, self._mark.pages - 1)
        changes = (page.ask is not None and page.ask.open) or any(line.running for line in page.lines())
        return index < committed and not changes

    def _checklist(self, page: Page) -> list[Block]:
        """A question fills its message, so the checklist is not shown below one."""
        shown = self._activity.shows_checklist and page.ask is None
        return self._activity.checklist.blocks(plan=self._plan) if shown else []

    def _closing(self) -> list[Block]:
        """What stands below the content: the status and buttons while it lasts, then how it ended and what it took."""
        blocks = [context(line) for line in self._closing_lines()]
        if self._settled is None and not self._stopping and self._turn_id is not None:
            blocks.append((waiting_buttons if self._waits else stop_button)(self._turn_id))
        # One that was taken back was never begun, and one that was cut off asks by itself how to go on.
        elif self._settled and self._turn_id and not isinstance(self._settled.outcome, Withdrawn | Cut):
            blocks.append(finished_buttons(self._turn_id))
        return blocks

    def _doing(self) -> str:
        if self._stopping:
            return "Stopping…"
        if self._waits and self._blocked:
            return "Waiting: Claude has asked something above. I will start when that is answered and done."
        return "Waiting for you…" if self.asking else self._status

    def _closing_lines(self) -> list[str]:
        lines = ["⚠️ Something went wrong on my side, this answer cannot be shown here."] if self._broken else []
        if self._settled is None:
            return [*lines, f"⏳ {self._doing()}"]
        match self._settled.outcome:
            case Failed(reason):
                lines.append(note(reason))
            case Interrupted(by):
                lines.append(f"■ Stopped by {person(by)}." if by else "■ Stopped.")
            case Withdrawn(by):
                lines.append(f"■ Taken back by {person(by)}." if by else "■ Taken back.")
            case Cut():
                lines.append("■ Cut off.")
            case Done():
                if not self._layout.pages and not self._broken:
                    lines.append("Claude finished without a word.")
        below = footer(self._settled.seconds, self._usage)
        return [*lines, below] if below else lines


def _render(index: int, page: Page, closing: list[Block], final: bool) -> Part:
    blocks: list[Block] = list(page.ask.blocks) if page.ask else []
    for piece in page.pieces:
        if isinstance(piece, ToolsPiece):
            blocks += lines_blocks(piece.lines)
        elif text := piece.text():
            blocks.append({"type": "markdown", "text": text})
    words = bool(blocks)
    text = page.ask.text if page.ask else summary(blocks or closing)
    blocks += closing
    if not blocks:  # a page of white space only
        blocks = [context("…")]
    return Part(index, tuple(blocks), text or "…", final, words, asks=page.ask is not None)
