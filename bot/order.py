"""The order of a thread's answers: each stands as a whole above those whose first message came later. Pure.

A message cannot be put between others. So a post waits for the posts of the answers before it; and where a later
answer's message stands above the end of an earlier one (it was posted to say that its turn waits, then the earlier
answer grew out of its message), it is taken away and posted anew.
"""

from __future__ import annotations

from bot.answer import Answer, Message
from sessions.types import SessionId, TurnId

_MOVES = 3  # of one message; more means that something else is wrong


class Order:
    """The answers that are not shown to the end."""

    def __init__(self) -> None:
        self._sessions: dict[SessionId, dict[TurnId, Answer]] = {}

    def add(self, answer: Answer) -> None:
        self._sessions.setdefault(answer.session_id, {})[answer.turn_id] = answer

    def remove(self, answer: Answer) -> None:
        answers = self._sessions.get(answer.session_id, {})
        if answers.get(answer.turn_id) is answer:
            del answers[answer.turn_id]
        if not answers:
            self._sessions.pop(answer.session_id, None)

    def others(self, answer: Answer) -> list[Answer]:
        """Of the same session."""
        return [other for other in self._sessions.get(answer.session_id, {}).values() if other is not answer]

    def may_post(self, answer: Answer) -> bool:
        """All that belongs above it is posted."""
        return not any(other.lacks_post or self.misplaced(other) for other in self._before(answer))

    def misplaced(self, answer: Answer) -> Message | None:
        """A message of it that stands too high, as far as that is certain: what stands below it grows no more."""
        floor = max((_end(other) for other in self._before(answer) if other.view.settled), default=_TOP)
        for index, message in sorted(answer.messages.items()):
            if index < 0 or message.ts is None or message.lost:
                continue
            if moment(message.ts) < floor:
                return message if message.moves < _MOVES else None
            floor = max(floor, moment(message.ts)) if answer.view.settled else floor
        return None

    def may_close(self, answer: Answer) -> bool:
        """Nothing of what happens to the others can concern it any more, nor it them."""
        if self._before(answer):
            return False
        return all(self.misplaced(other) is None for other in self.others(answer))

    def _before(self, answer: Answer) -> list[Answer]:
        others = self.others(answer)
        return [other for other in others if _place(other) < _place(answer)] if others else others


_TOP = (0, 0)


def moment(ts: str) -> tuple[int, int]:
    seconds, _, fraction = ts.partition(".")
    return int(seconds), int(fraction or 0)


def _place(answer: Answer) -> tuple[bool, tuple[int, int]]:
    """By where the first message was first; answers without one come last, as they were asked for."""
    if answer.place is None:
        posted = (moment(message.ts) for index, message in answer.messages.items() if index >= 0 and message.ts)
        answer.place = min(posted, default=None)
    return answer.place is None, answer.place or moment(answer.asked_ts)


def _end(answer: Answer) -> tuple[int, int]:
    posted = (moment(message.ts) for index, message in answer.messages.items() if index >= 0 and message.ts)
    return max(posted, default=_TOP)
