"""What a worklet on another machine hands over with `send_file`: read by way of the gate when it is asked for."""

from __future__ import annotations

import json
from contextlib import suppress

from worklets.files import HAND_OVER, META_BYTES, OUTGOING, HandedOver, Outgoing, handed_over
from worklets.gateclient import GateAway, GateFiles, GateRefused


class RemoteOutgoing(Outgoing):
    def __init__(self, files: GateFiles, worklet: str) -> None:
        self._files, self._worklet = files, worklet

    def look(self, name: str) -> HandedOver | None:
        with suppress(GateAway, GateRefused, OSError, ValueError):
            meta = json.loads(self._files.get(self._worklet, self._path(name, "meta.json"), META_BYTES))
            return handed_over(meta, self._files.size(self._worklet, self._path(name, "content")))
        return None

    def read(self, name: str, limit: int) -> bytes:
        try:
            content = self._files.get(self._worklet, self._path(name, "content"), limit + 1)
        except (GateAway, GateRefused) as error:
            raise OSError(str(error)) from error
        if len(content) > limit:
            raise ValueError("the file is too large")
        return content

    def reply(self, name: str, error: str | None) -> None:
        try:
            self._files.put(self._worklet, self._path(name, "reply.json"), json.dumps({"error": error}).encode())
            self._files.clear(self._worklet, self._path(name, "content"))
        except (GateAway, GateRefused) as away:
            raise OSError(str(away)) from away

    def _path(self, name: str, file: str) -> list[str]:
        if not HAND_OVER.fullmatch(name):
            raise FileNotFoundError(name)
        return [OUTGOING, name, file]
