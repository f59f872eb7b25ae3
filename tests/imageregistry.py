"""A registry of images on loopback, which the engine asks without TLS there: one image, made of one file."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from loopback import served

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@dataclass
class Registry:
    """`address`: host:port, before an image's name."""

    address: str = ""
    pulls: int = 0
    _tags: dict[str, str] = field(default_factory=dict)
    _blobs: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def offer(self, tag: str, content: bytes) -> None:
        """An image of that tag with one file, from now on."""
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            info = tarfile.TarInfo("file")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        layer = gzip.compress(tar.getvalue(), mtime=0)
        rootfs = {"type": "layers", "diff_ids": [_digest(tar.getvalue())]}
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
        manifest = {
            "schemaVersion": 2, "mediaType": _MANIFEST, "config": self._blob(_CONFIG, config),
            "layers": [self._blob(_LAYER, layer)],
        }  # fmt: skip
        self._tags[tag] = self._blob(_MANIFEST, json.dumps(manifest).encode())["digest"]

    def _blob(self, kind: str, data: bytes) -> dict[str, Any]:
        self._blobs[_digest(data)] = kind, data
        return {"mediaType": kind, "size": len(data), "digest": _digest(data)}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        name = request.path.rpartition("/")[2]
        if request.path == "/v2/":
            return web.Response()
        kind, data = self._blobs.get(self._tags.get(name, name), ("", b""))
        if not data:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        self.pulls += "/manifests/" in request.path and request.method == "GET"
        return web.Response(body=data, content_type=kind, headers={"Docker-Content-Digest": _digest(data)})


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@asynccontextmanager
async def registry() -> AsyncIterator[Registry]:
    made = Registry()
    async with served(made.answer) as made.address:
        yield made
