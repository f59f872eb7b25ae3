"""What observers are told of one turn, folded into what is to be shown: its pages, its status, its end. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from bot.activity import Activity
from bot.asking import ask_messages
from bot.layout import Layout, Mark, Page, Place, show_ask
from bot.markdown import clean, clip
from bot.toollines import ToolLine, restart_line
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
from sessions.types import TurnId
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

_PREPARING = {
    "image": "Preparing the image…",
    "cloning": "Cloning the repository…",
    "setup": "Running the startup script…",
    "starting": "Starting a container…",
    "waking": "Waking up where we left off…",
    "resuming": "Picking the work up again…",
}


class TurnFold:
    """One handler for each kind of event; `TurnView` shows what has become of them."""

    def __init__(self, turn_id: TurnId | None, level: Level, breaks: Sequence[Place]) -> None:
        self.layout = Layout(breaks=breaks)
        self.activity = Activity(level, turn_id)
        self.waits = False  # for the turns before it
        self.blocked = False  # one of them waits for people
        self.stopping = False
        self.mark: Mark | None = None  # where the open preview began
        self.usage: Usage | None = None
        self.settled: Settled | None = None
        #: Numbers of the messages in which an ask was opened or closed; whoever has shown one takes it out.
        self.ask_news: set[int] = set()
        self._status = "Starting…"
        self._asks: dict[AskId, tuple[Ask, list[Page]]] = {}
        self._preview: list[str] = []
        self._late: list[ToolLine] = []  # tools that started while a preview was open

    def takes(self, event: LifeEvent | AgentEvent) -> bool:
        """Whether the event changes anything that anybody sees."""
        return type(event) in self._HANDLERS and self.settled is None

    def apply(self, event: LifeEvent | AgentEvent) -> None:
        """Takes in an event of which `takes` is true."""
        self._HANDLERS[type(event)](self, event)

    def block(self, blocked: bool) -> bool:
        """The turn waits behind one that waits for people. False: nobody sees that."""
        changed, self.blocked = blocked is not self.blocked, blocked
        return changed and self.waits and self.settled is None

    @property
    def asking(self) -> bool:
        """Claude waits for people."""
        return any(ask.is_open for ask, _ in self._asks.values())

    @property
    def doing(self) -> str:
        """What happens now, in a few words."""
        if self.stopping:
            return "Stopping…"
        if self.waits and self.blocked:
            return "Waiting: Claude has asked something above. I will start when that is answered and done."
        return "Waiting for you…" if self.asking else self._status

    def give_up(self) -> None:
        """Nothing of the content is kept: only how the turn goes is told from now on."""
        self.layout, self.activity, self.mark, self._preview, self._late = Layout(), Activity(), None, [], []
        self._asks, self.ask_news = {}, set()

    def _queued(self, event: Queued) -> None:
        self.waits = event.ahead > 0
        if event.ahead > 1:
            self._status = f"Waiting: I will start when the {event.ahead} messages before this one are answered."
        elif event.ahead == 1:
            self._status = "Waiting: I will start when the current answer is done."

    def _waiting(self, event: WaitingForPlace) -> None:
        places = "the only place is" if event.limit == 1 else f"all {event.limit} places are"
        self._status = f"Waiting for a place: {places} taken by working sessions. I will start when one is free."
        self.waits = False

    def _preparing(self, event: Preparing) -> None:
        self._status = _PREPARING.get(event.step, "Preparing…")
        if event.step.startswith("image "):
            self._status = f"Building the image, step {event.step[6:].replace('/', ' of ')}…"
        self.waits = False

    def _started(self, _: Started) -> None:
        self._status = "Thinking…"
        self.waits = False

    def _stop_asked(self, _: Stopping) -> None:
        self.stopping = True

    def _thinking(self, event: Thinking) -> None:
        self._status = "Thinking…"
        self._add_line(self.activity.thought(event))

    def _delta(self, event: TextDelta) -> None:
        self._status = "Writing…"
        if self.mark is None:
            self.mark = self.layout.begin_text()
        text = clean(event.text)
        self._preview.append(text)
        self.layout.extend_text(text)

    def _voided(self, _: PreviewVoided) -> None:
        if self.mark is not None:
            self.layout.rollback(self.mark)
        self._close_preview()

    def _text(self, event: Text) -> None:
        text = clean(event.text)
        if self.mark is not None and "".join(self._preview) == text:
            self.layout.end_text()
        else:
            if self.mark is not None:
                self.layout.rollback(self.mark)
            self.layout.begin_text()
            self.layout.extend_text(text)
            self.layout.end_text()
        self._close_preview()
        self._status = "Thinking…"

    def _close_preview(self) -> None:
        self.mark, self._preview = None, []
        for line in self._late:
            self.layout.add_tool(line)
        self._late = []

    def _tool_started(self, event: ToolStarted) -> None:
        line, agent = self.activity.started(event)
        self._status = self.activity.status
        self._add_line(line)
        if agent is not None:
            self.layout.changed(agent)

    def _add_line(self, line: ToolLine | None) -> None:
        if line is not None and self.mark is not None:
            self._late.append(line)
        elif line is not None:
            self.layout.add_tool(line)

    def _tool_finished(self, event: ToolFinished) -> None:
        if (line := self.activity.finished(event)) is not None:
            self.layout.changed(line)
        if event.parent is None:
            self._status = "Thinking…"

    def _abandon(self) -> None:
        for line in self.activity.abandon():
            self.layout.changed(line)

    def _restarted(self, event: Restarted) -> None:
        # What the lost process had begun to say and did not finish is not in the transcript either.
        self._voided(PreviewVoided())
        self._abandon()
        self.layout.add_tool(restart_line(event.reason))
        self._status = "Picking the work up again…"

    def _remark(self, event: Remark) -> None:
        self.layout.add_tool(replace(restart_line(event.text), mark="⚠️"))

    def _retrying(self, event: Retrying) -> None:
        why = f"answers with status {event.status}" if event.status else "does not answer"
        self._status = f"Claude's API {why}; trying again ({event.attempt} of {event.max_attempts})…"

    def _asked(self, event: Asked) -> None:
        self._status = f"Claude asks whether it may use {clip(clean(event.tool), 60)}."

    def _ask_opened(self, event: AskOpened) -> None:
        if (known := self._asks.get(event.ask.id)) is not None:
            again = event.ask.asked_at > known[0].asked_at
            return self._show_ask(event.ask) if known[0].is_open or again else None
        if (mark := self.mark) is not None:
            # The stored events have the ask before the text that is being written: so a restart shows them.
            self.layout.rollback(mark)
        self._asks[event.ask.id] = event.ask, self.layout.add_ask(ask_messages(event.ask))
        self.ask_news.add(len(self.layout.pages) - 1)
        if mark is not None:
            self.mark = self.layout.begin_text()
            self.layout.extend_text("".join(self._preview))
        return None

    def _ask_closed(self, event: AskClosed) -> None:
        self._ask_opened(AskOpened(event.ask))
        self._status = "Thinking…"

    def _show_ask(self, ask: Ask) -> None:
        pages = self._asks[ask.id][1]
        self._asks[ask.id] = ask, pages
        show_ask(pages, ask_messages(ask))
        self.ask_news |= {number for number, page in enumerate(self.layout.pages) if page is pages[-1]}

    def _turn_ended(self, event: TurnEnded) -> None:
        self.usage = event.usage

    def _settle(self, event: Settled) -> None:
        if self.mark is not None:  # stopped in the middle of a sentence: what was written stays
            self.layout.end_text()
            self._close_preview()
        self._abandon()
        for ask, _ in list(self._asks.values()):
            if ask.is_open:
                self._show_ask(dataclasses.replace(ask, state=AskState.WITHDRAWN))
        self.settled = event

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
