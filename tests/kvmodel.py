"""The key-value store as plain Python: what every backend must agree with. Nothing expires in it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any


class Refused(Exception):
    """`hint` as the store gives it."""

    def __init__(self, hint: str) -> None:
        super().__init__(hint)
        self.hint = hint


class CheckFailed(Exception):
    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


Place = tuple[str, str]


@dataclass
class Model:
    """`versions` holds the number of the change that made each entry; a store's own numbers differ but grow alike."""

    entries: dict[Place, Any] = field(default_factory=dict)
    versions: dict[Place, int] = field(default_factory=dict)
    expiring: set[Place] = field(default_factory=set)
    changes: int = 0

    def _put(self, at: Place, value: Any, expires: bool) -> int:
        self.changes += 1
        self.entries[at] = copy.deepcopy(value)
        self.versions[at] = self.changes
        (self.expiring.add if expires else self.expiring.discard)(at)
        return self.changes

    def set(
        self, at: Place, value: Any, *, ttl: bool = False, if_version: Any = None, absent: bool = False
    ) -> int | None:
        """`if_version`: a number of a change; the change that made the entry, or another."""
        if (absent and at in self.entries) or (if_version is not None and self.versions.get(at) != if_version):
            return None
        return self._put(at, value, ttl)

    def delete(self, at: Place, if_version: Any = None) -> bool:
        if at not in self.entries or (if_version is not None and self.versions[at] != if_version):
            return False
        self.changes += 1
        del self.entries[at], self.versions[at]
        self.expiring.discard(at)
        return True

    def increment(self, at: Place, delta: float, ttl: bool = False) -> Any:
        have = self.entries.get(at, 0)
        if isinstance(have, bool) or not isinstance(have, int | float):
            raise Refused("KV_NOT_A_NUMBER")
        total = Decimal(repr(have)) + Decimal(repr(delta))
        value = int(total) if total == int(total) else float(total)
        self._put(at, value, at in self.expiring if at in self.entries else ttl)
        return value

    def append(self, at: Place, value: Any, ttl: bool = False) -> int:
        expires = at in self.expiring if at in self.entries else ttl
        have = self.entries.get(at, "" if isinstance(value, str) else [])
        if isinstance(have, list):
            grown: Any = [*have, value]
        elif isinstance(have, str) and isinstance(value, str):
            grown = have + value
        else:
            raise Refused("KV_NOT_APPENDABLE")
        self._put(at, grown, expires)
        return len(grown)

    def clear(self, namespace: str | None) -> int:
        gone = [at for at in self.entries if namespace is None or at[0] == namespace]
        for at in gone:
            self.delete(at)
        return len(gone)

    def keys(self, namespace: str, prefix: str = "") -> list[str]:
        found = (key for name, key in self.entries if name == namespace and key.startswith(prefix))
        return sorted(found, key=str.encode)

    def namespaces(self) -> list[str]:
        return sorted({name for name, _ in self.entries}, key=str.encode)

    def everything(self) -> dict[str, dict[str, Any]]:
        return {name: {key: self.entries[name, key] for key in self.keys(name)} for name in self.namespaces()}

    def transaction(self, steps: list[tuple[Any, ...]]) -> list[Any]:
        """All or nothing. Raises CheckFailed or Refused."""
        before = copy.deepcopy(self)
        try:
            return [self._step(index, *step) for index, step in enumerate(steps)]
        except (CheckFailed, Refused):
            self.__dict__.update(before.__dict__)
            raise

    def _step(self, index: int, name: str, at: Place, *about: Any) -> Any:
        if name == "check":
            if self.versions.get(at) != about[0]:
                raise CheckFailed(index)
            return None
        if name == "get":
            return copy.deepcopy(self.entries.get(at))
        answer = getattr(self, name)(at, *about)
        return None if name == "set" else answer
