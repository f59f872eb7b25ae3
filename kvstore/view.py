"""A namespace as a Python mapping."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvstore.client import WorkletKVStore

_MISSING: Any = object()
_AT_ONCE = 1000


class KVNamespace(MutableMapping[str, Any]):
    """The keys of one namespace, used like a dict: `prefs["theme"] = "dark"`.

    Each use is a request; nothing is cached. Iterates in the byte order of keys. `len` reads all keys' names.
    A change within a value (`prefs["list"].append(1)`) stays local: assign the value, or use the store's `append`.
    """

    def __init__(self, store: WorkletKVStore, name: str) -> None:
        self._store, self.name = store, name

    def __getitem__(self, key: str) -> Any:
        entry = self._store.entry(key, namespace=self.name)
        if entry is None:
            raise KeyError(key)
        return entry.value

    def __setitem__(self, key: str, value: Any) -> None:
        self._store.set(key, value, namespace=self.name)

    def __delitem__(self, key: str) -> None:
        if not self._store.delete(key, namespace=self.name):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key != "" and self._store.has(key, namespace=self.name)

    def __iter__(self) -> Iterator[str]:
        return (entry.key for entry in self._store.scan(namespace=self.name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return len(self._store.list(namespace=self.name, limit=1)) > 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def items(self) -> ItemsView[str, Any]:
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        return _Values(self)

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Takes the value out in one step: no two programs get the same one."""
        entry = self._store._take(key, self.name)  # noqa: SLF001
        if entry is not None:
            return entry.value
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[str, Any]:
        """The first key with its value, taken out in one step."""
        while (page := self._store.list(namespace=self.name, limit=1)).entries:
            key = page.entries[0].key
            if (value := self.pop(key, _MISSING)) is not _MISSING:
                return key, value
        raise KeyError("the namespace is empty")

    def setdefault(self, key: str, default: Any = None) -> Any:
        while True:
            if self._store.set(key, default, namespace=self.name, only_if_absent=True) is not None:
                return default
            if (entry := self._store.entry(key, namespace=self.name)) is not None:
                return entry.value  # else it went away in between

    def update(self, other: Any = (), /, **more: Any) -> None:
        """All or nothing for up to 1000 keys, in parts beyond."""
        entries = dict(other, **more)
        keys = list(entries)
        for start in range(0, len(keys), _AT_ONCE):
            self._store.mset({k: entries[k] for k in keys[start : start + _AT_ONCE]}, namespace=self.name)

    def clear(self) -> None:
        self._store.clear(self.name)

    def _all(self) -> Iterator[tuple[str, Any]]:
        return ((entry.key, entry.value) for entry in self._store.scan(values=True, namespace=self.name))


class _Items(ItemsView[str, Any]):
    """Reads pages of entries instead of one value at a time."""

    _mapping: KVNamespace

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._mapping._all()  # noqa: SLF001


class _Values(ValuesView[Any]):
    _mapping: KVNamespace

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._all())  # noqa: SLF001

    def __contains__(self, value: object) -> bool:
        return any(found == value for found in self)
