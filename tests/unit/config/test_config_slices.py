"""Settings are declared once, and `load` finds each by every name that it has."""

import json
import re
from pathlib import Path

import pytest
from pydantic import ConfigDict

from config.masking import secrets_of
from config.settings import KVSettings, Settings, SettingsError, known, load
from config.slices.base import Slice


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_name_is_declared_once_and_explained() -> None:
    source = "".join(path.read_text() for path in (Path(__file__).parents[3] / "config/slices").glob("*.py"))
    declared = [name for names in re.findall(r'setting\(\s*"([^"]+)"', source) for name in names.split()]
    assert sorted([*declared, "FLOW_SHARE_DIR"]) == sorted(known())
    assert all(text.endswith((".", "…")) for text in known().values())
    assert len({name.lower().removeprefix("flow_") for name in known()}) == len(known())


def test_a_setting_with_two_names_takes_either_the_first_one_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_ANON_KEY", "sb_publishable_1")
    monkeypatch.setenv("REACT_APP_SUPABASE_URL", "https://theirs.supabase.co/")
    assert load().kv.supabase_url == "https://theirs.supabase.co"
    monkeypatch.setenv("SUPABASE_URL", "https://ours.supabase.co")
    assert load().kv.supabase_url == "https://ours.supabase.co"


def test_a_stronger_source_wins_by_whatever_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/config.json").write_text(json.dumps({"supabase_url": "http://json", "supabase_anon_key": "k1"}))
    assert load().kv.supabase_url == "http://json"
    (tmp_path / ".env").write_text("SUPABASE_URL=http://dotenv\n")
    assert load().kv.supabase_url == "http://dotenv"
    monkeypatch.setenv("REACT_APP_SUPABASE_URL", "http://environment")
    assert load().kv.supabase_url == "http://environment"


def test_a_fault_names_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REACT_APP_SUPABASE_URL", "abcd.supabase.co")
    with pytest.raises(SettingsError, match=r"^REACT_APP_SUPABASE_URL is wrong: it must begin with https://"):
        load()


def test_a_wrong_value_is_told_before_values_that_do_not_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_TRANSCRIPT_RETENTION", "2d")
    monkeypatch.setenv("FLOW_LOG_FORMAT", "xml")
    with pytest.raises(SettingsError, match="FLOW_LOG_FORMAT"):
        load()


def test_an_empty_value_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("FLOW_MAX_SESSIONS=4\nFLOW_GRACE=\n")
    monkeypatch.setenv("FLOW_MAX_SESSIONS", "")
    assert (load().sessions.max_sessions, load().sessions.grace) == (4, 5.0)


def test_the_share_directory_holds_the_database_unless_a_dsn_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_SHARE_DIR", "elsewhere")
    assert load().sessions.dsn == "sqlite://elsewhere/db.sqlite"
    monkeypatch.setenv("FLOW_DSN", "postgresql://localhost/flow")
    assert load().sessions.dsn == "postgresql://localhost/flow"


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, "sqlite"),
        ({"dsn": "postgresql://h/d"}, "postgres"),
        ({"dsn": "postgresql://h/d", "supabase_url": "https://s", "supabase_key": "k"}, "supabase"),
        ({"backend": "sqlite", "dsn": "postgresql://h/d"}, "sqlite"),
    ],
)
def test_the_store_is_chosen_by_what_is_set(given: dict[str, str], kind: str) -> None:
    assert KVSettings(**given).kind == kind  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FLOW_KV", "postgres", "FLOW_KV=postgres needs FLOW_KV_DSN."),
        ("FLOW_KV", "supabase", "FLOW_KV=supabase needs SUPABASE_URL."),
        ("SUPABASE_URL", "https://abcd.supabase.co", "SUPABASE_URL is set, but not SUPABASE_ANON_KEY"),
        ("FLOW_KV", "redis", '"redis" is not one of'),
        ("FLOW_KV_DSN", "mysql://h/d", "FLOW_KV_DSN is wrong: it must begin with postgresql://."),
        ("FLOW_KV_MAX_KEYS", "0", '"0" is below 1; write it like 1000000.'),
        ("FLOW_KV_MAX_BYTES", "much", '"much" is not a size'),
        ("FLOW_KV_RATE", "0", '"0" is not above 0; write it like 2000.'),
    ],
)
def test_a_store_that_cannot_be_is_told(name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as e:
        load()
    assert words in e.value.sentence()


@pytest.mark.parametrize("password", ["pa/ss", "pa#ss", "pa?ss"])
def test_no_part_of_a_password_is_taken_for_an_address(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_KV_ADMIN_DSN", f"postgresql://owner:{password}@db.example/flow")
    with pytest.raises(SettingsError) as e:
        load()
    assert "%2F" in e.value.sentence()
    assert password[:2] not in e.value.sentence().replace("password", "")


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://owner:pa%2Fss@db.example/flow",
        "postgres://owner:p:a@db.example:5432,other.example:5433/flow?sslmode=require",
        "postgresql://owner@[::1]:5432/flow",
        "postgresql:///flow?host=/run/postgresql",
        "postgresql://db.example",
    ],
)
def test_every_usual_address_is_taken(address: str) -> None:
    assert KVSettings(dsn=address).dsn == address


def test_the_stores_secrets_are_known_to_masking(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "FLOW_KV_DSN": "postgresql://authenticator:pass-of-gateway@h/d",
        "FLOW_KV_ADMIN_DSN": "postgresql://postgres:pass-of-owner@h/d",
        "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_of_ours",
        "FLOW_KV_JWT_SECRET": "legacy-secret-of-theirs",
    }.items():
        monkeypatch.setenv(name, value)
    expected = {"pass-of-gateway", "pass-of-owner", "sb_secret_of_ours", "legacy-secret-of-theirs"}
    assert expected <= set(secrets_of(load()))


def test_what_the_stores_client_reads_is_no_unknown_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLOW_KV_URL", "FLOW_KV_TOKEN_FILE", "FLOW_KV_APIKEY", "FLOW_WORKLET_ID"):
        monkeypatch.setenv(name, "x")
        assert name not in known()
    load()


@pytest.mark.parametrize("kind", [field.annotation for field in Settings.model_fields.values()][1:])
def test_every_default_is_of_its_settings_kind(kind: type[Slice]) -> None:
    checked = type("Checked", (kind,), {"model_config": ConfigDict(validate_default=True, strict=True)})
    assert checked().model_dump() == kind().model_dump()
