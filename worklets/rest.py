"""Claude's process ends and its worklet stays; later another one is started in it. By the relay's own connection.

Whoever asks is the worklet's owner for that moment, by the fence of its session: an owner before it is let go of.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from worklets.errors import AgentGone
from worklets.link import Refused
from worklets.relay.proof import Forged, Sealed
from worklets.relaydial import HandshakeFailed, dial, shut

_SECONDS = 15.0  # more than the relay gives a process to end
_NO_LINES = (1 << 53) - 1  # a position beyond every journal: lines are for the session's own connection


async def rest(run_dir: Path, token: str, fence: int) -> None:
    """Returns when the process has ended. Idempotent.

    Raises AgentGone: the relay is away, knows no rest, or is about to end itself; Refused: another owns it.
    """
    async with _owning(run_dir, token, fence) as relay:
        await _ask(relay, {"type": "rest"}, "resting")


async def wake(run_dir: Path, token: str, fence: int, command: Sequence[str], env: Mapping[str, str]) -> None:
    """Starts `command` where nothing runs; `env` goes above what the worklet was started with. Raises like `rest`."""
    async with _owning(run_dir, token, fence) as relay:
        await _ask(relay, {"type": "start", "command": list(command), "env": dict(env)}, "started")


async def _ask(relay: Sealed, question: Mapping[str, Any], answer: str) -> None:
    from websockets.exceptions import ConnectionClosed

    with suppress(ConnectionClosed):  # why it is closed, if the relay did that, is still to be read
        await relay.send(json.dumps(question))
    while True:
        said = await relay.recv()
        if not isinstance(said, str):
            continue
        message = json.loads(said)
        if message["type"] == answer:
            return
        if message["type"] == "refused":
            raise Refused if message["why"] == "low fence" else AgentGone("The worklet's relay was taken over.")


@asynccontextmanager
async def _owning(run_dir: Path, token: str, fence: int) -> AsyncIterator[Sealed]:
    from websockets.exceptions import ConnectionClosed

    try:
        async with asyncio.timeout(_SECONDS):
            relay = await dial(run_dir, token)
            try:
                hello = {"type": "hello", "seq": _NO_LINES, "epoch": None, "fence": fence, "refusals": True}
                await relay.send(json.dumps(hello))
                yield relay
            finally:
                await shut(relay)
    except ConnectionClosed as error:
        raise AgentGone("The worklet's relay did not do it.") from error
    except (OSError, TimeoutError, HandshakeFailed, Forged, ValueError, KeyError, TypeError) as error:
        raise AgentGone(f"The worklet's relay did not do it ({type(error).__name__}).") from error
