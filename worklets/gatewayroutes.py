"""What else lies behind a worklet's door: `/flow/<subject>/…` on the gateway, each subject served by a handler.

The worklet's token has been checked when a handler is called, and `Caller.grants` says what this worklet may have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from aiohttp import web

PATH = "/flow/"

#: Tells the bots that are connected: a kind and fields of JSON. It may be lost with either process.
Tell: TypeAlias = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Caller:
    """The worklet that asks. `worklet_id`: its session's uuid, where it has one; `grant`: its own for the subject.

    `now()`: the grant as it is by now; None when its door has closed. `tell`: to the bots. `at_end(key, end)`: `end` is
    awaited when the door closes, the last one of each key.
    """

    name: str
    worklet_id: str | None
    grant: Any
    now: Callable[[], Any] = field(default=lambda: None, compare=False, repr=False)
    tell: Tell = field(default=lambda _kind, **_fields: None, compare=False, repr=False)
    at_end: Callable[[str, Callable[[], Awaitable[None]]], None] = field(
        default=lambda _key, _end: None, compare=False, repr=False
    )


Handler: TypeAlias = "Callable[[web.BaseRequest, Caller], Awaitable[web.StreamResponse]]"


def subject_of(path: str) -> str | None:
    """The subject that a path names: "git" for "/flow/git/a/b"; None for other paths."""
    if not path.startswith(PATH):
        return None
    return path[len(PATH) :].partition("/")[0]


def grant_of(grants: Mapping[str, Any], subject: str) -> Any:
    """None: the worklet has none for it."""
    return grants.get(subject)
