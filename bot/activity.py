"""What Claude does in a turn, beside its words: which lines there are, and what they say. Pure.

Where the lines stand is the layout's business; the checklist stands below everything.
"""

from __future__ import annotations

from dataclasses import dataclass

from bot.checklist import Checklist
from bot.markdown import clip
from bot.toollines import FULL, ToolLine, thought_line, tool_line
from bot.toolnames import CHECKLIST
from sessions.options import Level
from sessions.types import TurnId
from worklets.events import Thinking, ToolFinished, ToolStarted


@dataclass(slots=True)
class _Agent:
    """A sub-agent at work: its line, and how many tools it has used, with those of its own sub-agents."""

    line: ToolLine
    tools: int = 0


class Activity:
    """Its methods give the lines that are new, or that look different now; None: there is none."""

    def __init__(self, level: Level = Level.NORMAL, turn_id: TurnId | None = None) -> None:
        self._level = level
        self._turn_id = turn_id
        self._lines: dict[str, ToolLine] = {}
        self._agents: dict[str, _Agent] = {}  # by each tool id that leads to them
        self._seen: set[str] = set()
        self.checklist = Checklist()
        self._doing = ""  # mrkdwn

    @property
    def status(self) -> str:
        """mrkdwn: what is being done, for somebody who sees no lines."""
        if self._level is not Level.QUIET:
            return "Working…"
        if now := self.checklist.now:
            return f"Working: {clip(now, 200)}"
        return f"Working: {self._doing}" if self._doing else "Working…"

    @property
    def shows_checklist(self) -> bool:
        return self._level is not Level.QUIET and bool(self.checklist)

    def thought(self, event: Thinking) -> ToolLine | None:
        shown = self._level is Level.VERBOSE and bool(event.text.strip())
        return thought_line(event.text) if shown else None

    def started(self, event: ToolStarted) -> tuple[ToolLine | None, ToolLine | None]:
        """The new line, and the one of a sub-agent that looks different now."""
        if event.tool_id in self._seen:
            return None, None
        self._seen.add(event.tool_id)
        if event.name in CHECKLIST:
            if event.parent is None:
                self.checklist.started(event)
            return None, None
        line = tool_line(event, self._level)
        agent = self._agents.get(event.parent or "")
        if agent is None:
            self._doing = line.head
        else:
            agent.tools += 1
            agent.line.progress(agent.tools, event)
            self._agents[event.tool_id] = agent
        changed = agent.line if agent is not None and agent.line.running else None
        if self._level is Level.QUIET or (agent is not None and self._level is not Level.VERBOSE):
            return None, None if self._level is Level.QUIET else changed
        self._lines[event.tool_id] = line
        if line.agent and agent is None:
            self._agents[event.tool_id] = _Agent(line)
        return line, changed

    def finished(self, event: ToolFinished) -> ToolLine | None:
        if self.checklist.finished(event):
            return None
        line = self._lines.get(event.tool_id)
        if line is None or not line.running:
            return None
        agent = self._agents.get(event.tool_id)
        line.finish(event, agent.tools if agent is not None and agent.line is line else 0)
        wanted = line.cut if line.action == FULL else event.details.get("patch")
        if line.label and self._turn_id is not None and wanted:
            line.diff = f"{self._turn_id} {event.tool_id}"
        return line

    def abandon(self) -> list[ToolLine]:
        """Those that still ran: they end no more."""
        running = [line for line in self._lines.values() if line.running]
        for line in running:
            line.abandon()
        return running
