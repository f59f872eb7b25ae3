"""Many programs use one worklet's store while something dies; and the law that must hold when all has come to rest.

Each call is written down before it is sent and again when it was answered, so that afterwards it is known what must be
there (acknowledged), what may be (sent, and never answered) and what must not be.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from kvstore.aio import AsyncWorkletKVStore
from kvstore.errors import KVConnectionError

COUNTERS = 3
LOGS = 6
GROUPS = 3
MEMBERS = 12
ACCOUNTS = 4
MONEY = 1000


@dataclass
class Book:
    """What was sent and what was answered. Sets hold what is acknowledged (`done`) and what is not known (`maybe`)."""

    done: dict[str, Any] = field(default_factory=dict)
    maybe: dict[str, list[Any]] = field(default_factory=dict)
    added: Counter[str] = field(default_factory=Counter)
    perhaps_added: Counter[str] = field(default_factory=Counter)
    logged: set[str] = field(default_factory=set)
    perhaps_logged: set[str] = field(default_factory=set)
    groups: dict[str, set[str]] = field(default_factory=dict)
    versions: list[int] = field(default_factory=list)
    answers: int = 0
    unknown: int = 0
    failures: list[str] = field(default_factory=list)


GONE = object()


class Writer:
    """One program: one client, one call after the other."""

    def __init__(self, number: int, store: AsyncWorkletKVStore, book: Book, dice: random.Random) -> None:
        self.number = number
        self.store = store
        self.book = book
        self.dice = dice
        self.turn = 0
        self.answers = 0

    async def write(self, over: asyncio.Event) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [
            self.fresh, self.own, self.add, self.log, self.pair, self.transfer, self.group, self.erase, self.swap
        ]  # fmt: skip
        while not over.is_set():
            self.turn += 1
            await self.dice.choice(kinds)()

    async def _sent(self, call: Awaitable[Any]) -> tuple[str, Any]:
        """("done", the answer), ("maybe", None) or ("not", None)."""
        try:
            answer = await call
        except KVConnectionError as error:
            self.book.unknown += error.outcome_unknown
            return ("maybe" if error.outcome_unknown else "not"), None
        self.answers += 1
        self.book.answers += 1
        return "done", answer

    async def _put(self, key: str, value: Any, call: Awaitable[Any]) -> Any:
        """Only this program writes `key`: it holds what was answered last, or something that was sent after it."""
        came, answer = await self._sent(call)
        if came == "done":
            self.book.done[key] = value
            self.book.maybe.pop(key, None)
        elif came == "maybe":
            self.book.maybe.setdefault(key, []).append(value)
        return answer

    async def fresh(self) -> None:
        key = f"fresh/{self.number}/{self.turn}"
        version = await self._put(key, self.turn, self.store.set(key, self.turn))
        if version is not None:
            self.book.versions.append(version)

    async def own(self) -> None:
        key = f"own/{self.number}"
        version = await self._put(key, self.turn, self.store.set(key, self.turn))
        if version is not None:
            self.book.versions.append(version)

    async def erase(self) -> None:
        mine = [key for key, value in self.book.done.items() if key.startswith(f"fresh/{self.number}/")]
        if mine:
            key = self.dice.choice(mine)
            await self._put(key, GONE, self.store.delete(key))

    async def pair(self) -> None:
        """Four keys in one transaction: all have the same stamp, always."""

        async def both() -> None:
            work = self.store.transaction()
            for side in "abcd":
                work.set(f"pair/{self.number}/{side}", self.turn)
            await work.commit()

        key = f"pair/{self.number}"
        await self._put(key, self.turn, both())

    async def add(self) -> None:
        key, delta = f"counter/{self.dice.randrange(COUNTERS)}", self.dice.randint(1, 5)
        came, _ = await self._sent(self.store.increment(key, delta))
        if came == "done":
            self.book.added[key] += delta
        elif came == "maybe":
            self.book.perhaps_added[key] += delta

    async def swap(self) -> None:
        """Adds one by compare-and-set."""
        came, entry = await self._sent(self.store.entry("swapped"))
        if came != "done":
            return
        call = (
            self.store.set("swapped", entry.value + 1, if_version=entry.version)
            if entry is not None
            else self.store.set("swapped", 1, only_if_absent=True)
        )
        came, version = await self._sent(call)
        if came == "done" and version is not None:
            self.book.added["swapped"] += 1
            self.book.versions.append(version)
        elif came == "maybe":
            self.book.perhaps_added["swapped"] += 1

    async def log(self) -> None:
        log = f"log/{self.dice.randrange(LOGS)}"
        entry = f"{log}:{self.number}:{self.turn}"
        came, _ = await self._sent(self.store.append(log, entry if self.turn % 2 else [entry]))
        if came != "not":
            (self.book.logged if came == "done" else self.book.perhaps_logged).add(entry)

    async def transfer(self) -> None:
        """Money from one account to another: the sum of all stays the same."""
        source, target = self.dice.sample(range(ACCOUNTS), 2)
        work = self.store.transaction()
        work.increment(f"account/{source}", -7)
        work.increment(f"account/{target}", 7)
        await self._sent(work.commit())

    async def group(self) -> None:
        """All members of a group at once, in an order of the writer's own: one writer's stamp is on all of them."""
        name, stamp = f"group/{self.dice.randrange(GROUPS)}", f"{self.number}:{self.turn}"
        members = [f"{name}/{member:02}" for member in range(MEMBERS)]
        self.dice.shuffle(members)
        self.book.groups.setdefault(name, set()).add(stamp)
        await self._sent(self.store.mset(dict.fromkeys(members, stamp)))


async def prepare(store: AsyncWorkletKVStore) -> None:
    await store.mset({f"account/{number}": MONEY for number in range(ACCOUNTS)})
    for number in range(LOGS):
        await store.set(f"log/{number}", [])


class Mirror:
    """A store as it is told by `watch` alone."""

    def __init__(self, store: AsyncWorkletKVStore) -> None:
        self.store = store
        self.entries: dict[str, Any] = {}
        self.version = 0
        self.failures: list[str] = []
        self.changes = 0

    async def follow(self) -> None:
        async with aclosing(self.store.watch("", cursor="0")) as changes:
            async for change in changes:
                self._take(change)

    def _take(self, change: Any) -> None:
        self.changes += 1
        if change.reset:
            self.failures.append("the watch was reset though nothing is older than a day")
        if change.version <= self.version:
            self.failures.append(f"version {change.version} was told after {self.version}")
        self.version = change.version
        if change.deleted:
            self.entries.pop(change.key, None)
        else:
            self.entries[change.key] = change.value


def broken(book: Book, held: dict[str, Any]) -> list[str]:
    """What is wrong with the entries that a store holds."""
    found = list(book.failures)
    for key in set(book.done) | set(book.maybe):
        if not key.startswith("pair/"):
            found += _of_own(book, key, held.get(key, GONE))
    for number in {key.split("/")[1] for key in held if key.startswith("pair/")}:
        stamps = [held.get(f"pair/{number}/{side}", GONE) for side in "abcd"]
        if len(set(map(repr, stamps))) > 1:
            found.append(f"transaction of {number} is there in part: {stamps}")
        found += _of_own(book, f"pair/{number}", stamps[0])
    found += _of_sums(book, held) + _of_logs(book, held) + _of_groups(book, held)
    repeated = [version for version, times in Counter(book.versions).items() if times > 1]
    return found + [f"version {version} was given twice" for version in repeated]


def _of_own(book: Book, key: str, have: Any) -> list[str]:
    allowed = [*([book.done[key]] if key in book.done else [GONE]), *book.maybe.get(key, ())]
    if any(have is value or have == value for value in allowed):
        return []
    return [f"{key} holds {have!r}, acknowledged {book.done.get(key)!r}, unknown {book.maybe.get(key)}"]


def _of_sums(book: Book, held: dict[str, Any]) -> list[str]:
    found = []
    for key in set(book.added) | set(book.perhaps_added):
        least, most = book.added[key], book.added[key] + book.perhaps_added[key]
        if not least <= held.get(key, 0) <= most:
            found.append(f"{key} is {held.get(key, 0)}, acknowledged {least}, sent {most}")
    money = sum(held[f"account/{number}"] for number in range(ACCOUNTS))
    return found + ([] if money == MONEY * ACCOUNTS else [f"the accounts hold {money}"])


def _of_logs(book: Book, held: dict[str, Any]) -> list[str]:
    said = [entry for number in range(LOGS) for item in held[f"log/{number}"] for entry in _entries(item)]
    twice = [entry for entry, times in Counter(said).items() if times > 1]
    lost = book.logged - set(said)
    invented = set(said) - book.logged - book.perhaps_logged
    return [f"appended {what}: {sorted(these)[:5]}" for what, these in
            (("twice", twice), ("and lost", lost), ("by nobody", invented)) if these]  # fmt: skip


def _entries(item: Any) -> list[str]:
    return item if isinstance(item, list) else [item]


def _of_groups(book: Book, held: dict[str, Any]) -> list[str]:
    found = []
    for name, stamps in book.groups.items():
        have = {held.get(f"{name}/{member:02}") for member in range(MEMBERS)}
        if len(have) > 1 or not have <= {*stamps, None}:
            found.append(f"{name} holds {sorted(map(str, have))}: an mset is there in part")
    return found
