"""The state machine's first half: what people do in their threads. See test_sessions_stateful.py."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from statefulworld import Asked, World

from sessions.types import Aside, Failed, Interrupted, Prompt, ThreadId, Withdrawn

#: Rounds of the event loop after a step; None: until nothing moves.
THEN = st.sampled_from([None, None, None, 0, 1, 2, 3, 5, 8, 13, 21])
PICK = st.integers(0, 5)


def one_of(items: list[Any], pick: int) -> Any:
    """The last ones are the likelier."""
    return items[-1 - pick % len(items)]


class People(RuleBasedStateMachine):
    world: World

    def __init__(self) -> None:
        super().__init__()
        self.failed = False

    @initialize(places=st.integers(1, 3))
    def begin(self, places: int) -> None:
        self.world = World(places)
        self.world.loop.settle()

    def go_on(self, then: int | None) -> None:
        if then is None:
            self.world.loop.settle()
        for _ in range(then or 0):
            self.world.loop.step()

    @invariant()
    def lawful(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.check()
            except AssertionError:
                self.failed = True
                raise

    # -- people ---------------------------------------------------------

    @rule(thread=st.integers(1, 3), hold=st.booleans(), late=st.booleans(), then=THEN)
    def ask(self, thread: int, hold: bool, late: bool, then: int | None) -> None:
        number = len(self.world.asked) + 1
        ts = f"{1_700_000_000 + number * 10 - (15 if late else 0)}.000000"
        text = f"{'HOLD ' if hold else ''}p{number}"
        prompt = Prompt(ThreadId("T1", "C1", f"{thread}.0"), f"C1:{ts}", ts, "U1", text)
        asked = Asked(prompt, self.world.moment())
        if self.world.host.refusals or self.world.host.unavailable:
            asked.may_be.add(Failed)
        if self.world.stopping[prompt.thread]:
            asked.may_be.add(Interrupted)
        self.world.asked.append(asked)
        self.submit(asked)
        self.go_on(then)

    @rule(thread=st.integers(1, 2), then=THEN)
    def ask_for_work(self, thread: int, then: int | None) -> None:
        """The likeliest of all."""
        self.ask(thread, hold=True, late=False, then=then)

    def submit(self, asked: Asked) -> None:
        """Without an acknowledgement Slack sends it again."""
        if self.world.program.ready:
            self.world.spawn(self._submit(asked))

    async def _submit(self, asked: Asked) -> None:
        submitted = await self.world.program.sessions.submit(asked.prompt)
        if asked.acknowledged is None:
            asked.acknowledged = self.world.moment()
        if submitted is None:
            if not asked.deleted:
                self.world.laws.broke(f"{asked.prompt.source_id} was dropped")
            return
        asked.turn_id, asked.session_id = submitted.turn.id, submitted.session.id

    @precondition(lambda self: self.world.asked)
    @rule(pick=PICK, then=THEN)
    def deliver_again(self, pick: int, then: int | None) -> None:
        self.submit(one_of(self.world.asked, pick))
        self.go_on(then)

    @precondition(lambda self: self.world.asked)
    @rule(pick=PICK, text=st.sampled_from(["HOLD edited", "edited", None]), then=THEN)
    def edit(self, pick: int, text: str | None, then: int | None) -> None:
        asked = one_of(self.world.asked, pick)
        if self.world.program.ready:
            if text is None:
                asked.deleted = True
                asked.may_be.add(Withdrawn)
            self.world.spawn(self._edit(asked, text))
        self.go_on(then)

    async def _edit(self, asked: Asked, text: str | None) -> None:
        moment = self.world.moment()
        source = asked.prompt.thread.team, asked.prompt.thread.channel, asked.prompt.source_id
        await self.world.program.sessions.amend(
            *source, text and f"{text} {moment}", f"{1_700_000_500 + moment}.000000"
        )

    @precondition(lambda self: self.turns())
    @rule(pick=PICK, what=st.sampled_from(["withdraw", "hurry"]), then=THEN)
    def change(self, pick: int, what: str, then: int | None) -> None:
        asked = one_of(self.turns(), pick)
        if what == "withdraw":
            asked.may_be.add(Withdrawn)
        else:
            self.may_be_interrupted(asked, besides=asked)
        self.world.spawn(getattr(self.world.program.sessions, what)(asked.turn_id, "U2"))
        self.go_on(then)

    @precondition(lambda self: self.turns())
    @rule(pick=PICK, what=st.sampled_from(["halt", "stop"]), then=THEN)
    def stop(self, pick: int, what: str, then: int | None) -> None:
        asked = one_of(self.turns(), pick)
        self.world.spawn(self._stop(asked, what))
        self.go_on(then)

    async def _stop(self, asked: Asked, what: str) -> None:
        self.may_be_interrupted(asked)
        self.world.stopping[asked.prompt.thread] += 1  # what comes in while it works may be stopped, too
        try:
            await getattr(self.world.program.sessions, what)(asked.session_id, "U2")
        finally:
            self.world.stopping[asked.prompt.thread] -= 1

    @precondition(lambda self: self.turns())
    @rule(pick=PICK, then=THEN)
    def interrupt(self, pick: int, then: int | None) -> None:
        self.world.spawn(self._interrupt(one_of(self.turns(), pick)))
        self.go_on(then)

    async def _interrupt(self, asked: Asked) -> None:
        """It is meant for the turn that runs at this moment."""
        sessions = self.world.program.sessions
        live = sessions._live.get(asked.session_id)
        if live is not None and live.turn is not None and (current := self.world.of(live.turn.id)):
            current.may_be.add(Interrupted)
        await sessions.interrupt(asked.session_id, "U2")

    @precondition(lambda self: self.turns())
    @rule(pick=PICK, how=st.sampled_from(["continue", "again"]), then=THEN)
    def resume(self, pick: int, how: Any, then: int | None) -> None:
        asked = one_of(self.turns(), pick)
        self.world.spawn(self._resume(asked, how))
        self.go_on(then)

    async def _resume(self, cut: Asked, how: Any) -> None:
        number = len(self.world.asked) + 1
        ts = f"{1_700_000_000 + number * 10}.{self.world.moment():06}"
        tried = self.world.moment()
        submitted = await self.world.program.sessions.resume(cut.turn_id, "U2", how, ts)
        if submitted is not None and submitted.fresh:
            turn = submitted.turn
            prompt = Prompt(cut.prompt.thread, turn.source_id, turn.ts, turn.user_id, turn.text)
            again = Asked(prompt, tried, self.world.moment(), turn.id, submitted.session.id)
            self.world.asked.append(again)

    @rule(thread=st.integers(1, 2), then=THEN)
    def overhear(self, thread: int, then: int | None) -> None:
        if self.world.program.ready:
            moment = self.world.moment()
            ts = f"{1_700_000_000 + len(self.world.asked) * 10}.{moment:06}"
            aside = Aside(ThreadId("T1", "C1", f"{thread}.0"), f"C1:{ts}", ts, "U3", "Jonas", f"aside-{moment}-")
            self.world.spawn(self._overhear(aside))
        self.go_on(then)

    async def _overhear(self, aside: Aside) -> None:
        known = any(asked.turn_id and asked.prompt.thread == aside.thread for asked in self.world.asked)
        await self.world.program.sessions.overheard([aside])
        if known:
            self.world.asides.append(aside.text)

    def turns(self) -> list[Asked]:
        """Messages that have become turns, as far as their door has heard; none while the program starts."""
        return [asked for asked in self.world.asked if asked.turn_id] if self.world.program.ready else []

    def may_be_interrupted(self, asked: Asked, besides: Asked | None = None) -> None:
        for other in self.world.asked:
            if other.prompt.thread == asked.prompt.thread and other is not besides:
                other.may_be.add(Interrupted)

    @rule(then=THEN)
    def show(self, then: int | None) -> None:
        """The door has shown all that ended."""
        if self.world.program.ready:
            self.world.show()
        self.go_on(then)
