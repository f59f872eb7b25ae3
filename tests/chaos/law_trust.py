"""What must hold beside the law where worklets push, reach hosts, use tools and secrets, and are looked into.

Judged by what lies outside (the host of git, hosts, Vault, the vendor), by Slack, and by Flow's own books.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeds import PREVIEW, Deeds
from outside import Outside

from simulator.slack import SlackSimulator

_PUSH = "mcp__flow__git_push"


@dataclass
class TrustLaw:
    slack: SlackSimulator
    outside: Outside
    deeds: Deeds
    share_dir: Path

    def violations(self) -> list[str]:
        """Once all has come to rest."""
        return [
            *self._questions(),
            *self._pushes(),
            *self._hosts(),
            *self._tools(),
            *self._previews(),
            *self.deeds.seen,
        ]

    def left_over(self) -> list[str]:
        """Once all sessions sleep and the program has ended."""
        found = [f"a token of Vault is left over: {policy}" for policy in self.outside.tokens()]
        listed = self.rows("select accessor, session_id from vault_tokens")
        return found + [f"the books have a token of session {row['session_id']} still" for row in listed]

    def rows(self, query: str) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.share_dir / "db.sqlite", timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query)]

    def _questions(self) -> Iterator[str]:
        """None is open when its turn is over, and each was decided once."""
        left = "select asks.* from asks join turns on turns.id = turn_id where asks.state = 'open' and ended_at <> ''"
        for row in self.rows(left):
            yield f"a question is open after its turn: {row['tool']} {row['input']}"
        for row in self.rows("select ask_id, count(*) as times from audit group by ask_id, turn_id having times > 1"):
            asked = self.rows(f"select kind, behavior from audit where ask_id = '{row['ask_id']}'")
            if sum(one["behavior"] in ("allow", "deny") for one in asked) > 1:
                yield f"a question was answered {row['times']} times: {asked}"

    def _pushes(self) -> Iterator[str]:
        """Each reached the host once, and somebody, or a rule, had let it."""
        updates = self.outside.updates()
        for (branch, commit), times in Counter(updates).items():
            if times > 1:
                yield f"{commit} was pushed to {branch} {times} times"
        allowed: Counter[str] = Counter()
        for row in self.rows(f"select input from audit where tool = '{_PUSH}' and behavior = 'allow'"):
            allowed[json.loads(row["input"])["branch"]] += 1
        for branch, times in Counter(branch for branch, _ in updates if branch != "main").items():
            if times > allowed[branch]:
                yield f"{branch} was pushed {times} times, and the audit knows of {allowed[branch]}"
        if [one for one in updates if one[0] == "main"]:
            yield "main was pushed, which is protected"

    def _hosts(self) -> Iterator[str]:
        """Nobody reached one that people had not allowed."""
        said: defaultdict[str, set[str]] = defaultdict(set)
        for row in self.rows("select input, behavior from audit where kind = 'egress'"):
            said[json.loads(row["input"])["host"]].add(row["behavior"])
        for host, times in self.outside.heard.items():
            if host.endswith(".askable.test") and "allow" not in said[host]:
                yield f"{host} was reached {times} times, and people said {said[host] or 'nothing'}"

    def _tools(self) -> Iterator[str]:
        """The vendor's token went to the vendor, and nothing else did."""
        other = {str(headers.get("authorization")) for headers in self.outside.vendor.seen}
        other -= {self.outside.vendor.authorization}
        if other:
            yield f"the vendor was shown other credentials than its own: {len(other)}"

    def _previews(self) -> Iterator[str]:
        """Each is offered once, in its own thread."""
        threads = {
            row["id"]: row["thread_ts"]
            for row in self.rows(
                "select previews.id, thread_ts from previews join sessions on sessions.id = session_id"
            )
        }
        offered: Counter[str] = Counter()
        for channel in self.slack.workspace.channels.values():
            for record in channel.messages.values():
                metadata = record.metadata or {}
                if metadata.get("event_type") == PREVIEW and not record.deleted:
                    known = str((metadata.get("event_payload") or {}).get("id"))
                    offered[known] += 1
                    if threads.get(known) != record.thread_ts:
                        yield f"the preview {known} is offered in another thread than its own"
        for known, times in offered.items():
            if times > 1:
                yield f"the preview {known} is offered {times} times"
        for known in threads.keys() - offered.keys():
            yield f"the preview {known} is not offered"
