"""What settings are declared with: `setting()`, and the kinds of values that people write."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from config.rules import parse_rules
from config.units import parse_dollars, parse_duration, parse_names, parse_retention, parse_size

Seconds = Annotated[float, BeforeValidator(parse_duration)]
Retention = Annotated[float | None, BeforeValidator(parse_retention)]  # seconds; None: for good
Bytes = Annotated[int, BeforeValidator(parse_size)]
Dollars = Annotated[float | None, BeforeValidator(parse_dollars)]  # None: no limit
Names = Annotated[tuple[str, ...], BeforeValidator(parse_names)]  # separated by commas or spaces
Rules = Annotated[tuple[str, ...], BeforeValidator(parse_rules)]  # in Claude Code's syntax

DAY = 86_400.0


class Slice(BaseModel):
    """Some settings that belong together: frozen, and handed only to the parts that need them."""

    model_config = ConfigDict(frozen=True)


def at_least(size: str, *, or_none: bool = False) -> AfterValidator:
    """For Annotated[Bytes, …]. `or_none`: 0, which is no limit, will do as well."""

    def check(value: int) -> int:
        if value < parse_size(size) and not (or_none and value == 0):
            raise ValueError(f"it has to be {size} at least" + (", or 0 for no limit" if or_none else ""))
        return value

    return AfterValidator(check)


def setting(names: str, default: Any, description: str, **limits: float) -> Any:
    """One attribute of a Slice.

    names: its name in the environment; further ones, which mean the same, after spaces.
    limits: pydantic's `ge`, `gt`, `le`.
    """
    return Field(default, description=description, json_schema_extra={"names": [*names.split()]}, **limits)  # type: ignore[call-overload]
