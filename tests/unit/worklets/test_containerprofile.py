"""What a repository's container.yaml makes of its worklet: never more than the settings allow, and out of its reach."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.hosts import parse_host
from worklets.containerkeys import PLACE
from worklets.containerprofile import Allowed, ContainerProfiles, ContainerYamlWrong, held_to, read_file
from worklets.containeryaml import McpServer, parse
from worklets.egress import EgressPolicy
from worklets.errors import WorkletError
from worklets.mcpidentity import identity_of, server_of
from worklets.mcpservers import BUILT_IN, resolve
from worklets.permissions import NARROWED, Permissions, narrowed
from worklets.profile import Origin, Profile
from worklets.repositories import Repository
from worklets.secrets import SecretMissing, SecretsAway, SecretStore

ORIGIN = Origin("0a8a4d2e-0000-4000-8000-000000000001", "U1", "C1", "https://git.example.org/shop.git")
OPEN = EgressPolicy("allow-list", (parse_host("*.example.org"),))
ALLOWED = Allowed(1 << 30, 2.0, 600.0, OPEN)


class Secrets:
    """As far as it is asked here."""

    def __init__(self, **secrets: Mapping[str, str]) -> None:
        self.secrets = {f"mcp/{name}": values for name, values in secrets.items()}

    async def get(self, path: str) -> Mapping[str, str]:
        if path not in self.secrets:
            raise SecretMissing
        return self.secrets[path]


def store(**secrets: Mapping[str, str]) -> Any:
    return Secrets(**secrets)


def repository(at: Path, text: str | bytes) -> Path:
    (at / ".claude").mkdir(parents=True, exist_ok=True)
    (at / PLACE).write_bytes(text.encode() if isinstance(text, str) else text)
    return at


def profiles(share_dir: Path, secrets: SecretStore | None = None) -> ContainerProfiles:
    return ContainerProfiles(share_dir, ALLOWED, lambda: secrets)


def notes(text: str, allowed: Allowed = ALLOWED) -> tuple[str, ...]:
    config, wrong = parse(text.encode())
    assert not wrong
    return tuple(text for _, text in held_to(config, allowed).notes)


def test_more_than_is_allowed_is_cut_to_it_and_told() -> None:
    text = "resources: {memory: 2g, cpu: 8, timeout: 2h}\nsecurity: {runAsUser: 1001, readOnlyRoot: false}"
    config, _ = parse(text.encode())
    held = held_to(config, ALLOWED)
    assert (held.config.memory, held.config.cpu, held.config.timeout) == (None, None, None)
    assert tuple(text for _, text in held.notes) == (
        "resources.memory asks for 2 GiB; a worklet has 1 GiB.",
        "resources.cpu asks for 8; a worklet has 2.",
        "resources.timeout asks for 2h; a turn has 10m.",
        "security.runAsUser asks for 1001; Claude is user 1000 in every worklet.",
        "security.readOnlyRoot asks for a root that can be written; it cannot: use the workspace or /tmp.",
    )
    assert [config.lines[key] for key, _ in held.notes][:2] == [(1, 21), (1, 30)]
    least = held_to(parse(b"resources: {memory: 1}")[0], ALLOWED)
    assert least.config.memory == 256 << 20
    assert least.notes == (("resources.memory", "resources.memory asks for 1 B; Claude Code needs 256 MiB."),)
    assert notes("resources: {memory: 1g, cpu: 2, timeout: 10m}\nsecurity: {runAsUser: 1000}") == ()
    (why,) = notes("security: {allowedDomains: [a.example.org, b.example.com]}")
    assert why.startswith("security.allowedDomains names b.example.com; Flow's administrator allows *.example.org")
    assert notes("security: {allowedDomains: [a.example.org], networkMode: none}") == ()
    asking = EgressPolicy("allow-list", ask=(parse_host("a.example.org"),))
    assert notes("security: {allowedDomains: [a.example.org]}", Allowed(1, 1, None, asking)) == ()
    assert len(notes("security: {allowedDomains: [b.example.org]}", Allowed(1, 1, None, asking))) == 1
    (why,) = notes("security: {allowedDomains: [a.example.org]}", Allowed(1, 1, None, EgressPolicy()))
    assert why.endswith("Flow's administrator lets worklets reach nothing outside.")


async def test_the_profile_only_tightens(tmp_path: Path) -> None:
    host = profiles(tmp_path)
    text = """\
tools: {allowed: [Read, "Bash(git *)"]}
resources: {memory: 512m, cpu: 4, timeout: 5m}
security: {allowedDomains: [a.example.org]}
"""
    await host.learn("w", ORIGIN, repository(tmp_path / "repo", text))
    before = Profile(memory=256 << 20, grants={"mcp": {"x": {}}}, notes=("first",))
    profile = await host.part("w", ORIGIN, before)
    assert (profile.memory, profile.cpus, profile.turn_timeout) == (256 << 20, None, 300)
    assert profile.allowed == ("Read", "Bash(git *)")
    assert profile.grants == {"mcp": {"x": {}}, "egress": {"within": [["a.example.org"]]}}
    assert profile.notes == ("first", f"{PLACE}: resources.cpu asks for 4; a worklet has 2.")
    # Line by line, of very many the first ones; what the template has said of a server is not said again.
    hosts = ", ".join(f"h{number}.example.net" for number in range(9))
    text = f"resources: {{cpu: 4}}\nmcpServers: [linear, github]\nsecurity: {{allowedDomains: [{hosts}]}}"
    await host.learn("many", ORIGIN, repository(tmp_path / "many", text))
    linear = "The template: The MCP server linear is left out: there is no store of secrets; an administrator sets "
    linear += "one up, then `flow secrets set mcp/linear token`."
    first, *more, last, github = (await host.part("many", ORIGIN, Profile(notes=(linear,)))).notes
    assert first == linear
    assert more[0] == f"{PLACE}: resources.cpu asks for 4; a worklet has 2."
    assert len(more) == 5
    assert last == f"{PLACE}: 5 more that it asks for, and does not get, are listed by `flow container check`."
    assert github.startswith(f"{PLACE}: The MCP server github is left out: ")
    await host.learn("v", ORIGIN, repository(tmp_path / "other", "security: {networkMode: none}"))
    assert (await host.part("v", ORIGIN, Profile())).grants == {"egress": {"within": [[]]}}


async def test_what_was_learned_stays_whatever_happens_to_the_file(tmp_path: Path) -> None:
    host, repo = profiles(tmp_path), repository(tmp_path / "repo", "resources: {memory: 512m}")
    await host.learn("w", ORIGIN, repo)
    repository(repo, "resources: {memory: 1g}")
    assert (await host.part("w", ORIGIN, Profile())).memory == 512 << 20
    assert (await profiles(tmp_path).config("w")).memory == 512 << 20  # after a restart too
    await host.forked("w", "fork")
    assert (await host.part("fork", ORIGIN, Profile())).memory == 512 << 20
    await host.forked("other", "plain")
    assert await host.part("plain", ORIGIN, Profile()) == Profile()
    (repo / PLACE).unlink()
    await host.learn("w", ORIGIN, repo)  # cloned anew
    assert await host.part("w", ORIGIN, Profile()) == Profile()
    kept = tmp_path / "worklets" / "w"
    assert not (kept / "run" / "container.yaml").exists()  # what lies in run/ is the worklet's to see


async def test_a_bad_file_starts_nothing_and_tells_every_fault(tmp_path: Path) -> None:
    host, repo = profiles(tmp_path), repository(tmp_path / "repo", "nmae: x\nresources: {memory: lots}")
    with pytest.raises(ContainerYamlWrong) as told:
        await host.learn("w", ORIGIN, repo)
    assert str(told.value).splitlines()[1:] == [
        'line 1:1: "nmae" is not known; did you mean name?',
        'line 2:21: resources.memory: "lots" is not a size; write it like "512m" or "2g".',
    ]
    assert str(told.value).startswith(f"{PLACE} cannot be used. Correct it in the repository (`flow container check` ")
    repository(repo, "\n".join(f"k{i}: 1" for i in range(40)))
    with pytest.raises(ContainerYamlWrong) as told:
        await host.learn("w", ORIGIN, repo)
    assert str(told.value).splitlines()[-1] == "35 more."
    repository(repo, b"x" * 70_000)
    with pytest.raises(ContainerYamlWrong, match="65,537 bytes; 65,536 are read"):
        await host.learn("w", ORIGIN, repo)
    (repo / PLACE).rename(repo / ".claude" / "container.yml")
    with pytest.raises(ContainerYamlWrong, match=r"container\.yml is not read; call it \.claude/container\.yaml"):
        await host.learn("w", ORIGIN, repo)


def test_no_link_of_a_repository_is_followed(tmp_path: Path) -> None:
    repo, secret = tmp_path / "repo", tmp_path / "secret"
    (repo / ".claude").mkdir(parents=True)
    assert read_file(repo) is None
    repository(secret, "name: secret")
    (repo / PLACE).symlink_to(secret / PLACE)
    with pytest.raises(WorkletError, match=r"container\.yaml is a link"):
        read_file(repo)
    (repo / PLACE).unlink()
    (repo / ".claude").rmdir()
    (repo / ".claude").symlink_to(secret / ".claude")
    with pytest.raises(WorkletError, match=r"\.claude is a link"):
        read_file(repo)
    (repo / ".claude").unlink()
    (repo / ".claude").mkdir()
    os.mkfifo(repo / PLACE)  # nobody will ever write into it
    with pytest.raises(WorkletError, match="is no file"):
        read_file(repo)
    (repo / PLACE).unlink()
    (repo / PLACE).mkdir()
    with pytest.raises(WorkletError, match="is no file"):
        read_file(repo)
    (repo / PLACE).rmdir()
    (repo / ".claude").rmdir()
    (repo / ".claude").write_text("a file")
    assert read_file(repo) is None


async def test_built_in_servers_and_where_their_secrets_go() -> None:
    tokens = {name: {"token": f"secret-of-{name}"} for name in ("github", "linear", "slack", "sentry")}
    secrets = store(**tokens, postgres={"dsn": "postgresql://flow:pw@db/shop"})
    found = await resolve([McpServer(name, builtin=name) for name in BUILT_IN], secrets, None)
    assert found.notes == ()
    assert list(found.servers) == list(BUILT_IN)
    assert found.grant == {
        "github": {
            "url": "https://api.githubcopilot.com/mcp/", "headers": {"Authorization": "Bearer secret-of-github"},
        },
        "linear": {"url": "https://mcp.linear.app/mcp", "headers": {"Authorization": "Bearer secret-of-linear"}},
        "slack": {"url": "https://mcp.slack.com/mcp", "headers": {"Authorization": "Bearer secret-of-slack"}},
        "sentry": {"url": "https://mcp.sentry.dev/mcp", "headers": {"Authorization": "Sentry-Bearer secret-of-sentry"}},
        "postgres": {"dsn": "postgresql://flow:pw@db/shop"},
    }  # fmt: skip
    inside = repr(found.servers)
    assert "secret-of" not in inside
    assert "pw@db" not in inside
    assert "secret-of" not in repr(found)
    assert found.servers["github"]["url"] == "${ANTHROPIC_BASE_URL}/flow/mcp/github"
    assert {name for name, one in found.servers.items() if "command" in one} == {
        "filesystem", "memory", "fetch", "playwright",
    }  # fmt: skip


async def test_what_cannot_be_had_is_left_out_with_a_word() -> None:
    class Away(Secrets):
        async def get(self, path: str) -> Mapping[str, str]:
            raise SecretsAway

    github = [McpServer("github", builtin="github")]
    secret = {"token": "t", "repositories": "https://git.example.org/team/*"}
    for secrets, why in (
        (None, "there is no store of secrets"),
        (
            store(),
            "there is no secret mcp/github; an administrator stores it with `flow secrets set mcp/github token`",
        ),
        (store(github={"tokn": "x"}), "the secret mcp/github has no value token"),
        (Away(), "its secret cannot be read: Vault does not answer."),
        (store(github=secret), "its secret is not for this repository."),
    ):
        found = await resolve(github, secrets, ORIGIN.repository)  # type: ignore[arg-type]
        assert (found.servers, found.grant) == ({}, {})
        assert why in found.notes[0]
    assert (await resolve(github, store(github=secret), "https://git.example.org/team/shop.git")).notes == ()


async def test_a_secret_goes_only_where_the_administrator_lets_it() -> None:
    url, header = "https://mcp.tracker.example/mcp", (("Authorization", "Bearer ${KEY}"),)
    secrets = store(tracker={"KEY": "s3cret", "hosts": "*.tracker.example"}, shell={"KEY": "s3cret"})
    found = await resolve([McpServer("tracker", url=url, headers=header)], secrets, None)
    assert found.grant == {"tracker": {"url": url, "headers": {"Authorization": "Bearer s3cret"}}}
    for server, why in (
        (McpServer("tracker", url="https://evil.example/mcp", headers=header), "may not be sent to evil.example"),
        (McpServer("tracker", url="https://10.0.0.1/mcp", headers=header), "may not be sent to 10.0.0.1"),
        (McpServer("tracker", url="https://mcp.tracker.example:22/mcp", headers=(("A", "${HOME}"),)), "no value HOME"),
        (McpServer("tracker", url=url, headers=(("A", "${hosts}"),)), "has no value hosts"),
        (McpServer("shell", command="sh", env=(("KEY", "${KEY}"),)), "its secret may not be given to this command"),
    ):
        found = await resolve([server], secrets, None)
        assert (found.servers, found.grant) == ({}, {})
        assert why in found.notes[0]
    plain = await resolve([McpServer("tracker", url=url), McpServer("lint", command="lint", args=("-v",))], None, None)
    assert plain.servers == {
        "tracker": {"type": "http", "url": url, "headers": {}},
        "lint": {"command": "lint", "args": ["-v"], "env": {}},
    }
    assert plain.grant == {}


async def test_a_command_gets_a_secret_only_word_by_word_as_the_administrator_wrote_it() -> None:
    own = McpServer("Own", command="own-mcp", args=("--only", "a b"), env=(("T", "${T}"), ("LEVEL", "x")))
    line = "LEVEL=x T='${T}' own-mcp --only 'a b'"
    found = await resolve(
        [own], store(own={"T": "s3cret", "command": line, "hosts": "a.example, *.b.example:8443"}), None
    )
    assert found.servers["Own"]["url"] == "${ANTHROPIC_BASE_URL}/flow/mcp/Own"
    assert found.grant["Own"] == {
        "command": ["own-mcp", "--only", "a b"], "env": {"T": "s3cret", "LEVEL": "x"},
        "hosts": ["a.example", "*.b.example:8443"], "secrets": ["s3cret"],
    }  # fmt: skip
    with_image = await resolve([own], store(own={"T": "s", "command": line, "image": "node:22"}), None)
    assert (with_image.grant["Own"]["image"], with_image.grant["Own"]["hosts"]) == ("node:22", [])
    for server, values, why in (
        (own, {}, "`flow secrets set mcp/own command`, value 'T=${T}' LEVEL=x own-mcp --only 'a b'"),
        (replace(own, args=("--only", "a b", "-v")), {"command": line}, "may not be given to this command"),
        (replace(own, env=(*own.env, ("NODE_OPTIONS", "-r evil"))), {"command": line}, "may not be given"),
        (replace(own, command="./own-mcp"), {"command": line}, "may not be given"),
        (replace(own, args=("${T}",)), {"command": "T=${T} LEVEL=x own-mcp ${T}"}, "which others can read"),
        (replace(own, args=("x" * 2000,)), {}, "NAME=value first, then command and args as they stand in the file"),
        (own, {"command": "'own"}, "`command` or `hosts` of the secret mcp/own: No closing quotation"),
        (own, {"command": line, "hosts": "10.0.0.1"}, "`command` or `hosts` of the secret mcp/own:"),
        (replace(own, env=(("T", "${command}"),)), {"command": line}, "has no value command"),
        (own, {"command": line, "T": "a\0b"}, "null byte"),
    ):
        found = await resolve([server], store(own={"T": "s3cret", **values}), None)
        assert (found.servers, found.grant) == ({}, {})
        assert why in found.notes[0]
        assert "s3cret" not in found.notes[0]


def test_what_is_risky_is_asked_for_whatever_a_file_allows() -> None:
    auto = Permissions("auto", ask_risk="high")
    risky = narrowed(auto, None, ["github", "memory", "own"])
    assert (risky.mode, risky.deny) == ("ask", ())
    assert risky.allow == ("Read", "Edit", "Write", "Grep", "Glob", "Task", "mcp__memory")
    held = narrowed(auto, ("Bash", "Bash(git *)", "Read", "mcp__github__search"), ["github"])
    assert held.allow == ("Read",)
    critical = narrowed(Permissions("auto", ask_risk="critical"), None, ["github", "linear"])
    assert critical.allow == (*NARROWED, "mcp__linear")
    assert narrowed(Permissions("plan", ask_risk="high"), None, ["github"]) == Permissions("plan", ask_risk="high")


def test_tools_that_are_not_named_are_denied() -> None:
    assert narrowed(Permissions("auto", deny=("Bash(rm *)",)), None) == Permissions("auto", deny=("Bash(rm *)",))
    few = narrowed(Permissions("auto", ("A",)), ("Read", "Edit"), ["github"])
    assert few == Permissions(
        "auto", ("A", "Read", "Edit", "mcp__github"), (), ("Bash", "Write", "Grep", "Glob", "Task")
    )
    partly = narrowed(Permissions("auto"), ("Bash(git *)",))
    assert (partly.mode, partly.allow) == ("ask", ("Bash(git *)",))
    assert "Bash" not in partly.deny
    named = narrowed(Permissions("plan"), (*NARROWED, "mcp__github__search"), ["github", "linear"])
    assert (named.mode, named.deny) == ("plan", ("mcp__linear",))
    assert narrowed(Permissions(), ("Read",)).names("Read")
    for mode in ("ask", "plan"):  # Flow asks, and goes on asking: a file allows nothing
        held = narrowed(Permissions(mode, ("A",)), ("Bash", "Read"), ["github"])
        assert (held.mode, held.allow) == (mode, ("A",))
        assert held.deny == ("Edit", "Write", "Grep", "Glob", "Task")
    assert Permissions(allow=("mcp__github",)).names("mcp__github__search")
    assert not Permissions(allow=("Bash(git *)",)).names("Read")


def test_a_built_in_server_under_another_name_is_as_risky_and_has_the_same_rules() -> None:
    aliases = {"gh": "github", "notes": "memory"}
    strict = Permissions(
        "auto", ("mcp__github__search",), ("mcp__github__push(x)",), ("mcp__github", "mcp__githubber"), "critical"
    )
    held = narrowed(strict, None, ["gh", "notes", "own"], aliases)
    assert held.allow == ("mcp__github__search", "mcp__gh__search", *NARROWED, "mcp__notes", "mcp__own")
    assert held.ask == ("mcp__github__push(x)", "mcp__gh__push(x)")
    assert held.deny == ("mcp__github", "mcp__githubber", "mcp__gh")
    risks = [held.risk(f"mcp__{name}__x") for name in ("gh", "notes", "own", "github")]
    assert risks == ["critical", "low", "high", "critical"]


async def test_the_profile_knows_what_goes_under_another_name(tmp_path: Path) -> None:
    repo = repository(tmp_path / "repo", "mcpServers: {gh: github, memory: , linear: , lint: {command: x}}")
    host = profiles(tmp_path, store(github={"token": "t"}))
    await host.learn("w", ORIGIN, repo)
    part = await host.part("w", ORIGIN, Profile())
    assert list(part.mcp_servers) == ["gh", "memory", "lint"]
    assert part.mcp_aliases == {"gh": "github"}


async def test_a_yes_to_a_servers_tool_counts_for_that_server_under_no_other_name(tmp_path: Path) -> None:
    other, mine = replace(ORIGIN, repository="https://git.example.org/other.git"), "tracker: {command: npx, args: [a]}"
    texts = {
        "mine": (ORIGIN, f"mcpServers: {{{mine}, db: postgres, github: }}"),
        "again": (ORIGIN, f"mcpServers: {{{mine}, db: memory}}"),
        "changed": (ORIGIN, "mcpServers: {tracker: {command: npx, args: [b]}}"),
        "theirs": (other, f"mcpServers: {{{mine}, db: postgres, gh: github}}"),
    }
    made, host = {}, profiles(tmp_path, store(postgres={"dsn": "x"}, github={"token": "t"}))
    for name, (origin, text) in texts.items():
        await host.learn(name, origin, repository(tmp_path / name, text))
        made[name] = await host.part(name, origin, Profile())
    rules = ("mcp__tracker__file", "mcp__db__query", "mcp__github__search", "mcp__missing__x")
    scoped = tuple((rule, identity_of(rule, made["mine"].mcp_identities)) for rule in rules)

    def allowed(name: str) -> tuple[str, ...]:
        profile = made[name]
        given = Permissions("ask", scoped=scoped)
        held = narrowed(given, None, profile.mcp_servers, profile.mcp_aliases, profile.mcp_identities)
        assert not held.scoped
        return tuple(rule for rule in held.allow if profile.mcp_servers.get(rule.split("__")[1]))

    assert allowed("mine") == rules[:3]
    assert allowed("again") == rules[:1], "db is another there"
    assert allowed("changed") == ()
    assert allowed("theirs") == ("mcp__db__query", "mcp__gh__search"), "built-in ones are the same everywhere"
    scoped = tuple((rule, identity_of(rule, made["theirs"].mcp_identities)) for rule in ("mcp__gh__search", "mcp__gh"))
    assert allowed("theirs") == ("mcp__gh__search", "mcp__gh")
    assert allowed("mine") == ("mcp__github__search", "mcp__github"), "also where it has its own name again"
    assert allowed("again") == ()
    assert [server_of(rule) for rule in ("mcp__flow__git_push", "Bash(mcp__x__y)", "mcp__a")] == [None, None, "a"]


async def test_a_templates_server_stays_the_templates(tmp_path: Path) -> None:
    repo = repository(tmp_path / "repo", "mcpServers: {Docs: {command: evil}, lint: {command: lint}}")
    host = profiles(tmp_path)
    await host.learn("w", ORIGIN, repo)
    part = await host.part("w", ORIGIN, Profile(mcp_servers={"Docs": {"command": "docs"}}))
    assert {name: one["command"] for name, one in part.mcp_servers.items()} == {"Docs": "docs", "lint": "lint"}
    assert part.notes == (f"{PLACE}: The MCP server Docs is the template's, whatever stands here.",)


async def test_without_a_network_no_server_outside_is_reached(tmp_path: Path) -> None:
    text = "mcpServers: {github: , memory: , own: {url: 'https://a.example/'}}\nsecurity: {networkMode: none}"
    host = profiles(tmp_path, store(github={"token": "t"}))
    await host.learn("w", ORIGIN, repository(tmp_path / "repo", text))
    part = await host.part("w", ORIGIN, Profile())
    assert list(part.mcp_servers) == ["memory"]
    assert "mcp" not in part.grants
    assert part.notes == (f"{PLACE}: security.networkMode is none, so these MCP servers are left out: github, own.",)


async def test_tools_are_those_that_the_file_names(tmp_path: Path) -> None:
    host = profiles(tmp_path)
    await host.learn("w", ORIGIN, repository(tmp_path / "repo", "tools: {allowed: [Read, mcp__linear]}"))
    assert (await host.part("w", ORIGIN, Profile())).allowed == ("Read", "mcp__linear")


async def test_a_secret_is_for_the_repository_that_is_meant_and_not_for_what_looks_like_it() -> None:
    shop = Repository("shop", "https://bot:pw@git.example.org/team/shop.git", None)

    def find(named: str) -> Repository | None:
        return shop if named in ("shop", "https://git.example.org/team/shop.git") else None

    base = "https://git.example.org/team"
    for pattern, repository, fits in (
        (f"{base}/*", "shop", True),
        ("shop", "shop", True),
        ("shop", f"{base}/shop.git", True),
        (f"{base}/shop", f"{base}/shop.git", True),
        (f"{base}/*", "https://me:pw@git.example.org/team/cart.git/", True),
        ("git@git.example.org:team/*", "git@git.example.org:team/cart.git", True),
        ("shop", "cart", False),
        ("shop", "https://evil.example/shop", False),
        (f"{base}/*", f"{base}/../evil/cart.git", False),
        (f"{base}/*", f"{base}/./cart.git", False),
        (f"{base}/*", f"{base}//cart.git", False),
        (f"{base}/*", f"{base}/%2E%2e/evil/cart.git", False),
        (f"{base}/*", f"{base}/..%2fevil/cart.git", False),
        (f"{base}/*", f"{base}/..\\evil/cart.git", False),
        (f"{base}/*", f"{base}/cart.git?x", False),
        (f"{base}/*", f"{base}/cart.git#x", False),
        ("*", f"{base}/x/..", False),
        ("*", None, False),
    ):
        secrets = store(github={"token": "t", "repositories": pattern})
        found = await resolve([McpServer("github", builtin="github")], secrets, repository, find)
        assert bool(found.grant) is fits, (pattern, repository)


async def test_wrong_hosts_of_a_secret_leave_one_server_out() -> None:
    own = McpServer("own", url="https://a.example/", headers=(("Authorization", "${T}"),))
    for wrong in ("https://a.example", "*", "10.0.0.5"):
        found = await resolve([own], store(own={"T": "x", "hosts": wrong}), None)
        assert found.grant == {}
        assert "`hosts` of the secret mcp/own" in found.notes[0]


async def test_no_header_sends_a_secret_elsewhere() -> None:
    for name in ("Host", "content-length", "Transfer-Encoding", "Cookie", "Mcp-Session-Id", "TE"):
        own = McpServer("own", url="https://a.example/", headers=(("Authorization", "${T}"), (name, "x")))
        found = await resolve([own], store(own={"T": "x", "hosts": "a.example"}), None)
        assert found.grant == {}
        assert f"header {name} is not for a file to set" in found.notes[0]
