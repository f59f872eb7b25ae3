"""The client: `create_worklet_kv_store()` gives a `WorkletKVStore`. Its methods are generators in `operations`."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar, cast, overload
from weakref import WeakSet

from kvstore.connections import Ask, Connect, Pool, Read, Sleep, Step, Steps, Write
from kvstore.errors import KVError
from kvstore.opening import Opened
from kvstore.operations import Operations
from kvstore.transactions import Steps as TransactionSteps
from kvstore.types import Change, Entry, Page, Stats
from kvstore.values import check_namespace
from kvstore.view import KVNamespace
from kvstore.watching import Looking

T = TypeVar("T")
D = TypeVar("D")
Ttl = float | timedelta | None
As = type[T] | Callable[[Any], T]


def create_worklet_kv_store(
    worklet_id: str | None = None,
    *,
    url: str | None = None,
    token: str | Callable[[], str] | None = None,
    token_file: str | os.PathLike[str] | None = None,
    api_key: str | None = None,
    namespace: str = "default",
    timeout: float = 10.0,
) -> WorkletKVStore:
    """The worklet's key-value store. In a worklet everything is set already: call it without arguments.

    url: the gateway or a Supabase project (FLOW_KV_URL). token: a JSON Web Token, or a function that gives one and
    is asked before each request; token_file: a file that holds one and is read again when it changes
    (FLOW_KV_TOKEN_FILE). api_key: Supabase's publishable key (FLOW_KV_APIKEY). worklet_id: FLOW_WORKLET_ID.
    namespace: of all methods that are not told another. timeout: seconds for one call with all its retries.

    Connects at the first call. Raises KVError where no address is known, KVValidationError for a bad argument.
    """
    return WorkletKVStore(Opened(worklet_id, url, token, token_file, api_key, timeout), namespace)


class WorkletKVStore:
    """Keys with JSON values, in namespaces. Safe to share between threads, and to use after a fork.

    Every method raises KVValidationError for a bad argument, KVPermissionError, KVQuotaError and KVConnectionError.
    """

    def __init__(self, opened: Opened, namespace: str) -> None:
        self._opened = opened
        self._operations = Operations(opened.caller, opened.pool(), namespace)
        self._watches: WeakSet[Watch] = WeakSet()

    @overload
    def get(self, key: str, default: Any = None, *, namespace: str | None = None, as_: None = None) -> Any: ...
    @overload
    def get(self, key: str, default: None = None, *, namespace: str | None = None, as_: As[T]) -> T | None: ...
    @overload
    def get(self, key: str, default: D, *, namespace: str | None = None, as_: As[T]) -> T | D: ...
    def get(self, key: str, default: Any = None, *, namespace: str | None = None, as_: Any = None) -> Any:
        """The value, or `default` when there is no such key (a stored None is None: see `has`).

        `as_`: a dataclass, pydantic model, TypedDict, JSON type or function to make the value into; one that does not
        fit raises KVValidationError (hint KV_TYPE).
        """
        return self._run(self._operations.get(key, default, namespace, as_))

    def entry(self, key: str, *, namespace: str | None = None) -> Entry | None:
        """The value with its version and times; None when there is no such key."""
        return self._run(self._operations.entry(key, namespace))

    def has(self, key: str, *, namespace: str | None = None) -> bool:
        """Whether there is such a key, be its value None."""
        return self._run(self._operations.has(key, namespace))

    def set(
        self,
        key: str,
        value: Any,
        *,
        namespace: str | None = None,
        ttl: Ttl = None,
        if_version: int | None = None,
        only_if_absent: bool = False,
    ) -> int | None:
        """Stores any JSON value of up to 1 MiB, also a dataclass or a pydantic model. The new version.

        ttl: seconds after which the key is gone; without it, it stays. if_version: only if the key has this version;
        only_if_absent: only if there is no such key. None: that did not hold, nothing was changed.
        """
        return self._run(self._operations.set(key, value, namespace, ttl, if_version, only_if_absent))

    def delete(self, key: str, *, namespace: str | None = None, if_version: int | None = None) -> bool:
        """Whether the key was there (with this version) and is gone now."""
        return self._run(self._operations.delete(key, namespace, if_version))

    @overload
    def mget(self, keys: Iterable[str], *, namespace: str | None = None, as_: None = None) -> dict[str, Any]: ...
    @overload
    def mget(self, keys: Iterable[str], *, namespace: str | None = None, as_: As[T]) -> dict[str, T | None]: ...
    def mget(self, keys: Iterable[str], *, namespace: str | None = None, as_: Any = None) -> dict[str, Any]:
        """The values of all keys asked for, in that order; None for a missing one. Over 1000: several requests."""
        return self._run(self._operations.mget(keys, namespace, as_))

    def mset(self, mapping: Mapping[str, Any], *, namespace: str | None = None, ttl: Ttl = None) -> None:
        """Stores up to 1000 values, all or none."""
        self._run(self._operations.mset(mapping, namespace, ttl))

    def list(
        self,
        prefix: str = "",
        *,
        namespace: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        values: bool = False,
    ) -> Page:
        """One page of entries whose keys begin with `prefix`; `cursor` is that of the page before. See `scan`."""
        return self._run(self._operations.list(prefix, namespace, limit, cursor, values))

    def scan(self, prefix: str = "", *, namespace: str | None = None, values: bool = False) -> Iterator[Entry]:
        """All entries whose keys begin with `prefix`, page by page. Not a snapshot: what changes meanwhile may show."""
        cursor: str | None = None
        while True:
            page = self.list(prefix, namespace=namespace, limit=1000, cursor=cursor, values=values)
            yield from page.entries
            if (cursor := page.cursor) is None:
                return

    def list_namespaces(self) -> Names:
        """The names of all namespaces that hold a key, in byte order."""
        return self._run(self._operations.list_namespaces())

    def clear(self, namespace: str | None = None) -> int:
        """Deletes all keys of the namespace (None: the store's own) and gives their number."""
        return self._run(self._operations.clear(namespace))

    def clear_all(self) -> int:
        """Deletes all keys of all namespaces and gives their number."""
        return self._run(self._operations.clear_all())

    def increment(
        self, key: str, delta: int | float = 1, *, namespace: str | None = None, ttl: Ttl = None
    ) -> int | float:
        """Adds to a number, in decimal arithmetic, and gives the new one; a missing key counts as 0.

        ttl: only where this makes the key. Never sent twice: after KVConnectionError see its `outcome_unknown`.
        """
        return cast("int | float", self._run(self._operations.increment(key, delta, namespace, ttl)))

    def append(self, key: str, value: Any, *, namespace: str | None = None, ttl: Ttl = None) -> int:
        """Adds a string to a string, or any value to a list, and gives the new length.

        A missing key becomes the string, or a list of the one value. ttl and errors as for `increment`.
        """
        return self._run(self._operations.append(key, value, namespace, ttl))

    def get_stats(self) -> Stats:
        """How many keys and bytes the worklet holds, and how many it may."""
        return self._run(self._operations.get_stats())

    def export_data(self, namespace: str | None = None) -> dict[str, dict[str, Any]]:
        """{namespace: {key: value}}; None: all namespaces. Times to live and versions are not in it."""
        return self._run(self._operations.export_data(namespace))

    def import_data(self, data: Mapping[str, Mapping[str, Any]]) -> int:
        """Writes what `export_data` gave, over what is there; the number of keys.

        All is checked first, then written in parts of up to 1000 keys: after an error some of them may be there.
        """
        return self._run(self._operations.import_data(data))

    def transaction(self) -> Transaction:
        """Several steps at once, all or none. With `with` it commits at the end, unless the block raised.

        >>> with store.transaction() as steps:
        ...     steps.check("from", version).increment("from", -30).increment("to", 30)
        """
        return Transaction(self)

    def watch(self, prefix: str = "", *, namespace: str | None = None, cursor: str | None = None) -> Watch:
        """An iterator of changes of keys that begin with `prefix`, from now on, or after `cursor` ("0": all there is).

        It reconnects for ever, and raises only what waiting cannot mend. `close()` ends it, from any thread.
        """
        return self._watch(self._operations.namespace if namespace is None else namespace, prefix, cursor)

    def watch_all(self, prefix: str = "", *, cursor: str | None = None) -> Watch:
        """As `watch`, in all namespaces."""
        return self._watch(None, prefix, cursor)

    def namespace(self, name: str) -> KVNamespace:
        """The namespace as a mapping: `store.namespace("prefs")["theme"] = "dark"`."""
        return KVNamespace(self, check_namespace(name))

    def close(self) -> None:
        """Ends watches and calls under way. A store that is not closed costs one idle connection."""
        for watch in list(self._watches):
            watch.close()
        self._operations.pool.close()

    def __enter__(self) -> WorkletKVStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        address = self._opened.address
        return f"{type(self).__name__}({address.scheme}://{address.authority}, {self._operations.namespace!r})"

    def _run(self, steps: Steps[T]) -> T:
        return run(steps, self._operations.pool)

    def _take(self, key: str, namespace: str) -> Entry | None:
        return self._run(self._operations.pop(key, namespace))

    def _commit(self, steps: TransactionSteps) -> Results:
        return cast("Results", self._run(self._operations.commit(steps)))

    def _watch(self, namespace: str | None, prefix: str, cursor: str | None) -> Watch:
        watch = Watch(Looking(self._opened.caller, self._opened.pool(), namespace, prefix, cursor))
        self._watches.add(watch)
        return watch


Names = list[str]  # inside the class, `list` is the method
Results = list[Any]


class Transaction(TransactionSteps):
    """Steps that are done together. As a context manager, or with `commit()`. See `WorkletKVStore.transaction`."""

    def __init__(self, store: WorkletKVStore) -> None:
        super().__init__(store._operations.namespace)  # noqa: SLF001
        self._store = store

    def commit(self) -> Results:
        """Does the steps and gives their results. Raises KVConflictError when a check did not hold."""
        return self._store._commit(self)  # noqa: SLF001

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None and not self._sent:
            self.commit()


class Watch(Iterator[Change]):
    """The changes as they come. `close()`, or the end of a `with` block, ends the iteration."""

    def __init__(self, looking: Looking) -> None:
        self._looking = looking
        self._begin()
        self._run(looking.begin())

    def __next__(self) -> Change:
        """Threads that share a watch share its changes: each is given to one of them."""
        if self._process != os.getpid():
            self._begin()
        with self._turn:
            return self._next()

    def close(self) -> None:
        """From any thread; a `next` that waits ends at once. Idempotent."""
        self._looking.pool.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _begin(self) -> None:
        # Anew after a fork: the old lock may be held by a thread that is gone.
        self._process, self._turn = os.getpid(), threading.RLock()

    def _next(self) -> Change:
        while True:
            if self._looking.pool.closed:
                raise StopIteration
            if (change := self._looking.take()) is not None:
                return change
            try:
                self._run(self._looking.look())
            except KVError:
                if not self._looking.pool.closed:
                    raise

    def _run(self, steps: Steps[T]) -> T:
        return run(steps, self._looking.pool)


def run(steps: Steps[T], pool: Pool) -> T:
    """Takes the steps with blocking sockets."""
    result: Any = None
    failure: OSError | None = None
    try:
        while True:
            step = steps.send(result) if failure is None else steps.throw(failure)
            result = failure = None
            try:
                result = _take_step(step, pool)
            except OSError as error:
                failure = error
    except StopIteration as end:
        return cast("T", end.value)
    finally:
        steps.close()


def _take_step(step: Step, pool: Pool) -> Any:
    if isinstance(step, Write):
        return _write(step)
    if isinstance(step, Read):
        step.socket.settimeout(_left(step.deadline))
        return step.socket.recv(262_144)
    if isinstance(step, Connect):
        connected = socket.create_connection((step.host, step.port), _left(step.deadline))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected
    if isinstance(step, Sleep):
        return pool.bell.wait(step.seconds)
    assert isinstance(step, Ask)
    return step.function()


def _write(step: Write) -> None:
    left = memoryview(step.data)
    while left:
        step.socket.settimeout(_left(step.deadline))
        left = left[step.socket.send(left) :]


def _left(deadline: float) -> float:
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError("timed out")
    return left
