"""Tables that tests print at the end of a run, also when they ran in several processes."""

from __future__ import annotations

from collections.abc import Callable

Table = tuple[str, list[str]]  # its title and its lines

#: Each gives the tables of this process, when there are any.
providers: list[Callable[[], list[Table]]] = []
#: Those of other processes.
received: list[Table] = []


def mine() -> list[Table]:
    return [table for provide in providers for table in provide()]
