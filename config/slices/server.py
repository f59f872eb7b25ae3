"""Flow's HTTP server, `flow relay`, the log, and what is masked in all that leaves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, SecretStr

from config.slices.base import Slice, setting


def _values_to_mask(given: object) -> object:
    """The SecretStrs of "one, two". Raises ValueError, which says no value."""
    if isinstance(given, tuple):
        return given
    if not isinstance(given, str):
        raise ValueError("it is not a text of values with commas between them")
    values = [one.strip() for one in given.split(",") if one.strip()]
    if any(len(value) < 6 for value in values):
        raise ValueError("each value needs at least 6 characters, or it would take words out of every answer")
    return tuple(map(SecretStr, values))


class WebSettings(Slice):
    host: str = setting("FLOW_HTTP_HOST", "127.0.0.1", "Address of Flow's HTTP server.")
    port: int = setting("FLOW_HTTP_PORT", 8080, "Its port; 0 picks one and prints it.", ge=0, le=65535)


class RelaySettings(Slice):
    # Worklets make tokens of their own.
    token: SecretStr | None = setting(
        "FLOW_RELAY_TOKEN", None, "Token of `flow relay`, where no --token-file is given."
    )


class LogSettings(Slice):
    format: Literal["console", "json"] = setting("FLOW_LOG_FORMAT", "console", "console or json.")
    debug: bool = setting("SLACK_BOT_DEBUG", False, "Log events, session management, message updates and retries.")


class MaskSettings(Slice):
    """To mask wherever they appear, beside the secrets among the settings."""

    values: Annotated[tuple[SecretStr, ...], BeforeValidator(_values_to_mask)] = setting(
        "FLOW_MASK", (), "Further values to mask in all that leaves, separated by commas."
    )
