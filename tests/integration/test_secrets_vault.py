"""`VaultStore` on a real OpenBao server: every way to log in, and every way in which the server can fail us."""

import asyncio
import base64
import json
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import hvac
import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer
from certificates import make_certificate
from openbao import OpenBao, open_bao
from waiting import until

from config.settings import SecretSettings
from worklets.secrets import (
    SecretError,
    SecretMissing,
    SecretsAway,
    SecretsForbidden,
    SecretsSealed,
)
from worklets.secretsvault import VaultStore


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with open_bao(tmp_path_factory.mktemp("bao")) as server:
        yield server


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(bao: OpenBao, **other: Any) -> AsyncIterator[VaultStore]:
    clock = other.pop("clock", None)
    given = {"kind": "vault", "address": bao.url, "timeout": 20.0, **other}
    if not {"token", "role_id", "kubernetes_role"} & set(given):
        given["token"] = bao.token("flow")
    settings = SecretSettings.model_validate(given)
    store = VaultStore(settings, **({"clock": clock} if clock else {}), sleep=lambda _: asyncio.sleep(0.01))
    try:
        yield store
    finally:
        await store.aclose()


async def test_what_is_put_can_be_read_listed_and_deleted(bao: OpenBao) -> None:
    async with opened(bao) as store:
        with pytest.raises(SecretMissing, match="no secret github"):
            await store.get("github")
        assert await store.list() == []
        await store.put("github", {"token": "ghp_123456", "user": "flow"})
        await store.put("team/linear", {"token": "lin_ä🔑"})
        assert await store.get("github") == {"token": "ghp_123456", "user": "flow"}
        assert await store.list() == ["github", "team/linear"]
        await store.put("github", {"token": "ghp_new"}, keep=True)
        assert await store.get("github") == {"token": "ghp_new", "user": "flow"}
        await store.put("github", {"other": "only"})
        assert await store.get("github") == {"other": "only"}
        assert "ghp_123456" in store.known()
        await store.delete("github")
        for again in (store.get("github"), store.delete("github")):
            with pytest.raises(SecretMissing):
                await again
        assert await store.list() == ["team/linear"]
        await store.put("github", {"token": "back"})  # after all its versions are gone
        assert await store.get("github") == {"token": "back"}
        assert await store.state() == {"state": "ok", "kind": "vault"}


async def test_a_version_that_somebody_deleted_is_missing_and_can_be_written(bao: OpenBao) -> None:
    async with opened(bao) as store:
        await store.put("gone", {"token": "one"})
        bao.admin.secrets.kv.v2.delete_latest_version_of_secret("flow/gone", mount_point="secret")
        with pytest.raises(SecretMissing):
            await store.get("gone")
        await store.put("gone", {"token": "two"}, keep=True)
        assert await store.get("gone") == {"token": "two"}


async def test_writers_at_the_same_time_lose_nothing(bao: OpenBao) -> None:
    async with opened(bao) as one, opened(bao) as other:
        await asyncio.gather(*(store.put("both", {name: "v"}, keep=True) for store, name in ((one, "a"), (other, "b"))))
        assert set(await one.get("both")) == {"a", "b"}


async def test_another_mount_and_prefix(bao: OpenBao) -> None:
    bao.enable_kv("team/kv")
    bao.policy("elsewhere", {"team/kv/data/bots/flow/*": ["create", "read", "update"]})
    async with opened(bao, mount="team/kv", prefix="bots/flow", token=bao.token("elsewhere")) as store:
        await store.put("a", {"b": "c"})
        assert await store.get("a") == {"b": "c"}
        assert bao.admin.secrets.kv.v2.read_secret_version(
            "bots/flow/a", mount_point="team/kv", raise_on_deleted_version=True
        )
    async with opened(bao, mount="nowhere", token=bao.root) as store:
        with pytest.raises(SecretError, match="nothing at FLOW_VAULT_MOUNT"):
            await store.get("a")


async def test_one_odd_answer_does_not_end_the_renewals() -> None:
    """A server that sends elsewhere, then says something that is no Vault's, then renews."""
    odd: list[web.Response] = [
        web.Response(status=307, headers={"Location": "http://127.0.0.1:1/"}),
        web.json_response({"auth": {"lease": "none"}}),
    ]
    renewals = 0

    async def vault(request: web.Request) -> web.Response:
        nonlocal renewals
        if not request.path.endswith("renew-self"):
            return web.json_response({"data": {"ttl": 1, "renewable": True}})
        renewals += 1
        return odd.pop(0) if odd else web.json_response({"auth": {"lease_duration": 3600, "renewable": True}})

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", vault)
    async with TestServer(app) as server:
        address = str(server.make_url("")).rstrip("/")
        settings = SecretSettings.model_validate({"kind": "vault", "address": address, "token": "t", "timeout": 20.0})
        store = VaultStore(settings, sleep=lambda _: asyncio.sleep(0.01))
        try:
            store.start()
            await until(lambda: renewals == 3)
        finally:
            await store.aclose()


async def test_a_policy_that_forbids_is_told_from_a_token_that_is_not_known(bao: OpenBao) -> None:
    async with opened(bao, prefix="others") as store:
        with pytest.raises(SecretsForbidden, match="policy does not allow"):
            await store.get("a")
        assert (await store.state())["state"] == "ok"
    async with opened(bao, token="s.bogusbogusbogusbogus") as store:
        with pytest.raises(SecretsForbidden) as error:
            await store.get("a")
        assert "VAULT_TOKEN" in error.value.suggestion
        assert (await store.state())["state"] == "forbidden"


async def test_a_token_that_is_revoked_under_us_gives_nothing_more_not_even_copies(bao: OpenBao) -> None:
    token = bao.token("flow")
    async with opened(bao, token=token) as store:
        await store.put("kept", {"token": "v" * 8})
        await store.get("kept")
        bao.admin.auth.token.revoke(token)
        with pytest.raises(SecretsForbidden, match="does not accept VAULT_TOKEN"):
            await store.get("kept")
        with bao_down(bao), pytest.raises((SecretsAway, SecretsForbidden)):
            await store.get("kept")


def bao_down(bao: OpenBao) -> Any:
    class Down:
        def __enter__(self) -> None:
            bao.kill()

        def __exit__(self, *_: object) -> None:
            bao.start()

    return Down()


async def test_copies_go_on_while_the_server_is_away_until_they_are_too_old(bao: OpenBao) -> None:
    clock = Clock()
    async with opened(bao, cache=600.0, clock=clock) as store:
        await store.put("kept", {"token": "one"})
        await store.get("kept")
        with structlog.testing.capture_logs() as logs:
            with bao_down(bao):
                assert await store.get("kept") == {"token": "one"}
                assert await store.get("kept") == {"token": "one"}
                with pytest.raises(SecretsAway, match="does not answer"):
                    await store.get("never-read")
                with pytest.raises(SecretsAway):
                    await store.put("kept", {"token": "two"})
                assert (await store.state())["state"] == "away"
                clock.now += 599
                assert await store.get("kept") == {"token": "one"}
                clock.now += 2
                with pytest.raises(SecretsAway):
                    await store.get("kept")
            assert await store.get("kept") == {"token": "one"}
    assert [one["event"] for one in logs] == [
        "Vault does not serve; secrets that were read before go on being used",
        "Vault is back",
    ]
    assert "one" not in json.dumps([{**one, "error": ""} for one in logs])


async def test_sealed_is_said_and_copies_go_on(bao: OpenBao) -> None:
    async with opened(bao) as store:
        await store.put("kept", {"token": "one"})
        await store.get("kept")
        bao.seal()
        try:
            assert await store.get("kept") == {"token": "one"}
            with pytest.raises(SecretsSealed, match="sealed") as error:
                await store.get("never-read")
            assert "unseal" in error.value.suggestion
            assert (await store.state())["state"] == "sealed"
        finally:
            bao.unseal()
        assert (await store.state())["state"] == "ok"
        await store.put("kept", {"token": "two"})
        assert await store.get("kept") == {"token": "two"}


async def test_a_server_that_comes_back_in_time_is_waited_for(bao: OpenBao) -> None:
    async with opened(bao) as store:
        await store.put("kept", {"token": "one"})
        tries = 0

        async def sleep(_seconds: float) -> None:
            nonlocal tries
            tries += 1
            await asyncio.to_thread(bao.start)

        store._sleep = sleep
        bao.kill()
        assert await store.get("kept") == {"token": "one"}
        assert tries == 1


async def test_a_token_is_renewed_before_it_ends(bao: OpenBao) -> None:
    token = bao.token("flow", ttl="6s")  # two of them are left when it is renewed
    async with opened(bao, token=token) as store:
        store.start()

        def lasts() -> bool:
            lease = store.vault.lease
            return lease is not None and begins[0] is not None and lease.began > begins[0] + 7

        await until(lambda: store.vault.lease is not None)
        begins = [store.vault.lease.began if store.vault.lease else None]
        await until(lasts, timeout=60)  # longer than it would have lived
        assert (await store.state())["state"] == "ok"


async def test_approle(bao: OpenBao) -> None:
    admin = bao.admin
    admin.sys.enable_auth_method("approle")
    admin.auth.approle.create_or_update_approle("flow", token_policies=["flow"], token_ttl="3s", token_max_ttl="4s")
    role = admin.auth.approle.read_role_id("flow")["data"]["role_id"]
    secret = admin.auth.approle.generate_secret_id("flow")["data"]["secret_id"]
    async with opened(bao, role_id=role, secret_id=secret) as store:
        await store.put("by-role", {"a": "b"})
        first = store.vault._client.token  # type: ignore[union-attr]
        admin.auth.token.revoke(first)
        assert await store.get("by-role") == {"a": "b"}  # logged in again
        second = store.vault._client.token  # type: ignore[union-attr]
        assert second != first
        store.start()  # at its greatest age the token cannot be renewed: another login
        await until(lambda: store.vault._client.token != second, timeout=60)  # type: ignore[union-attr]
        assert await store.get("by-role") == {"a": "b"}
    async with opened(bao, role_id=role, secret_id="wrong-secret-id") as store:
        with pytest.raises(SecretsForbidden, match="does not let Flow log in") as error:
            await store.get("by-role")
        assert "VAULT_SECRET_ID" in error.value.suggestion
        assert (await store.state())["state"] == "forbidden"


class Reviewer(BaseHTTPRequestHandler):
    """Kubernetes' TokenReview: knows one service account's token."""

    good = ""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = asked["spec"]["token"] == self.good
        status: dict[str, Any] = {"authenticated": known}
        if known:
            status["user"] = {"username": "system:serviceaccount:bots:flow", "uid": "uid-1", "groups": []}
        body = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def _unsigned(claims: dict[str, Any]) -> str:
    parts = [{"alg": "RS256", "typ": "JWT"}, claims]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, base64.urlsafe_b64encode(b"signature").rstrip(b"=").decode()])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A Kubernetes API that knows TokenReview only."""
    (tmp_path / "k8s").mkdir()
    cert, key = make_certificate(tmp_path / "k8s")
    server = HTTPServer(("127.0.0.1", 0), Reviewer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", cert
    server.shutdown()
    thread.join()
    server.server_close()


async def test_kubernetes(bao: OpenBao, cluster: tuple[str, Path], tmp_path: Path) -> None:
    host, ca = cluster
    account = {"namespace": "bots", "serviceaccount": {"name": "flow", "uid": "uid-1"}}
    claims = {"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:bots:flow", "kubernetes.io": account}
    Reviewer.good = _unsigned(claims)
    admin = bao.admin
    admin.sys.enable_auth_method("kubernetes", path="k8s/one")
    admin.auth.kubernetes.configure(
        host, kubernetes_ca_cert=ca.read_text(), token_reviewer_jwt=Reviewer.good, disable_local_ca_jwt=True,
        mount_point="k8s/one",
    )  # fmt: skip
    admin.auth.kubernetes.create_role("flow", ["flow"], ["bots"], policies=["flow"], ttl="1h", mount_point="k8s/one")
    token_file = tmp_path / "token"
    token_file.write_text(Reviewer.good + "\n")
    given = {"kubernetes_role": "flow", "kubernetes_token_file": token_file, "auth_mount": "k8s/one"}
    async with opened(bao, **given) as store:
        await store.put("by-account", {"a": "b"})
        assert await store.get("by-account") == {"a": "b"}
    token_file.write_text(_unsigned({**claims, "sub": "system:serviceaccount:bots:other"}))
    async with opened(bao, **given) as store:
        with pytest.raises(SecretsForbidden, match="does not let Flow log in"):
            await store.get("by-account")
    token_file.unlink()
    async with opened(bao, **given) as store:
        with pytest.raises(SecretError, match=r"token .* cannot be read"):
            await store.get("by-account")


async def test_a_namespace_is_named_in_every_request(bao: OpenBao) -> None:
    admin = bao.admin
    admin.write_data("sys/namespaces/inner", data={})
    inside = hvac.Client(url=bao.url, token=bao.root, namespace="inner")
    inside.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
    async with opened(bao, namespace="inner", token=bao.root) as store:
        await until(lambda: _put(store))
        assert await store.get("inside") == {"a": "b"}
    async with opened(bao, token=bao.root) as store:
        with pytest.raises(SecretMissing):
            await store.get("inside")


async def _put(store: VaultStore) -> bool:
    try:
        await store.put("inside", {"a": "b"})
    except SecretError:  # the engine is still being made
        return False
    return True


async def test_tls_with_both_sides_certificates(tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    server = OpenBao(tmp_path / "tls", tls=True, client_certificates=True)
    try:
        server.start()
        server.enable_kv()
        ours = {"client_cert": server.ca, "client_key": tmp_path / "tls" / "key.pem"}
        async with opened(server, token=server.root, ca_cert=server.ca, **ours) as store:
            await store.put("a", {"b": "c"})
            assert await store.get("a") == {"b": "c"}
        async with opened(server, token=server.root, **ours) as store:
            with pytest.raises(SecretsAway, match="certificate is not trusted") as error:
                await store.get("a")
            assert "VAULT_CACERT" in error.value.suggestion
        async with opened(server, token=server.root, ca_cert=server.ca) as store:
            with pytest.raises(SecretsAway):
                await store.get("a")
        async with opened(server, token=server.root, ca_cert=tmp_path / "none.pem") as store:
            with pytest.raises(SecretError, match="PEM file"):
                await store.get("a")
        async with opened(server, token=server.root, skip_verify=True, insecure=True, **ours) as store:
            with pytest.warns(match="Unverified HTTPS"):
                assert await store.get("a") == {"b": "c"}
    finally:
        server.close()


async def test_what_answers_and_is_no_vault(tmp_path: Path) -> None:
    answers: list[Callable[[asyncio.StreamWriter], None]] = [
        lambda w: w.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
        lambda w: w.write(b"HTTP/1.1 307 Elsewhere\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
        lambda w: w.write(b"\x00\x01\x02"),
        lambda w: w.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
        lambda w: None,
    ]
    for answer in answers:

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[..., None] = answer
        ) -> None:
            await reader.readline()
            answer(writer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        settings = SecretSettings.model_validate(
            {"kind": "vault", "address": f"http://127.0.0.1:{port}", "token": "t" * 20}
        )
        store = VaultStore(settings, sleep=lambda _: asyncio.sleep(0))
        with pytest.raises(SecretsAway):
            await store.get("a")
        await store.aclose()
        server.close()
        await server.wait_closed()


async def test_a_server_that_is_silent_is_given_up(tmp_path: Path) -> None:
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _reader, writer: held.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = SecretSettings.model_validate(
        {"kind": "vault", "address": f"http://127.0.0.1:{port}", "token": "t" * 20, "timeout": 0.2}
    )
    store = VaultStore(settings, sleep=lambda _: asyncio.sleep(0))
    with pytest.raises(SecretsAway, match="in time"):
        await store.get("a")
    assert (await store.state())["state"] == "away"
    await store.aclose()
    for writer in held:
        writer.close()
    server.close()
