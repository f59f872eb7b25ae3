"""A real KVGateway over a real store: in a thread of this process (`Served`) or in a process of its own (`Program`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Coroutine, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web
from ports import free_port

from kvstore.gateway.app import KVGateway
from kvstore.gateway.backend import Admin, Backend
from kvstore.gateway.tokens import SigningKey, Verifier

if TYPE_CHECKING:
    from kvstore.client import WorkletKVStore

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
UNLIMITED = 1e9
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Source:
    """Where a store lies, so that any process can open it. `place`: a path or a DSN; `admin_place`: the owner's DSN."""

    kind: str
    place: str
    key: str
    admin_place: str = ""
    max_keys: int = 1_000_000
    max_bytes: int = 256 << 20

    @property
    def signing_key(self) -> SigningKey:
        return SigningKey.load(Path(self.key))

    async def backend(self) -> Backend:
        """Opened."""
        backend = self._backend()
        await backend.open()
        return backend

    def _backend(self) -> Backend:
        if self.kind == "sqlite":
            from kvstore.gateway.sqlite import SqliteStore

            return SqliteStore(Path(self.place), max_keys=self.max_keys, max_bytes=self.max_bytes)
        from kvstore.gateway.postgres import PostgresBackend

        return PostgresBackend(self.place)

    async def admin(self) -> Admin:
        """Opens by itself."""
        if self.kind == "sqlite":
            from kvstore.gateway.sqlite import SqliteStore

            return SqliteStore(Path(self.place), max_keys=self.max_keys, max_bytes=self.max_bytes)
        from kvstore.gateway.postgres import PostgresAdmin

        return PostgresAdmin(self.admin_place)

    async def register(self, **quota: int) -> str:
        """The id of a new worklet."""
        name = str(uuid.uuid4())
        wanted = {"max_keys": self.max_keys, "max_bytes": self.max_bytes, **quota}
        admin = await self.admin()
        try:
            await admin.register(name, str(uuid.uuid4()), "a worklet", **wanted)  # type: ignore[arg-type]
        finally:
            await admin.close()
        return name


class Served:
    """A gateway at a fixed address on loopback, with a loop and a thread of its own; it can be stopped and started."""

    def __init__(self, source: Source, *, rate: float = UNLIMITED) -> None:
        self.source = source
        self.rate = rate
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = source.signing_key
        self.backend: Backend | None = None
        self.admin: Admin
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kv gateway")
        self._runner: web.AppRunner | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result, computed in the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def __enter__(self) -> Served:
        self._thread.start()
        self.admin = self.run(self.source.admin())
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
            self.run(self.admin.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def start(self) -> None:
        self.run(self._start())

    def stop(self) -> None:
        """Ends requests that wait, and closes the store."""
        self.run(self._stop())

    async def _start(self) -> None:
        self.backend = await self.source.backend()
        self._runner = await serve(self.backend, Verifier(self.key), self.rate, port=self.port)

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self.backend is not None:
            await self.backend.close()
            self.backend = None

    def worklet(self, owner_id: str | None = None, **quota: int) -> str:
        """A new one's id."""
        wanted = {"max_keys": self.source.max_keys, "max_bytes": self.source.max_bytes, **quota}
        name = str(uuid.uuid4())
        owner = owner_id or str(uuid.uuid4())
        self.run(self.admin.register(name, owner, "a worklet", **wanted))  # type: ignore[arg-type]
        return name

    @contextlib.contextmanager
    def store(self, worklet_id: str | None = None, **options: Any) -> Iterator[WorkletKVStore]:
        """A client of a worklet, of a new one if none is named."""
        from kvstore.client import create_worklet_kv_store

        name = worklet_id or self.worklet()
        token = options.pop("token", None) or self.key.mint_worklet(name)
        store = create_worklet_kv_store(name, url=self.url, token=token, **options)
        try:
            yield store
        finally:
            store.close()


async def serve(
    backend: Backend, verifier: Verifier, rate: float, *, port: int | None = None, path: str | None = None
) -> web.AppRunner:
    """The gateway's routes at a TCP port of loopback, at a Unix socket, or at both."""
    gateway = KVGateway(backend, verifier, rate=rate)
    app = web.Application(client_max_size=32 << 20)
    app.add_routes(gateway.routes())

    async def closing(_: web.Application) -> None:
        await gateway.close()

    app.on_shutdown.append(closing)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    if port is not None:
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    if path is not None:
        await web.UnixSite(runner, path).start()
    return runner


class Program:
    """A gateway in a process of its own, at an address that stays the same when it is killed and started again."""

    def __init__(self, source: Source, *, rate: float = UNLIMITED, path: str | None = None) -> None:
        self.source = source
        self.port = free_port()
        self.path = path
        self.url = f"http://127.0.0.1:{self.port}"
        self._rate = rate
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "it was not started"
        return self._process

    async def start(self) -> None:
        """Returns when it listens."""
        asked = {"source": asdict(self.source), "rate": self._rate, "port": self.port, "path": self.path}
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kvprogram", json.dumps(asked), env={**os.environ, "PYTHONPATH": paths},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        async with asyncio.timeout(_START_SECONDS):
            line = await self._process.stdout.readline()
        if line.strip() != b"ready":
            raise RuntimeError(f"the gateway's program ended with {await self._process.wait()} before it listened")

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(how)
            await self._process.wait()

    async def kill(self) -> None:
        await self.end(signal.SIGKILL)


@contextlib.contextmanager
def sqlite_source(**quota: int) -> Iterator[Source]:
    with tempfile.TemporaryDirectory(prefix="flow-kv-") as home:
        yield Source("sqlite", f"{home}/kv.sqlite", f"{home}/signing-key.pem", **quota)


def unique(word: str) -> str:
    """A name that no other case uses."""
    return f"{word}-{secrets.token_hex(4)}"
