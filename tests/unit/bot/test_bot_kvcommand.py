"""`flow kv`: as typed, over a real SQLite store beside which other processes could write."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import schema

from bot.cli import main
from bot.kvstores import Shelf
from bot.kvtransfer import export, read_in
from config.settings import load
from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import Refusal
from kvstore.gateway.functions import validated
from kvstore.gateway.opening import open_admin, open_backend
from kvstore.gateway.tokens import SigningKey, Verifier
from sessions.db import open_database
from sessions.store import Store
from sessions.types import Prompt, ThreadId
from worklets.kvregistry import owner_of

THREAD = ThreadId("T1", "C012AB3CD", "1700000000.123456")
LINK = "https://team.slack.com/archives/C012AB3CD/p1700000000123456"


class World:
    """A share directory with one session that has a store, and the command line beside it."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.id = asyncio.run(self._make())

    async def _make(self) -> str:
        settings = load()
        await schema.migrated(settings.sessions.dsn)
        database = open_database(settings.sessions.dsn)
        try:
            prompt = Prompt(THREAD, "C012AB3CD:1700000000.123456", "1700000000.123456", "U1", "make a prototype")
            await Store(database).submit(prompt)
            (session,) = await Store(database).list()
        finally:
            await database.close()
        await self.register(session.id)
        return session.id

    async def register(self, worklet_id: str, max_keys: int | None = None) -> None:
        admin = open_admin(load().kv, load().share_dir)
        await admin.register(worklet_id, str(uuid.uuid4()), "a prototype", max_keys=max_keys, max_bytes=None)
        await admin.close()

    def flow(self, action: str, *words: str, code: int = 0, worklet: str | None = None) -> str:
        """stdout of a command that ends with this exit code, stderr for another than 0."""
        whose = () if action in ("worklets", "jwks") else ("--worklet", worklet or self.id)
        done = main(["kv", action, *words, *whose])
        shown = self._capsys.readouterr()
        assert done == code, shown.err
        return shown.err if code else shown.out

    def call(self, function: str, **arguments: object) -> object:
        async def work() -> str:
            backend = open_backend(load().kv, load().share_dir)
            await backend.open()
            try:
                return await backend.call(Caller.of_worklet(self.id), function, validated(function, arguments))
            finally:
                await backend.close()

        return json.loads(asyncio.run(work()))

    def fill(self, namespace: str, count: int) -> None:
        for start in range(0, count, 1000):
            some = {f"k{n:06}": n for n in range(start, min(start + 1000, count))}
            self.call("kv_mset", p_namespace=namespace, p_entries=json.dumps(some))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    monkeypatch.chdir(tmp_path)
    return World(capsys)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def give(text: str) -> None:
        file = io.BytesIO(text.encode())
        monkeypatch.setattr("sys.stdin", SimpleNamespace(read=lambda: file.read().decode(), buffer=file))

    return give


def test_a_value_goes_in_and_comes_out(world: World, stdin: Callable[[str], None]) -> None:
    assert world.flow("set", "theme", '"dark"') == "stored, version 1\n"
    assert world.flow("get", "theme") == '"dark"\n'
    assert world.flow("get", "theme", "--raw") == "dark\n"
    entry = json.loads(world.flow("get", "theme", "--json"))
    assert (entry["key"], entry["value"], entry["version"], entry["expires_at"]) == ("theme", "dark", 1, None)
    stdin('{"a": [1, 2.50, "ü"], "b": null}')
    assert json.loads(world.flow("set", "thing", "-", "--namespace", "other", "--json")) == {"version": 2}
    assert json.loads(world.flow("get", "thing", "--namespace", "other")) == {"a": [1, 2.5, "ü"], "b": None}
    assert "no such key" in world.flow("get", "thing", code=1)


def test_conditions_and_a_time_to_live(world: World) -> None:
    world.flow("set", "lock", "1", "--if-absent", "--ttl", "1h")
    entry = json.loads(world.flow("get", "lock", "--json"))
    ends = datetime.fromisoformat(entry["expires_at"]) - datetime.fromisoformat(entry["updated_at"])
    assert ends == timedelta(hours=1)
    assert "is there already: nothing was stored" in world.flow("set", "lock", "2", "--if-absent", code=1)
    assert "version is not 9: nothing" in world.flow("set", "lock", "2", "--if-version", "9", code=1)
    world.flow("set", "lock", "2", "--if-version", str(entry["version"]))
    assert "nothing was deleted" in world.flow("delete", "lock", "--if-version", "1", code=1)
    assert world.flow("delete", "lock", "nothing") == "deleted 1 of 2\n"
    assert json.loads(world.flow("delete", "lock", "--json")) == {"deleted": 0}


def test_a_slip_is_told_in_one_sentence(world: World) -> None:
    told = world.flow("set", "theme", "dark", code=1)
    assert told.count("\n") == 1
    assert "not valid JSON" in told
    assert "'\"hello\"'" in told
    assert "1 to 512 bytes" in world.flow("set", "", "1", code=1)
    assert "1048576" in world.flow("set", "big", json.dumps("x" * 1_048_577), code=1)
    for words in (["get", "theme"], ["set", "k", "1", "--worklet", "a", "--ttl", "soon"], ["frob"]):
        with pytest.raises(SystemExit) as wrong:
            main(["kv", *words])
        assert wrong.value.code == 2


def test_an_unset_variable_names_no_worklet_and_deletes_nothing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.flow("set", "k", "1")
    refused = (
        (["kv", "clear", "--all", "--worklet", ""], "it is empty: write a session's id"),
        (["kv", "get", "k", "--worklet", " "], "it is empty"),
        (["kv", "clear", "--all", "--worklet", world.id[:3]], "write 4 letters"),
        (["kv", "delete", "k", "--worklet", world.id[:3]], "write 4 letters"),
        (["kv", "import", "-", "--worklet", world.id[:3]], "write 4 letters"),
        (["sessions", "show", ""], "it is empty"),
        (["sessions", "stop", ""], "it is empty"),
    )
    for words, why in refused:
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert why in capsys.readouterr().err
    assert world.flow("get", "k") == "1\n"
    assert world.flow("delete", "k", worklet=world.id[:4]) == "deleted 1 of 1\n"


def test_the_worklet_may_be_named_in_every_way(world: World) -> None:
    world.flow("set", "k", "1")
    other = f"{LINK.replace('123456', '999999')}?thread_ts=1700000000.123456&cid=C012AB3CD"
    for name in (world.id, world.id[:6], world.id[:6].upper(), LINK, other):
        assert world.flow("get", "k", worklet=name) == "1\n"
    assert "No session begins with zzz" in world.flow("get", "k", worklet="zzz", code=1)
    assert "No session has that thread" in world.flow("get", "k", worklet=LINK.replace("C0", "C9"), code=1)


def test_a_store_without_a_session_is_reached_too(world: World) -> None:
    orphan = str(uuid.uuid4())
    told = world.flow("stats", worklet=orphan, code=1)
    assert f"No session has the id {orphan}, and that worklet has no store yet." in told
    asyncio.run(world.register(orphan))
    assert "keys         0 of" in world.flow("stats", worklet=orphan)
    assert orphan in world.flow("stats", worklet=orphan[:8])
    listed = world.flow("worklets")
    assert orphan in listed
    assert world.id in listed
    assert {json.loads(line)["id"] for line in world.flow("worklets", "--json").splitlines()} == {orphan, world.id}


def test_a_session_without_a_store_and_a_missing_database_are_told(world: World) -> None:
    async def remove() -> None:
        admin = open_admin(load().kv, load().share_dir)
        await admin.remove(world.id)
        await admin.close()

    asyncio.run(remove())
    assert "has no store yet" in world.flow("get", "k", code=1)
    assert world.flow("worklets") == "no worklet has a store yet\n"
    database = load().share_dir / "kv/kv.sqlite"
    database.unlink()
    told = world.flow("get", "k", code=1)
    assert told.count("\n") == 1
    assert "There is no key-value store at data/kv/kv.sqlite" in told
    assert not database.exists()


def test_a_list_shows_keys_of_all_namespaces_or_of_one(world: World) -> None:
    world.flow("set", "b", "[1,2]")
    world.flow("set", "a\x1b[31m", '"red"')
    world.flow("set", "c", "3", "--namespace", "another", "--ttl", "1d")
    header, *lines = world.flow("list").splitlines()
    assert header.split() == ["namespace", "key", "version", "updated", "expires"]
    assert [line.split()[:2] for line in lines] == [["another", "c"], ["default", "a\\x1b[31m"], ["default", "b"]]
    assert "[1, 2]" in world.flow("list", "--namespace", "default", "--values")
    assert world.flow("list", "nope") == "no keys\n"
    rows = [json.loads(line) for line in world.flow("list", "b", "--json", "--values").splitlines()]
    assert [(row["namespace"], row["key"], row["value"]) for row in rows] == [("default", "b", [1, 2])]
    assert "value" not in json.loads(world.flow("list", "b", "--json"))


def test_a_long_list_is_cut_and_says_so(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.fill("default", 1001)
    assert main(["kv", "list", "--worklet", world.id]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1001
    assert "more than these 1000" in shown.err
    assert len(world.flow("list", "--limit", "3").splitlines()) == 4
    assert len(world.flow("list", "--json").splitlines()) == 1001


def test_a_namespace_is_cleared_when_it_is_named(world: World) -> None:
    world.fill("a", 3)
    world.fill("b", 2)
    assert "Say what is to be deleted" in world.flow("clear", code=1)
    assert "Say what is to be deleted" in world.flow("clear", "--all", "--namespace", "a", code=1)
    assert world.flow("clear", "--namespace", "a") == "deleted 3 entries\n"
    assert json.loads(world.flow("clear", "--all", "--json")) == {"deleted": 2}


async def test_changes_are_told_as_they_happen(world: World) -> None:
    command = [sys.executable, "-m", "bot.cli", "kv", "watch", "job:", "--json", "--worklet", world.id]
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    watching = await asyncio.create_subprocess_exec(
        *command, "--cursor", "0", stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert watching.stdout is not None
    await asyncio.to_thread(world.call, "kv_set", p_namespace="default", p_key="job:1", p_value='"queued"')
    change = json.loads(await asyncio.wait_for(watching.stdout.readline(), 60))
    assert (change["key"], change["value"], change["deleted"]) == ("job:1", "queued", False)
    await asyncio.to_thread(world.call, "kv_clear", p_namespace="default")
    change = json.loads(await asyncio.wait_for(watching.stdout.readline(), 60))
    assert (change["key"], change["deleted"]) == ("job:1", True)
    watching.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(watching.wait(), 60) == 130


def test_stats_say_how_much_there_is_and_may_be(world: World) -> None:
    assert "changed      never" in world.flow("stats")
    world.fill("default", 3)
    told = world.flow("stats")
    assert "keys         3 of 1,000,000" in told
    assert "of 256 MiB" in told
    stats = json.loads(world.flow("stats", "--json"))
    assert (stats["keys"], stats["namespaces"], stats["max_bytes"]) == (3, 1, 256 * 1024**2)


def test_what_was_exported_is_imported_again(world: World, tmp_path: Path) -> None:
    world.fill("default", 2500)
    world.flow("set", "sum", "1e300", "--namespace", "sums", "--ttl", "2h")
    world.flow("set", "π", '{"a":"\\u2028"}', "--namespace", "sums")
    before = world.flow("list", "--json", "--values")
    assert world.flow("export", "--output", "all.jsonl") == ""
    assert len(Path("all.jsonl").read_text().split("\n")) == 2503
    assert stat.S_IMODE(Path("all.jsonl").stat().st_mode) == 0o600
    assert world.flow("export") == Path("all.jsonl").read_text()
    assert world.flow("import", "all.jsonl", "--check") == "2,502 lines are right; nothing was written\n"
    world.call("kv_clear", p_namespace=None)
    for _ in range(2):  # a repetition changes nothing
        assert world.flow("import", "all.jsonl") == "wrote 2,502 entries\n"
        after = world.flow("list", "--json", "--values")
        assert _comparable(after) == _comparable(before)
    world.flow("import", "all.jsonl", "--namespace", "copy")
    assert len(world.flow("list", "--namespace", "copy", "--json").splitlines()) == 2502


def _comparable(text: str) -> list[tuple[str, str, object, bool]]:
    rows = map(json.loads, text.removesuffix("\n").split("\n"))  # a value may hold U+2028
    return [(row["namespace"], row["key"], row["value"], row["expires_at"] is not None) for row in rows]


def test_a_time_to_live_survives_a_copy(world: World) -> None:
    past, future = (datetime.now(UTC) + timedelta(hours=h) for h in (-1, 1))
    lines = [{"key": "gone", "value": 1, "expires_at": past.isoformat()}, {"key": "here", "value": 2}]
    lines += [{"key": "soon", "value": 3, "expires_at": future.isoformat()}]
    Path("some.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert world.flow("import", "some.jsonl") == "wrote 2 entries; 1 had expired\n"
    entry = json.loads(world.flow("get", "soon", "--json"))
    assert abs(datetime.fromisoformat(entry["expires_at"]) - future) < timedelta(seconds=30)
    assert json.loads(world.flow("get", "here", "--json"))["expires_at"] is None


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("nonsense", "not valid JSON"),
        ("[1]", '{"namespace": …'),
        ('{"key": "k"}', '{"namespace": …'),
        ('{"key": "k", "value": 1, "ttl": 5}', '{"namespace": …'),
        ('{"key": "", "value": 1}', "key must have 1 to 512 bytes"),
        ('{"key": "k", "value": NaN}', "NaN"),
        ('{"key": "k", "value": "\\u0000"}', "NUL"),
        ('{"key": "k", "value": 1, "expires_at": "tomorrow"}', "expires_at must be a time"),
        ('{"key": "k", "value": 1, "expires_at": "2030-01-01T00:00:00"}', "with its offset"),
        ('{"key": "k", "value": 1, "expires_at": "9999-12-31T23:59:59+00:00"}', "more than ten years ahead"),
        ('{"key": "k", "value": 1, "namespace": 5}', "namespace must be a string"),
        ('{"key": null, "value": 1}', "key must be a string"),
        ("[" * 100_000, "nested 128 deep"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_after_it_is_written(world: World, wrong: str, why: str) -> None:
    right = [json.dumps({"key": f"k{n}", "value": n}) for n in range(5)]
    Path("some.jsonl").write_text("\n".join([*right[:3], wrong, *right[3:]]))
    assert "Line 4 is wrong" in world.flow("import", "some.jsonl", "--check", code=1)
    assert world.flow("list", "--json") == ""
    told = world.flow("import", "some.jsonl", code=1)
    assert told.count("\n") == 1
    for words in ("Line 4 is wrong", why, "(3 entries)", "--from-line 4"):
        assert words in told
    assert [json.loads(line)["key"] for line in world.flow("list", "--json").splitlines()] == ["k0", "k1", "k2"]
    assert world.flow("import", "some.jsonl", "--from-line", "5") == "wrote 2 entries\n"


def test_a_full_store_says_how_far_an_import_came(world: World, stdin: Callable[[str], None]) -> None:
    asyncio.run(world.register(world.id, max_keys=1500))
    lines = "".join(json.dumps({"key": f"k{n:05}", "value": n}) + "\n" for n in range(2500))
    stdin(lines)
    told = world.flow("import", "-", code=1)
    for words in (
        "Lines 1001 to 2000 were refused",
        "1500 keys",
        "Written before: 1,000 entries",
        "--from-line 1001",
    ):
        assert words in told
    assert json.loads(world.flow("stats", "--json"))["keys"] == 1000


def test_an_import_makes_the_store_of_a_session_that_has_none(world: World) -> None:
    world.fill("default", 3)
    world.flow("export", "--output", "all.jsonl")
    before = world.flow("list", "--json", "--values")
    for file in Path("data/kv").glob("kv.sqlite*"):  # another backend, where nothing was ever registered
        file.unlink()
    assert "3 lines are right" in world.flow("import", "all.jsonl", "--check")
    assert not Path("data/kv/kv.sqlite").exists()
    assert world.flow("import", "all.jsonl") == "wrote 3 entries\n"
    assert _comparable(world.flow("list", "--json", "--values")) == _comparable(before)
    (one,) = map(json.loads, world.flow("worklets", "--json").splitlines())
    assert one == {"id": world.id, "owner_id": owner_of("U1"), "name": "make a prototype"}
    for words in (["import", "all.jsonl"], ["import", "all.jsonl", "--check"]):
        assert "No session has the id" in world.flow(*words, worklet=str(uuid.uuid4()), code=1)


def test_an_import_that_begins_behind_the_end_is_told(world: World) -> None:
    Path("some.jsonl").write_text('{"key":"a","value":1}\n' * 5)
    for more in ([], ["--check"]):
        told = world.flow("import", "some.jsonl", "--from-line", "99", *more, code=1)
        assert "some.jsonl has 5 lines: there is nothing from line 99 on." in told
    assert world.flow("import", "some.jsonl", "--from-line", "5") == "wrote 1 entry\n"


class _Stuck(Shelf):
    """A store that answers once and then for ever not."""

    def __init__(self) -> None:
        self.worklet_id, self.asked = "w", 0
        self.stuck = asyncio.Event()

    async def call(self, function: str, **_: object) -> object:
        self.asked += 1
        if self.asked > 1:
            self.stuck.set()
            await asyncio.Event().wait()
        return {"entries": [{"key": "k", "value": 1, "expires_at": None}], "cursor": "k"}


@pytest.mark.parametrize("way", ["export", "import"])
async def test_breaking_off_tells_how_far_it_came(way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shelf, file = _Stuck(), tmp_path / "all.jsonl"
    work: Coroutine[None, None, object]
    if way == "export":
        work, wanted = export(shelf, "n", file, resume=False), "broken off after 1 entry; go on with --resume"
    else:
        file.write_text("".join(json.dumps({"key": f"k{n}", "value": n}) + "\n" for n in range(1500)))
        work, wanted = (
            read_in(shelf, str(file), 1, None),
            "broken off after 1,000 entries; repeat it, nothing is stored",
        )
    task = asyncio.create_task(work)
    await asyncio.wait_for(shelf.stuck.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert wanted in capsys.readouterr().err


def test_the_later_of_two_lines_of_one_key_counts(world: World, stdin: Callable[[str], None]) -> None:
    stdin('\ufeff{"key":"a","value":1}\n\n{"key":"b","value":1}\n{"key":"a","value":2}\n')
    world.flow("import", "-")
    assert world.flow("get", "a") == "2\n"


def test_a_broken_off_export_goes_on(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.fill("a", 1500)
    world.fill("b", 1500)
    whole = world.flow("export")
    part = Path(f"all.jsonl.{world.id}.part")
    half = "".join(whole.splitlines(keepends=True)[:1700])
    part.write_text(half + '{"namespace":"b","ke')  # the disk was full in the middle of a line
    assert main(["kv", "export", "--worklet", world.id, "--output", "all.jsonl", "--resume"]) == 0
    assert "going on after 1,700 entries" in capsys.readouterr().err
    assert Path("all.jsonl").read_text() == whole
    assert not part.exists()
    other = world.flow("export", "--namespace", "b", "--output", "all.jsonl", "--resume")  # another selection
    assert (other, len(Path("all.jsonl").read_text().splitlines())) == ("", 1500)
    part.write_text(half)  # without --resume an old part counts for nothing
    world.flow("set", "k000000", '"new"', "--namespace", "a")
    world.flow("export", "--output", "all.jsonl")
    assert json.loads(Path("all.jsonl").read_text().splitlines()[0])["value"] == "new"


def test_a_terminal_obeys_nothing_that_a_worklet_stored(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[31m\x9b31m\x7f\r\n"
    world.call("kv_set", p_namespace="default", p_key="k" + hostile, p_value=json.dumps(hostile))
    for words in (["get", "k" + hostile], ["list", "--values"], ["list", "--values", "--json"]):
        shown = world.flow(*words)
        assert [c for c in shown if not c.isprintable() and c != "\n"] == []
    assert json.loads(world.flow("get", "k" + hostile)) == hostile


def test_an_output_that_cannot_be_written_is_one_sentence(world: World) -> None:
    world.fill("default", 2000)
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "bot.cli", "kv", "export", "--worklet", world.id]
    environment = {**os.environ, "PYTHONPATH": path}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert (done.returncode, done.stderr) == (1, "flow: The output cannot be written: No space left on device.\n")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        reader.stdout.readline()
        reader.stdout.close()
        assert (reader.stderr.read(), reader.wait(60)) == (b"", 1)


def test_a_token_for_programs_outside_opens_this_store(world: World) -> None:
    token = world.flow("token", "--ttl", "5m").strip()
    settings = load()
    verifier = Verifier(SigningKey.load(settings.share_dir / "kv/signing-key.pem"))
    assert verifier.verify(token).worklet_id == world.id
    with pytest.raises(Refusal):
        verifier.verify(token, now=time.time() + 400)
    assert "no store yet" in world.flow("token", worklet=str(uuid.uuid4()), code=1)


def test_a_token_is_given_with_a_warning_that_a_sleep_ends_it(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kv", "token", "--worklet", world.id]) == 0
    assert capsys.readouterr().err == "It ends earlier when its session goes to sleep.\n"


def test_one_export_at_a_time_writes_a_file(world: World) -> None:
    with open(f"all.jsonl.{world.id}.part", "wb") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        assert "Another export to this file is under way" in world.flow("export", "--output", "all.jsonl", code=1)
    world.flow("export", "--output", "all.jsonl")


def test_refusals_call_arguments_as_people_do(world: World) -> None:
    told = world.flow("set", "k", "1", "--ttl", "3655d", code=1)
    assert "ttl must be more than 0" in told
    assert "p_ttl" not in told


def test_files_that_cannot_be_are_told(world: World) -> None:
    assert "nowhere.jsonl cannot be read: No such file" in world.flow("import", "nowhere.jsonl", code=1)
    assert "cannot be written: No such file" in world.flow("export", "--output", "no/where.jsonl", code=1)


def test_the_public_key_is_printed_and_only_that(world: World) -> None:
    (key,) = json.loads(world.flow("jwks"))["keys"]
    assert (key["kty"], key["crv"], key["alg"]) == ("EC", "P-256", "ES256")
    assert "d" not in key
    assert key["kid"]
