"""What a refusal means for a message that streams, or may."""

from __future__ import annotations

import pytest

from bot.answer import Action, Answer, Message
from bot.nativestream import NativeStreams, Stream
from bot.refusals import Meaning, Refusal
from bot.schedule import Method
from sessions.types import SessionId, TurnId


def _refused(message: Message, method: Method, error: str, meaning: Meaning = Meaning.OTHER) -> tuple[bool, Answer]:
    answer = Answer(TurnId("t"), SessionId("s"), "D1", "1.0", "1.0", streaming=True)
    native = NativeStreams("auto", lambda _: None)
    return native.refused(answer, Action(method, message, None), Refusal(meaning, error)), answer


def test_a_message_that_cannot_be_changed_because_it_streams_is_stopped_first_but_not_for_ever() -> None:
    for method, error in ((Method.EDIT, "streaming_state_conflict"), (Method.DELETE, "cant_delete_message")):
        message = Message(0, "1.1")
        for _ in range(3):
            assert _refused(message, method, error, Meaning.GONE)[0]
            assert message.stream is not None
            assert message.stream.closing
        assert not _refused(message, method, error, Meaning.GONE)[0]


def test_a_message_that_does_not_stream_any_more_is_deleted_without_being_stopped() -> None:
    message = Message(0, "1.1", stream=Stream(0.0, closing=True))
    assert _refused(message, Method.DELETE, "message_not_in_streaming_state")[0]
    assert message.stream is None


def test_a_refused_start_is_no_stream_and_a_doubtful_append_is_its_last() -> None:
    handled, answer = _refused(Message(0), Method.START, "channel_type_not_supported", Meaning.CHANNEL)
    assert (handled, answer.streaming) == (True, False)
    message = Message(0, "1.1", stream=Stream(9e9))
    assert not _refused(message, Method.APPEND, "TimeoutError", Meaning.UNKNOWN)[0]
    assert message.stream is not None
    assert message.stream.closing


@pytest.mark.parametrize("meaning", [Meaning.LIMITED, Meaning.TOKEN])
@pytest.mark.parametrize("method", [Method.START, Method.APPEND, Method.STOP])
def test_what_is_to_be_tried_again_changes_nothing(method: Method, meaning: Meaning) -> None:
    message = Message(0, "1.1", stream=Stream(9e9))
    handled, answer = _refused(message, method, "whatever", meaning)
    assert not handled
    assert answer.streaming
    assert message.stream is not None
    assert not message.stream.closing
