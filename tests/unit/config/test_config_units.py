import math

import pytest

from config.units import format_duration, parse_dollars, parse_duration, parse_names, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("90", 90), (45, 45), ("1h30m", 5400), ("2d", 172800), ("500ms", 0.5)]
)
def test_durations(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "30x", "-5m", "0", "half an hour", "30m!", "1.0e999", "1m\n<!channel>"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e300, 10**400, "9" * 32, "999999999d", "1.0e999"])
def test_a_duration_that_no_timer_can_hold(value: str | float) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(value)


def test_a_long_text_is_no_duration_and_costs_nothing() -> None:
    # The time grew with the square of the length: here it would be hours.
    for text in ("1" * 2_000_000, "1" * 2_000_000 + "x", "1m" * 1_000_000):
        with pytest.raises(ValueError, match=r'^"1[1m]{31}…" is not a duration') as told:
            parse_duration(text)
        assert len(str(told.value)) < 120


@pytest.mark.parametrize(("text", "size"), [("512m", 512 << 20), ("2g", 2 << 30), ("2GB", 2 << 30), (1024, 1024)])
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.84, "0.8s"), (45, "45s"), (61, "1m01s"), (1800, "30m"), (3900, "1h05m"), (7200, "2h")]
)
def test_formatting(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("value", ["U1,U2", " U1, U2 U1 ,", ["U1", "U2"], ("U1 ", "U2")])
def test_names(value: object) -> None:
    assert parse_names(value) == ("U1", "U2")


def test_what_is_no_list_of_names() -> None:
    assert parse_names("") == ()
    with pytest.raises(ValueError, match="not a list"):
        parse_names(5)


@pytest.mark.parametrize(("given", "dollars"), [("5", 5.0), ("$2.50", 2.5), (3, 3.0), ("never", None), (None, None)])
def test_dollars(given: str | float | None, dollars: float | None) -> None:
    assert parse_dollars(given) == dollars


@pytest.mark.parametrize("given", ["0", "-1", "five", "1e3"])
def test_what_is_no_amount_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_dollars(given)
