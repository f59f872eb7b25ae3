"""What a template may say, and in which words it is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from sessions.templates import (
    Template,
    TemplateConfig,
    TemplateId,
    TemplateInvalid,
    as_file,
    checked_config,
    drafted,
    from_file,
    is_reserved,
    matching,
)

WHOLE: dict[str, Any] = {
    "repository": "https://git.example.org/team/api.git",
    "branch": "main",
    "startup_script": "node",
    "model": "opus",
    "mode": "plan",
    "image": "debian:bookworm",
    "egress": {"mode": "allow-list", "hosts": ["*.Example.org:8443"]},
    "resources": {"memory": "512m", "cpus": 0.5, "pids": 128},
    "mcp_servers": ["github", "postgres"],
    "vault": {"paths": ["team/api/*"]},
    "env": {"LOG_LEVEL": "debug"},
    "prompt": "Look at the open pull requests.",
    "instructions": "Answer in German.",
}


def template(name: str, description: str = "", user: str = "U1", **fields: Any) -> Template:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    public = fields.pop("is_public", False)
    return Template(TemplateId(name), name, description, TemplateConfig(**fields), user, public, now, now)


def test_a_whole_one_is_kept_and_written_again() -> None:
    config = checked_config(WHOLE)
    assert config.resources is not None
    assert config.resources.memory == 512 * 1024**2
    assert config.egress is not None
    assert config.egress.hosts == ("*.example.org:8443",)
    assert checked_config(config.stored()) == config
    assert config.stored()["resources"] == {"memory": 512 * 1024**2, "cpus": 0.5, "pids": 128}
    assert "repository" not in config.rest()
    assert config.rest()["vault"] == {"paths": ["team/api/*"]}
    assert checked_config({}).stored() == {}


@pytest.mark.parametrize(
    ("config", "place", "words"),
    [
        ([], "", "one JSON object"),
        ({"colour": "red"}, "colour", "is nothing that a template can set"),
        ({"mode": "yolo"}, "mode", "'auto', 'ask' or 'plan'"),
        ({"resources": {"memory": "2x"}}, "resources.memory", '"2x" is not a size; write it like "512m" or "2g"'),
        ({"resources": {"memory": "1m"}}, "resources.memory", "is below"),
        ({"resources": {"memory": "255m"}}, "resources.memory", "is below 256 MiB"),
        ({"resources": {"cpus": 0}}, "resources.cpus", "is not above 0"),
        ({"resources": {"cpus": 1e-10}}, "resources.cpus", "is below 0.01"),
        ({"repository": "https://h/a", "branch": "b" * 201}, "branch", "at most 200"),
        ({"model": "m" * 76}, "model", "at most 75"),
        ({"mcp_servers": ["ghp_" + "a" * 36]}, "", "looks like a secret"),
        ({"resources": {"disk": 1}}, "resources.disk", "is nothing"),
        ({"egress": {"mode": "allow-list"}}, "egress", "needs some"),
        ({"egress": {"mode": "allow-list", "hosts": ["127.0.0.1"]}}, "egress.hosts", "not given by address"),
        ({"egress": {"mode": "none", "hosts": ["example.org"]}}, "egress", "allow-list"),
        ({"egress": {"mode": "allow-list", "hosts": 5}}, "egress.hosts", "no list of hosts"),
        ({"repository": "No name"}, "repository", "no repository's name or address"),
        ({"repository": "https://me:hunter22@host/a"}, "repository", "password"),
        ({"branch": "main"}, "", "a branch needs a repository"),
        ({"repository": "https://h/a", "branch": "-x"}, "branch", "no branch name"),
        ({"vault": {"paths": []}}, "vault.paths", "at least one"),
        ({"vault": {}}, "vault.paths", "is missing"),
        ({"mcp_servers": "github"}, "mcp_servers", "must be a list"),
        ({"mcp_servers": ["a b"]}, "mcp_servers.0", "no name"),
        ({"env": {"API_TOKEN": "abc"}}, "", "looks like a secret"),
        ({"env": {"COLOR": "ghp_" + "a" * 36}}, "", "looks like a secret"),
        ({"env": {"LD_PRELOAD": "/x"}}, "", "not for templates"),
        ({"env": {"https_proxy": "x"}}, "", "not for templates"),
        ({"env": {"NODE_OPTIONS": "--require x"}}, "", "not for templates"),
        ({"env": {"A=B": "x"}}, "", "no name of a variable"),
        ({"env": {"A": 5}}, "env.A", "must be a text"),
        ({"instructions": "key sk-ant-" + "a" * 30}, "", "secret"),
        ({"instructions": "x" * 3_001}, "instructions", "too long"),
        ({"prompt": "a\x00b"}, "prompt", "control characters"),
        ({"env": {f"N{n}": "x" * 100 for n in range(40)}}, "", "must fit"),
    ],
)
def test_what_is_wrong_is_said_at_its_place(config: Any, place: str, words: str) -> None:
    with pytest.raises(TemplateInvalid) as refused:
        checked_config(config)
    assert list(refused.value.faults) == [place]
    assert words in refused.value.faults[place]
    assert "Value error" not in str(refused.value)


RESERVED = (
    "BUN_OPTIONS SHELLOPTS PS4 PROMPT_COMMAND XDG_CONFIG_HOME PAGER GIT_PAGER MANPAGER EDITOR VISUAL LESSOPEN NODE_ENV "
    "BASH_ENV BASHOPTS RIPGREP_CONFIG_PATH SSL_CERT_FILE SSLKEYLOGFILE OPENSSL_CONF GLIBC_TUNABLES GCONV_PATH LD_AUDIT "
    "AWS_REGION OTEL_EXPORTER_OTLP_ENDPOINT ENABLE_TOOL_SEARCH MAX_THINKING_TOKENS PYTHONSTARTUP CURL_HOME HOSTALIASES "
    "bun_options npm_config_registry GOFLAGS MAKEFLAGS RUSTC_WRAPPER JAVA_TOOL_OPTIONS TMPDIR TERMINFO"
)


@pytest.mark.parametrize("name", RESERVED.split())
def test_a_variable_that_programs_act_upon_themselves_is_refused(name: str) -> None:
    assert is_reserved(name)
    with pytest.raises(TemplateInvalid, match="not for templates to set"):
        checked_config({"env": {name: "x"}})


def test_a_project_has_variables_of_its_own() -> None:
    names = (
        "LOG_LEVEL API_URL DATABASE_HOST DEBUG TZ LANG LC_ALL PORT LDAP_URL RESULTS FEATURE_FLAGS USERS RUST_LOG GOAL"
    )
    assert checked_config({"env": dict.fromkeys(names.split(), "x")}).env.keys() == set(names.split())


def test_a_description_holds_no_secret() -> None:
    with pytest.raises(TemplateInvalid) as refused:
        drafted("a", "with ghp_" + "a" * 36, {})
    assert list(refused.value.faults) == ["description"]


def test_what_an_older_flow_stored_is_read_all_the_same() -> None:
    old = {"resources": {"memory": 128 << 20, "cpus": 1e-10}, "model": "m" * 76, "env": {"PAGER": "x"}}
    assert checked_config(old, stored=True).model == "m" * 76


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(TemplateInvalid) as refused:
        drafted("Not a name!", "d" * 201, {"mode": "x", "colour": 1})
    assert set(refused.value.faults) == {"name", "description", "mode", "colour"}
    assert drafted(" Review.API ", " two \n lines ", {}).name == "review.api"
    assert drafted("a", " two \n lines ", {}).description == "two lines"


def test_a_file_brings_back_what_it_was_made_of() -> None:
    draft = drafted("review", "looks at code", WHOLE, is_public=True)
    assert from_file(as_file(draft, "U1")) == (draft, "U1")
    assert from_file(as_file(draft)) == (draft, None)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ([], ""),
        ({"name": "a", "colour": 1}, "colour"),
        ({"name": "a", "public": "yes"}, "public"),
        ({"name": "a", "owner": "maya"}, "owner"),
        ({"name": 5}, "name"),
        ({"name": "a", "config": {"mode": "x"}}, "mode"),
    ],
)
def test_a_file_that_is_none_is_refused(data: Any, place: str) -> None:
    with pytest.raises(TemplateInvalid) as refused:
        from_file(data)
    assert list(refused.value.faults) == [place]


def test_words_find_what_has_them_all() -> None:
    known = [template("review", "Looks at CODE"), template("deploy", "puts code out"), template("other")]
    assert [one.name for one in matching(known, "code LOOKS")] == ["review"]
    assert [one.name for one in matching(known, "code")] == ["review", "deploy"]
    assert matching(known, "") == known


def test_who_may_see_and_change() -> None:
    private, public, kept = template("a"), template("b", is_public=True), template("c", user="", is_public=True)
    assert private.may_see("U1")
    assert not private.may_see("U2")
    assert private.may_see("U2", admin=True)
    assert public.may_see("U2")
    assert not public.may_change("U2")
    assert public.may_change("U2", admin=True)
    assert not kept.may_change("")
    assert kept.may_change("U1", admin=True)
