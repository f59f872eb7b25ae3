"""What somebody asks, with words of another conversation below it: Claude reads both, the thread shows the first."""

from __future__ import annotations

import re

_HEAD = re.compile(r"\n\nThe (message|thread)(?: in #[^\n]*)? that this is about:\n")


def bring(text: str, kind: str, place: str, lines: str) -> str:
    """The prompt. `kind` "message" or "thread"; `place` the channel's name, "" for a direct message."""
    where = f" in #{place}" if place else ""
    return f"{text}\n\nThe {kind}{where} that this is about:\n{lines}"


def split_brought(prompt: str) -> tuple[str, str]:
    """What was asked, and the kind of what was brought along; "" for nothing.

    Whoever reads the thread may not be allowed to read the other conversation.
    """
    found = _HEAD.search(prompt)
    return (prompt[: found.start()], found[1]) if found else (prompt, "")
