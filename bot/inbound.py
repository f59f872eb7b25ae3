"""What Slack sends, read into values. Pure: no I/O, no clock.

Payload shapes are those of docs.slack.dev (Events API, message events, slash commands); a message's `ts` is a string
that names it within its channel and stays one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from sessions.types import Prompt, ThreadId

#: Subtypes that are a person's message all the same; every other one is an edit, a join, a bot's post and the like.
_SPOKEN = (None, "file_share", "thread_broadcast")
SUBCOMMANDS = ("help", "status", "stop", "sessions")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the app is in this workspace, as `auth.test` answers.

    `team` and `bot_name` are for people; `url` is the workspace's, ending in a slash.
    """

    team_id: str
    user_id: str
    bot_id: str
    team: str = ""
    bot_name: str = "flow"
    url: str = ""


@dataclass(frozen=True, slots=True)
class EmptyMention:
    """Somebody called the bot and asked nothing. `thread_ts` None: at the top of the channel."""

    thread: ThreadId
    user_id: str


@dataclass(frozen=True, slots=True)
class Subcommand:
    """`/flow` followed by one known word, or by nothing (help)."""

    name: str
    user_id: str
    channel: str


Inbound: TypeAlias = Prompt | EmptyMention | None


def read_message(event: Mapping[str, Any], me: Identity) -> Inbound:
    """An `app_mention` or `message` event. Both kinds of one message give the same Prompt, so that it is one turn.

    None: nothing that concerns the bot. Messages of bots, edits, joins and the bot's own never do.
    """
    if not _spoken_by_a_person(event, me):
        return None
    raw, channel, ts = str(event.get("text") or ""), str(event["channel"]), str(event["ts"])
    direct = event.get("channel_type") == "im" or channel.startswith("D")
    called = direct or event.get("type") == "app_mention" or _mention_of(me).search(raw) is not None
    root = str(event.get("thread_ts") or ts)
    if not called and root == ts:
        return None
    thread = ThreadId(me.team_id, channel, root)
    asked, repository, branch = _take_options(_mention_of(me).sub(" ", raw)) if called else (raw, None, None)
    text = _with_files(readable(asked).strip(), event.get("files") or [])
    if not text:
        here = ThreadId(me.team_id, channel, event.get("thread_ts"))
        return EmptyMention(here, str(event["user"])) if called else None
    return Prompt(thread, f"{channel}:{ts}", ts, str(event["user"]), text, called, repository, branch)


def read_command(body: Mapping[str, Any], me: Identity, ts: str) -> Prompt | Subcommand:
    """A `/flow` command at `ts` ("<seconds>.<6 digits>"): Slack's payload carries neither a thread nor a time."""
    raw = str(body.get("text") or "").strip()
    user, channel = str(body["user_id"]), str(body["channel_id"])
    if not raw or raw.lower() in SUBCOMMANDS:
        return Subcommand(raw.lower() or "help", user, channel)
    asked, repository, branch = _take_options(raw)
    text = readable(asked).strip()
    if not text:
        return Subcommand("help", user, channel)
    thread = ThreadId(me.team_id, channel, None)
    return Prompt(thread, f"cmd:{body['trigger_id']}", ts, user, text, True, repository, branch)


def _spoken_by_a_person(event: Mapping[str, Any], me: Identity) -> bool:
    return (
        event.get("subtype") in _SPOKEN
        and not event.get("bot_id")
        and not event.get("hidden")
        and not event.get("edited")  # Slack sends app_mention anew when an edit adds the mention
        and bool(event.get("user"))
        and event["user"] not in (me.user_id, "USLACKBOT")
    )


def _mention_of(me: Identity) -> re.Pattern[str]:
    return re.compile(rf"\s*<@{re.escape(me.user_id)}(?:\|[^<>]*)?>[ \t]*")


def _with_files(text: str, files: list[Mapping[str, Any]]) -> str:
    if not files:
        return text
    names = ", ".join(str(file.get("name") or file.get("title") or "a file") for file in files)
    return f"{text}\n\n(Attached in Slack, not readable from here: {names})".strip()


# ---- repo= and branch= -------------------------------------------------------------------------------------------

# Slack wraps what looks like an address in <…>, and cuts ssh addresses: repo=<mailto:git@host|git@host>:owner/name.git
_OPTION = re.compile(r"(?<!\S)(repo|branch)=((?:<[^<>\s]*>|[^\s<>])+)(?:\s+|$)")
_WRAPPED = re.compile(r"<([^<>|]*)(?:\|[^<>]*)?>")


def _take_options(raw: str) -> tuple[str, str | None, str | None]:
    """The text without its options, the repository and the branch. A `branch=` without a `repo=` is plain text."""
    found = {match[1]: match for match in _OPTION.finditer(raw)}
    values = {name: _value(match[2]) for name, match in found.items()}
    if not re.search(r"[/:]", values.get("repo", "")):
        return raw, None, None
    taken = sorted((match.span() for match in found.values()), reverse=True)
    for start, end in taken:
        raw = raw[:start] + raw[end:]
    return raw, values["repo"], values.get("branch")


def _value(token: str) -> str:
    return unescape(_WRAPPED.sub(lambda match: match[1].removeprefix("mailto:"), token))


# ---- text --------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"<([@#!]?)([^<>|]*)(?:\|([^<>]*))?>")


def unescape(text: str) -> str:
    """Slack escapes `&`, `<` and `>` in what people type, once; undone once."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def readable(text: str) -> str:
    """Message text as its writer saw it: references by name where Slack tells it, links with their address."""
    out, end = [], 0
    for match in _TOKEN.finditer(text):
        out += [unescape(text[end : match.start()]), unescape(_shown(match[1], match[2], match[3]))]
        end = match.end()
    return "".join([*out, unescape(text[end:])])


def _shown(sigil: str, target: str, label: str | None) -> str:
    if sigil in ("@", "#") and sigil:
        return sigil + (label or target).lstrip(sigil)
    if sigil == "!":  # <!here>, <!subteam^S1|@team>, <!date^…|fallback>
        return label or "@" + target.split("^")[0]
    address = target.removeprefix("mailto:")
    if not label or label == address or re.sub(r"^https?://", "", address).rstrip("/") == label.rstrip("/"):
        return address
    return f"{label} ({address})"
