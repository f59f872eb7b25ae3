"""What functions take, and the form in which values are kept."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.gateway import functions, jsontext
from kvstore.gateway.errors import Refusal
from kvstore.gateway.functions import validated

PLACE = {"p_namespace": "n", "p_key": "k"}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
JSON = st.recursive(SCALARS | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20)


def hint(function: str, **body: Any) -> str | None:
    with pytest.raises(Refusal) as caught:
        validated(function, body)
    assert caught.value.message.endswith(".")
    return caught.value.hint


def value(text: str) -> str:
    return str(validated("kv_set", {**PLACE, "p_value": text})["p_value"])


@given(JSON)
def test_a_value_comes_back_equal_and_of_the_same_type(given: Any) -> None:
    found = json.loads(value(json.dumps(given)))
    assert found == given
    assert json.dumps(found) == json.dumps(given)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_stays_a_float_where_a_database_writes_its_digits_out(number: float) -> None:
    """jsonb gives a number's digits without an exponent back, as `numeric` has them."""
    from decimal import Decimal

    digits = f"{Decimal(value(json.dumps(number))):f}"
    assert json.loads(digits) == number


def test_the_form_is_compact_and_has_no_escapes_that_are_not_needed() -> None:
    assert value(' { "a" : [ 1 , 2.50 ] , "\\u00e9" : "\\ud83d\\ude00" } ') == '{"a":[1,2.5],"é":"😀"}'
    assert value('{"a":1,"a":2}') == '{"a":2}'
    assert value('"1e+300"') == '"1e+300"'
    assert value('["\\"1e+300", 1e22]') == '["\\"1e+300",10000000000000000000000.0]'


@pytest.mark.parametrize(
    "text",
    [
        "", "nul", "{", "NaN", "[Infinity]", "1e999", "-1e999", "9" * 310, "9" * 5000, "[1e400, 1]",
        "1" + "0" * 250 + "e99",
        '"\\u0000"', '{"\\u0000": 1}', '"\\\\\\u0000"', '"\\ud800"', '{"\\udc00": 1}', "[" * 129 + "]" * 129,
        '{"a":' * 129 + "1" + "}" * 129, "[" * 100_000,
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_text_that_is_no_value_is_refused(text: str) -> None:
    assert hint("kv_set", **PLACE, p_value=text) == "KV_INVALID"
    assert hint("kv_append", **PLACE, p_value=text) == "KV_INVALID"
    assert hint("kv_mset", p_namespace="n", p_entries=f'{{"a": {text}}}') == "KV_INVALID"
    assert hint("kv_transaction", p_operations=f'[{{"op": "set", "key": "k", "value": {text}}}]') == "KV_INVALID"


@pytest.mark.parametrize(
    "text",
    [
        "1.7976931348623157e308", "-" + "1" + "0" * 308, '"\\\\u0000"', "[" * 128 + "]" * 128, '"[[[[{{{{"', "5e-324",
        json.dumps([[n] for n in range(1000)]), json.dumps("[" * 1000),
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_values_at_the_limits_are_taken(text: str) -> None:
    assert json.loads(value(text)) == json.loads(text)


def test_the_limit_is_of_bytes_in_compact_form() -> None:
    assert len(value(" " * 100 + json.dumps("x" * 1_048_574))) == jsontext.MAX_VALUE_BYTES
    assert hint("kv_set", **PLACE, p_value=json.dumps("x" * 1_048_575)) == "KV_TOO_LARGE"
    value(json.dumps("é" * 524_287))
    assert hint("kv_set", **PLACE, p_value=json.dumps("é" * 524_288)) == "KV_TOO_LARGE"


@pytest.mark.parametrize("bad", ["", "\0", "a\0b", "\ud800", "é" * 257, "x" * 513, None, 1, ["a"], {}], ids=ascii)
def test_a_key_has_1_to_512_bytes_of_utf_8(bad: Any) -> None:
    assert hint("kv_get", p_namespace="n", p_key=bad) == "KV_INVALID"
    assert hint("kv_mget", p_namespace="n", p_keys=["a", bad]) == "KV_INVALID"
    assert hint("kv_delete", p_namespace="n", p_keys=[bad]) == "KV_INVALID"
    assert hint("kv_transaction", p_operations=json.dumps([{"op": "get", "key": bad}])) == "KV_INVALID"
    if isinstance(bad, str):
        assert hint("kv_mset", p_namespace="n", p_entries=json.dumps({bad: 1})) == "KV_INVALID"
    if bad not in ("", None):
        assert hint("kv_list", p_namespace="n", p_prefix=bad) == "KV_INVALID"
        assert hint("kv_list", p_namespace="n", p_cursor=bad) == "KV_INVALID"


def test_keys_and_namespaces_at_the_limits_are_taken() -> None:
    found = validated("kv_get", {"p_namespace": "x" * 256, "p_key": "é" * 256})
    assert found == {"p_namespace": "x" * 256, "p_key": "é" * 256, "p_worklet_id": None}
    assert hint("kv_get", p_namespace="x" * 257, p_key="k") == "KV_INVALID"
    assert validated("kv_mget", {"p_namespace": "n", "p_keys": ["b", "a", "b"]})["p_keys"] == ["b", "a"]
    assert len(validated("kv_mget", {"p_namespace": "n", "p_keys": [str(n) for n in range(1000)]})["p_keys"]) == 1000
    assert hint("kv_mget", p_namespace="n", p_keys=[str(n) for n in range(1001)]) == "KV_INVALID"
    assert hint("kv_mset", p_namespace="n", p_entries=json.dumps({str(n): n for n in range(1001)})) == "KV_INVALID"
    many = json.dumps([{"op": "get", "key": "k"}] * 1001)
    assert hint("kv_transaction", p_operations=many) == "KV_INVALID"


@pytest.mark.parametrize(
    ("function", "argument", "bad"),
    [
        *(("kv_set", "p_ttl", bad) for bad in (0, -1, 315_360_001, "1", True, math.inf, math.nan, 10**400, [])),
        *(("kv_set", "p_if_version", bad) for bad in (-1, 1.5, "1", True, 2**63)),
        *(("kv_set", "p_only_if_absent", bad) for bad in (1, "true")),
        *(("kv_list", "p_limit", bad) for bad in (0, 1001, 1.0, "1", True)),
        *(("kv_list", "p_values", bad) for bad in (1, "yes")),
        *(("kv_increment", "p_delta", bad) for bad in ("x", [], True, math.inf, math.nan, 10**400)),
        *(("kv_increment", "p_delta", bad) for bad in ("1e999", "1e99999999", "nan")),
        *(("kv_watch", "p_cursor", bad) for bad in ("", "-1", "x", "1-", "1-2-3", 1, "9" * 19, "١", "1\n")),
        *(("kv_watch", "p_wait", bad) for bad in (-1, 25.1, "1", math.nan)),
        *(("kv_stats", "p_worklet_id", bad) for bad in ("", "x", 1, "default")),
    ],
    ids=repr,
)  # fmt: skip
def test_what_an_argument_may_not_be_is_refused(function: str, argument: str, bad: Any) -> None:
    body = {"kv_set": {**PLACE, "p_value": "1"}, "kv_list": {"p_namespace": "n"}, "kv_increment": PLACE}.get(
        function, {}
    )
    validated(function, body)
    assert hint(function, **{**body, argument: bad}) == "KV_INVALID"


@pytest.mark.parametrize(
    "operation",
    [
        None, "set", {}, {"op": "drop", "key": "k"}, {"op": ["set"], "key": "k"}, {"op": "set", "key": "k"},
        {"op": "get"},
        {"op": "check", "key": "k"}, {"op": "check", "key": "k", "version": "1"}, {"op": "get", "key": "k", "value": 1},
        {"op": "set", "key": "k", "value": 1, "ttl": 0}, {"op": "set", "key": "k", "value": 1, "namespace": ""},
        {"op": "increment", "key": "k", "delta": "x"}, {"op": "delete", "key": "k", "ttl": 1},
    ],
    ids=str,
)  # fmt: skip
def test_an_operation_that_is_none_is_refused(operation: Any) -> None:
    assert hint("kv_transaction", p_operations=json.dumps([{"op": "get", "key": "k"}, operation])) == "KV_INVALID"


def test_arguments_that_contradict_each_other_are_refused() -> None:
    assert hint("kv_set", **PLACE, p_value="1", p_if_version=1, p_only_if_absent=True) == "KV_INVALID"
    assert hint("kv_delete", p_namespace="n", p_keys=["a", "b"], p_if_version=1) == "KV_INVALID"
    assert hint("kv_clear") == "KV_INVALID"  # all namespaces only where it says so
    assert validated("kv_clear", {"p_namespace": None})["p_namespace"] is None


def test_a_refusal_names_no_value() -> None:
    for function, body in (
        ("kv_set", {**PLACE, "p_value": "secret"}),
        ("kv_get", {"p_namespace": "n", "p_key": "secret\0"}),
        ("kv_get", {**PLACE, "secret": 1}),
        ("kv_increment", {**PLACE, "p_delta": "secret"}),
        ("kv_transaction", {"p_operations": '[{"op": "secret"}]'}),
        ("secret", {}),
    ):
        with pytest.raises(Refusal) as caught:
            validated(function, body)
        assert "secret" not in json.dumps(caught.value.body())


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30, places=10))
def test_an_increment_is_exact(number: Any) -> None:
    from decimal import Decimal

    assert Decimal(validated("kv_increment", {**PLACE, "p_delta": str(number)})["p_delta"]) == number


def test_what_was_taken_apart_goes_to_backends_as_text_and_in_parts() -> None:
    found = validated("kv_mset", {"p_namespace": "n", "p_entries": ' {"a": 1, "é": "x\\u00e9"}'})
    assert found["p_entries"] == '{"a":1,"é":"xé"}'
    assert functions.pairs(found) == functions.pairs(dict(found)) == [("a", "1"), ("é", '"xé"')]
    operations = [
        {"op": "check", "namespace": "n", "key": "k", "version": None},
        {"op": "set", "namespace": "default", "key": "k", "value": None, "ttl": 1.5},
        {"op": "increment", "namespace": "default", "key": "k", "delta": 0.1},
        {"op": "append", "namespace": "default", "key": "k", "value": [1]},
        {"op": "delete", "namespace": "default", "key": "k"},
    ]
    found = validated("kv_transaction", {"p_operations": json.dumps(operations)})
    assert json.loads(found["p_operations"]) == operations
    assert functions.steps(found) == functions.steps(dict(found))
