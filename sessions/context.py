"""What Claude is told before a prompt: what it has forgotten, and what was said in the thread meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from config.logging import get_logger
from sessions.link import Link
from sessions.loss import note
from sessions.recap import recap
from sessions.shared import Shared
from sessions.types import Aside, Turn, TurnId, TurnState
from worklets.events import AgentEvent
from worklets.slash import forgets

log = get_logger(__name__)

_RECAP = 60_000  # characters
_ASIDES = 30_000  # characters of them all
_ASIDE = 4_000  # characters of one


async def context(shared: Shared, link: Link, turn: Turn, *, again: bool) -> list[str]:
    """Text blocks, the oldest matter first. The same when asked again for the same turn.

    `again`: another process was lost over the prompt.
    """
    blocks = []
    if link.forgotten:
        blocks += await _past(shared, link, turn)
    elif link.woken and link.session.has_history:
        blocks += await _lost(shared, link, turn)
    if said := await shared.stored(lambda: shared.store.claim_asides(link.lease, turn)):
        blocks.append(meanwhile(said))
    if again:
        blocks.append(note([entry.event for entry in await link.entries(turn.id)]))
    return blocks


async def collect_backlog(shared: Shared, link: Link, turn: Turn) -> None:
    """Has the door store what was said before Flow was called into the thread. Never raises; late is never."""
    assert shared.backlog is not None
    try:
        async with asyncio.timeout(shared.patience.backlog):
            await shared.backlog(link.session, turn)
    except Exception as error:  # noqa: BLE001 - the answer matters more than what was said before the question
        log.warning("what was said in the thread before could not be read", error=repr(error))


def wants_backlog(shared: Shared, link: Link, turn: Turn) -> bool:
    """It is the first turn of a session that was called into a thread which stood already."""
    is_first = not link.session.has_history and turn.started_at is None
    return shared.backlog is not None and is_first and link.session.thread.thread_ts not in (None, turn.ts)


def meanwhile(said: Sequence[Aside]) -> str:
    """Pure. The newest are kept when there is too much."""
    lines: list[str] = []
    room = _ASIDES
    for aside in reversed(said):
        text = aside.text if len(aside.text) <= _ASIDE else aside.text[:_ASIDE] + " […]"
        line = f"{aside.author}: {text}"
        room -= len(line)
        if room < 0:
            lines.append("[…]")
            break
        lines.append(line)
    told = "\n".join(reversed(lines))
    return f"[From Flow: said in the thread meanwhile, not to you. It is for you to know, not to answer.\n{told}]"


async def _lost(shared: Shared, link: Link, turn: Turn) -> list[str]:
    """The turn before, if its process was lost: the CLI writes down what is said only now and then, and at the end."""
    turns = await shared.stored(lambda: shared.store.turns(turn.session_id))
    begun = [one for one in turns if one.ended_at is not None and one.started_at is not None]
    before = max(begun, key=lambda one: one.ended_at or one.created_at, default=None)
    if before is None:
        return []
    ended = await shared.stored(lambda: shared.transcript.ended(before.id))
    if ended is not None:
        return []
    events = {before.id: [entry.event for entry in await link.entries(before.id)]}
    head = (
        "[From Flow: your process was lost, or ended, while you worked on the message before. You may not remember all "
        "of this, which people have seen; whether a tool took effect, only a look can tell."
    )
    return [f"{head}\n\n{recap([before], events, _RECAP)}]"]


async def _past(shared: Shared, link: Link, turn: Turn) -> list[str]:
    """The conversation so far, of which nothing is left in the worklet."""
    turns = [one for one in await shared.stored(lambda: shared.store.turns(turn.session_id)) if one.state.settled]
    cleared = [at for at, one in enumerate(turns) if forgets(one.text) and one.state is TurnState.DONE]
    turns = turns[cleared[-1] + 1 :] if cleared else turns
    events: dict[TurnId, Sequence[AgentEvent]] = {}
    size = 0
    for one in reversed(turns):
        events[one.id] = [entry.event for entry in await link.entries(one.id)]
        size += len(one.text) + sum(len(getattr(event, "text", "")) for event in events[one.id])
        if size > 2 * _RECAP:  # what is older would be left out anyway
            break
    said = recap(turns, events, _RECAP)
    summary = None if cleared else link.session.summary
    if not said and not summary:
        return []
    head = (
        "[From Flow: this conversation was put away, and your workspace with it. What was said so far, as it was kept; "
        "files of that time are gone unless they come from the repository."
    )
    return ["\n\n".join(part for part in (head, summary, said) if part) + "]"]
