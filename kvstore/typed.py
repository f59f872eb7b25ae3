"""`as_=`: a value as an object of the caller's own type."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from kvstore.errors import KVValidationError

_JSON_KINDS = (str, int, float, bool, list, dict)


def convert(value: Any, as_: Any) -> Any:
    """`value` as `as_` says. Raises KVValidationError (hint KV_TYPE), which tells the place but not the value.

    `as_` may be a pydantic model or TypeAdapter, a dataclass, a TypedDict, a JSON type (`int`, `list[int]`,
    `dict[str, Model]`, `Model | None`), or any callable that takes the value.
    """
    try:
        return _convert(value, as_)
    except _Unfit as unfit:
        raise KVValidationError(f"The value does not fit {_name(as_)}: {unfit}.", hint="KV_TYPE") from None
    except KVValidationError:
        raise
    except Exception as error:  # noqa: BLE001 - a caller's own conversion may raise anything
        # Without `from`: messages of conversions quote what they were given.
        words = _pydantic_words(error) or type(error).__name__
        raise KVValidationError(f"The value does not fit {_name(as_)}: {words}.", hint="KV_TYPE") from None


class _Unfit(Exception):
    pass


def _convert(value: Any, as_: Any) -> Any:
    if as_ is Any:
        return value
    if callable(validate := getattr(as_, "model_validate", None)) or callable(
        validate := getattr(as_, "validate_python", None)
    ):
        return validate(value)
    if as_ in _JSON_KINDS or as_ is None or as_ is type(None):
        return _json_kind(value, as_)
    if (origin := get_origin(as_)) is not None:
        return _generic(value, as_, origin)
    if is_typeddict(as_):
        return _typed_dict(value, as_)
    if isinstance(as_, type) and hasattr(as_, "__dataclass_fields__"):
        return _dataclass(value, as_)
    if not callable(as_):
        raise _Unfit("as_ is neither a type nor a callable")
    return as_(value)


def _json_kind(value: Any, kind: Any) -> Any:
    if kind is None or kind is type(None):
        fits = value is None
    elif kind in (int, float):
        fits = isinstance(value, (int, kind)) and not isinstance(value, bool)
        value = float(value) if fits and kind is float else value
    else:
        fits = isinstance(value, kind)
    if not fits:
        raise _Unfit(f"it is {_told(value)}")
    return value


def _generic(value: Any, as_: Any, origin: Any) -> Any:
    inner = get_args(as_)
    if origin is Union or origin is getattr(types, "UnionType", Union):
        return _union(value, inner)
    if origin is list:
        return [_within(index, item, inner[0]) for index, item in enumerate(_json_kind(value, list))]
    if origin is dict:
        return {name: _within(name, item, inner[1]) for name, item in _json_kind(value, dict).items()}
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_within(index, item, inner[0]) for index, item in enumerate(_json_kind(value, list)))
    if isinstance(origin, type) and hasattr(origin, "__dataclass_fields__"):
        return _dataclass(value, origin)
    return value  # Literal, Annotated and the like are the type checker's business


def _union(value: Any, members: tuple[Any, ...]) -> Any:
    reason: Exception = _Unfit("nothing fits")
    for member in members:
        try:
            return _convert(value, member)
        except Exception as error:  # noqa: BLE001 - the next member may fit
            reason = error
    raise reason


def _within(place: object, value: Any, as_: Any) -> Any:
    try:
        return _convert(value, as_)
    except _Unfit as unfit:
        # A name in an object is data like the value; a position tells nothing.
        where = f"in item {place}" if isinstance(place, int) else "in an item"
        raise _Unfit(f"{where}, {unfit}") from None


def _typed_dict(value: Any, as_: Any) -> Any:
    if not isinstance(value, dict):
        raise _Unfit(f"it is {_told(value)}")
    hints = get_type_hints(as_, include_extras=True)
    # With postponed annotations, __required_keys__ does not know of (Not)Required.
    marks = {name: getattr(get_origin(hint), "_name", None) for name, hint in hints.items()}
    _require(
        value,
        [n for n in hints if marks[n] == "Required" or (n in as_.__required_keys__ and marks[n] != "NotRequired")],
    )
    hints = {n: get_args(hint)[0] if marks[n] in ("Required", "NotRequired") else hint for n, hint in hints.items()}
    return {name: _field(name, item, hints[name]) if name in hints else item for name, item in value.items()}


def _dataclass(value: Any, as_: Callable[..., Any]) -> Any:
    if not isinstance(value, dict):
        raise _Unfit(f"it is {_told(value)}")
    from dataclasses import MISSING, fields

    hints, taken = get_type_hints(as_), [field for field in fields(as_) if field.init]  # type: ignore[arg-type]
    _require(value, [f.name for f in taken if f.default is MISSING and f.default_factory is MISSING])
    # A name that the class does not know is left out: newer code may have written it.
    return as_(**{f.name: _field(f.name, value[f.name], hints[f.name]) for f in taken if f.name in value})


def _require(value: dict[str, Any], names: Any) -> None:
    if missing := sorted(name for name in names if name not in value):
        raise _Unfit(f"{', '.join(missing)} missing")


def _field(name: str, value: Any, as_: Any) -> Any:
    # In a field, a class that is neither JSON nor a model is the program's own affair: as_=callable is for the top.
    if isinstance(as_, type) and as_ not in _JSON_KINDS and as_ is not type(None) and not _structured(as_):
        return value
    if not isinstance(as_, type) and get_origin(as_) is None:
        return value
    try:
        return _convert(value, as_)
    except _Unfit as unfit:
        raise _Unfit(f"{name}: {unfit}") from None


def _structured(as_: Any) -> bool:
    return (
        hasattr(as_, "__dataclass_fields__")
        or hasattr(as_, "model_validate")
        or is_typeddict(as_)
        or get_origin(as_) is not None
    )


def _pydantic_words(error: Exception) -> str | None:
    """Where and how a model did not fit: without pydantic's message, which quotes the input."""
    if not callable(errors := getattr(error, "errors", None)) or not hasattr(error, "error_count"):
        return None
    told = [(".".join(str(part) for part in e["loc"]), e["type"]) for e in errors(include_input=False)]
    return ", ".join(f"{where} ({kind})" if where else kind for where, kind in told)


def _told(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


def _name(as_: Any) -> str:
    return getattr(as_, "__name__", None) or type(as_).__name__
