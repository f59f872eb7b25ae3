"""A worklet that writes on while the machine's disk is nearly full."""

from __future__ import annotations

import json

from sessions.loss import disk_full
from worklets.events import DiskFull, dump, load
from worklets.relay.disk import Watch
from worklets.wire import Decoder

MIB = 1 << 20
FLOOR = 500 * MIB


class Disk:
    def __init__(self) -> None:
        self.own, self.free = 100 * MIB, 2 * FLOOR
        self.crowded: list[int] = []
        self.watch = Watch(
            10_000 * MIB, self.tell, measure=self.measure, counter=lambda: self.own, say=lambda _: None,
            floor=FLOOR, free=lambda: self.free, own=lambda: self.own, crowd=self.crowd,
        )  # fmt: skip

    async def tell(self, used: int, full: bool, measured: bool) -> None:
        raise AssertionError("it is within its limit")

    async def measure(self, patience: float) -> int:
        return self.own

    async def crowd(self, used: int) -> None:
        self.crowded.append(used // MIB)


async def test_it_is_ended_and_those_that_do_not_write_are_not() -> None:
    disk = Disk()
    disk.own += 300 * MIB
    assert not await disk.watch.look()
    disk.free = FLOOR - 1
    for _ in range(3):
        assert not await disk.watch.look()
    disk.own -= 50 * MIB
    assert not await disk.watch.look()
    for _ in range(3):
        disk.own += MIB // 4
        assert not await disk.watch.look()
    disk.own += MIB // 4
    assert await disk.watch.look(), "slowly counts as well"
    assert disk.crowded == [351]


async def test_where_there_is_room_again_it_may_go_on() -> None:
    disk = Disk()
    disk.free = FLOOR - 1
    assert not await disk.watch.look()
    disk.free, disk.own = 2 * FLOOR, 900 * MIB
    assert not await disk.watch.look()
    assert disk.crowded == []


def test_people_are_told_that_it_is_not_their_thread() -> None:
    line = {"type": "relay_disk", "used": MIB, "limit": 9 * MIB, "full": True, "measured": True, "crowded": True}
    (full,) = Decoder().feed(json.dumps(line))
    assert full == DiskFull(MIB, 9 * MIB, crowded=True)
    assert load(dump(full)) == full
    assert "the machine's disk is nearly full. Ask an administrator" in disk_full(full).reason
