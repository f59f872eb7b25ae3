"""What a failed Web API call means for whoever made it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from slack_sdk.errors import SlackApiError


class Meaning(Enum):
    LIMITED = auto()  # nothing happened; wait and do it again
    UNKNOWN = auto()  # it may have happened: look before doing it again
    GONE = auto()  # the message is not there any more, or not ours to change
    CONTENT = auto()  # these blocks will never do
    CHANNEL = auto()  # nothing can be said in this place
    TOKEN = auto()  # nothing can be said anywhere until somebody mends the app
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Refusal:
    """`seconds` is Slack's Retry-After. `error` is its error string, or the exception's name."""

    meaning: Meaning
    error: str
    seconds: float = 0.0


#: Error strings of docs.slack.dev's method pages.
_MEANINGS = {
    Meaning.LIMITED: ("ratelimited", "rate_limited", "message_limit_exceeded"),
    Meaning.UNKNOWN: ("internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org"),
    Meaning.GONE: ("message_not_found", "cant_update_message", "edit_window_closed", "cant_delete_message"),
    Meaning.CONTENT: (
        *("invalid_blocks", "invalid_blocks_format", "msg_too_long", "msg_blocks_too_long", "msg_blocks_too_many"),
        *("invalid_attachments", "no_text", "block_mismatch", "too_many_attachments"),
    ),
    Meaning.CHANNEL: (
        *("channel_not_found", "not_in_channel", "is_archived", "is_inactive", "messages_tab_disabled"),
        *("cannot_reply_to_message", "thread_not_found", "user_not_in_channel", "channel_type_not_supported"),
    ),
    Meaning.TOKEN: (
        *("not_authed", "invalid_auth", "account_inactive", "token_revoked", "token_expired", "missing_scope"),
        *("not_allowed_token_type", "team_access_not_granted", "ekm_access_denied", "org_login_required"),
    ),
}
_BY_ERROR = {error: meaning for meaning, errors in _MEANINGS.items() for error in errors}

_SENTENCES = {
    "not_in_channel": "I am not in this channel. Invite me with `/invite`, then ask again.",
    "channel_not_found": "I cannot see this conversation. Invite me to it, or ask in a channel or in my own messages.",
    "is_archived": "This channel is archived: nothing can be written here.",
    "is_inactive": "This channel is archived: nothing can be written here.",
    "messages_tab_disabled": "Direct messages with me are switched off in the app's settings.",
    "thread_not_found": "The thread does not exist any more.",
}


def refusal(error: BaseException) -> Refusal:
    """Reads an exception of `AsyncWebClient`: SlackApiError, a timeout, a broken connection, or anything else."""
    if isinstance(error, SlackApiError):
        return _answered(error)
    if isinstance(error, (TimeoutError, OSError)) or type(error).__module__.startswith("aiohttp"):
        return Refusal(Meaning.UNKNOWN, type(error).__name__)
    return Refusal(Meaning.OTHER, type(error).__name__)


def _answered(error: SlackApiError) -> Refusal:
    response = error.response
    status = getattr(response, "status_code", 200)
    data = getattr(response, "data", response)
    name = str(data.get("error", "")) if isinstance(data, dict) else ""
    if status == 429 or _BY_ERROR.get(name) is Meaning.LIMITED:
        return Refusal(Meaning.LIMITED, name or "ratelimited", _retry_after(response))
    if status >= 500:
        return Refusal(Meaning.UNKNOWN, name or f"HTTP {status}")
    if name.startswith("restricted_action"):
        return Refusal(Meaning.CHANNEL, name)
    return Refusal(_BY_ERROR.get(name, Meaning.OTHER), name or f"HTTP {status}")


def _retry_after(response: object) -> float:
    headers = getattr(response, "headers", {}) or {}
    value = next((value for key, value in headers.items() if key.lower() == "retry-after"), "")
    try:
        return max(1.0, float(value))
    except ValueError:
        return 10.0


def place_sentence(error: str) -> str:
    """Why nothing can be said in a place, for the person who asked."""
    return _SENTENCES.get(error, f"Slack does not let me write here ({error}). Ask in another channel.")
