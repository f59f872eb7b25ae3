"""Slack's failures, one function each: a strike, which may take a while. And the table of what came of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from simulator.slack import SlackSimulator

METHODS = ("chat.postMessage", "chat.postMessage", "chat.update", "chat.update", "chat.delete", "conversations.replies")
Strike = Callable[[SlackSimulator, random.Random], Awaitable[None]]


@dataclass
class Row:
    """What came of one kind of fault."""

    strikes: int = 0
    answers: int = 0
    violations: int = 0
    seconds: float = 0.0


table: dict[str, Row] = {}


async def _storm(slack: SlackSimulator, dice: random.Random) -> None:
    for method in METHODS:
        slack.faults.fail(method, status=429, retry_after=1, times=dice.randint(1, 3))


async def _error_before(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.fail(dice.choice(METHODS), status=dice.choice([500, 502, 503]), times=dice.randint(1, 3))


async def _error_after(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.fail(dice.choice(METHODS), status=dice.choice([500, 502, 503]), times=dice.randint(1, 3), after=True)


async def _fatal_error(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.fail(dice.choice(METHODS), error=dice.choice(["internal_error", "fatal_error"]), after=True)


async def _reset_before(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.reset(dice.choice(METHODS), times=dice.randint(1, 3))


async def _reset_after(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.reset(dice.choice(METHODS), times=dice.randint(1, 3), after=True)


async def _hang_before(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.hang(dice.choice(METHODS))


async def _hang_after(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.hang(dice.choice(METHODS), after=True)


async def _outage(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.go_down(dice.choice([500, 503]))
    await asyncio.sleep(dice.uniform(0.5, 2.5))
    slack.faults.come_up()


async def _refresh(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.disconnect(dice.choice(["refresh_requested", "warning"]), oldest=dice.choice([1, None]))


async def _too_many(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.disconnect("too_many_websockets", oldest=1)


async def _link_disabled(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.switch_socket_mode(on=False)
    await asyncio.sleep(dice.uniform(0.2, 1.5))
    slack.faults.switch_socket_mode(on=True)


async def _socket_reset(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.reset_sockets(oldest=dice.choice([1, None]))


async def _deaf(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.deafen_sockets(oldest=dice.choice([1, 1, None]))


async def _handshakes_refused(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.refuse_handshakes(dice.randint(1, 3))
    slack.faults.close_sockets(oldest=dice.choice([1, None]))


async def _no_ticket(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.fail("apps.connections.open", status=dice.choice([429, 503]), retry_after=1, times=2)
    slack.faults.close_sockets(oldest=1)


async def _duplicates(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.duplicate_events(dice.randint(1, 5))


async def _late(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.delay_events(dice.uniform(0.1, 1.5), times=dice.randint(1, 4))


async def _reordered(slack: SlackSimulator, dice: random.Random) -> None:
    slack.faults.reorder_events(dice.randint(2, 5))


FAULTS: dict[str, Strike] = {
    "429 storm": _storm,
    "5xx before the effect": _error_before,
    "5xx after the effect": _error_after,
    "fatal_error after the effect": _fatal_error,
    "reset before the effect": _reset_before,
    "reset after the effect": _reset_after,
    "no answer, no effect": _hang_before,
    "no answer after the effect": _hang_after,
    "the whole Web API down": _outage,
    "refresh": _refresh,
    "too_many_websockets": _too_many,
    "link_disabled": _link_disabled,
    "sockets reset": _socket_reset,
    "deaf sockets": _deaf,
    "handshakes refused": _handshakes_refused,
    "no ticket": _no_ticket,
    "duplicate events": _duplicates,
    "late events": _late,
    "reordered events": _reordered,
}


#: Those of connections: Slack needs a while to bring back what it could not deliver.
SLOWLY = {"refresh", "too_many_websockets", "link_disabled", "sockets reset", "deaf sockets", "handshakes refused",
          "no ticket"}  # fmt: skip


async def mixed(slack: SlackSimulator, dice: random.Random) -> None:
    """Two at once: of calls, and of anything."""
    await FAULTS[dice.choice(list(FAULTS)[:8])](slack, dice)
    kind = dice.choice(list(FAULTS))
    await FAULTS[kind](slack, dice)
    if kind in SLOWLY:
        await asyncio.sleep(dice.uniform(0.0, 1.0))


def answers_wanted(config: pytest.Config) -> tuple[int, bool]:
    """How many answers, and whether they are enough to see each fault alone."""
    answers = int(config.getoption("--chaos-answers"))
    return answers, answers >= 10 * len(FAULTS)
