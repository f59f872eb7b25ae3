"""Exceptions as sentences for people in Slack. Never a traceback: that stays in the log, under a reference."""

from __future__ import annotations

import secrets

from config.errors import FlowError
from config.logging import get_logger

log = get_logger(__name__)


def sentence_for(error: BaseException, doing: str) -> str:
    """What to tell the person, with what to do next. `doing` names in the log what failed."""
    if isinstance(error, FlowError):
        log.warning(f"{doing} failed", error=error.sentence())
        return error.sentence()
    reference = secrets.token_hex(3)
    log.error(f"{doing} failed", reference=reference, exc_info=error)
    return (
        f"Something went wrong on my side (reference {reference}). Try again; "
        "if it stays so, the reference leads whoever runs me to the reason in the log."
    )
