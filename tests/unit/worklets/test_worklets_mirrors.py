"""Mirrors and the clones made from them, with the real git and repositories on disk."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from certificates import make_certificate
from githost import TOKEN, USER, GitHost, git_host
from waiting import until

from worklets.errors import CloneFailed
from worklets.git import Git, Login, Source, masked, parted, without_password, work_branch
from worklets.identity import Identity
from worklets.mirrors import Mirrors
from worklets.treesize import Counted, TooMuch

WHO = {f"GIT_{one}_{what}": "a@b" for one in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(*words: str, cwd: Path) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": str(cwd), **WHO}
    return subprocess.run(["git", *words], cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout


def commit(path: Path, text: str) -> None:
    (path / "file").write_text(text)
    git("add", ".", cwd=path)
    git("commit", "-q", "-m", text, cwd=path)


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with two branches: main says one, other says two."""
    path = tmp_path / "origin"
    path.mkdir()
    git("init", "-q", "-b", "main", cwd=path)
    for branch, text in (("main", "one"), ("other", "two")):
        git("checkout", "-q", "-B", branch, cwd=path)
        commit(path, text)
    git("checkout", "-q", "main", cwd=path)
    return path


@pytest.fixture
def share(tmp_path: Path) -> Path:
    return tmp_path / "share"


Make = Callable[..., Mirrors]


@pytest.fixture
def make(share: Path) -> Make:
    def make(environ: dict[str, str] | None = None, *, local: bool = True, **options: object) -> Mirrors:
        git = Git(environ if environ is not None else dict(os.environ), local=local)
        return Mirrors(share, Identity.load(share), git, **options)  # type: ignore[arg-type]

    return make


def with_login(address: str, username: str, password: str) -> str:
    return address.replace("://", f"://{username}:{password}@", 1)


def mirror_of(share: Path) -> Path:
    (found,) = (share / "mirrors").iterdir()
    return found


def counting(tmp_path: Path) -> dict[str, str]:
    """A git that writes down what it is called with."""
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexec {shutil.which("git")} "$@"\n')
    fake.chmod(0o755)
    return {"PATH": f"{fake.parent}:{os.environ['PATH']}"}


def calls(tmp_path: Path, word: str) -> int:
    return sum(f" {word} " in line for line in (tmp_path / "calls").read_text().splitlines())


# ---- what a session gets


async def test_the_default_branch_comes_with_its_history_on_a_branch_of_its_own(
    origin: Path, tmp_path: Path, make: Make
) -> None:
    to = tmp_path / "to"
    await make().checkout(str(origin), None, to, worklet="w", work_branch="flow/fix-it-12345678")
    assert (to / "file").read_text() == "one"
    assert git("log", "--format=%s", cwd=to).split() == ["one"]
    assert git("branch", "--show-current", cwd=to).strip() == "flow/fix-it-12345678"
    assert git("remote", "get-url", "origin", cwd=to).strip() == str(origin)


async def test_a_clone_holds_no_objects_of_its_own(origin: Path, tmp_path: Path, share: Path, make: Make) -> None:
    to, mirrors = tmp_path / "to", make()
    await mirrors.checkout(str(origin), None, to, worklet="w", seen_at=lambda _: "/run/mirror")
    held = [path.name for path in (to / ".git" / "objects").rglob("*") if path.is_file()]
    assert held == ["alternates"]
    assert (to / ".git/objects/info/alternates").read_text() == "/run/mirror\n"
    assert mirrors.objects_of("w") == mirror_of(share) / "repo.git" / "objects"
    assert mirrors.objects_of("another") is None


async def test_a_branch_or_a_tag_is_checked_out_into_an_empty_directory(
    origin: Path, tmp_path: Path, make: Make
) -> None:
    git("tag", "v1", "other", cwd=origin)
    for name in ("other", "v1"):
        (tmp_path / name).mkdir()
        await make().checkout(f"file://{origin}", name, tmp_path / name, worklet="w")
        assert (tmp_path / name / "file").read_text() == "two"


async def test_an_empty_repository_can_be_begun_with(tmp_path: Path, make: Make) -> None:
    (tmp_path / "new").mkdir()
    git("init", "-q", "-b", "main", cwd=tmp_path / "new")
    await make().checkout(str(tmp_path / "new"), None, tmp_path / "to", worklet="w", work_branch="flow/x-1")
    assert git("symbolic-ref", "HEAD", cwd=tmp_path / "to").strip() == "refs/heads/flow/x-1"


async def test_a_session_goes_on_from_what_it_pushed(origin: Path, tmp_path: Path, make: Make) -> None:
    git("branch", "flow/x-1", "other", cwd=origin)
    await make().checkout(str(origin), "main", tmp_path / "to", worklet="w", work_branch="flow/x-1")
    assert (tmp_path / "to" / "file").read_text() == "two"
    assert git("branch", "--show-current", cwd=tmp_path / "to").strip() == "flow/x-1"


# ---- what is shared


async def test_a_second_session_fetches_nothing(origin: Path, tmp_path: Path, share: Path, make: Make) -> None:
    mirrors = make(counting(tmp_path))
    await mirrors.checkout(str(origin), None, tmp_path / "a", worklet="a")
    await mirrors.checkout(str(origin), None, tmp_path / "b", worklet="b")
    assert (tmp_path / "b" / "file").read_text() == "one"
    assert calls(tmp_path, "--bare") == 1
    assert not calls(tmp_path, "fetch")
    mirror_of(share)  # there is one


async def test_sessions_at_once_make_one_mirror(origin: Path, tmp_path: Path, make: Make) -> None:
    environ = counting(tmp_path)
    both = [make(environ), make(environ)]  # as two processes would
    await asyncio.gather(
        *(both[n % 2].checkout(str(origin), None, tmp_path / f"to{n}", worklet=f"w{n}") for n in range(6))
    )
    assert calls(tmp_path, "--bare") == 1
    assert {(tmp_path / f"to{n}" / "file").read_text() for n in range(6)} == {"one"}


async def test_what_is_older_is_fetched_with_the_default_branch_of_now(
    origin: Path, tmp_path: Path, make: Make
) -> None:
    mirrors = make(fresh=0.0)
    await mirrors.checkout(str(origin), None, tmp_path / "a", worklet="a")
    git("checkout", "-q", "-b", "trunk", cwd=origin)
    commit(origin, "three")
    git("branch", "-q", "-D", "main", cwd=origin)
    await mirrors.checkout(str(origin), None, tmp_path / "b", worklet="b")
    assert (tmp_path / "b" / "file").read_text() == "three"
    assert "main" not in git("branch", "-r", cwd=tmp_path / "b")
    # The first one's history is still there, though no branch of the mirror leads to it.
    assert git("log", "--format=%s", cwd=tmp_path / "a").split() == ["one"]


async def test_a_branch_that_is_new_is_found_also_in_a_fresh_mirror(origin: Path, tmp_path: Path, make: Make) -> None:
    mirrors = make(fresh=1000.0)
    await mirrors.checkout(str(origin), None, tmp_path / "a", worklet="a")
    git("branch", "later", "other", cwd=origin)
    await mirrors.checkout(str(origin), "later", tmp_path / "b", worklet="b")
    assert (tmp_path / "b" / "file").read_text() == "two"


async def test_whose_password_it_is_shares_no_mirror(share: Path, make: Make) -> None:
    mirrors = make()
    places = {
        mirrors.mirror(source).key
        for source in (
            parted("https://h/o/a"), parted("https://me:pw1@h/o/a"), parted("https://me:pw2@h/o/a"),
            parted("https://h/o/a", "a"), parted("https://h/o/b"),
        )
    }  # fmt: skip
    assert len(places) == 5
    assert Mirrors(share, Identity("00000000", b"0" * 32)).mirror(parted("https://h/o/a")).key not in places


async def test_many_fetches_leave_few_packs(origin: Path, tmp_path: Path, share: Path, make: Make) -> None:
    mirrors = make(fresh=0.0)
    for number in range(35):
        commit(origin, f"more {number}")
        await mirrors.checkout(str(origin), None, tmp_path / f"to{number}", worklet="w")
        shutil.rmtree(tmp_path / f"to{number}")
    assert len(list((mirror_of(share) / "repo.git/objects/pack").glob("*.pack"))) < 20
    await mirrors.checkout(str(origin), None, tmp_path / "to", worklet="w")
    assert len(git("log", "--format=%h", cwd=tmp_path / "to").split()) == 36


# ---- what breaks


async def test_half_of_a_mirror_counts_for_nothing(origin: Path, tmp_path: Path, share: Path, make: Make) -> None:
    mirrors = make()
    await mirrors.checkout(str(origin), None, tmp_path / "a", worklet="a")
    place = mirror_of(share)
    (place / "repo.git").rename(place / "new-0badf00d")  # as a killed Flow leaves it
    await mirrors.checkout(str(origin), None, tmp_path / "b", worklet="b")
    assert (tmp_path / "b" / "file").read_text() == "one"
    assert sorted(path.name for path in place.iterdir()) == ["fetched", "lock", "repo.git", "used"]


@pytest.mark.parametrize("fresh", [0.0, 1000.0])
async def test_a_broken_mirror_is_noticed_and_made_anew(
    fresh: float, origin: Path, tmp_path: Path, share: Path, make: Make
) -> None:
    mirrors = make(fresh=fresh)
    await mirrors.checkout(str(origin), None, tmp_path / "a", worklet="a")
    for pack in (mirror_of(share) / "repo.git" / "objects").rglob("*"):
        if pack.is_file():
            pack.chmod(0o644)
            pack.write_bytes(b"")
    commit(origin, "three")
    await mirrors.checkout(str(origin), None, tmp_path / "b", worklet="b")
    assert (tmp_path / "b" / "file").read_text() == "three"


async def test_a_mirror_with_a_directory_missing_is_made_anew(
    origin: Path, tmp_path: Path, share: Path, make: Make
) -> None:
    mirrors = make()
    await mirrors.checkout(str(origin), None, tmp_path / "a", worklet="a")
    shutil.rmtree(mirror_of(share) / "repo.git" / "refs")
    await mirrors.checkout(str(origin), None, tmp_path / "b", worklet="b")
    assert (tmp_path / "b" / "file").read_text() == "one"


@pytest.mark.parametrize("branch", ["feature", "flow", "v"])
async def test_the_first_part_of_a_branchs_name_is_none(
    branch: str, origin: Path, tmp_path: Path, share: Path, make: Make
) -> None:
    for name in ("feature/x", "flow/older-12345678"):
        git("branch", name, cwd=origin)
    git("tag", "v/1", cwd=origin)
    mirrors = make()
    await mirrors.checkout(str(origin), None, tmp_path / "a", worklet="a")
    before = (mirror_of(share) / "repo.git").stat().st_ino
    with pytest.raises(CloneFailed, match="not found in upstream"):
        await mirrors.checkout(str(origin), branch, tmp_path / "b", worklet="b", work_branch="flow/b-2")
    assert (mirror_of(share) / "repo.git").stat().st_ino == before


async def test_a_clone_that_fails_for_another_reason_leaves_the_mirror(
    origin: Path, tmp_path: Path, share: Path, make: Make
) -> None:
    environ = counting(tmp_path)
    mirrors = make(environ)
    await mirrors.checkout(str(origin), None, tmp_path / "a", worklet="a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "full").touch()
    with pytest.raises(CloneFailed, match="not an empty directory"):
        await mirrors.checkout(str(origin), None, tmp_path / "b", worklet="b")
    assert calls(tmp_path, "--bare") == 1


async def test_what_running_worklets_have_mounted_outlives_a_mirror_that_is_made_anew(
    origin: Path, tmp_path: Path, share: Path, make: Make
) -> None:
    mirrors = make(fresh=0.0)
    await mirrors.checkout(str(origin), None, tmp_path / "a", worklet="a")
    objects = mirror_of(share) / "repo.git" / "objects"
    before = objects.stat().st_ino
    git("commit", "-q", "--amend", "-m", "rewritten", cwd=origin)
    git("reflog", "expire", "--expire=now", "--all", cwd=origin)
    git("gc", "-q", "--prune=now", cwd=origin)
    shutil.rmtree(objects.parent / "refs")
    await mirrors.checkout(str(origin), None, tmp_path / "b", worklet="b")
    assert objects.stat().st_ino == before
    assert git("log", "--format=%s", cwd=tmp_path / "a").split() == ["one"], "no branch leads there any more"
    assert git("log", "--format=%s", cwd=tmp_path / "b").split() == ["rewritten"]


async def test_a_fetch_that_breaks_off_leaves_the_mirror(origin: Path, tmp_path: Path, share: Path, make: Make) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *" fetch "*) [ -e {tmp_path}/broken ] && exit 1;; esac\n'
        f'exec {shutil.which("git")} "$@"\n'
    )
    fake.chmod(0o755)
    mirrors = make({"PATH": f"{fake.parent}:{os.environ['PATH']}"}, fresh=0.0)
    await mirrors.checkout(str(origin), None, tmp_path / "a", worklet="a")
    before = (mirror_of(share) / "repo.git" / "HEAD").stat().st_ino
    (tmp_path / "broken").touch()
    with pytest.raises(CloneFailed):
        await mirrors.checkout(str(origin), None, tmp_path / "b", worklet="b")
    assert (mirror_of(share) / "repo.git" / "HEAD").stat().st_ino == before


async def test_a_program_that_stands_still_with_a_mirror_is_not_waited_for_without_end(
    origin: Path, tmp_path: Path, share: Path, make: Make
) -> None:
    await make().checkout(str(origin), None, tmp_path / "a", worklet="a")
    with (mirror_of(share) / "lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(CloneFailed, match="took longer"):
            await make(timeout=0.5).checkout(str(origin), None, tmp_path / "b", worklet="b")
    await make().checkout(str(origin), None, tmp_path / "b", worklet="b")


async def test_locks_of_a_killed_git_do_not_stay(origin: Path, tmp_path: Path, share: Path, make: Make) -> None:
    mirrors = make(fresh=0.0)
    await mirrors.checkout(str(origin), None, tmp_path / "a", worklet="a")
    (mirror_of(share) / "repo.git" / "packed-refs.lock").touch()
    git("branch", "-q", "-D", "other", cwd=origin)
    await mirrors.checkout(str(origin), None, tmp_path / "b", worklet="b")
    assert "other" not in git("branch", "-r", cwd=tmp_path / "b")


async def test_a_mirror_that_is_needed_again_is_not_removed(
    origin: Path, tmp_path: Path, share: Path, make: Make
) -> None:
    first = make()
    await first.checkout(str(origin), None, tmp_path / "a", worklet="a")
    shutil.rmtree(share / "worklets")
    later = mirror_of(share).stat().st_mtime + 7_200.0
    mirrors = make(limit=10, clock=lambda: later)
    (found,) = mirrors.room.candidates()
    await make().checkout(str(origin), None, tmp_path / "b", worklet="b")  # between the look and the removal
    assert not await mirrors.room.remove(found)
    assert git("log", "--format=%s", cwd=tmp_path / "b").split() == ["one"]


async def test_a_missing_branch_is_told_and_leaves_nothing(origin: Path, tmp_path: Path, make: Make) -> None:
    with pytest.raises(CloneFailed, match=r"Remote branch nope not found in upstream origin\.") as told:
        await make().checkout(str(origin), "nope", tmp_path / "to", worklet="w")
    assert "\n" not in told.value.sentence()
    assert not (tmp_path / "to").exists()


async def test_a_missing_repository_is_told(tmp_path: Path, share: Path, make: Make) -> None:
    (tmp_path / "to").mkdir()
    with pytest.raises(CloneFailed, match="does not exist"):
        await make().checkout(str(tmp_path / "nothing"), None, tmp_path / "to", worklet="w")
    assert list((tmp_path / "to").iterdir()) == []
    assert not (mirror_of(share) / "repo.git").exists()


async def test_an_unreachable_host_is_told_without_the_password(tmp_path: Path, make: Make) -> None:
    with pytest.raises(CloneFailed) as told:
        await make(local=False).checkout("https://user:hunter2@127.0.0.1:1/a/b", None, tmp_path / "to", worklet="w")
    assert "hunter2" not in told.value.sentence()
    assert "127.0.0.1:1/a/b" in told.value.sentence()


async def test_a_repository_beyond_the_limit_is_refused(tmp_path: Path, share: Path, make: Make) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/sh\nfor last; do :; done\nmkdir -p "$last"; head -c 3000000 /dev/zero > "$last/x"; sleep 1000\n'
    )
    fake.chmod(0o755)
    environ = {"PATH": f"{fake.parent}:/usr/bin:/bin"}
    with pytest.raises(CloneFailed, match="no room for this repository: all of them may take 1 MiB"):
        await make(environ, limit=1 << 20).checkout("https://127.0.0.1:1/a/b", None, tmp_path / "to", worklet="w")
    assert not list(mirror_of(share).glob("new-*"))


async def test_one_that_has_grown_beyond_the_limit_is_refused_in_the_same_words(
    origin: Path, tmp_path: Path, share: Path, make: Make
) -> None:
    await make().checkout(str(origin), None, tmp_path / "first", worklet="w")
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\ncase " $* " in *" fetch "*) ;; *) exec {shutil.which("git")} "$@";; esac\n'
        'for one; do case "$one" in --git-dir=*) head -c 3000000 /dev/zero > "${one#--git-dir=}/x";; esac; done\n'
        "sleep 1000\n"
    )
    fake.chmod(0o755)
    environ = {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    with pytest.raises(CloneFailed, match="no room for this repository: all of them may take 1 MiB"):
        await make(environ, limit=1 << 20, fresh=0).checkout(str(origin), None, tmp_path / "to", worklet="w")
    assert not (tmp_path / "to").exists()
    assert mirror_of(share).is_dir()


def bomb(path: Path, width: int, depth: int, kilobytes: int) -> None:
    """A repository of a few objects whose files are `width ** depth` times the same one."""

    def say(*words: str, given: bytes) -> str:
        env = {"PATH": os.environ["PATH"], **WHO}
        return (
            subprocess.run(["git", *words], cwd=path, env=env, input=given, check=True, capture_output=True)
            .stdout.decode()
            .strip()
        )

    git("init", "-q", "-b", "main", str(path), cwd=path.parent)
    kind, name = "100644 blob", say("hash-object", "-w", "--stdin", given=b"\0" * (kilobytes << 10))
    for _ in range(depth):
        given = "".join(f"{kind} {name}\t{number}\n" for number in range(width))
        kind, name = "040000 tree", say("mktree", given=given.encode())
    git("update-ref", "refs/heads/main", say("commit-tree", "-m", "x", name, given=b""), cwd=path)


@pytest.mark.parametrize(("width", "depth", "kilobytes"), [(10, 2, 1024), (20, 8, 0)])
async def test_a_small_repository_of_huge_files_is_refused_before_they_are_written(
    width: int, depth: int, kilobytes: int, tmp_path: Path, make: Make
) -> None:
    bomb(tmp_path / "bomb", width, depth, kilobytes)
    mirrors = make(counting(tmp_path), disk=50 << 20)
    with pytest.raises(CloneFailed, match=r"take more than 50 MiB, which is the disk of a worklet"):
        await mirrors.checkout(str(tmp_path / "bomb"), None, tmp_path / "to", worklet="w", work_branch="flow/x-1")
    assert not calls(tmp_path, "--shared"), "nothing was written"
    assert calls(tmp_path, "--bare") == 1


async def test_what_is_pushed_to_the_sessions_branch_is_measured_too(origin: Path, tmp_path: Path, make: Make) -> None:
    bomb(tmp_path / "bomb", 10, 2, 1024)
    git("fetch", "-q", str(tmp_path / "bomb"), "main:flow/x-1", cwd=origin)
    await make(disk=50 << 20).checkout(str(origin), "main", tmp_path / "a", worklet="a", work_branch="flow/y-1")
    with pytest.raises(CloneFailed, match="which is the disk of a worklet"):
        await make(disk=50 << 20).checkout(str(origin), "main", tmp_path / "b", worklet="b", work_branch="flow/x-1")


def test_files_and_directories_take_a_block_at_least() -> None:
    counted = Counted(1 << 20)
    for chunk in (b"100644 blob 1  5\ta/b", b"/c\x00100644 blob 1       -\ta/b/d\x00", b"100644 blob 1 0\te\x00"):
        counted.hear(chunk)
    assert counted.bytes == 5 * 4096 + 5
    with pytest.raises(TooMuch):
        counted.hear(b"100644 blob 1 0\t" + b"x/" * 300 + b"y\0")


async def test_git_gets_no_more_than_so_much_memory(tmp_path: Path, make: Make) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\nwhile [ "$(ulimit -v)" = unlimited ]; do :; done\nulimit -v > {tmp_path}/held\nexit 1\n'
    )
    fake.chmod(0o755)
    with pytest.raises(CloneFailed):
        await make({"PATH": f"{fake.parent}:/usr/bin:/bin"}).branches("https://127.0.0.1:1/a/b")
    assert (tmp_path / "held").read_text().strip() == str(8 << 20)


async def test_mirrors_go_when_nobody_needs_them(origin: Path, tmp_path: Path, share: Path, make: Make) -> None:
    now = [0.0]
    mirrors = make(keep=86_400.0, clock=lambda: now[0])
    await mirrors.checkout(str(origin), None, tmp_path / "a", worklet="a")
    await asyncio.to_thread(mirrors.forked, "a", "b")
    now[0] = mirror_of(share).stat().st_mtime + 90_000.0
    assert await mirrors.sweep() == [], "two worklets need it"
    shutil.rmtree(share / "worklets" / "a")
    now[0] += 1_000.0
    assert await mirrors.sweep() == []
    shutil.rmtree(share / "worklets" / "b")
    now[0] += 1_000.0
    assert len(await mirrors.sweep()) == 1
    assert not list((share / "mirrors").iterdir())
    await mirrors.checkout(str(origin), None, tmp_path / "c", worklet="c")


async def test_unneeded_mirrors_make_room(origin: Path, tmp_path: Path, share: Path, make: Make) -> None:
    first = make()
    await first.checkout(str(origin), None, tmp_path / "a", worklet="a")
    shutil.rmtree(share / "worklets")
    later = mirror_of(share).stat().st_mtime + 7_200.0
    assert len(await make(limit=10, clock=lambda: later).sweep()) == 1


@pytest.mark.parametrize("seen", ["/run/mirror", None], ids=["objects of the mirror", "its own"])
async def test_a_repository_by_https_is_cloned_where_no_address_may_lead_to_this_machine(
    seen: str | None, tmp_path: Path, make: Make
) -> None:
    certificate, key = make_certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with git_host(tmp_path / "host", tls) as host:
        host.make("team/app.git")
        address = with_login(f"{host.url}/team/app.git", USER, TOKEN)
        mirrors = make({**os.environ, "GIT_SSL_CAINFO": str(certificate)}, local=False)
        for name in ("first", "second"):  # the mirror is made, then fetched
            to = tmp_path / name
            await mirrors.checkout(
                address, None, to, worklet=name, work_branch="flow/fix-it-12345678", seen_at=lambda _: seen
            )
            assert (to / "file").read_text() == "one"
            assert git("remote", "get-url", "origin", cwd=to).strip() == f"{host.url}/team/app.git"


# ---- what is refused before git sees it, and what git sees


@pytest.mark.parametrize(
    "repository",
    [
        "ext::sh -c touch% /tmp/owned", "--upload-pack=touch /tmp/owned", "-u", "file:///etc", "/etc", "../x", "http://a/b",
        "git://a/b", "https://", "ssh://-oProxyCommand=x/a", "git@-oProxyCommand=x:a", "git@host:-x", "https://a/b c",
        "https://a/b\n", "fd::17", "",
    ],
)  # fmt: skip
async def test_what_is_no_plain_address_is_refused(repository: str, tmp_path: Path, make: Make) -> None:
    with pytest.raises(CloneFailed, match="no repository address"):
        await make(local=False).checkout(repository, None, tmp_path / "to", worklet="w")


@pytest.mark.parametrize("branch", ["--upload-pack=x", "-b", "a b", "a:b", "", "a\nb"])
async def test_what_is_no_branch_name_is_refused(branch: str, tmp_path: Path, make: Make) -> None:
    with pytest.raises(CloneFailed, match="no branch name"):
        await make(local=False).checkout("https://127.0.0.1:1/a/b", branch, tmp_path / "to", worklet="w")


async def test_hooks_of_this_machine_do_not_run(origin: Path, tmp_path: Path, make: Make) -> None:
    hooks = tmp_path / "home" / "template" / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (hooks / "post-checkout").chmod(0o755)
    (tmp_path / "home" / ".gitconfig").write_text(
        f"[init]\n\ttemplateDir = {hooks.parent}\n[core]\n\thooksPath = {hooks}\n"
    )
    home = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    subprocess.run(
        ["git", "clone", "-q", str(origin), str(tmp_path / "plain")], env=home, check=True, capture_output=True
    )
    assert (tmp_path / "ran").exists(), "the hook does run in a plain clone"
    (tmp_path / "ran").unlink()
    await make(home).checkout(str(origin), None, tmp_path / "to", worklet="w")
    assert not (tmp_path / "ran").exists()


async def test_git_sees_none_of_flows_secrets_and_no_password_in_its_arguments(tmp_path: Path, make: Make) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nenv > {tmp_path}/env\necho "$@" > {tmp_path}/arguments\nexit 1\n')
    fake.chmod(0o755)
    environ = {"PATH": f"{fake.parent}:/usr/bin:/bin", "HOME": "/nowhere", "SLACK_BOT_TOKEN": "xoxb-1"}
    with pytest.raises(CloneFailed):
        await make(environ).checkout("git@host.example:a/b", None, tmp_path / "to", worklet="w")
    assert "HOME=/nowhere" in (tmp_path / "env").read_text(), "the keys for ssh are there"
    with pytest.raises(CloneFailed):
        await make(environ).checkout("https://me:hunter22@127.0.0.1:1/a/b", None, tmp_path / "to", worklet="w")
    seen = (tmp_path / "env").read_text()
    assert "GIT_TERMINAL_PROMPT=0" in seen
    assert "HOME=/nonexistent" in seen, "no ~/.netrc is read there"
    assert "GIT_CONFIG_GLOBAL=/dev/null" in seen
    assert "SLACK_BOT_TOKEN" not in seen
    assert "hunter22" in seen, "the helper reads it from there"
    assert "hunter22" not in (tmp_path / "arguments").read_text()


async def test_a_slow_clone_is_ended_with_its_helpers(tmp_path: Path, make: Make) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\nfor last; do :; done\nmkdir -p "$last"; sleep 1000 & echo $! > {tmp_path}/helper\nwait\n'
    )
    fake.chmod(0o755)
    environ = {"PATH": f"{fake.parent}:/usr/bin:/bin"}
    for _ in range(20):  # on a busy machine it may be ended before it has a helper
        with pytest.raises(CloneFailed, match="longer than"):
            await make(environ, timeout=1.0).checkout("https://127.0.0.1:1/a/b", None, tmp_path / "to", worklet="w")
        assert not (tmp_path / "to").exists()
        if (tmp_path / "helper").exists() and (tmp_path / "helper").read_text():
            break
    helper = int((tmp_path / "helper").read_text())
    await until(
        lambda: not Path(f"/proc/{helper}").exists() or "\nState:\tZ" in Path(f"/proc/{helper}/status").read_text()
    )


async def test_a_cancelled_clone_leaves_nothing(tmp_path: Path, share: Path, make: Make) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nfor last; do :; done\nmkdir -p "$last"; touch {tmp_path}/started; exec sleep 1000\n')
    fake.chmod(0o755)
    environ = {"PATH": f"{fake.parent}:/usr/bin:/bin"}
    mirrors = make(environ)
    task = asyncio.create_task(mirrors.checkout("https://127.0.0.1:1/a/b", None, tmp_path / "to", worklet="w"))
    await until(lambda: (tmp_path / "started").exists())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (tmp_path / "to").exists()
    assert not list(mirror_of(share).glob("new-*"))


async def test_a_host_that_never_stops_talking_is_cut_off(tmp_path: Path, make: Make) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nyes warning: x | head -c 3000000 >&2\nexec yes 1234 refs/heads/x\n")
    fake.chmod(0o755)
    with pytest.raises(CloneFailed, match="too many branches"):
        await make({"PATH": f"{fake.parent}:/usr/bin:/bin"}).branches("https://127.0.0.1:1/a/b")


async def test_a_machine_without_git_is_told(tmp_path: Path, make: Make) -> None:
    with pytest.raises(CloneFailed, match="needs git"):
        await make({"PATH": str(tmp_path)}).checkout("https://127.0.0.1:1/a/b", None, tmp_path / "to", worklet="w")


@pytest.mark.parametrize("address", ["https://me:hun/ter22@h.example/a", "https://me:pw@h.example/hunter22@x/a"])
async def test_a_login_that_is_not_escaped_is_refused_unseen(address: str, tmp_path: Path, make: Make) -> None:
    with pytest.raises(CloneFailed, match="written with a login") as told:
        await make(local=False).checkout(address, None, tmp_path / "to", worklet="w")
    assert "ter22" not in told.value.sentence()
    assert "pw" not in told.value.sentence()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[GitHost]:
    async with git_host(tmp_path / "host") as made:
        made.make("acme/secret.git")
        yield made


async def test_a_password_in_the_address_stays_out_of_all_that_is_written(
    host: GitHost, tmp_path: Path, share: Path, make: Make
) -> None:
    address = f"{host.url}/acme/secret.git"
    await make().checkout(with_login(address, USER, TOKEN), None, tmp_path / "to", worklet="w")
    assert address in (tmp_path / "to" / ".git" / "config").read_text()
    written = [path for top in (tmp_path / "to", share) for path in top.rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


async def test_nobody_clones_what_only_this_machines_own_login_may_read(
    host: GitHost, tmp_path: Path, make: Make
) -> None:
    helper = f'"!f() {{ echo username={USER}; echo password={TOKEN}; }}; f"'
    (tmp_path / ".gitconfig").write_text(f"[credential]\n\thelper = {helper}\n")
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password {TOKEN}\n")
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    with pytest.raises(CloneFailed, match="needs a login"):
        await make(environ).branches(f"{host.url}/acme/secret.git")


async def test_branches_are_listed_with_the_default_one(origin: Path, make: Make) -> None:
    found = await make().branches(str(origin))
    assert (found.default, found.names) == ("main", ("main", "other"))


def test_masked_hides_every_user_and_password() -> None:
    text = "fatal: https://me:pw@host/a and ssh://git@host/b but git@host:c"
    assert masked(text) == "fatal: https://***@host/a and ssh://***@host/b but git@host:c"
    assert masked("https://u:p@ss@host/x https://u:p/ss@host/x") == "https://***@host/x https://***@host/x"
    assert parted("https://u:p@s%2Fs@host/x") == Source("https://host/x", Login("u", "p@s/s"))
    assert without_password("https://u:p@ss@host/x") == "https://host/x"


def test_a_sessions_branch_says_what_it_is_about() -> None:
    assert work_branch("Fix the *Login* – naïvely!", "0123456789ab") == "flow/fix-the-login-naively-01234567"
    assert work_branch("日本", "0123456789ab") == "flow/session-01234567"
