"""Who stands between Flow and a relay: it can cut, hold up and change what passes, and lacks the token."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.http11 import Request, Response

from worklets.relay.proof import NONCE, PROOF


class Between:
    """Listens in the relay's place, and joins who comes with the relay itself, whose socket it has moved.

    The relay's close codes do not cross it.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.to_flow: Callable[[list[str | bytes]], list[str | bytes]] = lambda frames: frames[-1:]
        self.to_relay = self.to_flow
        self.codes: list[int | None] = []  # the relay's
        self._flows = set[ServerConnection]()
        self._made: dict[str, ClientConnection] = {}
        (run_dir / "relay.sock").rename(run_dir / "moved.sock")
        self.serving = unix_serve(
            self._serve, str(run_dir / "relay.sock"), compression=None, max_size=None,
            process_request=self._greet, process_response=self._prove,
        )  # fmt: skip

    async def _greet(self, _ws: ServerConnection, request: Request) -> None:
        nonce = request.headers[NONCE]
        self._made[nonce] = await unix_connect(
            str(self.run_dir / "moved.sock"), "ws://relay/", additional_headers={NONCE: nonce}, compression=None,
            max_size=None,
        )  # fmt: skip

    def _prove(self, _ws: ServerConnection, request: Request, response: Response) -> None:
        shown = self._made[request.headers[NONCE]].response
        assert shown is not None
        response.headers[NONCE], response.headers[PROOF] = shown.headers[NONCE], shown.headers[PROOF]

    async def cut(self, code: int) -> None:
        """Closes what is open to Flow."""
        await asyncio.gather(*(flow.close(code) for flow in list(self._flows)))

    async def _serve(self, flow: ServerConnection) -> None:
        assert flow.request is not None
        self._flows.add(flow)
        relay = self._made[flow.request.headers[NONCE]]
        pumps = [
            asyncio.create_task(self._pump(flow, relay, lambda heard: self.to_relay(heard))),
            asyncio.create_task(self._pump(relay, flow, lambda heard: self.to_flow(heard))),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        await relay.close()
        await flow.close()
        self._flows.discard(flow)
        await asyncio.gather(*pumps, return_exceptions=True)
        self.codes.append(relay.close_code)

    async def _pump(self, source: Any, sink: Any, changed: Callable[[list[str | bytes]], list[str | bytes]]) -> None:
        heard = list[str | bytes]()
        async for frame in source:
            heard.append(frame)
            for one in changed(heard):
                await sink.send(one)
