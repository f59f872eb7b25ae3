"""When a worklet's disk is measured, and what is said of it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from worklets.events import AgentEvent, DiskFull, Remark, dump, load
from worklets.relay import disk as relay_disk
from worklets.relay.disk import Watch, measure
from worklets.wire import Decoder

MIB = 1 << 20
LIMIT = 1000 * MIB


class Disk:
    """A disk that others write on too, and a `du` that takes a while."""

    def __init__(self, used: int = 0, seconds: float = 0.0, work: float = 0.0) -> None:
        self.now, self.used, self.others, self.seconds = 1000.0, used, 0, seconds
        self.work, self.worked = work, 0.0
        self.measured, self.blind = 0, False
        self.broken: Exception | None = None
        self.told: list[tuple[int, bool]] = []
        self.guessed: list[int] = []
        self.said: list[str] = []
        self.patience: list[float] = []
        self.watch = Watch(
            LIMIT, self.tell, measure=self.measure, counter=lambda: self.used + self.others, clock=lambda: self.now,
            work=lambda: self.worked, say=self.said.append,
        )  # fmt: skip

    async def tell(self, used: int, full: bool, measured: bool) -> None:
        if measured:
            self.told.append((used // MIB, full))
        else:
            assert full
            self.guessed.append(used // MIB)

    async def measure(self, patience: float) -> int | None:
        self.measured += 1
        self.patience.append(patience)
        self.now += self.seconds
        self.worked += self.work
        if self.broken:
            raise self.broken
        return None if self.blind else self.used

    async def look(self, *, after: float = 2.0, write: int = 0) -> bool:
        self.now += after
        self.used += write * MIB
        return await self.watch.look()


async def test_an_idle_worklet_is_measured_once_and_then_every_ten_minutes() -> None:
    disk = Disk(used=100 * MIB)
    for _ in range(290):
        assert not await disk.look()
    assert disk.measured == 1
    for _ in range(20):
        await disk.look()
    assert disk.measured == 2


async def test_it_is_measured_when_it_may_have_come_near_its_limit() -> None:
    disk = Disk(used=100 * MIB)
    await disk.look()
    await disk.look(write=200)
    assert disk.measured == 1, "there is room for four times as much"
    await disk.look(write=30)
    assert disk.measured == 2
    disk.others = 400 * MIB
    await disk.look()
    assert disk.measured == 3, "who has written is not known before"
    assert disk.told == []


async def test_people_are_told_once_and_again_after_there_was_room() -> None:
    disk = Disk(used=790 * MIB)
    await disk.look()
    assert not await disk.look(write=60)
    assert not await disk.look(write=50)
    assert disk.told == [(850, False)]
    assert not await disk.look(after=700, write=-500)
    assert not await disk.look(after=700, write=480)
    assert disk.told == [(850, False), (880, False)]


async def test_at_the_limit_it_is_over() -> None:
    disk = Disk(used=10 * MIB)
    await disk.look()
    assert not await disk.look(write=989)
    assert await disk.look(write=1)
    assert disk.told == [(999, False), (1000, True)]


async def test_one_that_begins_beyond_its_limit_may_grow_a_little() -> None:
    """Else nobody could delete anything."""
    disk = Disk(used=1200 * MIB)
    assert not await disk.look()
    assert not await disk.look(write=49)
    assert await disk.look(write=1)
    assert disk.told == [(1200, False), (1250, True)]


@pytest.mark.parametrize(("seconds", "work", "most"), [(3.0, 3.0, 21), (3.0, 0.1, 172), (0.2, 0.01, 600)])
async def test_measuring_takes_a_twentieth_of_a_processor_at_most(seconds: float, work: float, most: int) -> None:
    """On a busy machine it takes long without working: then it need not wait as long."""
    disk = Disk(used=10 * MIB, seconds=seconds, work=work)
    while disk.now < 2200.0:
        await disk.look()
        disk.others += 500 * MIB
    assert most * 0.9 <= disk.measured <= most


async def test_what_cannot_be_measured_is_tried_again() -> None:
    disk = Disk(used=1000 * MIB)
    disk.blind = True
    assert not await disk.look()
    assert not await disk.look()
    disk.broken = RuntimeError("can't start new thread")
    assert not await disk.look()
    disk.blind, disk.broken = False, None
    assert not await disk.look()
    assert disk.measured == 4
    assert disk.told == [(1000, False)]
    assert len(disk.said) == 1, "said once, not for each try"


async def test_one_that_lets_nobody_measure_is_ended_when_it_may_be_beyond_its_limit() -> None:
    disk = Disk(used=100 * MIB)
    await disk.look()
    disk.broken = BlockingIOError("Resource temporarily unavailable")
    for _ in range(100):
        assert not await disk.look(write=8), "it cannot be beyond yet"
    assert not await disk.look(write=50)
    assert await disk.look(write=60), "by then it has been tried for long enough"
    assert disk.guessed == [1010]
    assert disk.told == []
    assert "Resource temporarily unavailable" in disk.said[0]


async def test_one_that_fills_the_disk_at_once_has_a_few_tries_first() -> None:
    disk = Disk(used=100 * MIB)
    await disk.look()
    disk.blind = True
    assert not await disk.look(write=2000)
    looks = 1
    while not await disk.look():
        looks += 1
    assert 10 <= looks <= 15, "20 seconds, a look every 2"
    assert disk.patience[1:4] == [20, 40, 80]


async def test_what_others_write_ends_nobody_who_can_be_measured() -> None:
    disk = Disk(used=100 * MIB)
    await disk.look()
    disk.others = 50_000 * MIB
    disk.blind = True
    assert not await disk.look()
    assert not await disk.look()
    disk.blind = False
    for _ in range(100):
        assert not await disk.look()
    assert (disk.told, disk.guessed) == ([], [])


async def test_a_watch_goes_on_whatever_goes_wrong() -> None:
    disk = Disk(used=10 * MIB)
    broken = iter([True, True])

    def counter() -> int:
        if next(broken, False):
            raise RuntimeError("can't start new thread")
        return 2000 * MIB

    watch = Watch(LIMIT, disk.tell, measure=disk.measure, counter=counter, say=disk.said.append)
    watch._used = 1
    disk.used = 2000 * MIB
    await watch.run(pause=0)
    assert disk.told == [(2000, True)]
    assert len(disk.said) == 2


async def test_measuring_takes_no_thread_and_counts_what_is_deleted_and_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near the limit of processes there is none: Python 3.11 needs one for each process that asyncio starts."""

    def none_left(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    every = relay_disk._open_files
    mine = f"/proc/{os.getpid()}/"  # the machine's other processes have deleted files open too
    monkeypatch.setattr(relay_disk, "_open_files", lambda: filter(lambda path: path.startswith(mine), every()))
    monkeypatch.setattr(threading.Thread, "start", none_left)
    (tmp_path / "kept").write_bytes(b"x" * (3 * MIB))
    with (tmp_path / "deleted").open("wb") as deleted:
        deleted.write(b"x" * (2 * MIB))
        deleted.flush()
        (tmp_path / "deleted").unlink()
        os.sync()  # blocks are counted when they are written
        used = await measure([str(tmp_path)], patience=60)
    assert used is not None
    assert 5 * MIB <= used < 6 * MIB


async def test_a_measuring_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    assert await measure([str(tmp_path)], patience=-1) is None


async def test_a_disk_of_its_own_is_not_added_up(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"x" * MIB)
    disk = os.statvfs(tmp_path)
    used = await measure([], [str(tmp_path)], patience=-1)
    assert used == pytest.approx((disk.f_blocks - disk.f_bfree) * disk.f_frsize, rel=0.1)


def test_what_the_relay_says_of_the_disk_becomes_words_for_people() -> None:
    def line(used: object, *, full: bool = False) -> list[AgentEvent]:
        return Decoder().feed(json.dumps({"type": "relay_disk", "used": used, "limit": 10 << 30, "full": full}))

    (near,) = line(17 << 29)
    assert near == Remark("8.5 GiB of 10 GiB are used in this thread's workspace. At 10 GiB I have to stop.")
    (beyond,) = line(21 << 29)
    assert isinstance(beyond, Remark)
    assert "delete what is not needed" in beyond.text
    (full,) = line(11 << 30, full=True)
    assert full == DiskFull(11 << 30, 10 << 30)
    assert load(dump(full)) == full
    unknown = {"type": "relay_disk", "used": 11 << 30, "limit": 10 << 30, "full": True, "measured": False}
    assert Decoder().feed(json.dumps(unknown)) == [DiskFull(11 << 30, 10 << 30, measured=False)]
    assert line("much", full=True) == []
    assert line(None) == []
