"""Whoever stops waiting for a place must not break the one who gives it up."""

import asyncio
import contextlib

from sessions.places import Places, granted
from sessions.types import SessionId

A, B = SessionId("a"), SessionId("b")


async def test_a_place_given_up_while_the_waiting_one_is_stopped() -> None:
    places = Places(1, lambda _: None)
    places.ask(A)
    ticket = places.ask(B)
    waiting = asyncio.create_task(granted(ticket, lambda: None))
    await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    places.free(A)
    assert ticket.granted.done()
    assert not ticket.granted.cancelled()
