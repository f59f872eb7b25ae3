"""What the CLI's lines tell of tokens and dollars. Pure.

A turn's `result` is exact (CLI 2.1.329: `model_usage_since_last_result`). What was spent before a result that never
comes, because the process was killed, is told by the API's own messages in the stream, in tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worklets.events import AgentEvent, Spent, Usage

_TOKENS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_input_tokens",
    "cache_write_tokens": "cache_creation_input_tokens",
}
_UNKNOWN = "unknown"  # `costBasis` of a model without a list price: the CLI's dollars are another model's then


def of_result(result: Mapping[str, Any]) -> Usage:
    """Exact since the previous result, sub-agents included; the CLI's `usage` is zero after an interrupt.

    Raises what a line of another shape leads to (AttributeError, TypeError).
    """
    models = list((result.get("model_usage_since_last_result") or {}).values())

    def total(name: str) -> int:
        return sum(int(model.get(name) or 0) for model in models)

    return Usage(
        input_tokens=total("inputTokens"),
        output_tokens=total("outputTokens"),
        cache_read_tokens=total("cacheReadInputTokens"),
        cache_write_tokens=total("cacheCreationInputTokens"),
        cost=_dollars(models),
    )


def dollars_so_far(reply: Mapping[str, Any]) -> float | None:
    """What the process has spent, by its reply to `get_usage`: all answers of the API that have ended.

    Restored by a resume, and back to 0 after `/clear`. None: it does not say, or a model's price is not known.
    """
    session = reply.get("session")
    models = session.get("model_usage") if isinstance(session, Mapping) else None
    if not isinstance(models, Mapping) or not all(isinstance(model, Mapping) for model in models.values()):
        return None
    return _dollars(list(models.values())) if models else 0.0


def _dollars(models: list[Mapping[str, Any]]) -> float | None:
    costs = [None if model.get("costBasis") == _UNKNOWN else model.get("costUSD") for model in models]
    known = [float(cost) for cost in costs if isinstance(cost, int | float)]
    return sum(known) if known and len(known) == len(costs) else None


class Spending:
    """Reads the usage of the API's messages as they pass."""

    def __init__(self) -> None:
        self._usage: Mapping[str, Any] = {}
        self._counted: str | None = None  # the sub-agent's message that was counted last

    def began(self, message: Mapping[str, Any]) -> None:
        self._usage = message.get("usage") or {}

    def ended(self, event: Mapping[str, Any]) -> list[AgentEvent]:
        """`message_delta`: its counts are of the whole message, and win over those of its start."""
        usage, self._usage = {**self._usage, **(event.get("usage") or {})}, {}
        return _spent(usage)

    def of_subagent(self, message: Mapping[str, Any]) -> list[AgentEvent]:
        """One line for each block, all with one id and the counts of the message's start."""
        if message.get("id") == self._counted:
            return []
        self._counted = message.get("id")
        return _spent(message.get("usage") or {})


def _spent(usage: Mapping[str, Any]) -> list[AgentEvent]:
    counts = {ours: usage.get(theirs) for ours, theirs in _TOKENS.items()}
    found = {name: count for name, count in counts.items() if isinstance(count, int) and count > 0}
    return [Spent(Usage(**found))] if found else []
