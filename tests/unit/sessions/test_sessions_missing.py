"""What a worklet is without this time is told whenever its Claude starts, not only when it is new."""

from __future__ import annotations

from typing import Any

from heart import Heart
from waiting import until

from worklets.events import Remark, TurnEnded, Usage
from worklets.profile import Profile


async def _turn(heart: Heart) -> Any:
    asked = await heart.ask("HOLD on")
    (await heart.process(asked)).say(TurnEnded("done", (asked.turn.id,), Usage(), 0.5))
    await heart.settled(asked)
    return asked


async def test_what_is_away_is_told_at_each_start_of_claude(heart: Heart) -> None:
    heart.host.profile = Profile(notes=("No github.",), missing=("No Vault now.",))
    first, second = await _turn(heart), await _turn(heart)
    assert await heart.sessions.sleep(first.session.id)
    await until(lambda: not heart.sessions.is_live(first.session.id))
    third = await _turn(heart)
    events = [heart.events(one.turn.id) for one in (first, second, third)]
    told = [[event for event in one if isinstance(event, Remark)] for one in events]
    assert told == [[Remark("No github."), Remark("No Vault now.")], [], [Remark("No Vault now.")]]
