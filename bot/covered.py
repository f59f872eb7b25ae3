"""Messages that a late call of another process has covered with an older look, as the table says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from bot.store import MessageStore
from config.logging import get_logger
from sessions.errors import StoreUnavailable
from sessions.types import TurnId

log = get_logger(__name__)

_PAUSE = 3.0  # seconds between two looks


async def watch_covered(store: MessageStore, turns: Collection[TurnId], uncover: Callable[[TurnId, int], None]) -> None:
    """For ever: `uncover(turn_id, part)` is told each message to be shown anew, of those that `turns` has then."""
    while True:
        await asyncio.sleep(_PAUSE)
        if not turns:
            continue
        try:
            for turn_id, part in await store.covered(list(turns)):
                uncover(turn_id, part)
        except StoreUnavailable as error:
            log.debug("cannot read which messages are covered", error=str(error))
        except Exception:
            log.exception("cannot look after covered messages")
