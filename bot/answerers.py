"""Who may answer what Claude asks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bot.below import person
from sessions.asks import Ask, AskKind
from sessions.controls import at_least
from sessions.types import Turn


@dataclass(frozen=True, slots=True)
class Answerers:
    """`approvers` (user ids) may always answer; if there are any, money is theirs alone to decide on."""

    who: Literal["asker", "participants", "approvers"] = "participants"
    approvers: tuple[str, ...] = ()

    def refusal(self, ask: Ask, turns: Sequence[Turn], user_id: str) -> str | None:
        """Why this person may not answer, mrkdwn; None: they may. `turns`: those of the ask's session."""
        if user_id in self.approvers:
            return None
        if self.approvers and (self.who == "approvers" or ask.kind is AskKind.BUDGET):
            return f"Only approvers can answer this: {_listed(self.approvers)}."
        if self.who == "asker":
            may, who = [turn.user_id for turn in turns if turn.id == ask.turn_id], "whoever asked Claude"
        else:
            may, who = [turn.user_id for turn in turns], "people who asked Claude something in this thread"
        return None if user_id in may else f"Only {who} can answer this: {_listed([*may, *self.approvers])}."

    def loosening_refusal(self, before: str, mode: str, turns: Sequence[Turn], user_id: str) -> str | None:
        """Why this person may not change the permission mode so that Claude asks less, mrkdwn; None: they may.

        `before`: the mode now. `turns`: those of the session; none of one that is yet to begin, which whoever begins it
        asks. To make Claude ask more is everybody's.
        """
        return None if mode in at_least(before) else self.reach_refusal(turns, user_id)

    def reach_refusal(self, turns: Sequence[Turn], user_id: str) -> str | None:
        """Why this person may not let Claude do, or reach, more by itself, mrkdwn; None: they may."""
        if user_id in self.approvers:
            return None
        if self.who == "approvers":
            return f"Only approvers can let Claude do more by itself: {_listed(self.approvers)}."
        may = [turn.user_id for turn in turns]
        if not may or user_id in may:
            return None
        return f"Only people who asked Claude something in this thread can do that: {_listed([*may, *self.approvers])}."


def _listed(people: Sequence[str]) -> str:
    shown = [person(each) for each in dict.fromkeys(people)]
    if len(shown) > 6:
        return f"{', '.join(shown[:5])} and {len(shown) - 5} more"
    return " or ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
