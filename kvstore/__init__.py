"""The key-value store of worklets: the client that their code imports. Standard library only.

>>> from kvstore import create_worklet_kv_store
>>> store = create_worklet_kv_store()
>>> store.set("greeting", {"text": "hello"})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvstore.client import Transaction, Watch, WorkletKVStore, create_worklet_kv_store
from kvstore.errors import (
    KVConflictError,
    KVConnectionError,
    KVError,
    KVPermissionError,
    KVQuotaError,
    KVValidationError,
)
from kvstore.types import Change, Entry, Page, Stats
from kvstore.view import KVNamespace

if TYPE_CHECKING:
    from kvstore.aio import AsyncTransaction, AsyncWatch, AsyncWorkletKVStore, create_async_worklet_kv_store

__all__ = [
    "AsyncTransaction",
    "AsyncWatch",
    "AsyncWorkletKVStore",
    "Change",
    "Entry",
    "KVConflictError",
    "KVConnectionError",
    "KVError",
    "KVNamespace",
    "KVPermissionError",
    "KVQuotaError",
    "KVValidationError",
    "Page",
    "Stats",
    "Transaction",
    "Watch",
    "WorkletKVStore",
    "create_async_worklet_kv_store",
    "create_worklet_kv_store",
]

_ASYNC = ("AsyncTransaction", "AsyncWatch", "AsyncWorkletKVStore", "create_async_worklet_kv_store")


def __getattr__(name: str) -> Any:
    """asyncio takes as long to import as all the rest: only whoever asks for it pays."""
    if name in _ASYNC:
        from kvstore import aio

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
