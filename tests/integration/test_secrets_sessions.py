"""Sessions' own Vault tokens on a real OpenBao: what they may, through the gateway's door, and when they end."""

import asyncio
import json
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import hvac
import pytest
import requests
from openbao import BAO, OpenBao, documented_policy, open_bao
from waiting import until
from yarl import URL

from bot.vaultdata import DataAndVault
from bot.vaultprofile import VaultProfiles
from config.settings import SecretSettings
from kvstore.gateway.backend import Admin
from sessions.db import Database, open_database
from sessions.errors import StoreUnavailable
from sessions.store import Store
from sessions.templates import drafted
from sessions.templatestore import TemplateStore
from sessions.types import Prompt, SessionId, SessionState, ThreadId
from sessions.vaulttokens import VaultTokens
from worklets.gateway import ModelGateway
from worklets.gatewaymodel import Credential
from worklets.identity import Identity
from worklets.kvregistry import Registry
from worklets.profile import Origin, Profile
from worklets.relay.forward import forward
from worklets.secrets import SecretsForbidden, SecretsNotAllowed, SecretsSealed
from worklets.secretsdoor import SUBJECT, VaultDoor
from worklets.secretstokens import Issued, SessionTokens
from worklets.secretsvault import VaultStore


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    paths = ("shared/team/db", "shared/other", "flow/github", "worklets/someone/else")
    kept = {path: {"password": f"secret of {path}"} for path in paths}
    with open_bao(tmp_path_factory.mktemp("bao"), kept) as server:
        yield server


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    from migrations import upgrade

    dsn = f"sqlite://{tmp_path / 'db.sqlite'}"
    await upgrade(dsn)
    database = open_database(dsn)
    yield database
    await database.close()


@dataclass
class Clock:
    now: datetime

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Flow:
    """One process of Flow, as far as Vault goes."""

    store: VaultStore
    tokens: SessionTokens
    accessors: VaultTokens
    clock: Clock


@asynccontextmanager
async def running(bao: OpenBao, database: Database, **other: Any) -> AsyncIterator[Flow]:
    given = {"kind": "vault", "address": bao.url, "token": bao.token("flow"), "timeout": 20.0, "shared": "shared/team"}
    store = VaultStore(SecretSettings.model_validate(given | other), sleep=lambda _: asyncio.sleep(0.01))
    clock = Clock(datetime.now(UTC))
    accessors = VaultTokens(database)
    tokens = SessionTokens(store, accessors, clock, sleep=lambda _: asyncio.sleep(0.01))
    try:
        yield Flow(store, tokens, accessors, clock)
    finally:
        await tokens.aclose()
        await store.aclose()


def _lives(bao: OpenBao, token: str) -> bool:
    try:
        bao.admin.auth.token.lookup(token)
    except hvac.exceptions.Forbidden:
        return False
    return True


def _policies(bao: OpenBao, session: str) -> list[str]:
    return [name for name in bao.admin.sys.list_policies()["data"]["policies"] if session in name]


async def _awake(database: Database) -> str:
    """A session that claims a worklet."""
    store = Store(database)
    ts = f"{uuid.uuid4().int % 10**9}.000100"
    stored = await store.submit(Prompt(ThreadId("T1", "C1", ts), f"C1:{ts}", ts, "U1", "hi"))
    assert stored is not None
    lease, _ = await store.leases.acquire(stored.submitted.session.id, "me", 60)  # type: ignore[misc]
    await store.set_state(lease, SessionState.IDLE, container_id="c1")
    return stored.submitted.session.id


async def test_a_token_ends_with_its_session_and_one_of_a_lost_process_too(bao: OpenBao, database: Database) -> None:
    session = await _awake(database)
    async with running(bao, database) as flow:
        grant = await flow.tokens.issue(session, ["shared/team/db"])
        assert _lives(bao, grant["token"])
        assert await flow.tokens.issue(session, ["shared/team/db"]) is grant  # attached again
        other = await flow.tokens.issue(session, [])  # the template was changed
        assert not _lives(bao, grant["token"])
        await flow.tokens.sweep()
        assert _lives(bao, other["token"])
    # Flow was killed: the next process gives it another, since it does not know that one.
    async with running(bao, database) as flow:
        grant = await flow.tokens.issue(session, [])
        assert not _lives(bao, other["token"])
        await flow.tokens.end(session)
        assert not _lives(bao, grant["token"])
        assert await flow.accessors.of(session) == []
        assert _policies(bao, session) == []
        await flow.tokens.end(session)
        left = await flow.tokens.issue(session, [])
    store = Store(database)
    async with running(bao, database) as flow:  # killed again, and the session sleeps meanwhile
        await flow.tokens.sweep()
        assert _lives(bao, left["token"])  # still awake
        await _sleeps(store, session)
        await flow.tokens.sweep()
        assert not _lives(bao, left["token"])
        assert await flow.accessors.of(session) == []


async def _sleeps(store: Store, session: str) -> None:
    lease, _ = await store.leases.acquire(SessionId(session), "me", 60)  # type: ignore[misc]
    await store.set_state(lease, SessionState.ASLEEP, container_id=None)


async def test_a_template_gives_it_and_where_that_fails_the_thread_is_told(
    bao: OpenBao, database: Database, tmp_path: Path
) -> None:
    templates, identity = TemplateStore(database), Identity.load(tmp_path)
    draft = drafted("trusted", "", {"vault": {"paths": ["shared/team/db", "flow/github"]}}, is_public=True)
    template = await templates.add(draft, "U1")
    store = Store(database)
    prompt = Prompt(ThreadId("T1", "C1", "7.1"), "C1:7.1", "7.1", "U1", "hi", template=template.id)
    stored = await store.submit(prompt)
    assert stored is not None
    session = stored.submitted.session
    origin = Origin(session.id, "U1", "C1", template=session.template)
    async with running(bao, database) as flow:
        settings = flow.store.vault.settings
        profile = await VaultProfiles(templates, flow.tokens, settings, identity).part("w-1", origin, Profile())
        assert profile.env == {"VAULT_TOKEN": identity.token("gateway", "w-1")}
        assert profile.grants["vault"]["readable"] == ["shared/team/db"]
        assert profile.grants["vault"]["token"] not in profile.instructions
        assert f"secret/worklets/{session.id}/" in profile.instructions
        (note,) = profile.notes
        assert "may not read flow/github" in note
        other = Origin(str(uuid.uuid4()), "U1", "C1")
        assert (
            await VaultProfiles(templates, flow.tokens, settings, identity).part("w-2", other, Profile()) == Profile()
        )
        none = await VaultProfiles(templates, None, settings, identity).part("w-1", origin, Profile())
        assert (none.env, none.grants, "FLOW_SECRETS" in none.notes[0]) == ({}, {}, True)
        await flow.tokens.end(session.id)
        bao.seal()
        sealed = await VaultProfiles(templates, flow.tokens, settings, identity).part("w-1", origin, Profile())
        bao.unseal()
        assert (sealed.env, sealed.grants) == ({}, {})
        assert sealed.missing == ("This thread has no Vault now. Vault is sealed, so nothing can be read from it.",)


async def test_a_token_that_works_is_kept_where_vault_is_away_as_flow_starts_again(
    bao: OpenBao, database: Database, tmp_path: Path
) -> None:
    templates, identity, store = TemplateStore(database), Identity.load(tmp_path), Store(database)
    template = await templates.add(drafted("kept", "", {"vault": {"paths": ["shared/team/db"]}}, is_public=True), "U1")
    prompt = Prompt(ThreadId("T1", "C1", "8.1"), "C1:8.1", "8.1", "U1", "hi", template=template.id)
    stored = await store.submit(prompt)
    assert stored is not None
    session = stored.submitted.session
    origin = Origin(session.id, "U1", "C1", template=session.template)
    async with running(bao, database) as flow:
        grant = await flow.tokens.issue(session.id, ["shared/team/db"])
    doors = {"w-1": {"vault": grant}, "w-2": {"vault": grant | {"readable": []}}}

    async def granted(name: str) -> dict[str, Any]:
        return doors.get(name, {})

    async with running(bao, database) as flow:
        profiles = VaultProfiles(templates, flow.tokens, flow.store.vault.settings, identity, granted)
        bao.seal()
        kept = await profiles.part("w-1", origin, Profile())
        others = [await profiles.part(name, origin, Profile()) for name in ("w-2", "w-3")]
        bao.unseal()
        assert kept.grants == {"vault": grant}
        assert kept.missing == ()
        assert [(other.grants, len(other.missing)) for other in others] == [({}, 1), ({}, 1)]
        assert _lives(bao, grant["token"])


async def test_what_it_stored_goes_with_its_data(bao: OpenBao, database: Database) -> None:
    session = str(uuid.uuid4())
    kv = bao.admin.secrets.kv.v2
    stored = [f"worklets/{session}/{name}" for name in ("a", "b/c", "b/D e/ü", "x" * 50)]
    for path in stored:
        kv.create_or_update_secret(path, {"a": "b"}, mount_point="secret")
    async with running(bao, database) as flow:
        await flow.tokens.remove(session)
        await flow.tokens.remove(session)
        with pytest.raises(hvac.exceptions.InvalidPath):
            kv.list_secrets(f"worklets/{session}", mount_point="secret")
        assert kv.list_secrets("worklets/someone", mount_point="secret")["data"]["keys"] == ["else"]
    bao.policy("poor", {"secret/data/flow/*": ["read"]})
    async with running(bao, database, token=bao.token("poor")) as flow:
        await flow.tokens.remove(session)  # it may not, and what else belongs to the session is removed all the same


async def test_what_it_stored_goes_with_its_volume_where_its_template_had_vault(
    bao: OpenBao, database: Database
) -> None:
    templates, store, kv = TemplateStore(database), Store(database), bao.admin.secrets.kv.v2
    with_vault = await templates.add(
        drafted("vaulted", "", {"vault": {"paths": ["shared/team/db"]}}, is_public=True), "U1"
    )
    without = await templates.add(drafted("plain", "", {}, is_public=True), "U1")
    ids = list[str]()
    for number, template in enumerate((with_vault.id, without.id, None)):
        ts = f"9.{number}"
        prompt = Prompt(ThreadId("T1", "C1", ts), f"C1:{ts}", ts, "U1", "hi", template=template)
        stored = await store.submit(prompt)
        assert stored is not None
        ids.append(stored.submitted.session.id)
        kv.create_or_update_secret(f"worklets/{ids[-1]}/a", {"a": "b"}, mount_point="secret")
    now = 0.0
    async with running(bao, database) as flow:

        def unused() -> Admin:
            raise AssertionError("the key-value store is not asked")

        data = DataAndVault(Registry(unused, max_keys=1, max_bytes=1), flow.tokens, templates, lambda: now)
        bao.seal()
        with pytest.raises(SecretsSealed):
            await data.retire(ids[0])
        bao.unseal()
        with pytest.raises(SecretsSealed):  # nobody waits for it again so soon
            await data.retire(ids[0])
        now = 61.0
        for id_ in ids:
            await data.retire(id_)
        left = kv.list_secrets("worklets", mount_point="secret")["data"]["keys"]
        assert [f"{id_}/" in left for id_ in ids] == [False, True, True]


async def test_who_stored_much_takes_no_thread_for_long(bao: OpenBao, database: Database) -> None:
    session, kv = str(uuid.uuid4()), bao.admin.secrets.kv.v2
    for path in (*(f"wide/{number}" for number in range(50)), "/".join("d" * 25), "both", "both/below"):
        kv.create_or_update_secret(f"worklets/{session}/{path}", {"a": "b"}, mount_point="secret")
    kv.create_or_update_secret("flow/github", {"token": "t"}, mount_point="secret")
    async with running(bao, database) as flow:
        clearing = [asyncio.create_task(flow.tokens.remove(session)) for _ in range(6)]
        assert (await flow.store.get("github"))["token"] == "t"
        await asyncio.gather(*clearing)
        with pytest.raises(hvac.exceptions.InvalidPath):
            kv.list_secrets(f"worklets/{session}", mount_point="secret")


async def test_what_a_session_stored_is_not_given_up_where_flow_is_not_known(bao: OpenBao, database: Database) -> None:
    session, token = str(uuid.uuid4()), bao.token("flow")
    bao.admin.secrets.kv.v2.create_or_update_secret(f"worklets/{session}/a", {"a": "b"}, mount_point="secret")
    async with running(bao, database, token=token) as flow:
        bao.admin.auth.token.revoke(token)
        with pytest.raises(SecretsForbidden):
            await flow.tokens.remove(session)


async def test_while_vault_is_away_a_token_is_kept_to_be_revoked_later(bao: OpenBao, database: Database) -> None:
    session = str(uuid.uuid4())
    async with running(bao, database) as flow:
        grant = await flow.tokens.issue(session, [])
        bao.kill()
        await flow.tokens.end(session)
        assert await flow.accessors.of(session) != []
        bao.start()
        assert _lives(bao, grant["token"])
        flow.tokens.start()
        await until(lambda: not _lives(bao, grant["token"]))


async def test_it_is_renewed_as_long_as_flow_runs_and_ends_by_itself_else(bao: OpenBao, database: Database) -> None:
    session = await _awake(database)
    async with running(bao, database, session_ttl=60) as flow:
        grant = await flow.tokens.issue(session, [])
        told = bao.admin.auth.token.lookup(grant["token"])["data"]
        assert told["orphan"]
        assert told["policies"] == _policies(bao, session)
        assert len(told["policies"]) == 1
        assert 0 < told["ttl"] <= 60
        await flow.tokens.renew()
        before = flow.tokens._grants[session][1].expires_at
        flow.clock.now += timedelta(seconds=45)
        await flow.tokens.renew()
        after = flow.tokens._grants[session][1].expires_at
        assert after > before + timedelta(seconds=40)
        assert await flow.accessors.useless(after - timedelta(seconds=1)) == []
        bao.admin.auth.token.revoke(grant["token"])
        flow.clock.now += timedelta(seconds=50)
        await flow.tokens.renew()  # somebody has ended it: said once, and forgotten
        assert flow.tokens._grants == {}


async def test_what_another_process_issued_is_renewed_while_its_session_is_awake(
    bao: OpenBao, database: Database
) -> None:
    session = await _awake(database)
    async with running(bao, database, session_ttl=60) as flow:
        grant = await flow.tokens.issue(session, [])
        (accessor,) = await flow.accessors.of(session)
    async with running(bao, database, session_ttl=60) as flow:  # Flow was started again
        flow.clock.now += timedelta(seconds=45)
        await flow.tokens.renew()
        (kept,) = await flow.accessors.useless(flow.clock.now + timedelta(seconds=70))
        assert kept.accessor == accessor
        assert kept.expires_at > flow.clock.now + timedelta(seconds=40)
        assert _lives(bao, grant["token"])


async def test_two_replicas_take_nothing_from_each_other(bao: OpenBao, database: Database) -> None:
    session = await _awake(database)
    async with running(bao, database) as one, running(bao, database) as other:
        first = await one.tokens.issue(session, ["shared/team/db"])
        second = await other.tokens.issue(session, ["shared/team/db"])
        assert not _lives(bao, first["token"])
        third = await one.tokens.issue(session, ["shared/team/db"])  # not the one that the other has revoked
        assert _lives(bao, third["token"])
        assert not _lives(bao, second["token"])
        (policy,) = _policies(bao, session)
        assert bao.admin.auth.token.lookup(third["token"])["data"]["policies"] == [policy]


class _Unwritable(VaultTokens):
    """A table that takes no row."""

    async def add(self, issued: Issued) -> None:
        raise StoreUnavailable("The database does not serve.")


async def test_a_token_that_cannot_be_remembered_is_revoked_at_once(bao: OpenBao, database: Database) -> None:
    session = await _awake(database)
    async with running(bao, database) as flow:
        tokens = SessionTokens(flow.store, _Unwritable(database), flow.clock)
        before = set(bao.admin.auth.token.list_accessors()["data"]["keys"])
        with pytest.raises(StoreUnavailable):
            await tokens.issue(session, [])
        assert set(bao.admin.auth.token.list_accessors()["data"]["keys"]) <= before
        assert _policies(bao, session) == []
        await tokens.aclose()


async def test_what_cannot_be_renewed_keeps_nothing_from_being_revoked(bao: OpenBao, database: Database) -> None:
    awake, over = await _awake(database), str(uuid.uuid4())
    rules = {path: powers for path, powers in documented_policy().items() if "renew" not in path}
    bao.policy("no-renewal", rules)
    async with running(bao, database, token=bao.token("no-renewal"), session_ttl=60) as flow:
        kept, left = await flow.tokens.issue(awake, []), await flow.tokens.issue(over, [])
    async with running(bao, database, token=bao.token("no-renewal"), session_ttl=60) as flow:
        flow.clock.now += timedelta(seconds=45)
        with pytest.raises(SecretsNotAllowed):
            await flow.tokens.renew()
        flow.tokens.start()
        await until(lambda: not _lives(bao, left["token"]))
        assert _lives(bao, kept["token"])


@asynccontextmanager
async def door(
    bao: OpenBao, flow: Flow, path: Path, grant: dict[str, Any] | None, serving: VaultDoor | None = None
) -> AsyncIterator[tuple[str, str]]:
    """The address and the token that a worklet has."""
    import socket

    identity = Identity.load(path)
    gateway = ModelGateway(
        "http://127.0.0.1:1", Credential("sk-real"), identity, routes={SUBJECT: (serving or VaultDoor()).answer}
    )
    run_dir = path / "run"
    run_dir.mkdir(exist_ok=True)
    await gateway.open("w-1", run_dir, str(uuid.uuid4()), {"vault": grant} if grant else {})
    listener = socket.create_server(("127.0.0.1", 0))
    carrying = asyncio.create_task(forward(listener, str(run_dir / "gateway.sock")))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/flow/vault", identity.token("gateway", "w-1")
    finally:
        carrying.cancel()
        await asyncio.gather(carrying, return_exceptions=True)
        listener.close()
        await gateway.aclose()


async def _bao(address: str, token: str, *words: str) -> tuple[int, str]:
    env = {"VAULT_ADDR": address, "VAULT_TOKEN": token, "BAO_ADDR": address, "HOME": "/nonexistent", "PATH": "/bin"}
    env |= {"BAO_MAX_RETRIES": "0"}

    def run() -> tuple[int, str]:
        done = subprocess.run([BAO, *words], env=env, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    return await asyncio.to_thread(run)


async def test_the_real_cli_and_hvac_work_behind_the_door(bao: OpenBao, database: Database, tmp_path: Path) -> None:
    session = await _awake(database)
    async with running(bao, database) as flow:
        grant = await flow.tokens.issue(session, ["shared/team/*"])
        async with door(bao, flow, tmp_path, grant) as (address, token):
            mine = f"secret/worklets/{session}"
            assert (await _bao(address, token, "kv", "put", f"{mine}/db", "password=pw-1"))[0] == 0
            assert "pw-1" in (await _bao(address, token, "kv", "get", "-field=password", f"{mine}/db"))[1]
            assert (await _bao(address, token, "kv", "patch", f"{mine}/db", "user=me"))[0] == 0
            assert "db" in (await _bao(address, token, "kv", "list", mine))[1]
            got = await _bao(address, token, "kv", "get", "-format=json", "secret/shared/team/db")
            assert json.loads(got[1])["data"]["data"]["password"] == "secret of shared/team/db"
            code, said = await _bao(address, token, "token", "lookup")
            assert code == 0
            (policy,) = _policies(bao, session)
            assert policy in said
            for path in ("shared/other", "flow/github", "worklets/someone/else"):
                code, said = await _bao(address, token, "kv", "get", f"secret/{path}")
                assert code != 0
                assert "secret of" not in said
            assert (await _bao(address, token, "kv", "put", "secret/shared/team/db", "password=mine"))[0] != 0
            for words in (("token", "create"), ("policy", "list"), ("token", "renew"), ("list", "sys/policies/acl")):
                code, said = await _bao(address, token, *words)
                assert code != 0, words
            own = await asyncio.to_thread(_by_hvac, address, token, session)
            assert own == {"password": "pw-1", "user": "me"}
            # The token itself never came inside.
            assert grant["token"] not in said
            assert grant["token"] not in (await _bao(address, token, "token", "lookup", "-format=json"))[1]
        assert (await flow.store.state())["state"] == "ok"


def _by_hvac(address: str, token: str, session: str) -> dict[str, str]:
    with requests.Session() as http:
        http.trust_env = False
        client = hvac.Client(url=address, token=token, session=http, strict_http=True)
        assert client.is_authenticated()
        kv, path = client.secrets.kv.v2, f"worklets/{session}"
        assert kv.list_secrets(path, mount_point="secret")["data"]["keys"] == ["db"]
        kv.create_or_update_secret(f"{path}/two", {"a": "b"}, mount_point="secret")
        kv.delete_metadata_and_all_versions(f"{path}/two", mount_point="secret")
        found = kv.read_secret_version(f"{path}/db", mount_point="secret", raise_on_deleted_version=True)
        return dict(found["data"]["data"])


async def test_what_a_hostile_worklet_tries(bao: OpenBao, database: Database, tmp_path: Path) -> None:
    session, serving = await _awake(database), VaultDoor()
    async with running(bao, database) as flow:
        grant = await flow.tokens.issue(session, ["shared/team/db"])
        async with (
            door(bao, flow, tmp_path, grant, serving) as (address, token),
            aiohttp.ClientSession(headers={"X-Vault-Token": token}) as http,
        ):

            async def ask(method: str, path: str, **other: Any) -> tuple[int, str]:
                url = URL(address + path, encoded=True)
                async with http.request(method, url, allow_redirects=False, **other) as answer:
                    return answer.status, await answer.text()

            own = f"/v1/secret/data/worklets/{session}"
            tries = [
                ("GET", f"{own}/../../flow/github"),
                ("GET", f"{own}/%2e%2e/%2e%2e/flow/github"),
                ("GET", f"{own}%2f..%2f..%2fflow%2fgithub"),
                ("GET", "/v1//secret/data/flow/github"),
                ("GET", "/v1/secret/data/flow/github"),
                ("GET", "/v1/secret/data/shared/team/dbx"),
                ("GET", "/v1/secret/metadata/?list=true"),
                ("GET", "/v1/secret/metadata/worklets?list=true"),
                ("POST", "/v1/secret/data/shared/team/db"),
                ("DELETE", "/v1/secret/metadata/shared/team/db"),
                ("POST", "/v1/auth/token/revoke-self"),
                ("POST", "/v1/auth/token/create"),
                ("POST", "/v1/sys/wrapping/wrap"),
                ("GET", "/v1/sys/raw/x"),
                ("PUT", "/v1/sys/seal"),
                ("GET", "/v2/secret/data/flow/github"),
                ("GET", "/v1/secret"),
                ("GET", ""),
            ]
            for method, path in tries:
                status, said = await ask(method, path)
                assert status in (403, 404), (method, path, status, said)
                assert "secret of" not in said
            assert await ask("GET", f"{own}/x?version=0&help=1") == (400, (await ask("GET", f"{own}/x?a=b"))[1])
            status, said = await ask("PUT", f"{own}/big", data=b"x" * ((64 << 10) + 1))
            assert status == 413
            serving.paces["w-1"].written = 16 << 20
            assert (await ask("PUT", f"{own}/a", data=b"x"))[0] == 413
            serving.paces.clear()
            headers = {"X-Vault-Namespace": "other", "X-Vault-Wrap-TTL": "60s"}
            status, said = await ask("GET", "/v1/secret/data/shared/team/db", headers=headers)
            assert status == 200
            assert json.loads(said)["data"]["data"] == {"password": "secret of shared/team/db"}
            status, said = await ask("GET", "/v1/auth/token/lookup-self")
            assert status == 200
            assert json.loads(said)["data"]["id"] == token
            assert grant["token"] not in said
            found = await asyncio.gather(*(ask("GET", "/v1/auth/token/lookup-self") for _ in range(60)))
            assert 429 in [status for status, _ in found]
            async with http.get(f"{address}/v1/auth/token/lookup-self", headers={"X-Vault-Token": "other"}) as answer:
                assert answer.status == 401
        async with door(bao, flow, tmp_path, None) as (address, token):
            code, said = await _bao(address, token, "kv", "get", f"secret/worklets/{session}/db")
            assert code != 0
            assert "template gives it nothing" in said


async def test_vault_away_sealed_or_a_token_revoked_is_passed_on(
    bao: OpenBao, database: Database, tmp_path: Path
) -> None:
    session = await _awake(database)
    async with running(bao, database) as flow:
        grant = await flow.tokens.issue(session, ["shared/team/db"])
        async with door(bao, flow, tmp_path, grant) as (address, token):
            ask = ("kv", "get", "secret/shared/team/db")
            bao.seal()
            assert "sealed" in (await _bao(address, token, *ask))[1].lower()
            bao.kill()
            code, said = await _bao(address, token, *ask)
            assert code != 0
            assert "Flow cannot reach Vault" in said
            bao.start()
            assert (await _bao(address, token, *ask))[0] == 0
            bao.admin.auth.token.revoke(grant["token"])
            code, said = await _bao(address, token, *ask)
            assert code != 0
            assert "permission denied" in said
