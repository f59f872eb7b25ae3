"""The encrypted file of secrets: what is kept, who may read it, and that nothing is lost."""

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worklets.secrets import (
    MOST_CHARACTERS,
    SecretError,
    SecretMissing,
    SecretNameWrong,
    SecretsDamaged,
    SecretsKeyMissing,
    SecretsUnwritable,
)
from worklets.secretsfile import FILE, FileStore
from worklets.secretskeys import Key, Keys

Ring = dict[tuple[str, str], str]


class Place:
    """A share directory, and a directory for keys beside it."""

    def __init__(self, path: Path) -> None:
        self.share, self.keys = path / "share", path / "keys"
        self.share.mkdir()

    def store(self, *given: Key, file: Path | None = None, directory: bool = True) -> FileStore:
        texts = [key.text for key in given]
        keys = Keys(texts, file, self.keys if directory else None, keyring=False)
        return FileStore(self.share, keys)

    @property
    def file(self) -> Path:
        return self.share / FILE

    def key_file(self) -> Path:
        (path,) = self.keys.glob("secrets-*.key")
        return path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_what_was_put_is_there_for_another_process(place: Place) -> None:
    await place.store().put("github", {"token": "ghp_first", "user": "flow"})
    await place.store().put("team/linear", {"token": "lin_ä🔑"})
    other = place.store()
    assert await other.get("github") == {"token": "ghp_first", "user": "flow"}
    assert await other.get("team/linear") == {"token": "lin_ä🔑"}
    assert await other.list() == ["github", "team/linear"]
    assert (await other.state())["state"] == "ok"
    assert set(other.known()) == {"ghp_first", "lin_ä🔑"}  # who it is, is no secret


async def test_nothing_readable_lies_in_the_share_directory_nor_the_key(place: Place) -> None:
    await place.store().put("github", {"token": "ghp_secret"})
    key = place.key_file().read_text().strip()
    for path in place.share.rglob("*"):
        content = path.read_bytes()
        for secret in (b"ghp_secret", b"github", b"token", key.encode()):
            assert secret not in content, path
    assert place.file.stat().st_mode & 0o777 == place.key_file().stat().st_mode & 0o777 == 0o600
    assert place.keys.stat().st_mode & 0o777 == 0o700


async def test_a_put_replaces_unless_it_keeps_the_rest(place: Place) -> None:
    store = place.store()
    await store.put("a", {"one": "1", "two": "2"})
    await store.put("a", {"two": "zwei"}, keep=True)
    assert await store.get("a") == {"one": "1", "two": "zwei"}
    await store.put("a", {"three": "3"})
    assert await store.get("a") == {"three": "3"}


async def test_what_is_not_there_is_said(place: Place) -> None:
    store = place.store()
    with pytest.raises(SecretMissing, match="no secret github"):
        await store.get("github")
    with pytest.raises(SecretMissing):
        await store.delete("github")
    await store.put("github", {"token": "x" * 8})
    await store.delete("github")
    assert await store.list() == []
    with pytest.raises(SecretMissing, match="flow secrets set"):
        raise SecretMissing(SecretMissing().sentence())


@pytest.mark.parametrize("path", ["", "../x", "a/../b", "/a", "a/", "A", "a b", ".a", "a//b", "a" * 65, "a/" * 8 + "a"])
async def test_no_other_name_is_one(place: Place, path: str) -> None:
    with pytest.raises(SecretNameWrong):
        await place.store().get(path)


@pytest.mark.parametrize(
    "values", [{}, {"a": ""}, {"a b": "c"}, {"": "c"}, {"a": "x" * (MOST_CHARACTERS + 1)}, {"a": 1}]
)
async def test_no_other_values_are_taken_and_none_is_told(place: Place, values: dict[str, str]) -> None:
    with pytest.raises(SecretError) as error:
        await place.store().put("a", values)
    assert "xxx" not in error.value.sentence()
    assert await place.store().list() == []


async def test_another_key_is_told_from_a_torn_file_and_neither_is_written_over(place: Place) -> None:
    old, wrong = Key.made(), Key.made()
    await place.store(old).put("github", {"token": "ghp_1"})
    before = place.file.read_bytes()
    with pytest.raises(SecretsDamaged, match=f"another key .{old.name}") as error:
        await place.store(wrong).get("github")
    assert "FLOW_SECRETS_KEY" in error.value.suggestion
    for change in (place.store(wrong).put("b", {"c": "d"}), place.store(wrong).delete("github")):
        with pytest.raises(SecretsDamaged):
            await change
    assert (await place.store(wrong).state())["state"] == "damaged"
    assert place.file.read_bytes() == before
    place.file.write_bytes(before[: len(before) // 2])
    for change in (place.store(old).put("b", {"c": "d"}), place.store(old).delete("github")):
        with pytest.raises(SecretsDamaged, match="torn"):
            await change
    assert place.file.read_bytes() == before[: len(before) // 2]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"flow-secrets 1 a file\n", b"\xff" * 300, b"flow-secrets 2 a file b\nx"]
)
async def test_whatever_else_lies_there_is_no_file_of_secrets(place: Place, content: bytes) -> None:
    place.file.write_bytes(content)
    with pytest.raises(SecretsDamaged, match="torn, or no file of secrets"):
        await place.store().get("github")


async def test_a_lost_key_file_is_not_made_anew(place: Place) -> None:
    await place.store().put("github", {"token": "ghp_1"})
    path = place.key_file()
    kept = path.read_text()
    path.unlink()
    with pytest.raises(SecretsKeyMissing, match=path.name):
        await place.store().put("b", {"c": "d"})
    assert not path.exists()
    path.write_text(kept)
    assert await place.store().get("github") == {"token": "ghp_1"}


async def test_where_nothing_would_outlive_the_machine_no_key_is_made(place: Place) -> None:
    with pytest.raises(SecretError, match="outlives this container") as error:
        await place.store(directory=False).put("a", {"b": "c"})
    assert "flow secrets key" in error.value.suggestion
    key = Key.made()
    await place.store(key, directory=False).put("a", {"b": "c"})
    assert await place.store(key, directory=False).get("a") == {"b": "c"}


@pytest.mark.parametrize(
    "text",
    ["short", "x" * 44, Key.made().text[:-4], Key.made().text + "=", "ä" * 44],
    ids=["short", "no base64", "cut", "longer", "no ASCII"],
)
async def test_what_is_no_key_is_refused_without_being_told(place: Place, text: str) -> None:
    with pytest.raises(SecretError, match="no key for the file") as error:
        await place.store(Key(text)).put("a", {"b": "c"})
    assert text not in error.value.sentence()


async def test_a_key_file_of_ones_own(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "mounted" / "key"
    await place.store(file=path).put("a", {"b": "c"})
    assert await place.store(file=path).get("a") == {"b": "c"}
    assert not place.keys.exists()
    assert await place.store(file=path).where() == str(path)


async def test_a_key_file_that_is_named_later_locks_nobody_out(place: Place, tmp_path: Path) -> None:
    await place.store().put("a", {"b": "c"})
    named = tmp_path / "named.key"
    assert await place.store(file=named).get("a") == {"b": "c"}
    assert await place.store(file=named).where() == str(place.key_file())
    await place.store(file=named).rotate()
    assert await place.store(file=named).get("a") == {"b": "c"}
    assert await place.store(file=named).where() == str(named)


async def test_rotation_of_a_key_file(place: Place) -> None:
    store = place.store()
    await store.put("github", {"token": "ghp_1"})
    old_key, old_file = place.key_file().read_text(), place.file.read_bytes()
    assert await store.rotate() == (1, str(place.key_file()))
    assert await place.store().get("github") == {"token": "ghp_1"}
    assert old_key.strip() not in place.key_file().read_text()
    place.file.write_bytes(old_file)  # from a backup: its key is gone
    with pytest.raises(SecretsDamaged, match="another key"):
        await place.store().get("github")


async def test_a_rotation_that_is_killed_half_way_loses_nothing(place: Place) -> None:
    await place.store().put("github", {"token": "ghp_1"})
    path = place.key_file()
    path.write_text(f"{Key.made().text}\n{path.read_text()}")  # the new key is written, the file not yet
    assert await place.store().get("github") == {"token": "ghp_1"}
    await place.store().put("b", {"c": "d"})
    await place.store().rotate()
    assert len(path.read_text().split()) == 1
    assert await place.store().list() == ["b", "github"]


async def test_rotation_of_a_key_in_the_environment_needs_the_new_one_first(place: Place) -> None:
    old, new = Key.made(), Key.made()
    await place.store(old).put("github", {"token": "ghp_1"})
    with pytest.raises(SecretError, match="no new key"):
        await place.store(old).rotate()
    assert await place.store(new, old).get("github") == {"token": "ghp_1"}
    await place.store(new, old).rotate()
    assert await place.store(new).get("github") == {"token": "ghp_1"}
    with pytest.raises(SecretsDamaged):
        await place.store(old).get("github")


async def test_from_a_key_file_to_the_environment(place: Place) -> None:
    await place.store().put("github", {"token": "ghp_1"})
    new = Key.made()
    assert await place.store(new).get("github") == {"token": "ghp_1"}
    await place.store(new).rotate()
    place.key_file().unlink()
    assert await place.store(new).get("github") == {"token": "ghp_1"}
    with pytest.raises(SecretsKeyMissing, match="FLOW_SECRETS_KEY"):
        await place.store().get("github")


async def test_a_key_file_that_is_of_no_more_use_is_not_looked_at(place: Place) -> None:
    await place.store().put("github", {"token": "ghp_1"})
    new = Key.made()
    await place.store(new).rotate()
    place.key_file().write_text("no key any more")
    assert await place.store(new).get("github") == {"token": "ghp_1"}


async def test_rotation_without_secrets_is_refused(place: Place) -> None:
    with pytest.raises(SecretMissing, match="no secrets yet"):
        await place.store().rotate()


_WRITER = """
import asyncio, sys
from pathlib import Path
from worklets.secretsfile import FileStore
from worklets.secretskeys import Keys
async def main(share, keys, me):
    store = FileStore(Path(share), Keys((), None, Path(keys), keyring=False))
    for number in range(8):
        await store.put("shared", {f"k{me}-{number}": "v"}, keep=True)
asyncio.run(main(*sys.argv[1:]))
"""


async def test_processes_that_write_at_the_same_time_lose_nothing(place: Place) -> None:
    root = Path(__file__).parents[3]
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, place.share, place.keys, str(me)], cwd=root) for me in range(3)
    ]
    assert [await asyncio.to_thread(writer.wait, 60) for writer in writers] == [0, 0, 0]
    found = await place.store().get("shared")
    assert set(found) == {f"k{me}-{number}" for me in range(3) for number in range(8)}


async def test_a_draft_that_a_killed_process_left_is_removed(place: Place) -> None:
    store = place.store()
    await store.put("a", {"b": "c"})
    (place.share / f".{FILE}.1.dead").write_bytes(b"half")
    await store.put("a", {"b": "d"})
    assert not list(place.share.glob(f".{FILE}.*"))


async def test_a_directory_that_cannot_be_written(place: Place) -> None:
    store = place.store()
    await store.put("a", {"b": "c"})
    (place.share / "secrets.lock").unlink()
    (place.share / "secrets.lock").mkdir()
    with pytest.raises(SecretsUnwritable, match=os.strerror(errno.EISDIR)):
        await store.put("a", {"b": "d"})
    assert await store.get("a") == {"b": "c"}


@pytest.mark.tmpfs
async def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], check=True)
    try:
        place = Place(small)
        place.keys = tmp_path / "keys"
        store = place.store()
        await store.put("a", {"b": "c"})
        before = place.file.read_bytes()
        (place.share / "other").write_bytes(bytes(200 * 1024))
        with pytest.raises(SecretsUnwritable, match=os.strerror(errno.ENOSPC)) as error:
            await store.put("large", {"b": os.urandom(30_000).hex()})
        assert "still there" in error.value.suggestion
        assert not list(place.share.glob(f".{FILE}.*"))
        assert place.file.read_bytes() == before
        (place.share / "other").unlink()
        await store.put("large", {"b": os.urandom(30_000).hex()})
        assert await place.store().list() == ["a", "large"]
    finally:
        subprocess.run(["umount", small], check=True)


class TestKeyring:
    """The real `keyring` package, with a keyring in memory."""

    @pytest.fixture
    def ring(self) -> Iterator[Ring]:
        import keyring
        from keyring.backend import KeyringBackend

        before = keyring.get_keyring()  # chosen among the classes that there are: not among them the one below
        kept: dict[tuple[str, str], str] = {}

        class Memory(KeyringBackend):
            priority = 5

            def get_password(self, service: str, username: str) -> str | None:
                return kept.get((service, username))

            def set_password(self, service: str, username: str, password: str) -> None:
                kept[service, username] = password

        keyring.set_keyring(Memory())  # type: ignore[no-untyped-call]
        yield kept
        keyring.set_keyring(before)

    async def test_the_key_lies_there_and_is_rotated_there(self, place: Place, ring: Ring) -> None:
        def store() -> FileStore:
            return FileStore(place.share, Keys((), None, place.keys))

        await store().put("a", {"b": "c"})
        ((service, _), key), *_ = ring.items()
        assert service == "flow-secrets"
        assert len(key) == 44
        assert not place.keys.exists()
        assert await store().get("a") == {"b": "c"}
        await store().rotate()
        assert key not in ring.values()
        assert await store().get("a") == {"b": "c"}
        assert "keyring" in await store().where()
        named = FileStore(place.share, Keys((), place.share.parent / "named", place.keys))
        assert await named.get("a") == {"b": "c"}
        await named.put("a", {"b": "d"})  # its key moves there
        assert await FileStore(place.share, Keys((), place.share.parent / "named", None)).get("a") == {"b": "d"}

    async def test_what_was_in_a_keyring_that_was_emptied(self, place: Place, ring: Ring) -> None:
        def store() -> FileStore:
            return FileStore(place.share, Keys((), None, place.keys))

        await store().put("a", {"b": "c"})
        ring.clear()
        with pytest.raises(SecretsKeyMissing, match="OS keyring"):
            await store().put("a", {"b": "d"})
        assert not ring
