"""`flow secrets`, `flow vault status` and `flow doctor`, as an administrator runs them."""

import asyncio
import io
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from openbao import OpenBao

from bot.cli import main
from bot.doctor import find
from bot.doctorfinding import Finding
from config.settings import Settings, load

ROOT = Path(__file__).parents[2]


class Shell:
    """`flow` with an environment of its own, in this process: to start one takes seconds."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.share, self.key, self.directory = directory / "data", directory / "key", directory
        self.env = {"FLOW_SHARE_DIR": str(self.share), "FLOW_SECRETS_KEY_FILE": str(self.key)}
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: str, given: str = "", **env: str) -> tuple[int, str]:
        with self._monkeypatch.context() as patch:
            patch.chdir(self.directory)
            patch.setattr(sys, "stdin", io.StringIO(given))
            for name, value in (self.env | env).items():
                patch.setenv(name, value)
            try:
                code = main(words)
            except SystemExit as wrong:
                code = int(wrong.code or 0)
        said = self._capsys.readouterr()
        return code, said.out + said.err

    def settings(self, **env: str) -> Settings:
        with self._monkeypatch.context() as patch:
            patch.chdir(self.directory)
            for name, value in (self.env | env).items():
                patch.setenv(name, value)
            return load()


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    server = OpenBao(tmp_path_factory.mktemp("bao"))
    try:
        server.start()
        server.enable_kv()
        yield server
    finally:
        server.close()


def test_secrets_in_a_file(flow: Shell) -> None:
    code, said = flow("secrets", "set", "github", given="ghp_123456\n")
    assert code == 0
    assert str(flow.key) in said
    assert flow("secrets", "set", "github", "user", given="flow")[0] == 0
    assert flow("secrets", "list") == (0, "github\n")
    assert flow("secrets", "rotate")[0] == 0
    code, said = flow("secrets", "rm", "github")
    assert code == 0
    code, said = flow("secrets", "rm", "github")
    assert code == 1
    assert said.startswith("flow: There is no secret github.")


def test_what_cannot_be_stored_changes_nothing_and_is_not_told(flow: Shell) -> None:
    for words, given in (
        (("secrets", "set", "a"), ""),
        (("secrets", "set", "../a"), "v"),
        (("secrets", "set", "a", "b c"), "v"),
        (("secrets", "set", "a"), "x" * 70_000),
        (("secrets", "rotate"), ""),
    ):
        code, said = flow(*words, given=given)
        assert code == 1, words
        assert len(said.splitlines()) == 1
        assert "xxx" not in said
    assert flow("secrets", "set", "a", "b", "value")[0] == 2  # a value is no argument
    assert flow("secrets", "list") == (0, "no secrets yet; store one with `flow secrets set`\n")
    code, key = flow("secrets", "key")
    assert (code, len(key.strip())) == (0, 44)


def test_hosts_of_an_mcp_servers_secret_are_looked_at_when_they_are_stored(flow: Shell) -> None:
    code, said = flow("secrets", "set", "mcp/tracker", "hosts", given="tracker.example:*")
    assert code == 1
    assert "That is no list of hosts; nothing was stored. Write it like mcp.example.org" in said
    assert "tracker.example" not in said
    code, said = flow("secrets", "set", "mcp/tracker", "hosts", given="tracker.example, *.example.net:8443")
    assert code == 0, said


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another user")
def test_another_user_is_kept_from_locking_the_bot_out(flow: Shell) -> None:
    assert flow("secrets", "set", "a", given="value-1")[0] == 0
    os.chown(flow.share, 65534, 65534)
    for words in (("set", "a"), ("rm", "a"), ("rotate",)):
        code, said = flow("secrets", *words, given="value-2")
        assert code == 1
        assert "belongs to another user (uid 65534)" in said
    assert flow("secrets", "list") == (0, "a\n")


def test_at_a_terminal_the_value_is_not_shown(flow: Shell) -> None:
    ours, theirs = pty.openpty()
    shown = b""
    # A session of its own, so that getpass finds this terminal and no other.
    process = subprocess.Popen(
        [sys.executable, "-m", "bot", "secrets", "set", "github"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | flow.env, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        while b"Value of token in github" not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, b"ghp_typed_in\n")
        while b"stored token" not in shown:
            shown += os.read(ours, 4096)
        assert process.wait(60) == 0
    finally:
        os.close(ours)
        process.kill()
        process.wait()
    assert b"ghp_typed_in" not in shown
    assert flow("secrets", "list") == (0, "github\n")


def test_vault_status_and_secrets_there(flow: Shell, bao: OpenBao) -> None:
    env = {"FLOW_SECRETS": "vault", "VAULT_ADDR": bao.url, "VAULT_TOKEN": bao.root}
    code, said = flow("vault", "status", **env)
    assert code == 0, said
    assert "version 2." in said
    assert "root" in said
    assert bao.root not in said
    assert flow("secrets", "set", "linear", given="lin_1", **env)[0] == 0
    assert flow("secrets", "list", **env) == (0, "linear\n")
    assert flow("secrets", "rotate", **env)[0] == 1
    code, said = flow("vault", "status", **(env | {"VAULT_TOKEN": "s.wrong-one-wrong-one"}))
    assert code == 4
    assert "VAULT_TOKEN" in said
    bao.seal()
    try:
        code, said = flow("vault", "status", **env)
        assert code == 3
        assert "sealed" in said
    finally:
        bao.unseal()
    code, said = flow("secrets", "list", **(env | {"VAULT_ADDR": "http://127.0.0.1:1"}))
    assert (code, len(said.splitlines())) == (1, 1)
    code, said = flow("vault", "status", **(env | {"VAULT_ADDR": "http://127.0.0.1:1"}))
    assert code == 1
    assert "does not answer" in said
    code, said = flow("vault", "status")
    assert code == 1
    assert "Set VAULT_ADDR" in said


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"FLOW_SECRETS": "vault"}, "needs VAULT_ADDR"),
        ({"FLOW_SECRETS": "vault", "VAULT_ADDR": "https://vault"}, "needs VAULT_TOKEN"),
        ({"VAULT_ADDR": "vault:8200"}, "VAULT_ADDR is wrong"),
        ({"VAULT_ADDR": "https://a:b@vault"}, "VAULT_ADDR is wrong"),
        ({"VAULT_SKIP_VERIFY": "true"}, "VAULT_CACERT"),
        ({"VAULT_ROLE_ID": "r"}, "VAULT_SECRET_ID"),
        ({"FLOW_SECRETS": "vault", "VAULT_TOKEN": "t", "VAULT_ADDR": "http://vault.example.org"}, "https://"),
        ({"FLOW_VAULT_SHARED": "team,flow/x"}, "flow/x"),
        ({"FLOW_VAULT_SHARED": "worklets"}, "worklets"),
        ({"FLOW_VAULT_SHARED": "a/../b"}, "no path"),
        ({"FLOW_VAULT_PREFIX": "worklets/x"}, "worklets"),
    ],
)
def test_settings_that_do_not_fit(flow: Shell, env: dict[str, str], said: str) -> None:
    code, out = flow("secrets", "list", **env)
    assert code == 1
    assert said in out


def look(settings: Settings) -> Finding:
    return asyncio.run(find("secrets", settings))


def test_the_doctor(flow: Shell, bao: OpenBao) -> None:
    settings = flow.settings()
    assert (look(settings)).state == "ok"
    assert flow("secrets", "set", "a", given="value-1")[0] == 0
    found = look(settings)
    assert (found.state, found.text) == ("ok", f"1 in an encrypted file; its key is in {flow.key}")
    flow.key.chmod(0o644)
    assert (look(settings)).advice == f"chmod 600 {flow.key}"
    inside = flow.settings(FLOW_SECRETS_KEY_FILE=str(flow.share / "key"))
    flow.key.rename(flow.share / "key")
    (flow.share / "key").chmod(0o600)
    assert (look(inside)).state == "warn"
    (flow.share / "key").unlink()
    assert (look(inside)).state == "fail"
    vault = {"FLOW_SECRETS": "vault", "VAULT_ADDR": bao.url}
    assert (look(flow.settings(**vault, VAULT_TOKEN=bao.root))).state == "ok"
    bao.policy("reader", {"secret/metadata/flow": ["list"]})
    found = look(flow.settings(**vault, VAULT_TOKEN=bao.token("reader")))
    assert (found.state, "auth/token/create/flow-worklet" in found.text) == ("warn", True)
    ending = bao.token("reader", renewable=False)
    found = look(flow.settings(**vault, VAULT_TOKEN=ending))
    assert (found.state, "cannot be renewed" in found.text) == ("warn", True)
    found = look(flow.settings(**vault, VAULT_TOKEN="s.wrong-one-wrong"))
    assert found.state == "fail"
