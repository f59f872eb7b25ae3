"""The answer to one turn as messages: how what `TurnFold` has gathered of it looks. Pure.

`TurnView.apply` is cheap, it keeps what came; `TurnView.parts` says what each message should show now, and renders
only what changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bot.below import cut_part, ended_part, finished_buttons, footer, note, person, stop_button, waiting_buttons
from bot.layout import Page, Place, TextPiece, ToolsPiece
from bot.parts import Block, Part, context, summary
from bot.toollines import lines_blocks
from bot.turnfold import TurnFold
from sessions.events import LifeEvent
from sessions.options import Level
from sessions.types import Cut, Done, Failed, Interrupted, TurnId, Withdrawn
from worklets.events import AgentEvent

LONG = 8  # messages; a longer answer is attached as a file too


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
        template: str | None = None,
    ) -> None:
        """`turn_id` None: without buttons. `opens_thread`: the message that opens it must not stand there alone.

        `breaks`: where messages were begun below what people wrote. `mention`: the user id of whom a last, short
        message tells that it is over. `plan`: checklists are plan blocks. `template`: its name, told below the answer.
        """
        self._turn_id = turn_id
        self._opens_thread = opens_thread
        self._fold = TurnFold(turn_id, level, breaks)
        self._heard: list[LifeEvent | AgentEvent] | None = []  # until it is known where messages were begun
        self._remake = partial(
            TurnView, turn_id, opens_thread=opens_thread, level=level, mention=mention, plan=plan, template=template
        )
        self._template = template
        self._mention = mention
        self._plan = plan
        self._broken = False
        self._rendered: list[Part] = []
        self._looks: list[tuple[list[Block], bool]] = []  # of each rendered part: what is below it, if it is final
        self._question: Part | None = None
        self._told: Part | None = None

    @property
    def settled(self) -> bool:
        return self._fold.settled is not None

    @property
    def has_words(self) -> bool:
        """Whether there is anything of the answer to show yet."""
        return bool(self._fold.layout.pages)

    def apply(self, event: LifeEvent | AgentEvent) -> bool:
        """Takes an event in; False when it changes nothing that anybody sees."""
        if not self._fold.takes(event):
            return False
        if self._heard is not None:
            self._heard.append(event)
        self._fold.apply(event)
        return True

    def opened_at(self, breaks: Sequence[Place]) -> TurnView:
        """The same turn with messages that begin where they did for a process before."""
        heard, self._heard = self._heard or [], None
        if not breaks:
            return self
        made = self._remake(breaks=breaks)
        made.block(self._fold.blocked)
        for event in heard:
            made.apply(event)
        return made.opened_at(())

    def opens_at(self, index: int) -> str | None:
        """Where in the turn this message was begun, if it was for people's sake."""
        pages = self._fold.layout.pages
        place = pages[index].opens_at if 0 <= index < len(pages) else None
        return None if place is None else str(place)

    def step_below(self) -> bool:
        """People wrote below the newest message: once there is more to say, it is said in a new one."""
        return self._fold.settled is None and self._fold.layout.step_below()

    @property
    def long_text(self) -> str | None:
        """All that Claude wrote, of an answer over more than LONG messages."""
        pages = sum(any(isinstance(piece, TextPiece) for piece in page.pieces) for page in self._fold.layout.pages)
        return "\n\n".join(text.strip("\n") for text in self._fold.layout.texts()) + "\n" if pages > LONG else None

    @property
    def asking(self) -> bool:
        """Claude waits for people."""
        return self._fold.asking

    @property
    def ask_news(self) -> set[int]:
        """Numbers of the messages in which an ask was opened or closed; whoever has shown one takes it out."""
        return self._fold.ask_news

    def block(self, blocked: bool) -> bool:
        """The turn waits behind one that waits for people. False: nobody sees that."""
        return self._fold.block(blocked)

    def give_up(self) -> None:
        """The content cannot be laid out (a bug of ours): only how it goes is shown from now on."""
        self._fold.give_up()
        self._rendered, self._looks = [], []
        self._broken = True

    # ---- look ----

    def parts(self) -> list[Part]:
        """All messages of the turn; none of one that was taken back. What did not change is the same object as before.

        How a turn that was cut off goes on is asked in a message of its own, the last one.
        """
        self._fold.layout.settle()
        if self._vanished:
            return []
        pages = self._fold.layout.pages or [Page()]
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
        settled = self._fold.settled
        taken_back = settled is not None and isinstance(settled.outcome, Withdrawn)
        return taken_back and not (self._opens_thread or self._fold.layout.pages)

    def _asking(self, index: int) -> list[Part]:
        settled = self._fold.settled
        if settled is None or not isinstance(settled.outcome, Cut):
            return []
        if self._question is None:
            self._question = cut_part(index, settled.outcome.reason, self._turn_id)
        return [self._question]

    def _mentioning(self, index: int) -> list[Part]:
        """Slack notifies people of a new message, not of an edit."""
        settled = self._fold.settled
        if self._mention is None or settled is None or not isinstance(settled.outcome, Done | Failed):
            return []
        if self._told is None:
            self._told = ended_part(index, self._mention, isinstance(settled.outcome, Done))
        return [self._told]

    def _is_final(self, index: int, last: int, page: Page) -> bool:
        if self.settled:
            return True
        committed = last if self._fold.mark is None else min(last, self._fold.mark.pages - 1)
        changes = (page.ask is not None and page.ask.open) or any(line.running for line in page.lines())
        return index < committed and not changes

    def _checklist(self, page: Page) -> list[Block]:
        """A question fills its message, so the checklist is not shown below one."""
        shown = self._fold.activity.shows_checklist and page.ask is None
        return self._fold.activity.checklist.blocks(plan=self._plan) if shown else []

    def _closing(self) -> list[Block]:
        """What stands below the content: the status and buttons while it lasts, then how it ended and what it took."""
        blocks, settled = [context(line) for line in self._closing_lines()], self._fold.settled
        if settled is None and not self._fold.stopping and self._turn_id is not None:
            blocks.append((waiting_buttons if self._fold.waits else stop_button)(self._turn_id))
        # One that was taken back was never begun, and one that was cut off asks by itself how to go on.
        elif settled and self._turn_id and not isinstance(settled.outcome, Withdrawn | Cut):
            blocks.append(finished_buttons(self._turn_id))
        return blocks

    def _closing_lines(self) -> list[str]:
        lines = ["⚠️ Something went wrong on my side, this answer cannot be shown here."] if self._broken else []
        settled = self._fold.settled
        if settled is None:
            return [*lines, f"⏳ {self._fold.doing}"]
        match settled.outcome:
            case Failed(reason):
                lines.append(note(reason))
            case Interrupted(by):
                lines.append(f"■ Stopped by {person(by)}." if by else "■ Stopped.")
            case Withdrawn(by):
                lines.append(f"■ Taken back by {person(by)}." if by else "■ Taken back.")
            case Cut():
                lines.append("■ Cut off.")
            case Done():
                if not self._fold.layout.pages and not self._broken:
                    lines.append("Claude finished without a word.")
        below = footer(settled.seconds, self._fold.usage, self._template)
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
