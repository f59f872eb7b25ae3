"""Words that are nearly right. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that `word` is a slip of the finger away from; None if there is none."""
    found = min(known, key=lambda name: distance(word, name))
    return found if distance(word, found) <= max(1, len(found) // 4) else None


def distance(a: str, b: str) -> int:
    """Letters to insert, delete, replace or swap with the next one (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        earlier, before, row = before, row, [i]
        for j, other in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    return row[-1]
