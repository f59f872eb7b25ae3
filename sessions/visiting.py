"""A session that is woken without a prompt: somebody visits what runs in its worklet."""

from __future__ import annotations

import asyncio

from config.logging import get_logger
from sessions.link import Link
from sessions.shared import Shared
from sessions.types import Session, SessionState
from worklets.errors import WorkletError

log = get_logger(__name__)

_PLACE_SECONDS = 60.0  # for a place: turns that wait for one go on waiting, a visitor is told


def refusal_of_parked() -> WorkletError:
    """A started turn waits for people, its process asleep. Whoever goes on with it tells by the row's container which
    process knows the prompt, so nobody else may put another one there."""
    return WorkletError(
        "This thread waits for an answer in Slack, and its container sleeps meanwhile.",
        suggestion="Answer there first, then open this page again.",
    )


async def open_for_visit(shared: Shared, link: Link) -> None:
    """The worklet runs afterwards, and is idle. No turn may be unfinished. Raises WorkletError."""
    if link.agent is not None:
        return
    session = link.session
    if session.retired_at is not None or session.state is SessionState.NEW:
        raise WorkletError("The thread's workspace is gone.", suggestion="Ask Claude in the thread to start again.")
    ticket = shared.places.ask(session.id)
    # `wait` cancels nothing: when this is cancelled, the place may be granted in that very moment.
    await asyncio.wait([ticket.granted], timeout=_PLACE_SECONDS)
    if not ticket.granted.done():
        shared.places.free(session.id)
        raise WorkletError(
            "All places for running threads are taken.", suggestion="Try again when one of them has finished."
        )
    await link.set_state(SessionState.STARTING)
    await _allow_spending(shared, session)
    await link.open(lambda _step: None, prompted=False)
    assert link.agent is not None
    for batch in link.agent.earlier:
        await link.take(batch, lambda _event: None)
    await link.agent.forget_earlier()
    await link.set_state(SessionState.IDLE, container_id=link.agent.worklet_id, last_activity_at=shared.store.clock())
    log.info("the session is awake for a visit")


async def _allow_spending(shared: Shared, session: Session) -> None:
    """What runs inside may ask the model, by itself: then as after the last turn."""
    budgets = shared.budgets
    turns = await shared.stored(lambda: shared.store.turns(session.id)) if budgets and budgets.any else []
    if budgets is None or not turns:
        return
    left = await shared.stored(lambda: budgets.left(session, turns[-1]))
    try:
        await shared.host.allow_spending(session.worklet, left)
    except WorkletError as error:
        log.warning("the gateway does not know what a worklet may spend", error=error.sentence())
