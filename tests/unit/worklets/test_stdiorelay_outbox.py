"""Input is sent again on each connection until the relay says that it is written."""

import asyncio

import pytest

from worklets.stdiorelay.errors import RelayGone
from worklets.stdiorelay.outbox import Outbox
from worklets.stdiorelay.protocol import INPUT_WINDOW, MAX_LINE


async def test_what_was_not_written_is_sent_again() -> None:
    outbox = Outbox()
    for line in (b"one", b"two", b"three"):
        await outbox.put(line)
    assert [outbox.next(), outbox.next()] == [b"1\none", b"2\ntwo"]
    assert outbox.resume(1)
    assert [outbox.next(), outbox.next(), outbox.next()] == [b"2\ntwo", b"3\nthree", None]
    outbox.acknowledged(3)
    await outbox.put(b"four")
    assert outbox.next() == b"4\nfour"


async def test_a_relay_that_forgot_is_not_trusted() -> None:
    outbox = Outbox()
    await outbox.put(b"one")
    outbox.next()
    outbox.acknowledged(1)
    assert not outbox.resume(0)


async def test_it_waits_for_room_and_for_the_last_to_be_written() -> None:
    outbox = Outbox()
    await outbox.put(b"x" * INPUT_WINDOW)
    more = asyncio.create_task(outbox.put(b"more"))
    drained = asyncio.create_task(outbox.drained())
    await asyncio.wait([more, drained], timeout=0.01)
    assert not more.done()
    outbox.acknowledged(1)
    await more
    assert not drained.done()
    outbox.acknowledged(2)
    await drained


async def test_when_all_is_over_everybody_is_told() -> None:
    outbox = Outbox()
    await outbox.put(b"x" * INPUT_WINDOW)
    waiting = [asyncio.create_task(outbox.put(b"more")), asyncio.create_task(outbox.drained())]
    await asyncio.wait(waiting, timeout=0.01)
    outbox.fail(RelayGone("It is over.", "UNAUTHORIZED"))
    for task in waiting:
        with pytest.raises(RelayGone, match="over") as told:
            await task
        assert told.value.code == "UNAUTHORIZED"
    with pytest.raises(RelayGone):
        await outbox.put(b"late")


async def test_only_lines_are_taken() -> None:
    for line in (b"a\nb", b"x" * (MAX_LINE + 1)):
        with pytest.raises(ValueError, match="line"):
            await Outbox().put(line)
