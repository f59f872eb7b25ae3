"""Tokens and dollars in the CLI's lines."""

from __future__ import annotations

import json

from worklets.events import Spent, Usage, dump, load
from worklets.usage import dollars_so_far, of_result
from worklets.wire import Decoder


def stream(kind: str, **fields: object) -> str:
    return json.dumps({"type": "stream_event", "event": {"type": kind, **fields}})


def test_each_answer_of_the_api_is_told_in_tokens() -> None:
    decoder = Decoder()
    start = {"id": "m1", "usage": {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 1}}
    assert decoder.feed(stream("message_start", message=start)) == []
    spent = decoder.feed(stream("message_delta", delta={}, usage={"output_tokens": 20}))
    assert spent == [Spent(Usage(9, 20, 4))]
    assert decoder.feed(stream("message_delta", delta={}, usage={"output_tokens": "many"})) == []
    assert load(json.loads(json.dumps(dump(spent[0])))) == spent[0]


def test_a_sub_agents_message_counts_once() -> None:
    message = {"id": "m2", "usage": {"input_tokens": 5, "output_tokens": 1}, "content": []}
    line = json.dumps({"type": "assistant", "parent_tool_use_id": "t1", "message": message})
    decoder = Decoder()
    assert decoder.feed(line) == [Spent(Usage(5, 1))]
    assert decoder.feed(line) == []


def test_the_cli_guesses_for_models_without_a_list_price() -> None:
    known = {"inputTokens": 10, "outputTokens": 2, "costUSD": 0.5, "costBasis": "list"}
    guess = {"inputTokens": 10, "outputTokens": 2, "costUSD": 0.7, "costBasis": "unknown"}
    assert of_result({"model_usage_since_last_result": {"a": known}}) == Usage(10, 2, cost=0.5)
    assert of_result({"model_usage_since_last_result": {"a": known, "b": guess}}) == Usage(20, 4, cost=None)
    assert of_result({}) == Usage()
    assert dollars_so_far({"session": {"model_usage": {"a": known}}}) == 0.5
    assert dollars_so_far({"session": {"model_usage": {"a": guess}}}) is None
    assert dollars_so_far({"session": {"model_usage": {}}}) == 0.0
    assert dollars_so_far({"session": "?"}) is None
