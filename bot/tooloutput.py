"""The last lines of what a tool printed, as a block of code in mrkdwn. Pure."""

from __future__ import annotations

import re

from bot.markdown import clean, clip

# What terminals obey and nobody reads: colours and the like (ECMA-48), titles (OSC).
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_NOTHING = re.compile(
    r"\(Bash completed with no output\)|(?:Error: )?Exit code \d+"
)  # the CLI's words, not a command's
_BREAK = "\u200b"  # keeps three backticks from ending the block
_FRAME = len("\n```\n…\n\n```")


def lines_of(output: str) -> list[str]:
    """As a terminal would show them: without colours, and of a line that was written over only its last state."""
    shown = [line.rstrip().rpartition("\r")[2] for line in _ESCAPES.sub("", output).split("\n")]
    if shown and _NOTHING.fullmatch(shown[0]):
        del shown[0]
    while shown and not shown[-1].strip():
        del shown[-1]
    return shown


def room(lines: int, width: int) -> int:
    """Units that `code_block` takes at most."""
    return lines * (width + 1) + _FRAME if lines else 0


def code_block(output: list[str], most: int, width: int) -> str:
    """The last `most` lines, each of at most `width` units; empty for none. Begins with a line break."""
    if not output or most <= 0:
        return ""
    shown = [clip(clean(line).replace("```", f"`{_BREAK}`{_BREAK}`"), width) for line in output[-most:]]
    before = "…\n" if len(output) > most else ""
    return "\n```\n" + before + "\n".join(shown) + "\n```"
