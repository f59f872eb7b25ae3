"""What a failed turn is called in front of people: one sentence, and what to do next. Pure."""

from __future__ import annotations

import signal
from typing import Any

from worklets.errors import NoCredential
from worklets.events import AgentExited

_BY_STATUS = {
    401: "Claude's API refuses the credential. Check ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN, then restart Flow.",
    402: "The Claude account has no credit left. Add credit, then write again.",
    403: "Claude's API does not allow this request with the configured credential. Check the account's rights.",
    404: "Claude's API does not know the configured model. Check the model's name and the account's access to it.",
    413: "The request is too large for Claude's API. Start a new thread, with smaller files.",
    429: "Claude's API has reached its rate limit. Write again in a minute.",
    529: "Claude's API is overloaded. Write again in a few minutes.",
}

_BY_REASON = {
    "prompt_too_long": "The conversation has become too long for the model. Start a new thread.",
    "image_error": "The request is too large for Claude's API. Start a new thread, with smaller files.",
    "budget_exhausted": "The spending limit of this conversation is reached. Start a new thread.",
    "max_turns": "Claude took as many steps as it may in one turn. Write again to let it go on.",
}

# `error` of an `assistant` line that the CLI wrote itself, where the status says less.
_BY_KIND = {
    "authentication_failed": _BY_STATUS[401],
    "billing_error": _BY_STATUS[402],
    "model_not_found": _BY_STATUS[404],
    "rate_limit": _BY_STATUS[429],
}

_UNREACHED = "Flow cannot reach the model"  # how the gateway's own answer begins

AUTHENTICATION = _BY_STATUS[401]


def describe(result: dict[str, Any], kind: str | None) -> str:
    """The sentence for a `result` line that failed; `kind` is the error code of the CLI's own message before it."""
    said = _said(result)
    if str(NoCredential()) in said:
        return NoCredential().sentence()
    if _UNREACHED in said:
        return "Claude's API could not be reached. Check the network and ANTHROPIC_BASE_URL, then write again."
    reason, status = result.get("terminal_reason"), result.get("api_error_status")
    if sentence := _BY_REASON.get(str(reason)):
        return sentence
    if result.get("stop_reason") == "refusal":
        return "Claude declined to answer this. Put it in other words and write again."
    if sentence := _BY_STATUS.get(status or 0) or _BY_KIND.get(kind or ""):
        return sentence
    if status is not None and status >= 500:
        return f"Claude's API failed (status {status}). Write again in a moment."
    if reason == "api_error" and status is None:
        return f"Claude's API could not be reached ({said}). Check Flow's network, then write again."
    return f"Claude could not finish: {said}. Write again, or start a new thread."


def exit_clause(exited: AgentExited, ending: str | None) -> str:
    """Why Claude's process ended, as the beginning of a sentence. `ending`: what its runtime knows of it.

    A kill says nothing of its reason; the runtime may (the memory limit).
    """
    if exited.code in (-signal.SIGKILL, 128 + signal.SIGKILL) and ending is not None:
        return ending
    match exited.code:
        case -9:
            return "Claude's process was killed"
        case -15 | 143:
            return "Claude's process was told to end"
        case code if code < 0:
            return f"Claude's process crashed (signal {-code})"
        case code:
            last = exited.stderr.strip().rpartition("\n")[2][:200].rstrip(".")
            return f"Claude's process ended with code {code}{f' ({last})' if last else ''}"


def _said(result: dict[str, Any]) -> str:
    """What the CLI itself said, in one short line."""
    text = str(result.get("result") or next(iter(result.get("errors") or []), "") or result.get("subtype"))
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= 200 else line[:199] + "…"
