"""What the gate finds in its volume: more names than anybody looks through, and what a killed gate left."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

from worklets.gate.places import Places

MANY = 12_000


def fill(directory: Path) -> None:
    directory.mkdir()
    (directory / "first.log").touch()
    handle = os.open(directory, os.O_DIRECTORY)
    try:
        for number in range(MANY):
            os.link("first.log", f"{number}{'x' * 200}.log", src_dir_fd=handle, dst_dir_fd=handle)
    finally:
        os.close(handle)


def test_a_journal_with_names_without_end_is_cleared_as_a_whole(tmp_path: Path) -> None:
    places, journal = Places(tmp_path / "root"), tmp_path / "root" / "w1" / "journal"
    places.prepare("w1", b"{}")
    fill(journal)
    places.prepare("w1", b"{}")
    assert not journal.exists()
    journal.mkdir()
    (journal / "0-1.log").touch()
    places.prepare("w1", b"{}")
    assert sorted(one.name for one in (tmp_path / "root" / "w1").iterdir()) == ["journal", "spec.json"]
    assert list(journal.iterdir()), "a journal as a relay leaves it stays"


def test_the_names_of_a_crowded_directory_are_not_kept(tmp_path: Path) -> None:
    places = Places(tmp_path / "root")
    fill(tmp_path / "root" / "w1")
    fill(tmp_path / "root" / "w1" / "journal")
    tracemalloc.start()
    try:
        places.prepare("w1", b"{}")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_a_killed_gate_was_about_to_write_is_deleted(tmp_path: Path) -> None:
    Places(tmp_path / "root")
    (tmp_path / "root" / ".drafts" / "ab12").write_text('{"token": "of a relay"}')
    Places(tmp_path / "root").prepare("w1", b"{}")
    assert not list((tmp_path / "root" / ".drafts").iterdir())
