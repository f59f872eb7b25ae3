"""The steps of a transaction, and what became of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar

from kvstore.errors import KVConflictError, KVError, invalid
from kvstore.types import entry_of
from kvstore.values import (
    MAX_ENTRIES,
    check_delta,
    check_key,
    check_namespace,
    check_ttl,
    check_version,
    encode,
    object_text,
    quoted,
)

Self = TypeVar("Self", bound="Steps")


class Steps:
    """Collects the steps. Each sees what the ones before it did; all are done, or none.

    `results` after the commit, one for each step: None for a check, {"version"} for set, {"deleted"} for delete,
    {"value", "version"} for increment, {"length", "version"} for append, an Entry or None for get.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._steps: list[str] = []
        self._kinds: list[str] = []
        self._sent = False
        self.results: list[Any] = []

    def check(self: Self, key: str, version: int | None, *, namespace: str | None = None) -> Self:
        """Go on only if the key's version is this one; None: only if there is no such key."""
        wanted = "null" if version is None else str(int(check_version(version)))
        return self._add("check", key, namespace, ("version", wanted))

    def set(
        self: Self, key: str, value: Any, *, namespace: str | None = None, ttl: float | timedelta | None = None
    ) -> Self:
        return self._add("set", key, namespace, ("value", encode(value)), *_ttl(ttl))

    def delete(self: Self, key: str, *, namespace: str | None = None) -> Self:
        return self._add("delete", key, namespace)

    def increment(
        self: Self,
        key: str,
        delta: int | float = 1,
        *,
        namespace: str | None = None,
        ttl: float | timedelta | None = None,
    ) -> Self:
        return self._add("increment", key, namespace, ("delta", encode(check_delta(delta))), *_ttl(ttl))

    def append(
        self: Self, key: str, value: Any, *, namespace: str | None = None, ttl: float | timedelta | None = None
    ) -> Self:
        return self._add("append", key, namespace, ("value", encode(value)), *_ttl(ttl))

    def get(self: Self, key: str, *, namespace: str | None = None) -> Self:
        return self._add("get", key, namespace)

    def __len__(self) -> int:
        return len(self._steps)

    def _add(self: Self, kind: str, key: str, namespace: str | None, *fields: tuple[str, str]) -> Self:
        if self._sent:
            raise KVError("This transaction was committed already: begin another one.")
        if len(self._steps) == MAX_ENTRIES:
            raise invalid(f"A transaction may have {MAX_ENTRIES} steps.")
        named = self._namespace if namespace is None else check_namespace(namespace)
        where = (("op", quoted(kind)), ("namespace", quoted(named)), ("key", quoted(check_key(key))))
        self._steps.append(object_text((*where, *fields)))
        self._kinds.append(kind)
        return self

    def _text(self) -> str:
        """For sending, which happens once: what became of a transaction that broke off is not known."""
        if self._sent:
            raise KVError("This transaction was committed already: begin another one.")
        self._sent = True
        return "[" + ",".join(self._steps) + "]"

    def _settle(self, told: dict[str, Any]) -> list[Any]:
        if not told["committed"]:
            message = "A check of the transaction did not hold; nothing was changed."
            raise KVConflictError(message, failed=told["failed"])
        self.results = [
            entry_of(result) if kind == "get" and result is not None else result
            for kind, result in zip(self._kinds, told["results"], strict=True)
        ]
        return self.results


def _ttl(ttl: float | timedelta | None) -> tuple[tuple[str, str], ...]:
    return () if ttl is None else (("ttl", encode(check_ttl(ttl))),)
