"""The model, the sessions that talk to it, the worklets in which they run, and the files that go in and out."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import SecretStr, field_validator, model_validator

from config.slices.base import DAY, Bytes, Retention, Seconds, Slice, at_least, setting

ANTHROPIC_API = "https://api.anthropic.com"


class ClaudeSettings(Slice):
    api_key: SecretStr | None = setting("ANTHROPIC_API_KEY", None, "Claude credential; never enters a worklet.")
    oauth_token: SecretStr | None = setting(
        "CLAUDE_CODE_OAUTH_TOKEN", None, "The other kind of credential, from `claude setup-token`."
    )
    base_url: str = setting("ANTHROPIC_BASE_URL", ANTHROPIC_API, "Messages API that the gateway forwards to.")
    model: str | None = setting("FLOW_MODEL", None, "Claude model; unset leaves it to the CLI.")

    @field_validator("base_url")
    @classmethod
    def _without_slash(cls, value: str) -> str:
        return value.rstrip("/")


class SessionSettings(Slice):
    # Empty here means SQLite in the share directory: `Settings` knows where that is.
    dsn: str = setting(
        "FLOW_DSN", "", "Database: sqlite://data/db.sqlite (default, in the share dir) or postgresql://…"
    )
    timeout: Seconds = setting("FLOW_SESSION_TIMEOUT", 1800.0, "Silence after which a session sleeps, e.g. 30m.")
    max_sessions: int = setting("FLOW_MAX_SESSIONS", 10, "Sessions that may be awake at once.", ge=1)
    grace: Seconds = setting(
        "FLOW_GRACE", 5.0, "Time that a stopping Flow gives running turns; their containers go on."
    )
    lease: Seconds = setting(
        "FLOW_LEASE_SECONDS",
        15.0,
        "Silence after which another replica takes a Flow's sessions over (PostgreSQL).",
        ge=3,
        le=600,
    )
    turn_timeout: Retention = setting(
        "FLOW_TURN_TIMEOUT", None, "Time that a turn may work, people's answers not counted, e.g. 1h; never: any time."
    )
    workspace_retention: Retention = setting(
        "FLOW_WORKSPACE_RETENTION",
        30 * DAY,
        "Sleep after which a session's workspace is removed, e.g. 30d; never keeps it.",
    )
    transcript_retention: Retention = setting(
        "FLOW_TRANSCRIPT_RETENTION",
        365 * DAY,
        "Silence after which a session's transcript leaves the database for the archive; or never.",
    )
    archive: bool = setting(
        "FLOW_ARCHIVE_TRANSCRIPTS", True, "Write such transcripts to files; false throws them away."
    )

    @model_validator(mode="after")
    def _workspaces_go_first(self) -> Self:
        workspace, transcript = (kept or float("inf") for kept in (self.workspace_retention, self.transcript_retention))
        if transcript < workspace:
            raise ValueError("FLOW_TRANSCRIPT_RETENTION must be at least as long as FLOW_WORKSPACE_RETENTION")
        return self


class WorkletSettings(Slice):
    runtime: Literal["docker", "local", "auto"] = setting(
        "FLOW_RUNTIME", "auto", "docker, local (isolates nothing) or auto."
    )
    image: str = setting("FLOW_IMAGE", "flow-worklet:latest", "Worklet image.")
    memory: Annotated[Bytes, at_least("128m")] = setting(
        "FLOW_WORKLET_MEMORY", 2 * 1024**3, "Memory of a worklet, e.g. 2g."
    )
    cpus: float = setting("FLOW_WORKLET_CPUS", 2.0, "CPUs of a worklet.", gt=0)
    docker_host: str | None = setting("DOCKER_HOST", None, "Docker engine, as Docker itself reads it.")
    local_repositories: bool = setting("FLOW_LOCAL_REPOSITORIES", False, "Let repo= name a directory of this machine.")


class FileSettings(Slice):
    attachment_limit: Bytes = setting(
        "FLOW_ATTACHMENT_LIMIT", 20 * 1024**2, "Largest file that is taken from people, e.g. 20m."
    )
    attachment_count: int = setting("FLOW_ATTACHMENT_COUNT", 10, "Files that are taken from one message.", ge=0, le=100)
    limit: Bytes = setting("FLOW_FILE_LIMIT", 50 * 1024**2, "Largest file that Claude may send, e.g. 50m.")
