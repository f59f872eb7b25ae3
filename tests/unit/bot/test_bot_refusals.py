"""What failed calls mean."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from bot.errors import sentence_for
from bot.refusals import Meaning, place_sentence, refusal
from sessions.errors import StoreUnavailable


def answer(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> SlackApiError:
    response = AsyncSlackResponse(
        client=None, http_verb="POST", api_url="", req_args={}, data=data, headers=headers or {}, status_code=status
    )
    return SlackApiError("failed", response)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (answer({"ok": False, "error": "internal_error"}), Meaning.UNKNOWN),
        (answer("<html>", 502), Meaning.UNKNOWN),
        (TimeoutError(), Meaning.UNKNOWN),
        (aiohttp.ServerDisconnectedError(), Meaning.UNKNOWN),
        (ConnectionResetError(), Meaning.UNKNOWN),
        (answer({"ok": False, "error": "message_not_found"}), Meaning.GONE),
        (answer({"ok": False, "error": "invalid_blocks"}), Meaning.CONTENT),
        (answer({"ok": False, "error": "is_archived"}), Meaning.CHANNEL),
        (answer({"ok": False, "error": "restricted_action_read_only_channel"}), Meaning.CHANNEL),
        (answer({"ok": False, "error": "token_revoked"}), Meaning.TOKEN),
        (answer({"ok": False, "error": "whatever"}), Meaning.OTHER),
        (KeyError("x"), Meaning.OTHER),
    ],
)
def test_meanings(error: Exception, meaning: Meaning) -> None:
    assert refusal(error).meaning is meaning


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (answer({"ok": False, "error": "ratelimited"}, 429, {"Retry-After": "7"}), 7.0),
        (answer("slow down", 429, {"retry-after": "1.5"}), 1.5),
        (answer({}, 429), 10.0),
        (answer({"ok": False, "error": "rate_limited"}, 200, {"Retry-After": "soon"}), 10.0),
    ],
)
def test_retry_after(error: Exception, seconds: float) -> None:
    said = refusal(error)
    assert (said.meaning, said.seconds) == (Meaning.LIMITED, seconds)


def test_places_say_what_to_do() -> None:
    assert "/invite" in place_sentence("not_in_channel")
    assert "restricted_action" in place_sentence("restricted_action")


def test_people_get_sentences_and_a_reference_but_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert "FLOW_DSN" in sentence_for(StoreUnavailable(), "x")
    said = sentence_for(ZeroDivisionError("secret detail"), "x")
    assert said.startswith("Something went wrong on my side (reference ")
    assert "secret" not in said
    reference = said.split("reference ")[1].split(")")[0]
    assert reference in capsys.readouterr().out
