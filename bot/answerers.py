"""Who may answer what Claude asks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bot.below import person
from sessions.asks import Ask, AskKind
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


def _listed(people: Sequence[str]) -> str:
    shown = [person(each) for each in dict.fromkeys(people)]
    if len(shown) > 6:
        return f"{', '.join(shown[:5])} and {len(shown) - 5} more"
    return " or ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
