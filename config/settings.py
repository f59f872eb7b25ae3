"""Flow's settings: one frozen value, checked once at start, handed down in slices.

Sources, the first that names a setting wins: the environment, `.env` in the working directory,
`config.json` in the share directory (keys are the names below in lower case, without `flow_`), defaults.
A `FLOW_*` name or a key that Flow does not know is refused, with the nearest one that it knows.
This is the only module of Flow that reads the environment.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from config.errors import FlowError
from config.rules import parse_rules
from config.units import parse_dollars, parse_duration, parse_names, parse_retention, parse_size

Seconds = Annotated[float, BeforeValidator(parse_duration)]
Retention = Annotated[float | None, BeforeValidator(parse_retention)]
Bytes = Annotated[int, BeforeValidator(parse_size)]
Dollars = Annotated[float | None, BeforeValidator(parse_dollars)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_names)]  # separated by commas or spaces
Rules = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_rules)]  # in Claude Code's syntax

SLACK_API = "https://slack.com/api/"
_DAY = 86_400.0
ANTHROPIC_API = "https://api.anthropic.com"


class SettingsError(FlowError):
    """The settings are wrong."""


class _Slice(BaseModel):
    model_config = ConfigDict(frozen=True)


class SlackSettings(_Slice):
    enabled: bool
    app_token: SecretStr
    bot_token: SecretStr
    api_url: str
    debug: bool
    streaming: Literal["auto", "edits", "native"] = "auto"


class ClaudeSettings(_Slice):
    api_key: SecretStr | None
    oauth_token: SecretStr | None
    base_url: str
    model: str | None


class WorkletSettings(_Slice):
    runtime: Literal["docker", "local", "auto"]
    image: str
    memory: int  # bytes
    cpus: float
    docker_host: str | None
    local_repositories: bool
    vault_addr: str | None


class FileSettings(_Slice):
    attachment_limit: int  # bytes of one file that people attach
    attachment_count: int  # files of one message
    limit: int  # bytes of one file that Claude sends


class SessionSettings(_Slice):
    timeout: float  # seconds without activity until a session sleeps
    max_sessions: int
    dsn: str
    grace: float  # seconds that a stopping Flow gives running turns
    lease: float  # seconds after which another process takes a silent one's sessions over
    workspace_retention: float | None  # seconds of sleep until a session's volume goes; None: it stays
    transcript_retention: float | None  # seconds without activity until its transcript goes; None: it stays
    archive: bool  # transcripts go into files first


class AskSettings(_Slice):
    answerers: Literal["asker", "participants", "approvers"]
    approvers: tuple[str, ...]  # user ids
    mode: Literal["auto", "ask", "plan"] = "auto"
    allow: tuple[str, ...] = ()  # permission rules in Claude Code's syntax
    ask: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    expires: float | None = _DAY  # seconds that an ask waits for people; None: for good


class AccessSettings(_Slice):
    """Who may use Flow. Ids of Slack; `users`, `groups` and `channels` empty: everybody, everywhere."""

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()  # user groups
    channels: tuple[str, ...] = ()
    admins: tuple[str, ...] = ()
    guests: bool = False
    external: bool = False  # people of other workspaces, in shared channels


class LimitSettings(_Slice):
    """What may be spent, in US dollars; None: as much as it takes."""

    turn: float | None = None
    session: float | None = None
    person_day: float | None = None
    channel_day: float | None = None
    day: float | None = None
    month: float | None = None
    warning: float = 80.0  # percent of a limit at which the thread is told
    hard: float = 1.5  # times a limit at which a running turn is ended


class ShowSettings(_Slice):
    level: Literal["quiet", "normal", "verbose"]  # unless a channel, a thread or a person has another one
    reactions: bool  # on the asking message: how far its turn is
    mention_at_end: bool
    plan_blocks: bool


class WebSettings(_Slice):
    host: str
    port: int


class RelaySettings(_Slice):
    token: SecretStr | None  # of `flow relay`; worklets make their own


class LogSettings(_Slice):
    format: Literal["console", "json"]
    debug: bool


class MaskSettings(_Slice):
    values: tuple[SecretStr, ...] = ()  # to mask wherever they appear, beside the secrets among the settings


class _Flat(BaseSettings):
    """Every setting under its environment name; `Settings` is what the program sees."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", case_sensitive=True, env_ignore_empty=True)

    slack_app_token: SecretStr = Field(SecretStr(""), alias="SLACK_APP_TOKEN", description="App-level token, xapp-…")
    slack_bot_token: SecretStr = Field(SecretStr(""), alias="SLACK_BOT_TOKEN", description="Bot token, xoxb-…")
    slack_bot_enabled: bool = Field(True, alias="SLACK_BOT_ENABLED", description="Connect to Slack at all.")
    slack_bot_debug: bool = Field(
        False, alias="SLACK_BOT_DEBUG", description="Log events, session management, message updates and retries."
    )
    slack_api_url: str = Field(SLACK_API, alias="SLACK_API_URL", description="Web API to talk to; ends in /api/.")
    anthropic_api_key: SecretStr | None = Field(
        None, alias="ANTHROPIC_API_KEY", description="Claude credential; never enters a worklet."
    )
    claude_code_oauth_token: SecretStr | None = Field(
        None, alias="CLAUDE_CODE_OAUTH_TOKEN", description="The other kind of credential, from `claude setup-token`."
    )
    anthropic_base_url: str = Field(
        ANTHROPIC_API, alias="ANTHROPIC_BASE_URL", description="Messages API that the gateway forwards to."
    )
    model: str | None = Field(None, alias="FLOW_MODEL", description="Claude model; unset leaves it to the CLI.")
    dsn: str = Field(
        "",
        alias="FLOW_DSN",
        description="Database: sqlite://data/db.sqlite (default, in the share dir) or postgresql://…",
    )
    share_dir: Path = Field(Path("data"), alias="FLOW_SHARE_DIR", description="Where Flow keeps its data.")
    session_timeout: Seconds = Field(
        1800.0, alias="FLOW_SESSION_TIMEOUT", description="Silence after which a session sleeps, e.g. 30m."
    )
    max_sessions: int = Field(10, alias="FLOW_MAX_SESSIONS", ge=1, description="Sessions that may be awake at once.")
    grace: Seconds = Field(
        5.0, alias="FLOW_GRACE", description="Time that a stopping Flow gives running turns; their containers go on."
    )
    lease: Seconds = Field(
        15.0,
        alias="FLOW_LEASE_SECONDS",
        ge=3,
        le=600,
        description="Silence after which another replica takes a Flow's sessions over (PostgreSQL).",
    )
    workspace_retention: Retention = Field(
        30 * _DAY,
        alias="FLOW_WORKSPACE_RETENTION",
        description="Sleep after which a session's workspace is removed, e.g. 30d; never keeps it.",
    )
    transcript_retention: Retention = Field(
        365 * _DAY,
        alias="FLOW_TRANSCRIPT_RETENTION",
        description="Silence after which a session's transcript leaves the database for the archive; or never.",
    )
    archive: bool = Field(
        True, alias="FLOW_ARCHIVE_TRANSCRIPTS", description="Write such transcripts to files; false throws them away."
    )
    answerers: Literal["asker", "participants", "approvers"] = Field(
        "participants",
        alias="FLOW_ANSWERERS",
        description="Who may answer what Claude asks in a thread: asker, participants or approvers.",
    )
    approvers: Names = Field(
        (),
        alias="FLOW_APPROVERS",
        description="User ids of those who may always answer, and alone decide on money, e.g. U012AB3CD,U045EF6GH.",
    )
    permission_mode: Literal["auto", "ask", "plan"] = Field(
        "auto",
        alias="FLOW_PERMISSION_MODE",
        description="auto allows all inside the container but what FLOW_ASK and FLOW_DENY name; ask, or plan first.",
    )
    allow_rules: Rules = Field(
        (), alias="FLOW_ALLOW", description="What needs no asking in the mode ask, e.g. Bash(git *), WebFetch."
    )
    ask_rules: Rules = Field(
        (), alias="FLOW_ASK", description="What people are asked about in every mode, e.g. Bash(git push *)."
    )
    deny_rules: Rules = Field((), alias="FLOW_DENY", description="What is refused in every mode, e.g. Bash(rm *).")
    ask_expires: Retention = Field(
        _DAY, alias="FLOW_ASK_EXPIRES", description="Time that Claude waits for an answer, e.g. 24h; or never."
    )
    users: Names = Field(
        (), alias="FLOW_USERS", description="User ids of those who may use Flow; with FLOW_GROUPS unset too: everybody."
    )
    groups: Names = Field(
        (), alias="FLOW_GROUPS", description="Ids of user groups whose members may use Flow, e.g. S012AB3CD."
    )
    channels: Names = Field(
        (), alias="FLOW_CHANNELS", description="Ids of the channels where Flow may be used; unset: all. And in DMs."
    )
    admins: Names = Field(
        (), alias="FLOW_ADMINS", description="User ids of those who see and may stop every session, and whom to ask."
    )
    guests: bool = Field(False, alias="FLOW_GUESTS", description="Let guests of the workspace use Flow.")
    external: bool = Field(False, alias="FLOW_EXTERNAL", description="Let people of other workspaces use Flow.")
    limit_turn: Dollars = Field(
        None, alias="FLOW_LIMIT_TURN", description="US dollars that one turn may cost, e.g. 2.50; unset: no limit."
    )
    limit_session: Dollars = Field(None, alias="FLOW_LIMIT_SESSION", description="US dollars for a thread.")
    limit_person_day: Dollars = Field(
        None, alias="FLOW_LIMIT_PERSON_DAY", description="US dollars for one person's turns of a day (UTC)."
    )
    limit_channel_day: Dollars = Field(
        None, alias="FLOW_LIMIT_CHANNEL_DAY", description="US dollars for one channel's turns of a day (UTC)."
    )
    limit_day: Dollars = Field(None, alias="FLOW_LIMIT_DAY", description="US dollars for all turns of a day (UTC).")
    limit_month: Dollars = Field(
        None, alias="FLOW_LIMIT_MONTH", description="US dollars for all turns of a calendar month (UTC)."
    )
    limit_warning: float = Field(
        80.0, alias="FLOW_LIMIT_WARNING", gt=0, le=100, description="Percent of a limit at which the thread is told."
    )
    limit_hard: float = Field(
        1.5, alias="FLOW_LIMIT_HARD", ge=1, description="Times a limit at which even a running turn is ended."
    )
    level: Literal["quiet", "normal", "verbose"] = Field(
        "normal", alias="FLOW_LEVEL", description="How much of Claude's work threads show: quiet, normal or verbose."
    )
    reactions: bool = Field(
        True, alias="FLOW_REACTIONS", description="Say by reactions on the asking message how far its turn is."
    )
    mention_at_end: bool = Field(
        False, alias="FLOW_MENTION_AT_END", description="Mention who asked when a turn has ended: edits notify nobody."
    )
    plan_blocks: bool = Field(
        False, alias="FLOW_PLAN_BLOCKS", description="Show checklists as Slack's plan blocks, where it takes them."
    )
    runtime: Literal["docker", "local", "auto"] = Field(
        "auto", alias="FLOW_RUNTIME", description="docker, local (isolates nothing) or auto."
    )
    image: str = Field("flow-worklet:latest", alias="FLOW_IMAGE", description="Worklet image.")
    worklet_memory: Bytes = Field(2 * 1024**3, alias="FLOW_WORKLET_MEMORY", description="Memory of a worklet, e.g. 2g.")
    worklet_cpus: float = Field(2.0, alias="FLOW_WORKLET_CPUS", gt=0, description="CPUs of a worklet.")
    attachment_limit: Bytes = Field(
        20 * 1024**2, alias="FLOW_ATTACHMENT_LIMIT", description="Largest file that is taken from people, e.g. 20m."
    )
    attachment_count: int = Field(
        10, alias="FLOW_ATTACHMENT_COUNT", ge=0, le=100, description="Files that are taken from one message."
    )
    file_limit: Bytes = Field(
        50 * 1024**2, alias="FLOW_FILE_LIMIT", description="Largest file that Claude may send, e.g. 50m."
    )
    local_repositories: bool = Field(
        False, alias="FLOW_LOCAL_REPOSITORIES", description="Let repo= name a directory of this machine."
    )
    http_host: str = Field("127.0.0.1", alias="FLOW_HTTP_HOST", description="Address of Flow's HTTP server.")
    http_port: int = Field(
        8080, alias="FLOW_HTTP_PORT", ge=0, le=65535, description="Its port; 0 picks one and prints it."
    )
    streaming: Literal["auto", "edits", "native"] = Field(
        "auto",
        alias="FLOW_STREAMING",
        description="How an answer grows: auto (Slack's streams in direct messages, edits elsewhere), edits, native.",
    )
    mask: SecretStr = Field(
        SecretStr(""), alias="FLOW_MASK", description="Further values to mask in all that leaves, separated by commas."
    )
    log_format: Literal["console", "json"] = Field("console", alias="FLOW_LOG_FORMAT", description="console or json.")
    relay_token: SecretStr | None = Field(
        None, alias="FLOW_RELAY_TOKEN", description="Token of `flow relay`, where no --token-file is given."
    )
    docker_host: str | None = Field(None, alias="DOCKER_HOST", description="Docker engine, as Docker itself reads it.")
    vault_addr: str | None = Field(None, alias="VAULT_ADDR", description="Handed to worklets where set.")

    @field_validator("approvers", "users", "admins")
    @classmethod
    def _are_user_ids(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [each for each in value if not re.fullmatch(r"[UW][A-Z0-9]+", each)]:
            raise ValueError(f'"{wrong[0]}" is not a user id; copy it from the person\'s profile, like U012AB3CD')
        return value

    @field_validator("groups")
    @classmethod
    def _are_group_ids(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [each for each in value if not re.fullmatch(r"S[A-Z0-9]+", each)]:
            raise ValueError(f"\"{wrong[0]}\" is not a user group's id; copy it from the group's menu, like S012AB3CD")
        return value

    @field_validator("channels")
    @classmethod
    def _are_channel_ids(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [each for each in value if not re.fullmatch(r"[CG][A-Z0-9]+", each)]:
            raise ValueError(
                f"\"{wrong[0]}\" is not a channel's id; copy it from the channel's details, like C012AB3CD"
            )
        return value

    @field_validator("slack_api_url")
    @classmethod
    def _ends_in_api(cls, value: str) -> str:
        if not value.rstrip("/").endswith("/api"):
            raise ValueError("it must end in /api/")
        return value.rstrip("/") + "/"

    @field_validator("mask")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if any(0 < len(one.strip()) < 6 for one in value.get_secret_value().split(",")):
            raise ValueError("each value needs at least 6 characters, or it would take words out of every answer")
        return value

    @model_validator(mode="after")
    def _workspaces_go_first(self) -> Self:
        workspace, transcript = (kept or float("inf") for kept in (self.workspace_retention, self.transcript_retention))
        if transcript < workspace:
            raise ValueError("FLOW_TRANSCRIPT_RETENTION must be at least as long as FLOW_WORKSPACE_RETENTION")
        return self

    @model_validator(mode="after")
    def _somebody_can_answer(self) -> Self:
        if self.answerers == "approvers" and not self.approvers:
            raise ValueError("FLOW_ANSWERERS=approvers lets nobody answer while FLOW_APPROVERS names nobody")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # What `load` read from config.json arrives as init values: the weakest source, so it comes last.
        return env_settings, dotenv_settings, init_settings


class Settings(_Slice):
    """All settings. Slices go to the parts that need them; secrets print as asterisks."""

    slack: SlackSettings
    claude: ClaudeSettings
    files: FileSettings
    worklets: WorkletSettings
    sessions: SessionSettings
    asks: AskSettings
    access: AccessSettings
    limits: LimitSettings
    show: ShowSettings
    web: WebSettings
    relay: RelaySettings
    log: LogSettings
    mask: MaskSettings = MaskSettings()
    share_dir: Path


def known() -> dict[str, str]:
    """Environment name → description of every setting, in order."""
    return {str(f.alias): f.description or "" for f in _Flat.model_fields.values()}


def load() -> Settings:
    """Reads all sources. Raises SettingsError naming the setting, the value's fault and the nearest known name."""
    in_dotenv = dotenv_values(".env") if Path(".env").is_file() else {}
    _refuse_unknown([n for n in {*os.environ, *in_dotenv} if n.startswith("FLOW_")], list(known()), "setting")
    share_dir = os.environ.get("FLOW_SHARE_DIR") or in_dotenv.get("FLOW_SHARE_DIR") or "data"
    try:
        flat = _Flat(**_from_json(Path(share_dir) / "config.json"))
    except ValidationError as e:
        raise SettingsError(_fault(e), suggestion="Correct it and start again.") from e
    return _slices(flat)


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


def _fault(error: ValidationError) -> str:
    """The first fault as a sentence that names the setting and, where it can, gives an example."""
    first = error.errors()[0]
    said = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return f"{said}."
    name = str(first["loc"][0])
    if (fault := _FAULTS.get(first["type"])) is None:
        return f"{name} is wrong: {said}."
    default = next(f.default for f in _Flat.model_fields.values() if f.alias == name)
    given, example = (f"{value:g}" if isinstance(value, float) else str(value) for value in (first["input"], default))
    fault = fault.format(**first.get("ctx", {}))
    return f'{name} is wrong: "{given}" {fault}; write it like {example.lower()}.'


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
    names = {str(f.alias).lower().removeprefix("flow_"): str(f.alias) for f in _Flat.model_fields.values()}
    _refuse_unknown(list(data), list(names), f"key in {path}")
    return {names[key]: value for key, value in data.items()}


def _refuse_unknown(given: list[str], allowed: list[str], what: str) -> None:
    for name in sorted(given):
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.0)
            raise SettingsError(f"Unknown {what}: {name}.", suggestion=f"The nearest one that Flow knows is {near[0]}.")


def _slices(flat: _Flat) -> Settings:
    return Settings(
        share_dir=flat.share_dir,
        slack=SlackSettings(
            enabled=flat.slack_bot_enabled,
            app_token=flat.slack_app_token,
            bot_token=flat.slack_bot_token,
            api_url=flat.slack_api_url,
            debug=flat.slack_bot_debug,
            streaming=flat.streaming,
        ),
        claude=ClaudeSettings(
            api_key=flat.anthropic_api_key,
            oauth_token=flat.claude_code_oauth_token,
            base_url=flat.anthropic_base_url.rstrip("/"),
            model=flat.model,
        ),
        files=FileSettings(
            attachment_limit=flat.attachment_limit, attachment_count=flat.attachment_count, limit=flat.file_limit
        ),
        worklets=WorkletSettings(
            runtime=flat.runtime,
            image=flat.image,
            memory=flat.worklet_memory,
            cpus=flat.worklet_cpus,
            docker_host=flat.docker_host,
            local_repositories=flat.local_repositories,
            vault_addr=flat.vault_addr,
        ),
        sessions=SessionSettings(
            timeout=flat.session_timeout,
            max_sessions=flat.max_sessions,
            dsn=flat.dsn or f"sqlite://{flat.share_dir / 'db.sqlite'}",
            grace=flat.grace,
            lease=flat.lease,
            workspace_retention=flat.workspace_retention,
            transcript_retention=flat.transcript_retention,
            archive=flat.archive,
        ),
        asks=AskSettings(
            answerers=flat.answerers,
            approvers=flat.approvers,
            mode=flat.permission_mode,
            allow=flat.allow_rules,
            ask=flat.ask_rules,
            deny=flat.deny_rules,
            expires=flat.ask_expires,
        ),
        access=AccessSettings(
            users=flat.users,
            groups=flat.groups,
            channels=flat.channels,
            admins=flat.admins,
            guests=flat.guests,
            external=flat.external,
        ),
        limits=LimitSettings(
            turn=flat.limit_turn,
            session=flat.limit_session,
            person_day=flat.limit_person_day,
            channel_day=flat.limit_channel_day,
            day=flat.limit_day,
            month=flat.limit_month,
            warning=flat.limit_warning,
            hard=flat.limit_hard,
        ),
        show=ShowSettings(
            level=flat.level,
            reactions=flat.reactions,
            mention_at_end=flat.mention_at_end,
            plan_blocks=flat.plan_blocks,
        ),
        web=WebSettings(host=flat.http_host, port=flat.http_port),
        relay=RelaySettings(token=flat.relay_token),
        log=LogSettings(format=flat.log_format, debug=flat.slack_bot_debug),
        mask=MaskSettings(
            values=tuple(
                map(SecretStr, (one.strip() for one in flat.mask.get_secret_value().split(",") if one.strip()))
            )
        ),
    )
