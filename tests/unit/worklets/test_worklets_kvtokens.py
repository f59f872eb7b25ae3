"""`kv.token` in worklets' run directories: fresh, whole, and where the agent's links lead, nothing is written."""

from __future__ import annotations

import multiprocessing
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from waiting import until

from worklets import rundir
from worklets.kvtokens import RENEW_SECONDS, TokenFiles

AGENT = 4242


class Mint:
    """Counts: each token is another one."""

    def __init__(self) -> None:
        self.now, self.made, self.fails = 1000.0, 0, ""

    def __call__(self, worklet_id: str) -> str:
        if self.fails:
            raise ValueError(self.fails)
        self.made += 1
        return f"{worklet_id} {self.made}"


@pytest.fixture
def mint() -> Mint:
    return Mint()


@pytest.fixture
async def files(mint: Mint) -> AsyncIterator[TokenFiles]:
    files = TokenFiles(mint, look=0.01, clock=lambda: mint.now)
    yield files
    await files.aclose()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return rundir.prepare(tmp_path, "w", None)


def token(run: Path) -> str:
    return (run / "kv.token").read_text()


async def test_a_token_is_there_at_once_and_renewed_in_time(files: TokenFiles, mint: Mint, run: Path) -> None:
    await files.keep(run, "w")
    assert token(run) == "w 1"
    mint.now += RENEW_SECONDS - 1
    other = rundir.prepare(run.parents[2], "v", None)
    await files.keep(other, "v")
    assert token(run) == "w 1"
    mint.now += 1
    await until(lambda: token(run) == "w 3")
    assert token(other) == "v 2", "each has its own time"
    mint.now -= 100_000  # a clock that is set back: what was made is from the future
    await until(lambda: token(run) not in ("w 1", "w 3") and token(other) != "v 2")


async def test_whoever_reads_sees_a_whole_token(files: TokenFiles, run: Path) -> None:
    await files.keep(run, "w")
    with (run / "kv.token").open() as opened:
        await files.renew()
        assert opened.read() == "w 1", "the old one, not half of the new one"
    assert token(run) == "w 2"


async def test_it_goes_at_the_end_and_does_not_come_back(files: TokenFiles, mint: Mint, run: Path) -> None:
    await files.keep(run, "w")
    await files.drop(run)
    await files.drop(run)
    assert not (run / "kv.token").exists()
    mint.now += 10 * RENEW_SECONDS
    other = rundir.prepare(run.parents[2], "v", None)
    await files.keep(other, "v")
    mint.now += RENEW_SECONDS
    made = mint.made
    await until(lambda: mint.made > made)
    assert not (run / "kv.token").exists()


async def test_a_program_that_ends_leaves_the_files_to_the_next(mint: Mint, run: Path) -> None:
    files = TokenFiles(mint)
    await files.keep(run, "w")
    await files.aclose()
    assert token(run) == "w 1"


async def test_one_directory_that_is_gone_holds_up_no_other(
    files: TokenFiles, mint: Mint, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = rundir.prepare(run.parents[2], "v", None)
    await files.keep(run, "w")
    run.rename(run.with_name("elsewhere"))
    await files.keep(other, "v")
    for _ in range(3):
        mint.now += RENEW_SECONDS
        made = mint.made
        await until(lambda made=made: mint.made > made and int(token(other).split()[1]) > made)
    run.with_name("elsewhere").rename(run)
    await until(lambda: token(run) != "w 1")
    said = capsys.readouterr()
    assert (said.out + said.err).count("gets no token") == 1, "told once"


async def test_a_key_that_cannot_be_used_is_tried_again(files: TokenFiles, mint: Mint, run: Path) -> None:
    mint.fails = "the key is damaged"
    await files.keep(run, "w")
    assert not (run / "kv.token").exists()
    mint.fails = ""
    await until((run / "kv.token").exists)


def _link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def _hard_link(path: Path, outside: Path) -> None:
    os.link(outside, path)


def _directory(path: Path, _: Path) -> None:
    path.mkdir()
    (path / "full").touch()


def _pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def _link_to_directory(path: Path, outside: Path) -> None:
    path.symlink_to(outside.parent)


@pytest.mark.parametrize("trap", [_link, _hard_link, _directory, _pipe, _link_to_directory])
async def test_nothing_that_the_agent_left_is_followed_or_kept(
    files: TokenFiles, run: Path, tmp_path: Path, trap: Callable[[Path, Path], None]
) -> None:
    outside = tmp_path / "outside" / "secret"
    outside.parent.mkdir()
    outside.write_text("untouched")
    trap(run / "kv.token", outside)
    await files.keep(run, "w")
    assert not (run / "kv.token").is_symlink()
    assert token(run) == "w 1"
    assert outside.read_text() == "untouched"
    assert os.listdir(outside.parent) == ["secret"]
    assert outside.stat().st_nlink == 1
    await files.drop(run)
    assert not os.path.lexists(run / "kv.token")
    trap(run / "kv.token", outside)
    rundir.clear_remains(run)
    assert not os.path.lexists(run / "kv.token")
    assert outside.read_text() == "untouched"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_the_file_is_the_agents_and_nobody_elses(files: TokenFiles, tmp_path: Path) -> None:
    run = rundir.prepare(tmp_path, "w", AGENT)
    await files.keep(run, "w")
    found = (run / "kv.token").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (AGENT, AGENT, 0o600)


async def test_without_an_agent_of_another_user_it_is_flows_own(files: TokenFiles, run: Path) -> None:
    await files.keep(run, "w")
    found = (run / "kv.token").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (os.geteuid(), 0o600)


async def test_a_draft_that_a_kill_left_is_no_hindrance(files: TokenFiles, run: Path) -> None:
    (run.parent / f".kv.token.{os.getpid()}").write_text("half")
    await files.keep(run, "w")
    assert token(run) == "w 1"
    assert sorted(path.name for path in run.parent.iterdir()) == ["run"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_where_flow_is_neither_root_nor_the_agent_the_agent_may_read_it() -> None:
    """A member of the group docker: `run` is open to everybody, and the directory above to nobody else."""
    with tempfile.TemporaryDirectory() as name:
        share_dir = Path(name)
        os.chown(share_dir, 65534, 65534)

        def write() -> None:
            os.setgid(65534)
            os.setuid(65534)
            run = rundir.prepare(share_dir, "w", rundir.AGENT_UID)
            rundir.hand_over(run, "kv.token", "x")

        process = multiprocessing.get_context("fork").Process(target=write)
        process.start()
        process.join(60)
        assert process.exitcode == 0
        run = share_dir / "worklets" / "w" / "run"
        found = (run / "kv.token").stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (65534, 0o644)
        assert stat.S_IMODE((share_dir / "worklets").stat().st_mode) == 0o700
