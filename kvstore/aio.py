"""The asyncio client: the methods of `kvstore.client`, awaited. Waits on the event loop only, needs no threads.

A call that is cancelled closes its connection: the rest of its answer would reach the next call else. What it asked for
may have been done all the same.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, TypeVar, cast, overload
from weakref import WeakSet

from kvstore.client import As, Names, Results, Ttl
from kvstore.connections import Ask, Connect, Pool, Read, Sleep, Step, Steps, Write
from kvstore.errors import KVError
from kvstore.opening import Opened
from kvstore.operations import Operations
from kvstore.transactions import Steps as TransactionSteps
from kvstore.types import Change, Entry, Page, Stats
from kvstore.values import check_namespace
from kvstore.watching import Looking

T = TypeVar("T")
D = TypeVar("D")

_AT_ONCE: Final = 64  # calls under way, and so connections, of one store


def create_async_worklet_kv_store(
    worklet_id: str | None = None,
    *,
    url: str | None = None,
    token: str | Callable[[], str] | Callable[[], Awaitable[str]] | None = None,
    token_file: str | os.PathLike[str] | None = None,
    api_key: str | None = None,
    namespace: str = "default",
    timeout: float = 10.0,
) -> AsyncWorkletKVStore:
    """The worklet's key-value store for asyncio; arguments as for `create_worklet_kv_store`. `token` may be async."""
    opened = Opened(worklet_id, url, token, token_file, api_key, timeout)
    return AsyncWorkletKVStore(opened, _Waiting(opened.pool()), namespace)


class _Waiting:
    """Takes the steps of generators on the running event loop. The connections belong to no loop."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._sleeping: set[asyncio.Future[None]] = set()
        self._places: tuple[asyncio.AbstractEventLoop | None, asyncio.Semaphore] = (None, asyncio.Semaphore())

    async def run(self, steps: Steps[T]) -> T:
        """What the generator returns. Its time runs from when it has a place, not while others are before it."""
        loop = asyncio.get_running_loop()
        if self._places[0] is not loop:
            self._places = (loop, asyncio.Semaphore(_AT_ONCE))
        async with self._places[1]:
            return await self._run(steps)

    async def _run(self, steps: Steps[T]) -> T:
        result: Any = None
        failure: OSError | None = None
        try:
            while True:
                step = steps.send(result) if failure is None else steps.throw(failure)
                result = failure = None
                try:
                    result = await self._take_step(step)
                except OSError as error:
                    failure = error
        except StopIteration as end:
            return cast("T", end.value)
        finally:
            steps.close()

    def close(self) -> None:
        self.pool.close()
        for sleep in self._sleeping:
            _wake(sleep)

    async def _take_step(self, step: Step) -> Any:
        loop = asyncio.get_running_loop()
        if isinstance(step, Write):
            step.socket.setblocking(False)
            return await _until(step.deadline, step.socket, loop.sock_sendall(step.socket, step.data))
        if isinstance(step, Read):
            return await _until(step.deadline, step.socket, loop.sock_recv(step.socket, 262_144))
        if isinstance(step, Connect):
            return await _connected(step)
        if isinstance(step, Sleep):
            return await self._sleep(step.seconds)
        assert isinstance(step, Ask)
        told = step.function()
        return await told if hasattr(told, "__await__") else told

    async def _sleep(self, seconds: float) -> None:
        if self.pool.closed:
            return
        loop = asyncio.get_running_loop()
        sleep: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _wake, sleep)
        self._sleeping.add(sleep)
        try:
            await sleep
        finally:
            timer.cancel()
            self._sleeping.discard(sleep)


def _wake(sleep: asyncio.Future[None]) -> None:
    if not sleep.done():
        sleep.set_result(None)


class AsyncWorkletKVStore:
    """Keys with JSON values, in namespaces, for asyncio. Up to 64 calls are under way at once.

    What the methods do is told at `WorkletKVStore`. It may be used by one event loop after the other.
    """

    def __init__(
        self, opened: Opened, waiting: _Waiting, namespace: str, watches: WeakSet[AsyncWatch] | None = None
    ) -> None:
        self._opened, self._waiting = opened, waiting
        self._operations = Operations(opened.caller, waiting.pool, namespace)
        self._watches: WeakSet[AsyncWatch] = WeakSet() if watches is None else watches

    @overload
    async def get(self, key: str, default: Any = None, *, namespace: str | None = None, as_: None = None) -> Any: ...
    @overload
    async def get(self, key: str, default: None = None, *, namespace: str | None = None, as_: As[T]) -> T | None: ...
    @overload
    async def get(self, key: str, default: D, *, namespace: str | None = None, as_: As[T]) -> T | D: ...
    async def get(self, key: str, default: Any = None, *, namespace: str | None = None, as_: Any = None) -> Any:
        """The value, or `default` when there is no such key; made into `as_`, if given."""
        return await self._run(self._operations.get(key, default, namespace, as_))

    async def entry(self, key: str, *, namespace: str | None = None) -> Entry | None:
        """The value with its version and times; None when there is no such key."""
        return await self._run(self._operations.entry(key, namespace))

    async def has(self, key: str, *, namespace: str | None = None) -> bool:
        """Whether there is such a key, be its value None."""
        return await self._run(self._operations.has(key, namespace))

    async def set(
        self,
        key: str,
        value: Any,
        *,
        namespace: str | None = None,
        ttl: Ttl = None,
        if_version: int | None = None,
        only_if_absent: bool = False,
    ) -> int | None:
        """Stores any JSON value. The new version; None: the condition did not hold, nothing was changed."""
        return await self._run(self._operations.set(key, value, namespace, ttl, if_version, only_if_absent))

    async def delete(self, key: str, *, namespace: str | None = None, if_version: int | None = None) -> bool:
        """Whether the key was there (with this version) and is gone now."""
        return await self._run(self._operations.delete(key, namespace, if_version))

    @overload
    async def mget(self, keys: Iterable[str], *, namespace: str | None = None, as_: None = None) -> dict[str, Any]: ...
    @overload
    async def mget(self, keys: Iterable[str], *, namespace: str | None = None, as_: As[T]) -> dict[str, T | None]: ...
    async def mget(self, keys: Iterable[str], *, namespace: str | None = None, as_: Any = None) -> dict[str, Any]:
        """The values of all keys asked for, in that order; None for a missing one."""
        return await self._run(self._operations.mget(keys, namespace, as_))

    async def mset(self, mapping: Mapping[str, Any], *, namespace: str | None = None, ttl: Ttl = None) -> None:
        """Stores up to 1000 values, all or none."""
        await self._run(self._operations.mset(mapping, namespace, ttl))

    async def list(
        self,
        prefix: str = "",
        *,
        namespace: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        values: bool = False,
    ) -> Page:
        """One page of entries whose keys begin with `prefix`; `cursor` is that of the page before. See `scan`."""
        return await self._run(self._operations.list(prefix, namespace, limit, cursor, values))

    async def scan(
        self, prefix: str = "", *, namespace: str | None = None, values: bool = False
    ) -> AsyncIterator[Entry]:
        """All entries whose keys begin with `prefix`, page by page: `async for entry in store.scan()`."""
        cursor: str | None = None
        while True:
            page = await self.list(prefix, namespace=namespace, limit=1000, cursor=cursor, values=values)
            for entry in page.entries:
                yield entry
            if (cursor := page.cursor) is None:
                return

    async def list_namespaces(self) -> Names:
        """The names of all namespaces that hold a key, in byte order."""
        return await self._run(self._operations.list_namespaces())

    async def clear(self, namespace: str | None = None) -> int:
        """Deletes all keys of the namespace (None: the store's own) and gives their number."""
        return await self._run(self._operations.clear(namespace))

    async def clear_all(self) -> int:
        """Deletes all keys of all namespaces and gives their number."""
        return await self._run(self._operations.clear_all())

    async def increment(
        self, key: str, delta: int | float = 1, *, namespace: str | None = None, ttl: Ttl = None
    ) -> int | float:
        """Adds to a number, in decimal arithmetic, and gives the new one; a missing key counts as 0."""
        return cast("int | float", await self._run(self._operations.increment(key, delta, namespace, ttl)))

    async def append(self, key: str, value: Any, *, namespace: str | None = None, ttl: Ttl = None) -> int:
        """Adds a string to a string, or any value to a list, and gives the new length."""
        return await self._run(self._operations.append(key, value, namespace, ttl))

    async def get_stats(self) -> Stats:
        """How many keys and bytes the worklet holds, and how many it may."""
        return await self._run(self._operations.get_stats())

    async def export_data(self, namespace: str | None = None) -> dict[str, dict[str, Any]]:
        """{namespace: {key: value}}; None: all namespaces."""
        return await self._run(self._operations.export_data(namespace))

    async def import_data(self, data: Mapping[str, Mapping[str, Any]]) -> int:
        """Writes what `export_data` gave, over what is there; the number of keys."""
        return await self._run(self._operations.import_data(data))

    def transaction(self) -> AsyncTransaction:
        """Several steps at once, all or none. With `async with` it commits at the end, unless the block raised.

        >>> async with store.transaction() as steps:
        ...     steps.check("from", version).increment("from", -30).increment("to", 30)
        """
        return AsyncTransaction(self)

    def watch(self, prefix: str = "", *, namespace: str | None = None, cursor: str | None = None) -> AsyncWatch:
        """An async iterator of changes of keys that begin with `prefix`, from now on, or after `cursor` ("0": all).

        "Now" is when `async with` is entered, else when the first change is asked for. It reconnects for ever.
        """
        return self._watch(self._operations.namespace if namespace is None else namespace, prefix, cursor)

    def watch_all(self, prefix: str = "", *, cursor: str | None = None) -> AsyncWatch:
        """As `watch`, in all namespaces."""
        return self._watch(None, prefix, cursor)

    def namespace(self, name: str) -> AsyncWorkletKVStore:
        """The same store, with another namespace as its own; closing one of them closes both."""
        return AsyncWorkletKVStore(self._opened, self._waiting, check_namespace(name), self._watches)

    async def aclose(self) -> None:
        """Ends watches and calls under way."""
        for watch in list(self._watches):
            await watch.aclose()
        self._waiting.close()

    async def __aenter__(self) -> AsyncWorkletKVStore:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        address = self._opened.address
        return f"{type(self).__name__}({address.scheme}://{address.authority}, {self._operations.namespace!r})"

    async def _run(self, steps: Steps[T]) -> T:
        return await self._waiting.run(steps)

    async def _commit(self, steps: TransactionSteps) -> Results:
        return cast("Results", await self._run(self._operations.commit(steps)))

    def _watch(self, namespace: str | None, prefix: str, cursor: str | None) -> AsyncWatch:
        looking = Looking(self._opened.caller, self._opened.pool(), namespace, prefix, cursor)
        watch = AsyncWatch(looking, _Waiting(looking.pool))
        self._watches.add(watch)
        return watch


class AsyncTransaction(TransactionSteps):
    """Steps that are done together. With `async with`, or `await commit()`."""

    def __init__(self, store: AsyncWorkletKVStore) -> None:
        super().__init__(store._operations.namespace)  # noqa: SLF001
        self._store = store

    async def commit(self) -> Results:
        """Does the steps and gives their results. Raises KVConflictError when a check did not hold."""
        return await self._store._commit(self)  # noqa: SLF001

    async def __aenter__(self) -> AsyncTransaction:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if kind is None and not self._sent:
            await self.commit()


class AsyncWatch(AsyncIterator[Change]):
    """The changes as they come. A `__anext__` that is cancelled (by a timeout, say) loses none of them."""

    def __init__(self, looking: Looking, waiting: _Waiting) -> None:
        self._looking, self._waiting = looking, waiting
        self._turn: tuple[asyncio.AbstractEventLoop | None, asyncio.Lock] = (None, asyncio.Lock())

    async def __anext__(self) -> Change:
        """Tasks that share a watch share its changes: each is given to one of them."""
        loop = asyncio.get_running_loop()
        if self._turn[0] is not loop:
            self._turn = (loop, asyncio.Lock())
        async with self._turn[1]:
            return await self._next()

    async def _next(self) -> Change:
        while True:
            if self._looking.pool.closed:
                raise StopAsyncIteration
            if (change := self._looking.take()) is not None:
                return change
            try:
                await self._waiting.run(self._looking.look())
            except KVError:
                if not self._looking.pool.closed:
                    raise

    async def aclose(self) -> None:
        """A `__anext__` that waits in another task ends at once. Idempotent."""
        self._waiting.close()

    async def __aenter__(self) -> AsyncWatch:
        await self._waiting.run(self._looking.begin())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()


async def _until(deadline: float, sock: socket.socket, waiting: Coroutine[Any, Any, T]) -> T:
    """Raises TimeoutError. Ends the wait by shutting the socket: a cancellation would look like the caller's."""
    late = False

    def shut() -> None:
        nonlocal late
        late = True
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other side was quicker

    timer = asyncio.get_running_loop().call_later(max(0.0, deadline - time.monotonic()), shut)
    try:
        result = await waiting
    except OSError:
        if late:
            raise TimeoutError("timed out") from None
        raise
    finally:
        timer.cancel()
    if late:
        raise TimeoutError("timed out")
    return result


async def _connected(step: Connect) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure: OSError = OSError("the name of the host has no address")
    for family, kind, protocol, address in await _addresses(loop, step.host, step.port):
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        connecting = loop.create_task(loop.sock_connect(sock, address))
        try:
            done, _ = await asyncio.wait({connecting}, timeout=max(0.0, step.deadline - time.monotonic()))
            if not done:
                raise TimeoutError("timed out")
            connecting.result()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException as error:
            if not connecting.done():
                connecting.cancel()
                await asyncio.wait({connecting})  # else the loop would go on looking at a closed socket
            sock.close()
            if not isinstance(error, OSError):
                raise
            failure = error
        else:
            return sock
    raise failure


async def _addresses(loop: asyncio.AbstractEventLoop, host: str, port: int) -> Iterable[tuple[int, int, int, Any]]:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, socket.SOCK_STREAM, 0, (host, port))]
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, kind, protocol, address) for family, kind, protocol, _, address in found]
