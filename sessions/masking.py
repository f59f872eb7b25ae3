"""What an agent says with secrets taken out: before anything of it is stored or told.

Text comes twice, as a preview in pieces and as a whole. The preview is masked in the same way as the whole, so the two
are equal when the whole arrives: what the preview still held back is told just before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from config.masking import Masker, StreamMasker
from worklets.events import (
    AgentEvent,
    AgentExited,
    Asked,
    AskWithdrawn,
    PreviewVoided,
    PromptTaken,
    Spent,
    Text,
    TextDelta,
    ToolFinished,
    TurnEnded,
)
from worklets.wire import MOST_OUTPUT

#: Names by which things are found again. They are never shown.
_IDS = frozenset({"tool_id", "parent", "request_id", "claude_session_id", "prompt_id", "prompt_ids"})
_WITHOUT_TEXT = (PromptTaken, AskWithdrawn, Spent)
_STDERR = 3_900  # characters of a dying process's last words from which on their beginning may have been cut off


class MaskedEvents:
    """The events of one agent, in order."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._stream: StreamMasker | None = None
        self._shown: list[str] = []  # of the open preview

    @property
    def has_preview(self) -> bool:
        """Something was streamed that is not committed, be it only held back."""
        return self._stream is not None

    def drop_preview(self) -> None:
        self._stream, self._shown = None, []

    def end_preview(self) -> str:
        """What was streamed and will not go on; where it breaks off in what may be a secret, without that."""
        text = "".join(self._shown) + (self._stream.flush(cut=True) if self._stream else "")
        self.drop_preview()
        return text

    def take(self, events: Sequence[AgentEvent]) -> list[AgentEvent]:
        masked: list[AgentEvent] = []
        for event in events:
            masked += self._take(event)
        return masked

    def _take(self, event: AgentEvent) -> list[AgentEvent]:
        match event:
            case TextDelta(text):
                return self._delta(text)
            case Text(text):
                return self._text(text)
            case PreviewVoided() | TurnEnded():
                self.drop_preview()
        return [self.event(event)]

    def _delta(self, text: str) -> list[AgentEvent]:
        if self._stream is None:
            self._stream = self._masker.stream()
        shown = self._stream.feed(text)
        if not shown:
            return []
        self._shown.append(shown)
        return [TextDelta(shown)]

    def _text(self, text: str) -> list[AgentEvent]:
        masked, shown = self._masker.text(text), "".join(self._shown)
        rest = self._stream.flush() if self._stream else ""
        self.drop_preview()
        return [TextDelta(rest), Text(masked)] if rest and shown + rest == masked else [Text(masked)]

    def event(self, event: AgentEvent) -> AgentEvent:
        """The same object where nothing had to be masked."""
        if isinstance(event, _WITHOUT_TEXT):
            return event
        changed: dict[str, Any] = {}
        for name in (one.name for one in fields(event)):
            before = getattr(event, name)
            if name not in _IDS and isinstance(before, str | dict | list | tuple):
                after = self._masker.value(before, cut=_was_cut(event, before))
                if after is not before:
                    changed[name] = after
        if isinstance(event, Asked) and "suggestions" in changed:  # a rule with a mask in it would fit nothing
            changed["suggestions"] = tuple(rule for rule in event.suggestions if rule in changed["suggestions"])
        return replace(event, **changed) if changed else event


def _was_cut(event: AgentEvent, text: object) -> bool:
    """Of long output only the end is kept."""
    if not isinstance(event, ToolFinished | AgentExited) or not isinstance(text, str):
        return False
    return len(text) >= (MOST_OUTPUT if isinstance(event, ToolFinished) else _STDERR) or text.startswith("…")
