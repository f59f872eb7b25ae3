"""The relay's side of proof.py: nobody is listened to who has not proven that it is Flow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

if TYPE_CHECKING:
    from worklets.relay.proof import NONCE, PROOF, Forged, Sealed, is_nonce, new_nonce, proof, seals
else:
    from proof import NONCE, PROOF, Forged, Sealed, is_nonce, new_nonce, proof, seals

NOT_PROVEN = 4005


class Door:
    """`inside` has the conversation, once it is sealed. `greet`, `prove` and `serve` are what the server asks for."""

    def __init__(self, token: str, inside: Callable[[Any], Awaitable[None]]) -> None:
        self._token, self._inside = token, inside
        self._nonces = WeakKeyDictionary[ServerConnection, tuple[str, str]]()  # Flow's and ours

    def greet(self, ws: ServerConnection, request: Request) -> Response | None:
        """401 to who gives no nonce; 403 to a browser's page; 200 to who only looks whether we are here."""
        given = request.headers.get(NONCE, "")
        if "Origin" in request.headers:
            return ws.respond(HTTPStatus.FORBIDDEN, "no browsers\n")
        if not is_nonce(given):
            return ws.respond(HTTPStatus.UNAUTHORIZED, "there is no nonce\n")
        self._nonces[ws] = given, new_nonce()
        return None if "Upgrade" in request.headers else ws.respond(HTTPStatus.OK, "here\n")

    def prove(self, ws: ServerConnection, _request: Request, response: Response) -> None:
        """That we are the relay, to whom `greet` did not refuse."""
        if (nonces := self._nonces.get(ws)) is not None:
            response.headers[NONCE], response.headers[PROOF] = nonces[1], proof(self._token, *nonces)

    async def serve(self, ws: ServerConnection) -> None:
        flows, ours = seals(self._token, *self._nonces[ws])
        try:
            await self._inside(Sealed(ws, ours, flows))
        except Forged:
            await ws.close(NOT_PROVEN, "not proven")
