import json
import re
from pathlib import Path

import pytest

from config.masking import secrets_of
from config.settings import AccessSettings, LimitSettings, SettingsError, known, load


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_are_those_of_the_readme() -> None:
    settings = load()
    assert settings.sessions.timeout == 1800
    assert settings.sessions.dsn == "sqlite://data/db.sqlite"
    assert settings.slack.api_url == "https://slack.com/api/"
    assert settings.worklets.image == "flow-worklet:latest"
    assert (settings.web.host, settings.web.port) == ("127.0.0.1", 8080)


def test_environment_beats_dotenv_beats_config_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    everywhere = {"session_timeout": "1m", "max_sessions": 3, "slack_bot_token": "xoxb-json"}
    (tmp_path / "data/config.json").write_text(json.dumps(everywhere))
    (tmp_path / ".env").write_text("FLOW_SESSION_TIMEOUT=2m\nFLOW_MAX_SESSIONS=4\n")
    monkeypatch.setenv("FLOW_SESSION_TIMEOUT", "3m")
    settings = load()
    assert settings.sessions.timeout == 180
    assert settings.sessions.max_sessions == 4
    assert settings.slack.bot_token.get_secret_value() == "xoxb-json"


def test_the_example_asks_for_containers_and_never_for_plain_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOW_RUNTIME", raising=False)
    assert load().worklets.runtime == "auto"
    (tmp_path / ".env").write_text((Path(__file__).parents[3] / ".env.example").read_text())
    assert load().worklets.runtime == "docker"


def test_approvers_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (load().asks.answerers, load().asks.approvers) == ("participants", ())
    monkeypatch.setenv("FLOW_APPROVERS", "U012AB3CD, W045EF6GH")
    monkeypatch.setenv("FLOW_ANSWERERS", "approvers")
    assert load().asks.approvers == ("U012AB3CD", "W045EF6GH")


def test_the_documents_config_json_is_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/config.json").write_text(
        json.dumps(
            {
                "slack_bot_enabled": True,
                "slack_app_token": "xapp-1",
                "slack_bot_token": "xoxb-1",
                "session_timeout": "30m",
                "max_sessions": 5,
                "dsn": "sqlite://data/db.sqlite",
                "share_dir": "data",
            }
        )
    )
    settings = load()
    assert settings.sessions.max_sessions == 5
    assert settings.share_dir == Path("data")


def test_secrets_are_masked_when_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-very-secret")
    settings = load()
    assert "very-secret" not in repr(settings)
    assert settings.claude.api_key is not None
    assert settings.claude.api_key.get_secret_value() == "sk-ant-very-secret"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FLOW_SESION_TIMEOUT", "30m", ["FLOW_SESION_TIMEOUT", "FLOW_SESSION_TIMEOUT"]),
        ("FLOW_SESSION_TIMEOUT", "soon", ["FLOW_SESSION_TIMEOUT", "soon", "30m"]),
        ("FLOW_MAX_SESSIONS", "0", ["FLOW_MAX_SESSIONS"]),
        ("FLOW_WORKLET_MEMORY", "lots", ["FLOW_WORKLET_MEMORY", "lots"]),
        ("FLOW_WORKLET_MEMORY", "2", ["FLOW_WORKLET_MEMORY is wrong: it has to be 128m at least."]),
        ("FLOW_WORKLET_DISK", "10", ["FLOW_WORKLET_DISK is wrong: it has to be 64m at least, or 0 for no limit."]),
        ("FLOW_WORKLET_LOG_SIZE", "0", ["FLOW_WORKLET_LOG_SIZE is wrong: it has to be 64k at least."]),
        ("SLACK_API_URL", "https://slack.com/", ["SLACK_API_URL", "/api/"]),
        ("FLOW_RUNTIME", "kubernetes", ["FLOW_RUNTIME", "docker"]),
        ("FLOW_MAX_SESSIONS", "abc", ['FLOW_MAX_SESSIONS is wrong: "abc" is not a whole number; write it like 10.']),
        ("FLOW_MAX_SESSIONS", "0", ['"0" is below 1; write it like 10.']),
        ("FLOW_WORKLET_CPUS", "two", ['"two" is not a number; write it like 2.']),
        ("FLOW_WORKLET_CPUS", "0", ['"0" is not above 0; write it like 2.']),
        ("FLOW_HTTP_PORT", "70000", ['"70000" is above 65535; write it like 8080.']),
        ("SLACK_BOT_ENABLED", "perhaps", ['"perhaps" is neither true nor false; write it like true.']),
        ("FLOW_LOG_FORMAT", "xml", ["\"xml\" is not one of 'console' or 'json'; write it like console."]),
        ("FLOW_ANSWERERS", "anybody", ["FLOW_ANSWERERS", "participants"]),
        ("FLOW_ANSWERERS", "approvers", ["FLOW_APPROVERS names nobody"]),
        ("FLOW_APPROVERS", "@maya", ["FLOW_APPROVERS", '"@maya" is not a user id', "U012AB3CD"]),
        ("FLOW_LEASE_SECONDS", "1", ["FLOW_LEASE_SECONDS", "is below 3; write it like 15."]),
        (
            "FLOW_WORKSPACE_RETENTION",
            "a month",
            ['"a month" is not a duration; write it like "30d" or "12h", or "never".'],
        ),
        ("FLOW_ADMINS", "maya", ["FLOW_ADMINS", '"maya" is not a user id']),
        ("FLOW_GROUPS", "S1,devs", ["FLOW_GROUPS", '"devs" is not a user group']),
        ("FLOW_CHANNELS", "#general", ["FLOW_CHANNELS", '"#general" is not a channel']),
        ("FLOW_LIMIT_DAY", "much", ["FLOW_LIMIT_DAY", '"much" is not an amount', '"2.50"']),
        ("FLOW_LIMIT_DAY", "0", ["FLOW_LIMIT_DAY", "above 0"]),
        ("FLOW_LIMIT_WARNING", "101", ["FLOW_LIMIT_WARNING", "is above 100; write it like 80."]),
        ("FLOW_LIMIT_HARD", "0.5", ["FLOW_LIMIT_HARD", "is below 1; write it like 1.5."]),
        ("FLOW_TRANSCRIPT_RETENTION", "2d", ["FLOW_TRANSCRIPT_RETENTION must be at least as long as FLOW_WORKSPACE"]),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as e:
        load()
    for word in words:
        assert word in e.value.sentence()


@pytest.mark.parametrize(("given", "seconds"), [("45d", 45 * 86400), ("never", None), ("0", None)])
def test_retention_may_be_switched_off(given: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_TRANSCRIPT_RETENTION", given)
    assert load().sessions.transcript_retention == seconds


def test_transcripts_cannot_go_before_workspaces_that_never_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (load().sessions.workspace_retention, load().sessions.transcript_retention) == (30 * 86400, 365 * 86400)
    monkeypatch.setenv("FLOW_WORKSPACE_RETENTION", "never")
    with pytest.raises(SettingsError, match="at least as long"):
        load()
    monkeypatch.setenv("FLOW_TRANSCRIPT_RETENTION", "never")
    assert load().sessions.workspace_retention is None


def test_an_unknown_key_of_config_json_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/config.json").write_text('{"max_session": 3}')
    with pytest.raises(SettingsError) as e:
        load()
    assert "max_session." in e.value.sentence()
    assert "max_sessions" in e.value.sentence()


def test_an_unreadable_config_json_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/config.json").write_text("{")
    with pytest.raises(SettingsError, match="cannot be read"):
        load()


def test_who_may_and_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().access == AccessSettings()
    assert load().limits == LimitSettings()
    for name, value in {
        "FLOW_USERS": "U1, W2",
        "FLOW_GROUPS": "S1",
        "FLOW_CHANNELS": "C1 G2",
        "FLOW_ADMINS": "U3",
        "FLOW_GUESTS": "true",
        "FLOW_LIMIT_TURN": "$2.50",
        "FLOW_LIMIT_MONTH": "never",
        "FLOW_LIMIT_HARD": "2",
    }.items():
        monkeypatch.setenv(name, value)
    access, limits = load().access, load().limits
    assert (access.users, access.groups, access.channels) == (("U1", "W2"), ("S1",), ("C1", "G2"))
    assert (access.admins, access.guests, access.external) == (("U3",), True, False)
    assert (limits.turn, limits.month, limits.hard) == (2.5, None, 2.0)


def test_further_values_to_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_MASK", "hunter2-hunter2, correct horse,")
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-of-ours")
    monkeypatch.setenv("FLOW_DSN", "postgresql://flow:of-the-database@localhost/flow")
    settings = load()
    assert [value.get_secret_value() for value in settings.mask.values] == ["hunter2-hunter2", "correct horse"]
    assert "hunter2" not in repr(settings)
    known = secrets_of(settings)
    assert {"hunter2-hunter2", "correct horse", "xoxb-of-ours", "of-the-database"} <= set(known)
    monkeypatch.setenv("FLOW_MASK", "the")
    with pytest.raises(SettingsError, match="at least 6 characters") as e:
        load()
    assert '"the"' not in e.value.sentence()


def test_every_setting_is_in_the_docs_and_nothing_else() -> None:
    page = (Path(__file__).parents[3] / "docs/settings.md").read_text()
    first = "".join(row.split("|")[1] for row in page.splitlines() if row.startswith("| `"))
    assert sorted(re.findall(r"`(\w+)`", first)) == sorted(known())
