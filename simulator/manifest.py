"""What an app manifest says about scopes, events, commands and surfaces."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Manifest:
    """The part of an app manifest that changes how Slack treats the app. `None` for a set means: everything."""

    name: str = "Flow"
    bot_name: str = "flow"
    scopes: frozenset[str] | None = None
    events: frozenset[str] | None = None
    commands: tuple[tuple[str, str], ...] = (("/flow", "Manage sessions"),)
    shortcuts: tuple[tuple[str, str, str], ...] = ()  # (name, type, callback_id)
    home_tab: bool = True
    agent: bool = False

    def allows(self, scope: str) -> bool:
        return self.scopes is None or scope in self.scopes

    def subscribes(self, event: str) -> bool:
        return self.events is None or event in self.events

    def granted(self) -> str:
        """The scopes as Slack's `provided` field and `x-oauth-scopes` header have them."""
        return ",".join(sorted(ALL_SCOPES if self.scopes is None else self.scopes))


ALL_SCOPES = frozenset(
    [
        "app_mentions:read",
        "assistant:write",
        "channels:history",
        "channels:join",
        "channels:read",
        "chat:write",
        "chat:write.customize",
        "commands",
        "files:read",
        "files:write",
        "groups:history",
        "groups:read",
        "im:history",
        "im:read",
        "im:write",
        "mpim:history",
        "mpim:read",
        "mpim:write",
        "reactions:read",
        "reactions:write",
        "users:read",
    ]
)


def load(path: str | Path) -> Manifest:
    """The manifest in a YAML (or JSON) file; ValueError if the file holds no mapping."""
    import yaml

    document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ValueError(f"{path} is not an app manifest: it should hold a mapping.")
    return parse(document)


def parse(document: dict[str, Any]) -> Manifest:
    """The manifest in Slack's own shape (`display_information`, `features`, `oauth_config`, `settings`)."""
    features = document.get("features", {})
    name = document.get("display_information", {}).get("name", "Flow")
    subscriptions = document.get("settings", {}).get("event_subscriptions", {})
    return Manifest(
        name=name,
        bot_name=features.get("bot_user", {}).get("display_name", name),
        scopes=frozenset(document.get("oauth_config", {}).get("scopes", {}).get("bot", [])),
        events=frozenset(subscriptions.get("bot_events", [])),
        commands=tuple((c["command"], c.get("description", "")) for c in features.get("slash_commands", [])),
        shortcuts=tuple((s["name"], s["type"], s["callback_id"]) for s in features.get("shortcuts", [])),
        home_tab=bool(features.get("app_home", {}).get("home_tab_enabled", False)),
        agent="agent_view" in features,
    )
