"""From what sessions tell to what Slack shows: the observer that keeps the Outbox's answers up to date."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from bot.answer import Answer
from bot.delivery import Delivery
from bot.nativestream import Mode, NativeStreams
from bot.opening import root_part
from bot.order import moment
from bot.outbox import Outbox
from bot.renderer import TurnView
from bot.schedule import Clock
from bot.store import MessageStore
from config.logging import get_logger
from sessions.events import AskClosed, AskOpened, LifeEvent, Queued, Released, Settled
from sessions.manager import Sessions
from sessions.options import Level
from sessions.types import Session, SessionId, ThreadId, Turn, TurnId
from worklets.events import AgentEvent, TextDelta

log = get_logger(__name__)


class Show:
    """`observe` is an Observer. `outbox` does the sending; enter it before the first Slack event comes in.

    `pace` as in `Outbox`.
    """

    def __init__(
        self,
        sessions: Sessions,
        delivery: Delivery,
        store: MessageStore,
        clock: Clock = time.monotonic,
        pace: float = 1.0,
        *,
        plan: bool = False,
        streaming: Mode = "edits",
    ) -> None:
        """`plan`: checklists are shown as Slack's plan blocks. `streaming`: where answers are Slack's own streams."""
        self._plan = plan
        self._sessions = sessions
        self._answers: dict[TurnId, Answer] = {}
        self._tell: dict[TurnId, Callable[[str], Awaitable[None]]] = {}
        self._opening: dict[SessionId, TurnId] = {}  # sessions without a thread, and the turn whose root opens it
        self.outbox = Outbox(
            delivery,
            store,
            opened=self._opened,
            delivered=self._delivered,
            refused=self._refused,
            may_show=sessions.may_show,
            again=sessions.show_again,
            clock=clock,
            pace=pace,
        )
        self._native = NativeStreams(streaming, self.outbox.changed, clock)

    async def flush(self, timeout: float) -> bool:
        """The last looks before the end: as `Outbox.flush`, and no stream is left open for Slack to break off."""
        self._native.end_all()
        for answer in self._answers.values():
            if any(message.stream is not None for message in answer.messages.values()):
                self.outbox.changed(answer.turn_id)
        return await self.outbox.flush(timeout)

    def observe(self, session: Session, turn: Turn, event: LifeEvent | AgentEvent) -> None:
        """Never blocks: folds the event in and marks the answer."""
        answer = self._answers.get(turn.id)
        if isinstance(event, Released):
            self._forget(turn)
        elif answer is None:
            if not isinstance(event, Queued):  # of a turn that is shown to the end already
                return
            self.spoken(session.thread, turn.ts)
            answer = self._answers[turn.id] = self._new_answer(session, turn)
            answer.view.apply(event)
            answer.view.block(any(other.view.asking for other in self._of(session.id)))
            self.outbox.add(answer)
        elif answer.view.apply(event):
            self.outbox.changed(turn.id)
            if isinstance(event, AskOpened | AskClosed | Settled):
                self._block(session.id)
            if isinstance(event, TextDelta):  # only live: previews are not in the transcript
                self.outbox.heard(turn.id)

    def _block(self, session_id: SessionId) -> None:
        """Those that wait say whether they wait for people."""
        answers = self._of(session_id)
        asking = any(answer.view.asking for answer in answers)
        for answer in answers:
            if answer.view.block(asking):
                self.outbox.changed(answer.turn_id)

    def _of(self, session_id: SessionId) -> list[Answer]:
        return [answer for answer in self._answers.values() if answer.session_id == session_id]

    def _new_answer(self, session: Session, turn: Turn) -> Answer:
        thread = session.thread
        opens = thread.thread_ts is None and self._opening.setdefault(session.id, turn.id) == turn.id
        view = TurnView(
            turn.id,
            opens_thread=opens,
            level=Level(turn.level or Level.NORMAL),
            mention=turn.user_id if turn.mention else None,
            plan=self._plan,
            template=session.template_name,
        )
        answer = Answer(turn.id, session.id, thread.channel, thread.thread_ts, turn.ts, view=view)
        self._native.adopt(answer, session, turn)
        if opens:
            answer.root = root_part(session, replace(turn, text=self._sessions.masker(session).text(turn.text)))
        return answer

    def _forget(self, turn: Turn) -> None:
        """Another process shows the turn; its messages stay as they are."""
        self.outbox.drop(turn.id)
        self._answers.pop(turn.id, None)
        self._tell.pop(turn.id, None)
        if self._opening.get(turn.session_id) == turn.id:
            del self._opening[turn.session_id]

    def spoken(self, thread: ThreadId, ts: str) -> None:
        """Somebody wrote in the thread: answers that are being written go on below it, once there is more to say."""
        for answer in self._answers.values():
            if (answer.channel, answer.thread_ts) == (thread.channel, thread.thread_ts):
                newest = answer.messages[max(answer.messages)] if answer.messages else None
                if newest is not None and newest.ts is not None and moment(newest.ts) < moment(ts):
                    answer.view.step_below()

    def if_refused(self, turn_id: TurnId, tell: Callable[[str], Awaitable[None]]) -> None:
        """`tell` is awaited with a sentence should the turn's channel take no messages from us."""
        if turn_id in self._answers:
            self._tell[turn_id] = tell

    async def _opened(self, answer: Answer, ts: str) -> None:
        await self._sessions.opened(answer.session_id, ts)
        self._opening.pop(answer.session_id, None)
        for other in self._answers.values():
            if other.session_id == answer.session_id and other is not answer:
                other.thread_ts = ts
                self.outbox.changed(other.turn_id)

    async def _delivered(self, answer: Answer) -> None:
        await self._sessions.delivered(answer.turn_id)
        if self._answers.get(answer.turn_id) is answer:  # else it has come back meanwhile
            del self._answers[answer.turn_id]
            self._tell.pop(answer.turn_id, None)

    async def _refused(self, answer: Answer, sentence: str) -> None:
        """Nobody would see the rest: Claude need not write it."""
        log.warning("stopping a turn that cannot be shown", turn=answer.turn_id, reason=sentence)
        if (tell := self._tell.pop(answer.turn_id, None)) is not None:
            await tell(sentence)
        if not answer.view.settled:
            await self._sessions.stop(answer.session_id, by="")
