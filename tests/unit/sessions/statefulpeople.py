"""What people do in their threads; the first half of what may happen (see test_sessions_stateful.py)."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

from statefulworld import Asked, World

from sessions.asks import AskClosedAlready, AskId, Decision
from sessions.types import Aside, Interrupted, Prompt, ThreadId, TurnState, Withdrawn


def one_of(items: list[Any], pick: int) -> Any:
    """The last ones are the likelier."""
    return items[-1 - pick % len(items)]


class People:
    """Each act takes a number by which it chooses; where there is nothing to choose of, it does nothing."""

    world: World

    # -- messages ---------------------------------------------------------

    def ask(self, pick: int) -> None:
        self._write(pick, "")

    def ask_for_work(self, pick: int) -> None:
        """Claude works until it is told to answer."""
        self._write(pick, "HOLD ")

    def ask_late(self, pick: int) -> None:
        """The message was written before the last one."""
        self._write(pick, "HOLD ", late=15)

    def _write(self, pick: int, kind: str, late: int = 0) -> None:
        number = len(self.world.asked) + 1
        ts = f"{1_700_000_000 + number * 10 - late}.000000"
        thread = ThreadId("T1", "C1", f"{(1, 1, 1, 2, 2, 3)[pick % 6]}.0")
        self.submit(self.world.writes(Prompt(thread, f"C1:{ts}", ts, "U1", f"{kind}p{number}")))

    def submit(self, asked: Asked) -> None:
        """Without an acknowledgement Slack sends it again."""
        if self.world.program.ready:
            self.world.spawn(self._submit(asked))

    async def _submit(self, asked: Asked) -> None:
        submitted = await self.world.program.sessions.submit(asked.prompt)
        if asked.acknowledged is None:
            asked.acknowledged = self.world.moment()
        if submitted is not None:
            asked.turn_id, asked.session_id = submitted.turn.id, submitted.session.id
        elif not asked.deleted:
            self.world.laws.broke(f"{asked.prompt.source_id} was dropped")

    def deliver_again(self, pick: int) -> None:
        if self.world.asked:
            self.submit(one_of(self.world.asked, pick))

    def edit(self, pick: int) -> None:
        if self.world.asked and self.world.program.ready:
            self.world.spawn(self._amend(one_of(self.world.asked, pick), "HOLD edited"))

    def delete(self, pick: int) -> None:
        if self.world.asked and self.world.program.ready:
            asked = one_of(self.world.asked, pick)
            asked.deleted = True
            asked.may_be.add(Withdrawn)
            self.world.spawn(self._amend(asked, None))

    async def _amend(self, asked: Asked, text: str | None) -> None:
        moment = self.world.moment()
        source = asked.prompt.thread.team, asked.prompt.thread.channel, asked.prompt.source_id
        edited_ts = f"{1_700_000_500 + moment}.000000"
        await self.world.program.sessions.amend(*source, text and f"{text} {moment}", edited_ts)

    def overhear(self, pick: int) -> None:
        if self.world.asked and self.world.program.ready:
            thread, moment = one_of(self.world.asked, pick).prompt.thread, self.world.moment()
            ts = f"{1_700_000_000 + len(self.world.asked) * 10}.{moment:06}"
            self.world.spawn(self._overhear(Aside(thread, f"C1:{ts}", ts, "U3", "Jonas", f"aside-{moment}-")))

    async def _overhear(self, aside: Aside) -> None:
        known = any(asked.turn_id and asked.prompt.thread == aside.thread for asked in self.world.asked)
        await self.world.program.sessions.overheard([aside])
        if known:
            self.world.asides.append(aside.text)

    # -- buttons ---------------------------------------------------------

    def withdraw(self, pick: int) -> None:
        if asked := self._turn(pick, TurnState.QUEUED):
            asked.may_be.add(Withdrawn)
            self.world.spawn(self.world.program.sessions.withdraw(asked.turn_id, "U2"))

    def hurry(self, pick: int) -> None:
        if asked := self._turn(pick, TurnState.QUEUED):
            self.world.may_be_interrupted(asked, besides=asked)
            self.world.spawn(self.world.program.sessions.hurry(asked.turn_id, "U2"))

    def interrupt(self, pick: int) -> None:
        if asked := self._turn(pick):
            self.world.spawn(self._interrupt(asked))

    async def _interrupt(self, asked: Asked) -> None:
        """It is meant for the turn that runs at this moment; if none runs yet, for the first that waits."""
        live = self.world.program.sessions._tasks.get(asked.session_id)
        current = live and live.turn and self.world.of(live.turn.id)
        if not current:
            return await self._stop(asked, "interrupt")
        current.may_be.add(Interrupted)
        await self.world.program.sessions.interrupt(asked.session_id, "U2")
        return None

    def halt(self, pick: int) -> None:
        if asked := self._turn(pick):
            self.world.spawn(self._stop(asked, "halt"))

    def stop(self, pick: int) -> None:
        if asked := self._turn(pick):
            self.world.spawn(self._stop(asked, "stop"))

    async def _stop(self, asked: Asked, what: Literal["interrupt", "halt", "stop"]) -> None:
        self.world.may_be_interrupted(asked)
        self.world.stopping[asked.prompt.thread] += 1  # what comes in while it works may be stopped, too
        try:
            await getattr(self.world.program.sessions, what)(asked.session_id, "U2")
        finally:
            self.world.stopping[asked.prompt.thread] -= 1

    def resume(self, pick: int) -> None:
        if asked := self._turn(pick, TurnState.CUT):
            self.world.spawn(self._resume(asked, "again" if pick % 2 else "continue"))

    async def _resume(self, cut: Asked, how: Literal["continue", "again"]) -> None:
        ts = f"{1_700_000_000 + len(self.world.asked) * 10 + 10}.{self.world.moment():06}"
        prompt = Prompt(cut.prompt.thread, f"resume:{cut.turn_id}", ts, "U2", "", starts=False)
        known = [asked for asked in self.world.asked if asked.prompt.source_id == prompt.source_id]
        asked = known[0] if known else self.world.writes(prompt)
        submitted = await self.world.program.sessions.resume(cut.turn_id, "U2", how, ts)
        if submitted is None:
            self.world.laws.broke(f"{cut.prompt.source_id} could not be resumed")
        else:
            asked.turn_id, asked.session_id = submitted.turn.id, submitted.session.id
            asked.acknowledged = asked.acknowledged or self.world.moment()

    def decide(self, pick: int) -> None:
        if self.world.program.ready and (waiting := self.world.disk.look("select id from asks where state = 'open'")):
            decision = Decision("allow" if pick % 3 else "deny")
            self.world.spawn(self._decide(AskId(one_of(waiting, pick)["id"]), decision))

    async def _decide(self, ask_id: AskId, decision: Decision) -> None:
        with contextlib.suppress(AskClosedAlready):
            await self.world.program.sessions.decide(ask_id, decision, "U2")

    def show(self, _pick: int) -> None:
        """The door has shown all that ended."""
        if self.world.program.ready:
            self.world.show()

    def _turn(self, pick: int, state: TurnState | None = None) -> Asked | None:
        """A message that has become a turn, as far as its door has heard; None while the program starts."""
        turns = [asked for asked in self.world.asked if asked.turn_id] if self.world.program.ready else []
        if state is not None:
            turns = [asked for asked in turns if self.world.row(asked.turn_id)["state"] == state]
        return one_of(turns, pick) if turns else None


PEOPLE = {
    "ask": 3, "ask_for_work": 8, "ask_late": 2, "deliver_again": 2, "edit": 2, "delete": 1, "overhear": 3,
    "withdraw": 1, "hurry": 3, "interrupt": 2, "halt": 1, "stop": 1, "resume": 3, "show": 4,
    "decide": 4,
}  # fmt: skip
