"""Human spellings of durations and sizes: "30m", "1h30m", "2g"."""

from __future__ import annotations

import math
import re

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATIONS = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ms|s|m|h|d))+")
_DURATION_LENGTH = 32  # characters: files of strangers have durations too
_LONGEST = 3660 * _SECONDS["d"]  # ten years: beyond some, timers and dates overflow
_SIZE = re.compile(r"(\d+)([bkmgt]?)b?")


def parse_duration(value: str | float) -> float:
    """Seconds of "90", 90, "45s", "30m", "1h30m" or "2d", ten years at most. Raises ValueError with an example."""
    if isinstance(value, int | float):
        seconds = float(value) if abs(value) <= _LONGEST else math.inf if value > 0 else -math.inf  # an int may be huge
    else:
        text = value.strip().lower().replace(" ", "")
        if len(text) > _DURATION_LENGTH:
            raise ValueError(f'{_quoted(value)} is not a duration; write it like "45s", "30m" or "1h30m"')
        if re.fullmatch(r"\d+(\.\d+)?", text):
            seconds = float(text)
        elif _DURATIONS.fullmatch(text):
            seconds = sum(float(n) * _SECONDS[unit] for n, unit in _DURATION.findall(text))
        else:
            raise ValueError(f'{_quoted(value)} is not a duration; write it like "45s", "30m" or "1h30m"')
    if not seconds > 0:
        raise ValueError(f'{_quoted(value)} is not a positive duration; write it like "45s", "30m" or "1h30m"')
    if seconds > _LONGEST:
        raise ValueError(f"{_quoted(value)} is longer than a duration may be, ten years")
    return seconds


def _quoted(value: object) -> str:
    """Short, on one line."""
    text = "".join(c if c.isprintable() else "·" for c in str(value)[: _DURATION_LENGTH + 1])
    return f'"{text[:_DURATION_LENGTH]}…"' if len(text) > _DURATION_LENGTH else f'"{text}"'


def parse_retention(value: str | float | None) -> float | None:
    """Seconds of a duration like "30d"; None, for "never" and "0": things are kept for good. Raises ValueError."""
    if value is None or str(value).strip().lower() in ("0", "never"):
        return None
    try:
        return parse_duration(value)
    except ValueError:
        raise ValueError(f'"{value}" is not a duration; write it like "30d" or "12h", or "never"') from None


def parse_names(value: object) -> tuple[str, ...]:
    """The names of "a, b c" or of a list, each once, in order. Raises ValueError for anything else."""
    if not isinstance(value, str | list | tuple):
        raise ValueError(f'"{value}" is not a list; write it like "U012AB3CD,U045EF6GH"')
    parts = re.split(r"[,\s]+", value) if isinstance(value, str) else [str(each).strip() for each in value]
    return tuple(dict.fromkeys(part for part in parts if part))


def parse_dollars(value: str | float | None) -> float | None:
    """US dollars of "5", "2.50" or "$5"; None for "never": no limit. Raises ValueError with an example."""
    text = "" if value is None else str(value).strip().lower().removeprefix("$").strip()
    if text in ("", "never"):
        return None
    if not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) <= 0:
        raise ValueError(f'"{value}" is not an amount in US dollars above 0; write it like "5" or "2.50", or "never"')
    return float(text)


def parse_size(value: str | int) -> int:
    """Bytes of "512m", "2g" or 1048576. Raises ValueError with an example."""
    match = _SIZE.fullmatch(str(value).strip().lower())
    if not match:
        raise ValueError(f'"{value}" is not a size; write it like "512m" or "2g"')
    return int(match[1]) * _BYTES[match[2]]


def format_duration(seconds: float) -> str:
    """The shortest usual spelling: "0.8s", "45s", "30m", "1h05m"."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if minutes else f"{hours}h"


def format_size(size: int) -> str:
    """The shortest usual spelling of so many bytes: "512 MiB", "1.5 GiB"."""
    amount, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.1f}".removesuffix(".0") + f" {units[0]}"
