"""Connections of one worklet that wait until people have said whether their host may be reached.

One question for each host and port, however many connections want it. The bot hears of it by an event, again and again
while somebody waits: events may be lost. The answer comes as a new policy of the worklet (`EgressDoor.enforce`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from worklets.egress import EgressPolicy
from worklets.egressgrants import Place
from worklets.egresshttp import BadRequest
from worklets.gatewayroutes import Tell

WANTED, BLOCKED = "egress wanted", "egress blocked"  # kinds of events; fields: worklet, host, port, of BLOCKED reason

MOST_QUESTIONS = 5  # of one worklet that people have not answered, whether somebody still waits or not
MOST_ASKED = 20  # of one worklet, until its turn has ended
MOST_WAITING = 64  # connections of one worklet
_AGAIN_SECONDS = 5.0  # between two events about one question
_RESTARTED = "Flow was restarted before people had answered, so try again"
_BLOCKED_SECONDS = 10.0  # between two events about one host that is refused
_MOST_BLOCKED = 50  # hosts that are told of in that time


@dataclass(slots=True, eq=False)
class _Question:
    waiting: set[asyncio.Future[str | None]] = field(default_factory=set)
    telling: asyncio.TimerHandle | None = None


class Questions:
    """Of one worklet. `policy` is its own, as it is now."""

    def __init__(self, worklet: str, policy: Callable[[], EgressPolicy], tell: Tell) -> None:
        self._worklet, self._policy, self._tell = worklet, policy, tell
        self._open: dict[Place, _Question] = {}
        self._asked: dict[Place, bool] = {}  # since the turn began; True: people have answered
        self._blocked: dict[Place, float] = {}  # when it was told last, on the loop's clock
        self._over = False

    async def allowed(self, place: Place) -> None:
        """Returns when the host may be reached. Raises BadRequest with status 403 when it may not, or not in time."""
        policy = self._policy()
        reason = policy.refusal(*place)
        if reason is None:
            return
        if not policy.may_ask(*place):
            self.tell_blocked(place, reason)
            raise _blocked(place, reason)
        if self._over:
            raise _blocked(place, _RESTARTED)
        if place not in self._asked and (crowd := self._crowd()) is not None:
            self.tell_blocked(place, crowd)
            raise _blocked(place, crowd)
        if sum(len(question.waiting) for question in self._open.values()) >= MOST_WAITING:
            reason = f"{MOST_WAITING} connections wait for people's answer already"
            self.tell_blocked(place, reason)
            raise _blocked(place, reason)
        reason = await self._answer(place, policy.ask_wait)
        # What was answered may have been taken back before this connection had its turn.
        if (reason := reason or self._policy().refusal(*place)) is not None:
            raise _blocked(place, reason)

    def _crowd(self) -> str | None:
        """Why people are not asked for one more."""
        if len(self._asked) >= MOST_ASKED:
            return f"people were asked for {MOST_ASKED} hosts already; nobody is asked for more until they write again"
        if sum(not answered for answered in self._asked.values()) >= MOST_QUESTIONS:
            return f"people are asked for {MOST_QUESTIONS} other hosts already; wait for their answer"
        return None

    async def _answer(self, place: Place, seconds: float) -> str | None:
        """What `refusal` says when it is decided."""
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        question = self._open.setdefault(place, _Question())
        self._asked[place] = False
        question.waiting.add(answer)
        if question.telling is None:
            self._tell_wanted(place, question)
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            return (
                f"people in the thread were asked, and did not answer within {seconds:.0f} seconds; the question "
                "stands, so try again once they have"
            )
        finally:
            question.waiting.discard(answer)
            if not question.waiting:
                self._forget(place, question)

    def look(self) -> None:
        """The policy has changed: what is decided by it is answered."""
        policy = self._policy()
        if not policy.grant.asks:
            self._asked.clear()
        for place in self._asked:
            self._asked[place] = not policy.may_ask(*place) or policy.refusal(*place) is None
        for place, question in list(self._open.items()):
            reason = policy.refusal(*place)
            if reason is None or not policy.may_ask(*place):
                self._forget(place, question)
                self._give(question, reason)

    def close(self) -> None:
        """Whoever waits, or comes later, is told that it is in vain: the answer would go to a successor."""
        self._over = True
        for place, question in list(self._open.items()):
            self._forget(place, question)
            self._give(question, _RESTARTED)

    def _give(self, question: _Question, reason: str | None) -> None:
        for answer in question.waiting:
            if not answer.done():
                answer.set_result(reason)

    def _forget(self, place: Place, question: _Question) -> None:
        if question.telling is not None:
            question.telling.cancel()
            question.telling = None
        if self._open.get(place) is question:
            del self._open[place]

    def _tell_wanted(self, place: Place, question: _Question) -> None:
        self._tell(WANTED, worklet=self._worklet, host=place[0], port=place[1])
        loop = asyncio.get_running_loop()
        question.telling = loop.call_later(_AGAIN_SECONDS, self._tell_wanted, place, question)

    def tell_blocked(self, place: Place, reason: str) -> None:
        """The bot hears of a host that is refused, now and then."""
        now = asyncio.get_running_loop().time()
        if len(self._blocked) >= _MOST_BLOCKED:
            self._blocked = {one: told for one, told in self._blocked.items() if now - told < _BLOCKED_SECONDS}
        known = place in self._blocked
        if now - self._blocked.get(place, -inf) >= _BLOCKED_SECONDS and (known or len(self._blocked) < _MOST_BLOCKED):
            self._blocked[place] = now
            self._tell(BLOCKED, worklet=self._worklet, host=place[0], port=place[1], reason=reason)


def _blocked(place: Place, reason: str) -> BadRequest:
    return BadRequest(f"Flow blocked {place[0]}:{place[1]}: {reason}.", 403)
