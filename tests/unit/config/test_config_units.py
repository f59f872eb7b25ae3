import pytest

from config.units import format_duration, parse_dollars, parse_duration, parse_names, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("90", 90), (45, 45), ("1h30m", 5400), ("2d", 172800), ("500ms", 0.5)]
)
def test_durations(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "30x", "-5m", "0", "half an hour", "30m!"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


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
