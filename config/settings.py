"""Flow's settings: one frozen value, checked once at start, handed down in slices (`config/slices/`).

Sources, the first that names a setting wins: the environment, `.env` in the working directory,
`config.json` in the share directory (keys are the settings' names in lower case, without `flow_`), defaults.
A `FLOW_*` name or a key that Flow does not know is refused, with the nearest one that it knows.
This is the only module of Flow that reads the environment.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from config.errors import FlowError
from config.slices.base import Slice, setting
from config.slices.egress import EgressSettings
from config.slices.images import ImageSettings
from config.slices.isolation import IsolationSettings
from config.slices.kv import KVSettings
from config.slices.people import AccessSettings, AskSettings, LimitSettings
from config.slices.pool import PoolSettings
from config.slices.previews import PreviewSettings
from config.slices.remote import RemoteSettings
from config.slices.repositories import RepositorySettings
from config.slices.secrets import SecretSettings
from config.slices.server import LogSettings, MaskSettings, RelaySettings, WebSettings
from config.slices.sessions import ANTHROPIC_API, ClaudeSettings, FileSettings, SessionSettings, WorkletSettings
from config.slices.slack import SLACK_API, ShowSettings, SlackSettings

__all__ = [
    "ANTHROPIC_API",
    "SLACK_API",
    "AccessSettings",
    "AskSettings",
    "ClaudeSettings",
    "EgressSettings",
    "FileSettings",
    "ImageSettings",
    "IsolationSettings",
    "KVSettings",
    "LimitSettings",
    "LogSettings",
    "MaskSettings",
    "PoolSettings",
    "PreviewSettings",
    "RelaySettings",
    "RemoteSettings",
    "RepositorySettings",
    "SecretSettings",
    "SessionSettings",
    "Settings",
    "SettingsError",
    "ShowSettings",
    "SlackSettings",
    "WebSettings",
    "WorkletSettings",
    "inherited",
    "known",
    "load",
]


#: For the key-value store's client in worklets; somebody who uses it elsewhere may start Flow from the same shell.
_OF_WORKLETS = {"FLOW_KV_URL", "FLOW_KV_TOKEN_FILE", "FLOW_KV_APIKEY", "FLOW_WORKLET_ID"}


class SettingsError(FlowError):
    """The settings are wrong."""


class Settings(BaseSettings):
    """All settings. Slices go to the parts that need them; secrets print as asterisks."""

    model_config = SettingsConfigDict(frozen=True, env_file=".env", case_sensitive=True, env_ignore_empty=True)

    share_dir: Path = setting("FLOW_SHARE_DIR", Path("data"), "Where Flow keeps its data.")
    slack: SlackSettings
    claude: ClaudeSettings
    sessions: SessionSettings
    asks: AskSettings
    access: AccessSettings
    limits: LimitSettings
    show: ShowSettings
    worklets: WorkletSettings
    isolation: IsolationSettings
    remote: RemoteSettings
    images: ImageSettings
    pool: PoolSettings
    egress: EgressSettings
    files: FileSettings
    repositories: RepositorySettings
    kv: KVSettings
    secrets: SecretSettings
    web: WebSettings
    previews: PreviewSettings
    relay: RelaySettings
    log: LogSettings
    mask: MaskSettings

    @field_validator("sessions")
    @classmethod
    def _in_share_dir(cls, sessions: SessionSettings, info: ValidationInfo) -> SessionSettings:
        if sessions.dsn or "share_dir" not in info.data:
            return sessions
        return sessions.model_copy(update={"dsn": f"sqlite://{info.data['share_dir'] / 'db.sqlite'}"})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # What `load` read from config.json arrives as init values: the weakest source, so it comes last.
        assert isinstance(env_settings, EnvSettingsSource)
        assert isinstance(dotenv_settings, DotEnvSettingsSource)
        assert isinstance(init_settings, InitSettingsSource)
        found = (env_settings.env_vars, dotenv_settings.env_vars, init_settings.init_kwargs)
        return tuple(_Named(settings_cls, one) for one in found)


class _Named(PydanticBaseSettingsSource):
    """A source in which each setting stands under its own name, whatever slice it belongs to."""

    def __init__(self, settings_cls: type[BaseSettings], found: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self._found = found

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {name: {} for name, field in Settings.model_fields.items() if field.is_required()}
        for one in _declared():
            if name := one.name_in(self._found):
                *slice_name, attribute = one.place
                (values[slice_name[0]] if slice_name else values)[attribute] = self._found[name]
        return values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Nobody asks for one field: what is found goes into slices."""
        return None, field_name, False


class _Declared(NamedTuple):
    names: tuple[str, ...]  # in the environment; the first one given counts
    place: tuple[str, ...]  # (slice, attribute), or (attribute,) of Settings itself
    field: FieldInfo

    def name_in(self, source: Mapping[str, Any]) -> str | None:
        return next((name for name in self.names if source.get(name) not in (None, "")), None)


@cache
def _declared() -> list[_Declared]:
    """Every setting, in order."""
    found: list[_Declared] = []
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        inner = kind.model_fields if isinstance(kind, type) and issubclass(kind, Slice) else None
        for place, one in [((name, n), f) for n, f in inner.items()] if inner else [((name,), field)]:
            names = cast("dict[str, list[str]]", one.json_schema_extra)["names"]
            found.append(_Declared(tuple(names), place, one))
    return found


def known() -> dict[str, str]:
    """Environment name → description of every setting, in order."""
    return {name: one.field.description or "" for one in _declared() for name in one.names}


def load() -> Settings:
    """Reads all sources. Raises SettingsError naming the setting, the value's fault and the nearest known name."""
    dotenv = DotEnvSettingsSource(Settings).env_vars
    named = [name for name in {*os.environ, *dotenv} - _OF_WORKLETS if name.startswith("FLOW_")]
    _refuse_unknown(named, list(known()), "setting")
    share_dir = os.environ.get("FLOW_SHARE_DIR") or dotenv.get("FLOW_SHARE_DIR") or "data"
    config_json = _from_json(Path(share_dir) / "config.json")
    try:
        return Settings(**config_json)
    except ValidationError as e:
        fault = _fault(e, _given(os.environ, dotenv, config_json))
        raise SettingsError(fault, suggestion="Correct it and start again.") from e


def _given(*sources: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    """Each place of a setting → the name by which it was given."""
    names = ((one.place, next(filter(None, map(one.name_in, sources)), None)) for one in _declared())
    return {place: name for place, name in names if name}


#: Pydantic's types of errors in our words.
_FAULTS = {
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "int_type": "is not a whole number",
    "float_parsing": "is not a number",
    "float_type": "is not a number",
    "bool_parsing": "is neither true nor false",
    "bool_type": "is neither true nor false",
    "literal_error": "is not one of {expected}",
    "greater_than": "is not above {gt:g}",
    "greater_than_equal": "is below {ge:g}",
    "less_than_equal": "is above {le:g}",
    "string_type": "is not a text",
}


def _fault(error: ValidationError, given: Mapping[tuple[str, ...], str]) -> str:
    """The first fault as a sentence that names the setting and, where it can, gives an example."""
    faults = error.errors()
    # A wrong value goes before values that do not fit together, whose fault it may be.
    first = next((fault for fault in faults if fault["loc"][:2] in given), faults[0])
    said = str(first["msg"]).removeprefix("Value error, ")
    place = cast("tuple[str, ...]", first["loc"][:2])
    if place not in given:
        return f"{said}."
    name = given[place]
    if (fault := _FAULTS.get(first["type"])) is None:
        return f"{name} is wrong: {said}."
    default = next(one.field.default for one in _declared() if one.place == place)
    value, example = (f"{one:g}" if isinstance(one, float) else str(one) for one in (first["input"], default))
    fault = fault.format(**first.get("ctx", {}))
    return f'{name} is wrong: "{value}" {fault}; write it like {example.lower()}.'


def inherited() -> dict[str, str]:
    """The environment that Flow was started with, for child processes that pick what they need from it (git)."""
    return dict(os.environ)


def _from_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise SettingsError(f"{path} cannot be read: {e}.") from e
    if not isinstance(data, dict):
        raise SettingsError(f"{path} must hold one JSON object.")
    names = {name.lower().removeprefix("flow_"): name for name in known()}
    _refuse_unknown(list(data), list(names), f"key in {path}")
    return {names[key]: value for key, value in data.items()}


def _refuse_unknown(given: list[str], allowed: list[str], what: str) -> None:
    for name in sorted(given):
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.0)
            raise SettingsError(f"Unknown {what}: {name}.", suggestion=f"The nearest one that Flow knows is {near[0]}.")
