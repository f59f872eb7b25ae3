"""One more thing happens after each round of the event loop in turn, while an ordinary story takes its course.

The state machine's acts and laws (test_sessions_stateful.py), without chance. The suite tries a few of the rounds,
`make chaos` many.
"""

from __future__ import annotations

import functools

import pytest
from test_sessions_stateful import CHAOS, Machine

STORIES = {
    "answered": "ask_for_work text overhear read answer ask show",
    "interrupted": "ask_for_work text ask_for_work hurry answer stop",
    "lost": "ask_for_work text die pass_moment text answer show",
    "cut": "ask_for_work bash exit pass_moment resume answer",
    "asleep": "ask pass_half_an_hour sweep ask ask_in_another_thread ask_late",
}
HAPPENINGS = ["kill", "restart", "die", "stop", "interrupt", "hurry", "ask_late", "delete", "lose_commit", "sweep"]
_POINTS = 60 if CHAOS else 2  # rounds of a story that are tried


@pytest.mark.parametrize("happening", HAPPENINGS)
@pytest.mark.parametrize("story", STORIES)
def test_it_may_happen_after_any_round(story: str, happening: str) -> None:
    rounds = _rounds(story)
    every = rounds // _POINTS
    for after in range(1 + len(happening) * 37 % every, rounds, every):  # others for each happening
        try:
            _play(story, happening, after)
        except AssertionError as error:
            raise AssertionError(f"{happening} after {after} of {rounds} rounds: {error}") from error


@functools.cache
def _rounds(story: str) -> int:
    """Of the story alone."""
    return _play(story, "nothing", 0)


def _play(story: str, happening: str, after: int) -> int:
    """How many rounds it took. `after` 0: it does not happen."""
    machine = Machine()
    machine.begin(places=1)
    begun, loop = machine.world.loop.rounds, machine.world.loop
    try:
        if after:
            loop.after[begun + after] = lambda: getattr(machine, happening)(0)
        for act in STORIES[story].split():
            if act == "ask_in_another_thread":
                machine.ask(3)
            else:
                getattr(machine, act)(0)
            machine.world.loop.settle()
            machine.lawful()
        return loop.rounds - begun
    except BaseException:
        machine.failed = True
        raise
    finally:
        machine.teardown()
