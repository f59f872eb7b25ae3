"""aiohttp's client over a connection into a worklet. Imported when the first one is wanted: aiohttp is slow to load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.client_exceptions import UnixClientConnectorError
from aiohttp.client_proto import ResponseHandler

from worklets.errors import WorkletError
from worklets.inside import dial


class InsideConnector(aiohttp.BaseConnector):
    allowed_protocol_schema_set = frozenset({"", "http", "ws"})

    def __init__(self, run_dir: Path, port: int) -> None:
        super().__init__(limit=0, keepalive_timeout=5)
        self._run_dir, self._port = run_dir, port

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:  # noqa: ARG002
        try:
            made = await dial(self._run_dir, self._port)
        except WorkletError as error:
            raise UnixClientConnectorError(str(self._run_dir), req.connection_key, OSError(str(error))) from error
        _, protocol = await self._loop.create_unix_connection(lambda: ResponseHandler(loop=self._loop), sock=made)
        assert isinstance(protocol, ResponseHandler)
        return protocol
