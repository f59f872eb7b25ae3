"""Values, keys and `as_=`, without a server."""

from __future__ import annotations

import datetime
import enum
import json
import math
import sys
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from kvstore import KVValidationError
from kvstore.typed import convert
from kvstore.types import _plain_iso as plain_iso
from kvstore.types import moment
from kvstore.values import MAX_VALUE_BYTES, check_key, check_namespace, encode

_MAX_INT = int(sys.float_info.max)
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-_MAX_INT, _MAX_INT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT
)
VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner), max_leaves=30)


def same(ours: Any, theirs: Any) -> bool:
    """Equal, of the same kind, and -0.0 is not 0.0."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, float):
        return ours == theirs and math.copysign(1, ours) == math.copysign(1, theirs)
    return bool(ours == theirs)


@given(VALUES)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    text = encode(value)
    assert same(json.loads(text), value)
    text.encode()


@given(VALUES)
def test_a_text_does_not_depend_on_where_the_value_stands(value: Any) -> None:
    assert encode([value]) == f"[{encode(value)}]"
    assert encode({"a": value, "b": 1e16}) == f'{{"a":{encode(value)},"b":10000000000000000.0}}'


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_a_float_without_its_exponent_too(number: float) -> None:
    """As jsonb gives it back: digits without an exponent."""
    text = encode(number)
    assert "e+" not in text
    assert float(text) == number
    assert ("." in text) or ("e-" in text)


@given(st.integers())
def test_an_integer_is_kept_or_refused(number: int) -> None:
    if abs(number) <= _MAX_INT:
        assert encode(number) == str(number)
    else:
        with pytest.raises(KVValidationError):
            encode(number)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e16, "10000000000000000.0"),
        (-1e16, "-10000000000000000.0"),
        (1e15, "1000000000000000.0"),
        (1.2345678901234567e18, "1234567890123456800.0"),
        (1.7e308, "17" + "0" * 307 + ".0"),
        (5e-324, "5e-324"),
        (-0.0, "-0.0"),
        (2**53 + 1, "9007199254740993"),
        (_MAX_INT, str(_MAX_INT)),
        ([1e300, {"a": -1e22}], "[1" + "0" * 300 + '.0,{"a":-10000000000000000000000.0}]'),
        ("e+1e22 \\u0000", '"e+1e22 \\\\u0000"'),
        ((1, (2,)), "[1,[2]]"),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        ("é\u2028\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), '"é\u2028😀"'),
        ("", '""'),
        ("\x01\n\"\\", '"\\u0001\\n\\"\\\\"'),
    ],
)  # fmt: skip
def test_texts(value: Any, text: str) -> None:
    assert encode(value) == text


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


_CYCLE: list[Any] = []
_CYCLE.append(_CYCLE)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, [math.nan], {"a": math.inf}, 10**309, -(10**309), [_MAX_INT + 1],
     "a\0", ["\0"], {"\0": 1}, {"a": {"b": "\0"}}, "\ud800", ["x\udfff"], {"\ud83d": 1}, [1e300, "\ud800"],
     [1e300, "\0"], {1: 2}, {None: 1}, {(1,): 1}, {1, 2}, b"x", datetime.datetime.now(tz=datetime.UTC), Colour.RED,
     object(), print, int, _CYCLE, 1j, [[1e300, object()]], iter([]), range(3)],
    ids=lambda value: type(value).__name__,  # the same in each process of a run
)  # fmt: skip
def test_what_is_no_json_is_refused_without_being_shown(value: Any) -> None:
    with pytest.raises(KVValidationError) as caught:
        encode(value)
    assert caught.value.hint == "KV_INVALID"
    assert "x\udfff" not in str(caught.value)


def nested(depth: int, inner: Any = 1) -> Any:
    for turn in range(depth):
        inner = [inner] if turn % 2 else {"a": inner}
    return inner


def test_nesting_ends_at_128() -> None:
    assert json.loads(encode(nested(128))) == nested(128)
    assert json.loads(encode(nested(128, 1e300))) == nested(128, 1e300)
    for depth in (129, 500, 50_000):
        with pytest.raises(KVValidationError, match="nested 128 deep"):
            encode(nested(depth))


def test_size_is_that_of_the_compact_text_in_utf8() -> None:
    assert len(encode("x" * (MAX_VALUE_BYTES - 2))) == MAX_VALUE_BYTES
    encode("é" * ((MAX_VALUE_BYTES - 2) // 2))
    for value in (
        "x" * (MAX_VALUE_BYTES - 1),
        "é" * (MAX_VALUE_BYTES // 2),
        "\n" * (MAX_VALUE_BYTES // 2),
        [1] * 600_000,
    ):
        with pytest.raises(KVValidationError) as caught:
            encode(value)
        assert caught.value.hint == "KV_TOO_LARGE"


def test_subclasses_of_json_kinds_are_taken_for_what_they_are() -> None:
    class Text(str):
        __slots__ = ()

    assert encode([Level.HIGH, Text("x"), {Text("y"): Level.HIGH}, 1e300]) == f'[3,"x",{{"y":3}},1{"0" * 300}.0]'


@given(_TEXT)
def test_keys_and_namespaces_are_bounded_in_bytes(text: str) -> None:
    size = len(text.encode())
    for check, most in ((check_key, 512), (check_namespace, 256)):
        if 1 <= size <= most:
            assert check(text) == text
        else:
            with pytest.raises(KVValidationError):
                check(text)


@pytest.mark.parametrize("key", [None, 5, b"k", ["k"], "", "\0", "a\0b", "\ud800", "é" * 257, "k" * 513, True])
def test_bad_keys(key: Any) -> None:
    with pytest.raises(KVValidationError) as caught:
        check_key(key)
    assert caught.value.hint == "KV_INVALID"


# Python 3.10 reads only some forms of a time; PostgreSQL leaves zeros at the end of a fraction out.


@given(st.datetimes(timezones=st.just(datetime.UTC)))
def test_times_are_read_as_postgresql_writes_them(when: datetime.datetime) -> None:
    text = when.isoformat()
    short = text.replace("+00:00", "").rstrip("0") + "+00:00" if "." in text else text
    assert moment(short) == when
    assert datetime.datetime.fromisoformat(plain_iso(short)) == when
    assert datetime.datetime.fromisoformat(plain_iso(text.replace("+00:00", "Z"))) == when


def test_nanoseconds_are_cut_off() -> None:
    assert plain_iso("2026-01-02T03:04:05.123456789-05:30") == "2026-01-02T03:04:05.123456-05:30"


# as_=


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass
class Shape:
    name: str
    points: list[Point]
    by_name: dict[str, Point] = field(default_factory=dict)
    centre: Point | None = None
    when: datetime.datetime | None = None
    area: float = 0.0


class Model(BaseModel):
    name: str
    age: int = 0
    born: datetime.date | None = None


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


@pytest.mark.parametrize(
    ("value", "as_", "result"),
    [
        ({"x": 1, "later": True}, Point, Point(1)),
        ({"name": "s", "points": [{"x": 1}, {"x": 2, "y": 3}], "by_name": {"a": {"x": 5}}, "centre": {"x": 0}},
         Shape, Shape("s", [Point(1), Point(2, 3)], {"a": Point(5)}, Point(0))),
        ({"name": "s", "points": [], "centre": None, "area": 3}, Shape, Shape("s", [], area=3.0)),
        ({"name": "Ada", "born": "1815-12-10"}, Model, Model(name="Ada", born=datetime.date(1815, 12, 10))),
        ([{"name": "Ada"}], list[Model], [Model(name="Ada")]),
        ({"a": {"name": "Ada"}}, dict[str, Model], {"a": Model(name="Ada")}),
        (["1", 2], TypeAdapter(list[int]), [1, 2]),
        ({"title": "M"}, Movie, {"title": "M"}),
        ({"title": "M", "year": 1931, "extra": 1}, Movie, {"title": "M", "year": 1931, "extra": 1}),
        (5, int, 5), (5, float, 5.0), ("5", str, "5"), (True, bool, True), ([1], list, [1]), ({}, dict, {}),
        (None, int | None, None), (5, int | None, 5), ([1, None], list[int | None], [1, None]),
        ([1, 2], tuple[int, ...], (1, 2)), (None, type(None), None), ({"a": [1]}, Any, {"a": [1]}),
        ("2026-01-02", datetime.date.fromisoformat, datetime.date(2026, 1, 2)),
        ("red", Colour, Colour.RED), ([1, 1], set, {1}),
    ],
)  # fmt: skip
def test_conversion(value: Any, as_: Any, result: Any) -> None:
    assert convert(value, as_) == result
    if isinstance(result, float):
        assert isinstance(convert(value, as_), float)
    if isinstance(value, list | dict):
        assert json.loads(encode(value)) == value, "the value itself stays as it was"


@pytest.mark.parametrize(
    ("value", "as_", "words"),
    [
        ("hunter2", int, "it is a string"), ("hunter2", Point, "it is a string"), (True, int, "it is a boolean"),
        (1.5, int, "it is a number"), (None, str, "it is null"), (["hunter2"], dict, "it is a list"),
        ({"y": 1}, Point, "x missing"), ({"x": "hunter2"}, Point, "x: it is a string"),
        ({"name": "s", "points": [{"x": 1}, {"y": "hunter2"}]}, Shape, "points: in item 1, x missing"),
        ({"hunter2": {"x": None}}, dict[str, Point], "in an item, x: it is null"),
        ({"name": "hunter2", "age": "hunter2"}, Model, "age (int_parsing)"), ("hunter2", Model, "model_type"),
        ({"year": 1}, Movie, "title missing"), ({"title": 5}, Movie, "title: it is a number"),
        ("hunter2", datetime.date.fromisoformat, "ValueError"), ("hunter2", Colour, "ValueError"),
        ("hunter2", int | None, "it is a string"), (5, "int", "neither a type nor a callable"),
        ("hunter2", TypeAdapter(int), "int_parsing"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_without_the_value(value: Any, as_: Any, words: str) -> None:
    with pytest.raises(KVValidationError) as caught:
        convert(value, as_)
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.hint == "KV_TYPE"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Point(1, 2), '{"x":1,"y":2}'),
        ([Point(1, 2)], '[{"x":1,"y":2}]'),
        (Shape("s", [Point(1)], area=1e22), '{"name":"s","points":[{"x":1,"y":0}],"by_name":{},"centre":null,'
                                            '"when":null,"area":10000000000000000000000.0}'),
        (Model(name="Ada", born=datetime.date(1815, 12, 10)), '{"name":"Ada","age":0,"born":"1815-12-10"}'),
        ({"m": Model(name="\n")}, '{"m":{"name":"\\n","age":0,"born":null}}'),
    ],
)  # fmt: skip
def test_models_are_stored_as_objects(value: Any, text: str) -> None:
    assert encode(value) == text


def test_a_model_is_checked_like_any_value() -> None:
    for bad in (
        Shape("\0", []),
        Shape("s", [], when=datetime.datetime.now(tz=datetime.UTC)),
        [Model(name="\ud800")],
        Point,
    ):
        with pytest.raises(KVValidationError):
            encode(bad)
