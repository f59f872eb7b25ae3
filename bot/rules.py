"""Permission rules by people's word ("Allow for this session", "Always for this channel"): listed, and taken back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slack_bolt.async_app import AsyncApp

from bot.below import person
from bot.door import Ack, Door, Respond
from bot.errors import sentence_for
from bot.markdown import clip, escape
from bot.parts import Block, actions, button, context, fallback, section
from bot.plaintext import flat, visible
from bot.threadwords import Word
from config.logging import get_logger
from sessions.policy import server_meant
from sessions.rulestore import StoredRule
from sessions.types import Session, SessionId

log = get_logger(__name__)

REVOKE = "rule_revoke"  # its value: the rule's id, the id of the session in whose thread it is listed, the first shown
PAGE = "rule_page"  # its value: the first rule to show, the session's id
_SHOWN = 20
_HEAD, _TAIL = 240, 60  # characters of a rule: 20 of them fit into a message
_VERBS = {"allow": "allowed without asking", "ask": "asked for each time", "deny": "refused"}
_WHERE = {"session": "in this thread", "channel": "in all threads of the channel", "workspace": "everywhere"}


def rules_blocks(rules: Sequence[StoredRule], where: str, session_id: str = "", first: int = 0) -> list[Block]:
    """mrkdwn: `where` is "in this channel" or the like. The session's own before all others, then the newest first.

    20 from `first` on, with buttons that lead to the others.
    """
    if not rules:
        return [section(f"Nobody has decided {where} what Claude may do without asking, beyond the settings.")]
    newest = rules[::-1]
    ordered = sorted(newest, key=lambda rule: rule.scope != "session")
    first = min(max(first, 0), len(rules) - 1) // _SHOWN * _SHOWN
    blocks: list[Block] = [section(f"*What Claude may do {where} by people's word*, beyond the settings:")]
    for rule in ordered[first : first + _SHOWN]:
        when = f"<!date^{int(rule.at.timestamp())}^{{date_short_pretty}}|{rule.at:%Y-%m-%d}>"
        what = f"{_shown(rule.rule)}: {_VERBS[rule.behavior]} {_WHERE[rule.scope]}{_server(rule)}"
        value = f"{rule.id} {session_id} {first or ''}".rstrip()
        blocks += [
            section(f"{what}, by {person(rule.by)}, {when}"),
            actions(button(f"{REVOKE}_{len(blocks)}", "Revoke", value)),
        ]
    if len(rules) > _SHOWN:
        last = min(first + _SHOWN, len(rules))
        blocks.append(context(f"{first + 1} to {last} of {len(rules)}."))
        back = [button(f"{PAGE}_back", "Before these", f"{first - _SHOWN} {session_id}".rstrip())] if first else []
        on = [button(f"{PAGE}_on", "More", f"{last} {session_id}".rstrip())] if last < len(rules) else []
        blocks.append(actions(*back, *on))
    return blocks


def _shown(rule: str) -> str:
    """With its end where it is long: rules may begin alike."""
    text = flat(visible(rule)).replace("`", "'")
    if len(text) <= _HEAD + _TAIL:
        return f"`{clip(text, _HEAD + _TAIL)}`"
    return f"`{clip(text[:-_TAIL], _HEAD)}{escape(text[-_TAIL:])}`"


def _server(rule: StoredRule) -> str:
    """Which MCP server the rule is for: rules of one text may be for several, and for one that is no more."""
    kind, _, name = (server_meant(rule) or "").partition(":")
    match kind:
        case "":
            return ""
        case "builtin":
            return f", for the built-in server `{clip(flat(visible(name)).replace('`', chr(39)), 40)}`"
        case "own":
            return f", for the repository's own server as it was then (`{name[:8]}`)"
        case _:
            return ", for a server that there was not"


async def channel_blocks(door: Door, channel: str, first: int = 0) -> list[Block]:
    """For `/flow rules`. Raises StoreUnavailable."""
    rules = await door.sessions.channel_rules(door.me.team_id, channel)
    return rules_blocks(rules, "in this channel", first=first)


async def session_blocks(door: Door, session_id: SessionId, first: int = 0) -> list[Block]:
    """For the word `rules` in a thread. Raises StoreUnavailable, SessionNotFound."""
    return rules_blocks(await door.sessions.rules(session_id), "in this thread", session_id, first)


async def tell_in_thread(door: Door, session: Session, word: Word) -> str:
    """What the word `rules` does: lists, for whoever wrote it."""
    blocks = await session_blocks(door, session.id)
    await door.whisper(session.thread, word.user_id, fallback(blocks), blocks)
    return ""


def register(app: AsyncApp, door: Door) -> None:
    async def revoke(ack: Ack, body: dict[str, Any], action: dict[str, Any], respond: Respond) -> None:
        await ack()
        rule_id, session_id, first = _values(action, 3)
        listing = _Listing(door, session_id, _number(first), _channel(body), respond)
        door.after.start(_revoke(listing, rule_id, str(body["user"]["id"])), REVOKE)

    async def page(ack: Ack, body: dict[str, Any], action: dict[str, Any], respond: Respond) -> None:
        await ack()
        first, session_id = _values(action, 2)
        door.after.start(_Listing(door, session_id, _number(first), _channel(body), respond).show(), PAGE)

    app.action(re.compile(rf"{REVOKE}_\d+"))(revoke)
    app.action(re.compile(rf"{PAGE}_(back|on)"))(page)


@dataclass(frozen=True, slots=True)
class _Listing:
    """A list that somebody looks at: a thread's or, with `session_id` "", a channel's."""

    door: Door
    session_id: str
    first: int
    channel: str
    respond: Respond

    async def show(self) -> None:
        """In its message, as it is now. Raises nothing of ours."""
        try:
            if self.session_id:
                blocks = await session_blocks(self.door, SessionId(self.session_id), self.first)
            else:
                blocks = await channel_blocks(self.door, self.channel, self.first)
        except Exception as error:  # noqa: BLE001 - worded for the person who pressed
            await self.tell(sentence_for(error, PAGE))
            return
        await self.respond(text=fallback(blocks), blocks=blocks, response_type="ephemeral", replace_original=True)

    async def tell(self, text: str) -> None:
        await self.respond(text=text, response_type="ephemeral", replace_original=False)


async def _revoke(listing: _Listing, rule_id: str, user_id: str) -> None:
    """That Claude asks again is everybody's to want; that it asks less, or a rule for everybody, is an admin's."""
    door = listing.door
    try:
        rule = await door.sessions.rule(rule_id)
        narrows = rule is None or (rule.behavior == "allow" and rule.scope != "workspace")
        if not narrows and not door.access.is_admin(user_id):
            log.info("somebody who is no admin tried to take a rule back", rule=rule_id, by=user_id)
            await listing.tell(f"Only admins take this rule back. {door.access.whom_to_ask()}")
            return
        await door.sessions.remove_rule(rule_id, user_id)
    except Exception as error:  # noqa: BLE001 - worded for the person who pressed
        await listing.tell(sentence_for(error, REVOKE))
        return
    await listing.show()


def _values(action: dict[str, Any], count: int) -> list[str]:
    """Of a button: so many words, "" for what it has not."""
    return [*str(action.get("value", "")).split(" "), *[""] * count][:count]


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _channel(body: dict[str, Any]) -> str:
    return str((body.get("channel") or {}).get("id", ""))
