"""A connection to a worklet's relay, on which both sides have proven who they are: see worklets/relay/proof.py."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

from worklets.errors import AgentGone
from worklets.relay.proof import NONCE, PROOF, Sealed, is_proven, new_nonce, seals
from worklets.sockets import short_path

SOCKET = "relay.sock"
HANDSHAKE_SECONDS = 10.0
CLOSE_SECONDS = 3.0  # for what is still to be sent when a connection is given up
_LONGEST = 64 << 20  # bytes of a frame
_MOST = 4_096  # bytes of an answer that is only looked at


class Answer(Enum):
    """What came of asking whether a worklet's relay answers."""

    PROVEN = auto()
    OLD = auto()  # it is of another version of Flow; so says whoever is there
    SILENT = auto()  # or it is somebody else
    AWAY = auto()  # the machine that it is on cannot be reached


class HandshakeFailed(Exception):
    """Somebody was reached, who ended the connection before it could be used."""


class Unproven(AgentGone):
    """What answers in the place of the worklet's relay is not the relay."""


class OtherVersion(AgentGone):
    """The worklet's relay is of another version of Flow."""

    suggestion = "Write again; if that does not help, run `flow image build`."


async def dial(run_dir: Path, token: str, ping: float | None = None) -> Sealed:
    """`ping`: seconds between two, and for the answer to each.

    Raises OSError, TimeoutError, HandshakeFailed; Unproven, OtherVersion where trying again is of no use.
    """
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

    made, nonce = await _reach(run_dir), new_nonce()
    try:
        ws = await connect(
            "ws://relay/",
            sock=made,
            additional_headers={NONCE: nonce},
            user_agent_header=None,
            compression=None,
            max_size=_LONGEST,
            proxy=None,
            open_timeout=HANDSHAKE_SECONDS,
            close_timeout=1,
            ping_interval=ping,
            ping_timeout=ping,
        )
    except InvalidStatus as error:
        made.close()
        if error.response.status_code == 401:  # it wants the token itself, which no relay of ours does any more
            raise OtherVersion from error
        raise HandshakeFailed(str(error)) from error
    except (ConnectionClosed, InvalidHandshake, EOFError, ValueError) as error:
        made.close()
        raise HandshakeFailed(str(error)) from error
    except BaseException:
        made.close()
        raise
    assert ws.response is not None
    theirs, shown = (", ".join(ws.response.headers.get_all(name)) for name in (NONCE, PROOF))
    if not is_proven(token, nonce, theirs, shown):
        ws.transport.abort()
        raise Unproven
    return Sealed(ws, *seals(token, nonce, theirs))


async def shut(relay: Sealed) -> None:
    """Closes the connection, also to a relay that does not read."""
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await relay.close()
    finally:
        relay.abort()  # where it is closed already, nothing


async def answers(run_dir: Path, token: str, seconds: float) -> Answer:
    """Whether the worklet's relay does, by its proof, in so many seconds. It hears nothing else of it."""
    nonce = new_nonce()
    try:
        async with asyncio.timeout(seconds):
            made = await _reach(run_dir)
            try:
                said = await _ask(
                    made, f"GET / HTTP/1.1\r\nHost: relay\r\n{NONCE}: {nonce}\r\nConnection: close\r\n\r\n"
                )
            finally:
                made.close()
    except (OSError, TimeoutError):
        return Answer.SILENT
    theirs, shown = (_header(said, name) for name in (NONCE, PROOF))
    if is_proven(token, nonce, theirs, shown):
        return Answer.PROVEN
    return Answer.OLD if said.startswith(b"HTTP/1.1 401 ") else Answer.SILENT


def _header(said: bytes, name: str) -> str:
    found = re.search(rb"\r\n%s: ([0-9a-f]+)\r\n" % name.encode(), said)
    return found[1].decode() if found else ""


async def _ask(made: socket.socket, question: str) -> bytes:
    loop, said = asyncio.get_running_loop(), b""
    await loop.sock_sendall(made, question.encode())
    while b"\r\n\r\n" not in said and len(said) < _MOST and (data := await loop.sock_recv(made, _MOST)):
        said += data
    return said


async def _reach(run_dir: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.setblocking(False)
    try:
        # Not `wait_for`: in Python 3.11 it can swallow a cancellation, and a link that was let go of went on.
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            with short_path(run_dir, SOCKET) as path:
                await asyncio.get_running_loop().sock_connect(made, path)
    except BaseException:
        made.close()
        raise
    return made
