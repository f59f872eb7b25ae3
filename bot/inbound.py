"""What Slack sends, read into values. Pure: no I/O, no clock.

Payload shapes are those of docs.slack.dev (Events API, message events, slash commands); a message's `ts` is a string
that names it within its channel and stays one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from bot.fileobjects import attached, named
from bot.spelling import nearest
from sessions.types import Attached, Prompt, ThreadId

#: Subtypes that are a person's message all the same; every other one is an edit, a join, a bot's post and the like.
_SPOKEN = (None, "file_share", "thread_broadcast")
_SPOKEN_BY_APPS = (*_SPOKEN, "bot_message")
SUBCOMMANDS = (
    "help", "new", "status", "stop", "sessions", "sessions all", "quiet", "normal", "verbose", "templates",
    "template new", "egress", "rules", "repos",
)  # fmt: skip


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
class StopWord:
    """Somebody wrote `stop` and nothing else. `thread.thread_ts` None: not in a thread. `called`: with a mention."""

    thread: ThreadId
    source_id: str
    ts: str
    user_id: str
    called: bool


@dataclass(frozen=True, slots=True)
class Said:
    """Something in a thread that is meant for others. `markup`: Slack's own form of the text, files named.

    `author`: a name, of an app; None for a person, whose name Slack does not send along.
    """

    thread: ThreadId
    source_id: str
    ts: str
    user_id: str
    author: str | None
    markup: str


@dataclass(frozen=True, slots=True)
class Amendment:
    """A message was edited, or deleted (`text` None). `text` is read like a prompt's.

    `aside`: its text as Slack's markup, if it is meant for others now. `files`: those that it has now.
    `addressed`: it is, or was, for the bot.
    """

    thread: ThreadId
    source_id: str
    text: str | None
    edited_ts: str
    aside: str | None
    addressed: bool
    files: tuple[Attached, ...] = ()


@dataclass(frozen=True, slots=True)
class Subcommand:
    """`/flow` followed by one known word, or by nothing (help).

    "stop all" for `stop everything` and the like; "stop what" for `stop` with other words: nobody may start a session
    who wants an end of one.
    """

    name: str
    user_id: str
    channel: str
    words: str = ""  # of `/flow templates`: what is looked for


@dataclass(frozen=True, slots=True)
class StartFrom:
    """`/flow start <word> …`: from the template of that name, if there is one; else it is for Claude, as `plain`.

    `prompt` is without the word, and its text may be empty.
    """

    prompt: Prompt
    plain: Prompt


@dataclass(frozen=True, slots=True)
class Misspelt:
    """`/flow` followed by one word that is nearly a known one."""

    word: str
    meant: str


Inbound: TypeAlias = Prompt | EmptyMention | StopWord | Said | None


def read_message(event: Mapping[str, Any], me: Identity, *, late: bool = False) -> Inbound:
    """An `app_mention` or `message` event. Both kinds of one message give the same value, so that it is one turn.

    None: nothing that concerns the bot. Edits, joins and the bot's own messages never do. `late`: a message that
    `conversations.replies` or `.history` gave, with "channel" added; it may have been edited meanwhile.
    """
    if not _spoken(event, me, late):
        return None
    channel, ts = str(event["channel"]), str(event["ts"])
    root = str(event.get("thread_ts") or ts)
    words, source_id = _words(event, me), f"{channel}:{ts}"
    if _by_an_app(event) or (not words.called and _for_others(words.markup)):
        thread = ThreadId(me.team_id, channel, root)
        return None if root == ts else Said(thread, source_id, ts, _who(event), _app_name(event), words.markup)
    if not words.called and root == ts:
        return None
    here = ThreadId(me.team_id, channel, event.get("thread_ts"))
    if _STOP.fullmatch(words.text):
        return StopWord(here, source_id, ts, str(event["user"]), words.called)
    if not words.text and words.asked.template is None:
        return EmptyMention(here, str(event["user"])) if words.called else None
    thread = ThreadId(me.team_id, channel, root)
    user, files = str(event["user"]), attached(event.get("files") or [])
    return words.asked.prompt(Prompt(thread, source_id, ts, user, words.text, words.called, files=files))


def said_by(message: Mapping[str, Any], thread: ThreadId, me: Identity) -> Said | None:
    """A message that `conversations.replies` gave, with "channel" added, whoever it is for. None: nobody's words."""
    markup = _words(message, me).markup
    if not markup or not _spoken(message, me, late=True):
        return None
    source_id, ts = f"{message['channel']}:{message['ts']}", str(message["ts"])
    return Said(thread, source_id, ts, _who(message), _app_name(message), markup)


def read_edit(event: Mapping[str, Any], me: Identity) -> Amendment | None:
    """A `message_changed` or `message_deleted` event. None: the words stayed the same, or the message is the bot's.

    Slack tells also of unfurled links as a change, and of a deleted root with replies as one into a tombstone.
    """
    before: Mapping[str, Any] = event.get("previous_message") or {}
    after: Mapping[str, Any] = event.get("message") or {}
    deleted = event["subtype"] == "message_deleted" or after.get("subtype") == "tombstone"
    ts = str(event.get("deleted_ts") or after.get("ts") or before.get("ts") or "")
    if not ts or _is_mine(before, me) or _is_mine(after, me) or (not before and deleted):
        return None
    here = {"channel": event["channel"], "channel_type": event.get("channel_type")}
    was, now = _words({**before, **here}, me), _words({**after, **here}, me)
    if not deleted and (was.markup == now.markup or (not now.text and now.asked.template)):
        return None  # the second: what is asked is the template's, and it was taken when the message came
    channel = str(event["channel"])
    root = str(after.get("thread_ts") or before.get("thread_ts") or ts)
    others = not deleted and (_by_an_app(after) or (not now.called and _for_others(now.markup)))
    return Amendment(
        ThreadId(me.team_id, channel, root),
        f"{channel}:{ts}",
        None if deleted else now.text or None,  # nothing but a mention is left: nothing is asked
        str((after.get("edited") or {}).get("ts") or event.get("event_ts") or event.get("ts")),
        now.markup if others else None,
        was.called or (now.called and not deleted),
        () if deleted else attached(after.get("files") or []),
    )


def read_command(body: Mapping[str, Any], me: Identity, ts: str) -> Prompt | Subcommand | StartFrom | Misspelt:
    """A `/flow` command at `ts` ("<seconds>.<6 digits>"): Slack's payload carries neither a thread nor a time."""
    raw = str(body.get("text") or "").strip()
    user, channel = str(body["user_id"]), str(body["channel_id"])
    if not raw or raw.lower() in SUBCOMMANDS:
        return Subcommand(raw.lower() or "help", user, channel)
    if found := _STOP_WHAT.fullmatch(raw):
        what = "all" if _ALL.match(found[1]) else "what"
        return Subcommand(f"stop {what}" if found[1] else "stop", user, channel)
    if found := _TEMPLATES.fullmatch(raw):
        return Subcommand("templates", user, channel, (found[1] or "").strip())
    if (meant := nearest(raw.lower(), SUBCOMMANDS)) is not None:
        return Misspelt(raw, meant)

    def prompt(said: str) -> Prompt:
        rest, asked = _take_options(said)
        thread = ThreadId(me.team_id, channel, None)
        made = Prompt(thread, f"cmd:{body['trigger_id']}", ts, user, readable(rest).strip(), True)
        return asked.prompt(made)

    plain = prompt(raw)
    if found := _START_FROM.match(raw):
        return StartFrom(replace(prompt(raw[found.end() :]), template=found[1].lower()), plain)
    return plain if plain.text or plain.template else Subcommand("help", user, channel)


# ---- who speaks, and to whom -------------------------------------------------------------------------------------

_STOP = re.compile(r"stop\s*[.!]*", re.IGNORECASE)
_STOP_WHAT = re.compile(r"stop[\s,:!.]+(.*)", re.IGNORECASE | re.DOTALL)
_ALL = re.compile(r"(?:all|everything)\b", re.IGNORECASE)
#: More words than this look for nothing: they are for Claude.
_TEMPLATES = re.compile(r"(?:templates((?:\s+\S+){0,3})|start)", re.IGNORECASE)
_START_FROM = re.compile(r"start\s+([a-z0-9][a-z0-9._-]*)(?:\s+|$)", re.IGNORECASE)
_OTHERS = re.compile(r"\s*<(?:@|!subteam\^|!here|!channel|!everyone)[^<>]*>")


@dataclass(frozen=True, slots=True)
class _Words:
    """`markup`: as Slack has it, files named. `text`: what is asked, when it is for the bot."""

    markup: str
    text: str
    called: bool
    asked: _Options


def _words(event: Mapping[str, Any], me: Identity) -> _Words:
    raw, channel = str(event.get("text") or ""), str(event["channel"])
    direct = event.get("channel_type") == "im" or channel.startswith("D")
    called = direct or event.get("type") == "app_mention" or _mention_of(me).search(raw) is not None
    text, asked = _take_options(_mention_of(me).sub(" ", raw)) if called else (raw, _Options())
    files = event.get("files") or []
    markup = _with_files(raw.strip(), files, "Attached in Slack, not readable from here")
    return _Words(markup, _with_files(readable(text).strip(), files, "Attached"), called, asked)


def _spoken(event: Mapping[str, Any], me: Identity, late: bool) -> bool:
    return (
        event.get("subtype") in (_SPOKEN_BY_APPS if _by_an_app(event) else _SPOKEN)
        and not event.get("hidden")
        and (late or not event.get("edited"))  # Slack sends app_mention anew when an edit adds the mention
        and bool(_who(event))
        and not _is_mine(event, me)
        and event.get("user") != "USLACKBOT"
    )


def _is_mine(message: Mapping[str, Any], me: Identity) -> bool:
    return message.get("user") == me.user_id or (bool(me.bot_id) and message.get("bot_id") == me.bot_id)


def _by_an_app(message: Mapping[str, Any]) -> bool:
    return bool(message.get("bot_id"))


def _who(message: Mapping[str, Any]) -> str:
    return str(message.get("user") or message.get("bot_id") or "")


def _app_name(message: Mapping[str, Any]) -> str | None:
    if not _by_an_app(message):
        return None
    return str((message.get("bot_profile") or {}).get("name") or message.get("username") or "an app")


def _for_others(markup: str) -> bool:
    """It begins by mentioning somebody; who also mentions the bot means the bot."""
    return _OTHERS.match(markup) is not None


def without_mention(markup: str, me: Identity) -> str:
    return _mention_of(me).sub(" ", markup).strip()


def _mention_of(me: Identity) -> re.Pattern[str]:
    return re.compile(rf"\s*<@{re.escape(me.user_id)}(?:\|[^<>]*)?>[ \t]*")


def _with_files(text: str, files: list[Mapping[str, Any]], how: str) -> str:
    """What is said to others brings no files with it: they are only named."""
    names = named(files)
    return f"{text}\n\n({how}: {names})".strip() if names else text


# ---- repo=, branch= and template= --------------------------------------------------------------------------------

# Slack wraps what looks like an address in <…>, and cuts ssh addresses: repo=<mailto:git@host|git@host>:owner/name.git
_OPTION = re.compile(r"(?<!\S)(repo|branch|template)=((?:<[^<>\s]*>|[^\s<>])+)(?:\s+|$)")
_WRAPPED = re.compile(r"<([^<>|]*)(?:\|[^<>]*)?>")


_REPOSITORY = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # a name of FLOW_REPOSITORIES
_TEMPLATE = re.compile(r"[a-z0-9][a-z0-9._-]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Options:
    repository: str | None = None
    branch: str | None = None
    template: str | None = None

    def prompt(self, prompt: Prompt) -> Prompt:
        """The same with these."""
        return replace(prompt, repository=self.repository, branch=self.branch, template=self.template)


def _take_options(raw: str) -> tuple[str, _Options]:
    """The text without its options, and those.

    A `branch=` without one of the others is plain text, and so are a `template=` and a repository's name that other
    words stand before.
    """
    found = {match[1]: match for match in _OPTION.finditer(raw)}
    values = {name: _value(match[2]) for name, match in found.items()}

    def is_said(name: str) -> bool:
        """Other words stand before it."""
        return bool(_OPTION.sub("", raw[: found[name].start()]).strip())

    named = values.get("repo", "")
    if not re.search(r"[/:]", named) and (not _REPOSITORY.fullmatch(named) or is_said("repo")):
        values.pop("repo", None)
    if not _TEMPLATE.fullmatch(values.get("template", "")) or is_said("template"):
        values.pop("template", None)
    if "repo" not in values and "template" not in values:
        return raw, _Options()
    for start, end in sorted((found[name].span() for name in values), reverse=True):
        raw = raw[:start] + raw[end:]
    template = values.get("template")
    return raw, _Options(values.get("repo"), values.get("branch"), template.lower() if template else None)


def _value(token: str) -> str:
    return unescape(_WRAPPED.sub(lambda match: match[1].removeprefix("mailto:"), token))


# ---- text --------------------------------------------------------------------------------------------------------

#: What Slack puts into angle brackets; all else in such is people's own: `#include <stdio.h>` and `<h1>` in a command.
_TOKEN = re.compile(
    r"<(?:(?=[@#])|(?=!(?:here|channel|everyone|subteam\^|date\^))|(?=[a-zA-Z][a-zA-Z0-9+.-]*://|(?:mailto|tel|sms):))"
    r"([@#!]?)([^<>|]*)(?:\|([^<>]*))?>"
)


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
