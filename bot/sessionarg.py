"""How a session is named on the command line; an unset variable of a script names none."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def naming(least: int = 1) -> Callable[[str], str]:
    """argparse's `type`. `least`: so many letters of an id, where a wrong one would cost data."""

    def named(value: str) -> str:
        given = value.strip()
        if not given:
            raise argparse.ArgumentTypeError(
                "it is empty: write a session's id, its first letters or its thread's link"
            )
        if len(given) < least:
            raise argparse.ArgumentTypeError(
                f'"{given}" is too short for this: write {least} letters of the id or more'
            )
        return given

    return named
