"""A repository's container.yaml: what it says, every fault with its line, and nothing that it can do to the reader."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from config.hosts import HostRule
from worklets.containerkeys import json_schema
from worklets.containeryaml import ContainerConfig, parse
from worklets.mcpservers import BUILT_IN

GOOD = b"""\
name: shop
baseImage: node:22-bookworm-slim
tools:
  allowed: [Read, Edit, "Bash(npm *)", mcp__github]
mcpServers:
  github:
  errors: sentry
  tracker:
    url: https://mcp.tracker.example/mcp
    headers: {Authorization: "Bearer ${TRACKER_TOKEN}"}
  lint: {command: npx, args: [lint-mcp, 8080], env: {LOG: "1"}}
resources: {memory: 1Gi, timeout: 30m, cpu: 500m}
security:
  runAsUser: 1000
  readOnlyRoot: true
  noNewPrivileges: true
  dropCapabilities: [ALL]
  networkMode: bridge
  allowedDomains: [packages.example.com, "*.example.org:8443"]
"""


LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [*%c,*%c,*%c,*%c]\n" % ((98 + i,) * 2 + (97 + i,) * 4) for i in range(20)
)


def faults(text: bytes | str) -> list[str]:
    found = parse(text.encode() if isinstance(text, str) else text, "c.yaml")[1]
    return [fault.removeprefix("c.yaml:") for fault in found]


def test_all_that_a_file_can_say() -> None:
    config, wrong = parse(GOOD)
    assert wrong == []
    assert (config.name, config.base_image) == ("shop", "node:22-bookworm-slim")
    assert config.allowed == ("Read", "Edit", "Bash(npm *)", "mcp__github")
    assert (config.memory, config.timeout, config.cpu) == (1 << 30, 1800, 0.5)
    assert (config.run_as_user, config.read_only_root, config.no_new_privileges) == (1000, True, True)
    assert (config.drop_capabilities, config.network_mode) == (("ALL",), "bridge")
    assert config.allowed_domains == (HostRule("packages.example.com"), HostRule("example.org", True, 8443))
    github, errors, tracker, lint = config.mcp_servers
    assert (github.name, github.builtin, errors.name, errors.builtin) == ("github", "github", "errors", "sentry")
    assert (tracker.url, tracker.variables) == ("https://mcp.tracker.example/mcp", ("TRACKER_TOKEN",))
    assert (lint.command, lint.args, lint.env, lint.variables) == ("npx", ("lint-mcp", "8080"), (("LOG", "1"),), ())
    assert config.lines["security.runAsUser"] == (14, 14)


def test_servers_as_a_list_and_nothing_at_all() -> None:
    config, wrong = parse(f"mcpServers: [{', '.join(BUILT_IN)}]".encode())
    assert not wrong
    assert [server.builtin for server in config.mcp_servers] == list(BUILT_IN)
    assert len(BUILT_IN) == 9
    for nothing in (b"", b"# nothing\n", b"---\n", b"\xef\xbb\xbf"):
        assert parse(nothing) == (ContainerConfig(), [])


def test_every_fault_is_told_at_once_with_its_place() -> None:
    assert faults("""\
nmae: shop
baseimage: x
tools: {allowed: [Bsah, Read, [x]]}
mcpServers:
  githbu:
  both: {command: x, url: https://y.org}
  mixed: {url: https://y.org, args: [x]}
  "a__b": {command: x}
resources: {memory: lots, timeout: -3, cpu: two, disk: 1}
security: {runAsUser: root, networkMode: host, noNewPrivileges: false, allowedDomains: [1.2.3.4, "*"]}
allowedDomains: []
privileged: true
""") == [
        '1:1: "nmae" is not known; did you mean name?',
        '2:1: "baseimage" is not known; did you mean baseImage?',
        '3:19: tools.allowed: "Bsah" is no tool of Claude Code; did you mean Bash?',
        "3:31: a list is no text; put it into quotes if it is meant as one.",
        '5:3: mcpServers: "githbu" is no built-in server; did you mean github?',
        "6:3: mcpServers.both has command and url; it needs one of command, url and builtin.",
        "7:3: mcpServers.mixed has url, with which args means nothing.",
        '8:3: mcpServers: "a__b" cannot name a server; use letters, digits and hyphens.',
        '9:21: resources.memory: "lots" is not a size; write it like "512m" or "2g".',
        '9:36: resources.timeout: "-3" is not a positive duration; write it like "45s", "30m" or "1h30m".',
        '9:45: resources.cpu: "two" is no number of processors; write it like 2, 0.5 or "500m".',
        '9:50: "disk" is not known below resources; what stands here is memory, timeout, cpu.',
        '10:23: security.runAsUser: "root" is no user id; write it like 1000.',
        '10:42: security.networkMode: "host" would leave the sandbox, which no repository may; use none or bridge.',
        "10:65: security.noNewPrivileges: programs in a worklet never gain rights; write true, or leave it out.",
        '10:89: security.allowedDomains: "1.2.3.4" is wrong: hosts are named, not given by address; write it like '
        "example.org, *.example.org or example.org:8443.",
        '10:98: security.allowedDomains: "*" is every host; for that set FLOW_EGRESS=open.',
        '11:1: "allowedDomains" is not known here; it belongs below security.',
        '12:1: "privileged" is nothing that a repository may ask for; leave it out.',
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"name: [", "2:1: This is not YAML: did not find expected node content."),
        (b"resources:\n\tmemory: 1g", "2:1: YAML is indented with spaces, and this is a tab."),
        (b"name: @shop", "1:7: A value that begins with @ has to stand in quotes."),
        (b"name: a\nname: b", '2:1: "name" stands in line 1 already.'),
        (b"name: *x", '1:7: "*x" is an alias; write the value out, Flow follows none.'),
        (b"name: !!python/object/apply:os.system id", '1:7: "tag:yaml.org,2002:python/object/apply:os.system" is'),
        (b"name: a\n---\nname: b", "2:1: A second document begins here; there is one in the file."),
        (b"1: a", '1:1: "1" is no name; put it into quotes if it is meant as one.'),
        (b"- a", "1:1: The file is a list, not a mapping: lines like `key: value`."),
        (b"name:", "1:1: name has no value; give it one, or leave it out."),
        (b"name: a\n\xff", "2:1: This is not UTF-8."),
        (b"name: a\x07", "1:8: This character does not belong into YAML."),
        (b"security: {runAsUser: 0}", "1:23: security.runAsUser: nothing in a worklet runs as root; write 1000, or"),
        (b"security: {readOnlyRoot: yes}", '1:26: security.readOnlyRoot: "yes" is neither true nor false.'),
        (b"security: {networkMode: 'container:db'}", '1:25: security.networkMode: "container:db" would leave'),
        (b"mcpServers: {a: {url: 'http://x.org'}}", '1:23: mcpServers.a.url: "http://x.org" is no address of a server'),
        (b"mcpServers: {a: {url: 'https://${H}/x'}}", '1:23: mcpServers.a.url: "https://${H}/x" is no address of a'),
        (b"mcpServers: {a: {url: 'https://u:p@x.org'}}", '1:23: mcpServers.a.url: "https://u:p@x.org" is no address'),
        (b"mcpServers: {flow: {command: x}}", '1:14: mcpServers: "flow" is the name of Flow\'s own server; use'),
        (b"mcpServers: {a: {command: 'x ${a b}'}}", "1:14: mcpServers.a: ${a b} is no variable; write it like"),
        (b"baseImage: ../x", '1:12: baseImage: "../x" is no image; write it like node:22 or python:3.12-slim.'),
        ("tools: {allowed: [" + f"Bash({'é' * 1000}*)," * 6 + "]}", "1:18: tools.allowed: the list is too long"),
        ("mcpServers: {a: {command: x, args: [" + ("é" * 1000 + ",") * 6 + "]}}", "1:13: mcpServers: it is too long;"),
        (b"resources: {memory: true}", '1:21: resources.memory: "true" is not a size; write it like "512m" or "2g".'),
    ],
)  # fmt: skip
def test_faults_one_by_one(text: bytes | str, fault: str) -> None:
    assert faults(text)[-1].startswith(fault)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 60_000,
        LAUGHS,
        b"? " * 30_000,
        b"mcpServers: [" + b"github," * 9_000 + b"]",
        b"name: " + b"x" * 70_000,
        b"{a: " * 10_000,
        b"- " * 30_000,
        b"a:\n" + b"  b:\n" * 10_000,
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused_at_once(text: bytes) -> None:
    begun = time.monotonic()
    assert faults(text)
    assert len(faults(text)) <= 51
    assert time.monotonic() - begun < 20  # a laughing billion would take years


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_give_a_configuration_or_faults(data: bytes) -> None:
    config, wrong = parse(data)
    assert wrong or isinstance(config, ContainerConfig)
    assert all("\n" not in fault for fault in wrong)


def test_the_schema_for_editors_knows_the_same() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(yaml.safe_load(GOOD))) == []
    for wrong in ({"nmae": "x"}, {"security": {"networkMode": "host"}}, {"security": {"runAsUser": 0}}):
        assert list(validator.iter_errors(wrong))
    written = Path(__file__).parents[3] / "docs" / "container.schema.json"
    assert json.loads(written.read_text()) == schema, "run `flow container schema > docs/container.schema.json`"


def test_a_timeout_of_many_digits_or_without_end_is_a_fault() -> None:
    assert faults(f"resources: {{timeout: {'1' * 60_000}x}}") == [
        f'1:22: resources.timeout: "{"1" * 32}…" is not a duration; write it like "45s", "30m" or "1h30m".'
    ]
    assert faults("resources: {timeout: 1.0e999}")[0].startswith('1:22: resources.timeout: "inf"')
    assert faults("resources: {timeout: -1.0e999}")[0].startswith('1:22: resources.timeout: "-inf"')


def test_no_other_server_has_the_name_of_a_built_in_one() -> None:
    for name, server in (("memory", "{command: x}"), ("GitHub", "{url: 'https://a.example/'}"), ("memory", "slack")):
        assert faults(f"mcpServers: {{{name}: {server}}}") == [
            f"1:14: mcpServers: {name} is the name of a built-in server; use another."
        ]
    assert faults("mcpServers: {GitHub: github}") == []
    assert "cannot name a server" in faults("mcpServers: {flow_: github}")[0]
    assert "Flow's own server" in faults("mcpServers: {Flow: github}")[0]


def test_headers_that_a_file_may_not_set() -> None:
    said = faults("mcpServers: {a: {url: 'https://a.example/', headers: {HOST: b.example}}}")
    assert said == ["1:54: mcpServers.a.headers: HOST is not for a file to set; leave it out."]


def test_foreign_names_in_faults_are_short_and_on_one_line() -> None:
    for text in ("&", "*", "!<x"):
        (said,) = faults(f"name: {text}{'z' * 5000}{'> a' if text == '!<x' else ' a' if text == '&' else ''}")
        assert len(said) < 200
        assert 'zzz…"' in said


def test_a_server_that_is_listed_twice() -> None:
    assert faults("mcpServers:\n- github\n- github") == ['3:3: "github" stands in line 2 already.']
