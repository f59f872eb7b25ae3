"""The blocking and the asynchronous client of the key-value store, driven alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kvstore import AsyncWorkletKVStore, WorkletKVStore, create_async_worklet_kv_store, create_worklet_kv_store

KINDS = ("blocking", "asyncio")


class Client:
    """`await client.get("k")`, whichever it is; a blocking one works in a thread."""

    def __init__(self, store: WorkletKVStore | AsyncWorkletKVStore) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            if isinstance(self.store, WorkletKVStore):
                return await asyncio.to_thread(method, *arguments, **options)
            return await method(*arguments, **options)

        return call

    async def commit(self, *steps: tuple[Any, ...]) -> Any:
        transaction: Any = self.store.transaction()
        for name, *arguments in steps:
            getattr(transaction, name)(*arguments)
        if isinstance(self.store, WorkletKVStore):
            return await asyncio.to_thread(transaction.commit)
        return await transaction.commit()

    async def watching(self, *arguments: Any, **options: Any) -> Watching:
        """From when this returns on."""
        if isinstance(self.store, WorkletKVStore):
            return Watching(await asyncio.to_thread(self.store.watch, *arguments, **options))
        return Watching(await self.store.watch(*arguments, **options).__aenter__())


class Watching:
    def __init__(self, watch: Any) -> None:
        self.watch = watch

    async def next(self) -> Any:
        """None at the end."""
        if hasattr(self.watch, "__anext__"):
            return await anext(self.watch, None)
        return await asyncio.to_thread(next, self.watch, None)

    async def close(self) -> None:
        if hasattr(self.watch, "aclose"):
            await self.watch.aclose()
        else:
            self.watch.close()


@asynccontextmanager
async def client(kind: str, worklet_id: str | None = None, **options: Any) -> AsyncIterator[Client]:
    if kind == "blocking":
        with create_worklet_kv_store(worklet_id, **options) as store:
            yield Client(store)
    else:
        async with create_async_worklet_kv_store(worklet_id, **options) as store:
            yield Client(store)
