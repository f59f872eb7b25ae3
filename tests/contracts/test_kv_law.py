"""The law of the key-value storm finds each violation that is planted."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import kvstorm
import pytest

Held = dict[str, Any]


def world() -> tuple[kvstorm.Book, Held]:
    """What was acknowledged and what was not, and a store that keeps its word."""
    book = kvstorm.Book()
    book.done |= {"fresh/1/1": 1, "fresh/1/2": kvstorm.GONE, "own/1": 5, "pair/1": 7}
    book.maybe |= {"own/1": [6], "fresh/1/9": [9]}
    book.added["counter/0"], book.perhaps_added["counter/0"] = 10, 3
    book.logged, book.perhaps_logged = {"log/0:1:1", "log/0:1:2"}, {"log/0:1:3"}
    book.groups["group/0"] = {"1:1", "2:1"}
    book.versions = [1, 2, 3]
    held: Held = {"fresh/1/1": 1, "own/1": 6, "counter/0": 13}
    held |= {f"pair/1/{side}": 7 for side in "abcd"}
    held |= {f"account/{number}": kvstorm.MONEY for number in range(kvstorm.ACCOUNTS)}
    held |= {f"log/{number}": [] for number in range(kvstorm.LOGS)} | {"log/0": ["log/0:1:1", ["log/0:1:2"]]}
    held |= {f"group/0/{member:02}": "2:1" for member in range(kvstorm.MEMBERS)}
    return book, held


def test_a_store_that_keeps_its_word_breaks_nothing() -> None:
    assert kvstorm.broken(*world()) == []


@pytest.mark.parametrize(
    "plant",
    [
        lambda book, held: held.pop("fresh/1/1"),
        lambda book, held: held.update({"fresh/1/1": 2}),
        lambda book, held: held.update({"fresh/1/2": 2}),
        lambda book, held: held.update({"own/1": 4}),
        lambda book, held: held.update({"counter/0": 9}),
        lambda book, held: held.update({"counter/0": 14}),
        lambda book, held: held.update({"pair/1/c": 6}),
        lambda book, held: held.pop("pair/1/d"),
        lambda book, held: held.update({"account/2": kvstorm.MONEY - 7}),
        lambda book, held: held.update({"log/0": ["log/0:1:1"]}),
        lambda book, held: held["log/0"].append("log/0:1:1"),
        lambda book, held: held["log/0"].append("log/0:9:9"),
        lambda book, held: held.update({"group/0/03": "1:1"}),
        lambda book, held: held.pop("group/0/03"),
        lambda book, held: book.versions.append(2),
    ],
)
def test_each_planted_violation_is_found(plant: Callable[[kvstorm.Book, Held], object]) -> None:
    book, held = world()
    plant(book, held)
    assert len(kvstorm.broken(book, held)) == 1


def test_a_mirror_notices_what_is_told_out_of_order_or_anew() -> None:
    mirror = kvstorm.Mirror(None)  # type: ignore[arg-type]
    change = {"namespace": "default", "value": 1, "deleted": False, "reset": False}
    mirror._take(SimpleNamespace(**change, key="a", version=2))
    assert mirror.failures == []
    mirror._take(SimpleNamespace(**change, key="b", version=2))
    mirror._take(SimpleNamespace(**{**change, "reset": True}, key="c", version=3))
    assert len(mirror.failures) == 2
