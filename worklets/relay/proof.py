"""Who speaks at the relay's socket: each side proves that it has the token, which itself never crosses the socket.

The agent can listen at `relay.sock` in the relay's place, and can put itself between Flow and the relay. So both give
a number used once, the relay's answer proves the token over both, and each frame from then on is sealed with a key made
from all three, for its direction and its place in the row: whoever stands between can cut the connection or hold it up,
and cannot say, change, repeat, leave out or turn round anything.
Pings and the codes with which a connection is closed are not sealed: nothing is to be concluded from them.

    Flow → relay     GET /  Relay-Nonce: <32 hex digits>
    relay → Flow     101, or 200 where no WebSocket was asked for;  Relay-Nonce: <32>, Relay-Proof: <64>
    both             text frames begin with 32 hex digits, binary frames with 16 bytes: the seal
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import AsyncIterator
from typing import Any

NONCE, PROOF = "Relay-Nonce", "Relay-Proof"
_SEAL = 16  # bytes
_NONCE = re.compile(r"[0-9a-f]{32}")


class Forged(Exception):
    """A frame that does not come from who has the token, or not in its place."""


def new_nonce() -> str:
    return os.urandom(16).hex()


def is_nonce(text: str) -> bool:
    return _NONCE.fullmatch(text) is not None


def proof(token: str, flows: str, relays: str) -> str:
    """What the relay answers to Flow's nonce."""
    return _derived(token, "proof", flows, relays).hex()


def is_proven(token: str, flows: str, relays: str, shown: str) -> bool:
    return is_nonce(relays) and hmac.compare_digest(proof(token, flows, relays).encode(), shown.encode())


class Seal:
    """What goes one way on one connection. A frame counts as used once it was closed or opened."""

    def __init__(self, key: bytes) -> None:
        self._key, self._number = key, 0

    def close(self, content: str | bytes) -> str | bytes:
        if isinstance(content, str):
            return self._next(b"t", content.encode()).hex() + content
        return self._next(b"b", content) + content

    def open(self, sealed: str | bytes) -> str | bytes:
        """Raises Forged."""
        if isinstance(sealed, str):
            shown, text = sealed[: 2 * _SEAL].encode(), sealed[2 * _SEAL :]
            expected, content = self._next(b"t", text.encode()).hex().encode(), text
            if hmac.compare_digest(expected, shown):
                return content
        else:
            data = sealed[_SEAL:]
            if hmac.compare_digest(self._next(b"b", data), sealed[:_SEAL]):
                return data
        raise Forged

    def _next(self, kind: bytes, data: bytes) -> bytes:
        made = hmac.new(self._key, kind + self._number.to_bytes(8, "big"), "sha256")
        made.update(data)
        self._number += 1
        return made.digest()[:_SEAL]


def seals(token: str, flows: str, relays: str) -> tuple[Seal, Seal]:
    """For what Flow says, and for what the relay does."""
    return Seal(_derived(token, "from Flow", flows, relays)), Seal(_derived(token, "from the relay", flows, relays))


def _derived(token: str, purpose: str, flows: str, relays: str) -> bytes:
    return hmac.digest(token.encode(), f"flow relay 1\n{purpose}\n{flows}\n{relays}".encode(), "sha256")


class Sealed:
    """A WebSocket whose frames are all sealed; `ws` is the one of the library, on either side."""

    def __init__(self, ws: Any, outgoing: Seal, incoming: Seal) -> None:
        self.ws = ws
        self._outgoing, self._incoming = outgoing, incoming

    async def send(self, content: str | bytes) -> None:
        await self.ws.send(self._outgoing.close(content))  # it is written before anything is awaited: in this order

    async def recv(self) -> str | bytes:
        """Raises Forged, ConnectionClosed."""
        return self._incoming.open(await self.ws.recv())

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Ends when the connection was closed as it should be. Raises Forged, ConnectionClosed."""
        async for sealed in self.ws:
            yield self._incoming.open(sealed)

    def abort(self) -> None:
        self.ws.transport.abort()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self.ws.close(code, reason)
