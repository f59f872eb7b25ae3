"""What observers of a session are told: the agent's events, and the life cycle of its turns.

An observer is a plain callable that never blocks and never awaits. For one turn it is called in order:
Queued, (WaitingForPlace | Preparing)*, Started, agent events…, Stopping?, Settled; AskOpened and AskClosed come where
Claude asks and where it is decided. Whoever takes a session over (after
a restart, from another replica) calls it anew from the start for every turn that was not delivered: Queued, then the
stored events, then the live ones. Who loses a session tells Released, and nothing after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from sessions.asks import Ask
from sessions.types import Outcome, Session, Turn
from worklets.events import AgentEvent


@dataclass(frozen=True, slots=True)
class Queued:
    """The turn is stored; `ahead` turns of the same session come first."""

    ahead: int


@dataclass(frozen=True, slots=True)
class WaitingForPlace:
    """All `limit` places are taken by working sessions; the turn starts when one is free."""

    limit: int


@dataclass(frozen=True, slots=True)
class Preparing:
    """Something takes a while before Claude sees the prompt.

    `step`: "cloning", "starting", "setup", "waking", "resuming"; "image" or "image 4/12" while its image is made.
    """

    step: str


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt goes to Claude."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The turn is over; nothing about it follows. `seconds` is since Started, None if it never started."""

    outcome: Outcome
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Stopping:
    """Somebody asked for the turn's end; Settled follows soon."""

    by: str | None = None  # user id


@dataclass(frozen=True, slots=True)
class Released:
    """Another process goes on with the session, and shows the turn: forget it, leave its messages as they are."""


@dataclass(frozen=True, slots=True)
class AskOpened:
    """Claude waits for people. The ask is stored; it stays open over restarts until AskClosed.

    After that it may come once more, with a later `asked_at`: Claude had withdrawn it, and asks again.
    """

    ask: Ask


@dataclass(frozen=True, slots=True)
class AskClosed:
    """It is decided, withdrawn or expired. After a take-over it follows its AskOpened at once."""

    ask: Ask


LifeEvent: TypeAlias = (
    Queued | WaitingForPlace | Preparing | Started | Stopping | Settled | Released | AskOpened | AskClosed
)
Observer: TypeAlias = Callable[[Session, Turn, LifeEvent | AgentEvent], None]
