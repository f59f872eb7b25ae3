"""Which base images worklet images may be made on. Pure; the making is prebuilt.py's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TypeAlias

from worklets.profile import Origin, Profile

OWN_BASE = "debian:bookworm-slim"  # of the usual image: whoever names it gets that


Part: TypeAlias = Callable[[str, Origin, Profile], Awaitable[Profile]]


def is_allowed(base: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns (`node:*-bookworm`, `registry.example.org/team/*`) is of that image's name.

    A name without tag and digest means `:latest`; `*` stands for anything, in a tag for anything that a tag can be:
    `node:*` is of no image of a registry called node. Our own base is allowed always.
    """
    last = base.rsplit("/", 1)[-1]
    full = base if ":" in last or "@" in last else f"{base}:latest"
    return base == OWN_BASE or any(_is_of(name, one) for one in patterns for name in {base, full})


def _is_of(name: str, pattern: str) -> bool:
    wanted, tag = _parted(pattern)
    if tag is None:
        return fnmatchcase(name, pattern)
    repository, given = _parted(name)
    return given is not None and fnmatchcase(repository, wanted) and fnmatchcase(given, tag)


def _parted(name: str) -> tuple[str, str | None]:
    """Repository and tag; a colon before the last slash is a registry's port."""
    path, slash, last = name.rpartition("/")
    repository, colon, tag = last.partition(":")
    return f"{path}{slash}{repository}", tag if colon else None


def refusal(base: str, instead: str | None = None) -> str:
    """What people are told of a base image that is not allowed."""
    return (
        f"The base image {base} is not among those that Flow's administrator allows (FLOW_BASE_IMAGES), so "
        f"{instead or 'the usual one'} is used."
    )


def base_part(patterns: tuple[str, ...], part: Part) -> Part:
    """That part of `bot.profiles.Composed`, held to these bases: one that is not allowed leaves the one before it.

    The thread is told.
    """

    async def held(name: str, origin: Origin, profile: Profile) -> Profile:
        made = await part(name, origin, profile)
        if made.base == OWN_BASE:
            return replace(made, base=None)
        if made.base in (None, profile.base) or is_allowed(made.base, patterns):
            return made
        return replace(made, base=profile.base, notes=(*made.notes, refusal(made.base, profile.base)))

    return held
