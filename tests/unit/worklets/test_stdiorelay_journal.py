"""The journal's limit, and whose directory it is."""

import os
from pathlib import Path

import pytest

from worklets.stdiorelay.errors import RelayError
from worklets.stdiorelay.journal import BoundedJournal, open_journal

LIMIT = 1 << 19  # eight files of 64 KiB


def filled(directory: Path) -> BoundedJournal:
    journal = BoundedJournal(directory, "e", LIMIT)
    while not journal.full:
        journal.append([b"%d" % (journal.last + 1) * 100])
    return journal


def test_acknowledging_makes_room_file_by_file(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    journal.ack(journal.last // 2)
    assert not journal.full
    assert 1 < journal.first <= journal.last // 2 + 1
    assert LIMIT // 4 < journal.held < LIMIT * 3 // 4
    journal.close()


def test_one_line_longer_than_the_limit_is_let_go_when_it_is_acknowledged(tmp_path: Path) -> None:
    journal = BoundedJournal(tmp_path, "e", LIMIT)
    journal.append([b"x" * 2 * LIMIT])
    assert journal.full
    journal.ack(1)
    assert (journal.held, journal.first, journal.last) == (0, 2, 1)
    journal.close()


def test_dropping_the_oldest_ends_fullness(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    last = journal.last
    journal.drop_oldest()
    assert not journal.full
    assert journal.first > 1
    assert journal.last == last
    journal.append([b"x" * 2 * LIMIT])
    while journal.full:
        journal.drop_oldest()
    assert journal.first == journal.last + 1
    journal.close()


def test_lines_are_read_from_any_number_on(tmp_path: Path) -> None:
    journal = BoundedJournal(tmp_path, "e", LIMIT)
    lines = [os.urandom(n % 700).replace(b"\n", b"") for n in range(1500)]
    for start in range(0, 1500, 50):
        journal.append(lines[start : start + 50])
    assert len(list(tmp_path.glob("*.log"))) > 2
    for start in (1, 2, 700, 1500):
        got, number = list[bytes](), start
        while batch := journal.read(number):
            got += batch
            number += len(batch)
        assert got == lines[start - 1 :]
    assert journal.read(5, max_bytes=1) == lines[4:5]
    assert journal.read(1501) == journal.read(0) == []
    journal.close()


def test_a_directory_belongs_to_one_relay_at_a_time(tmp_path: Path) -> None:
    first = open_journal(tmp_path, "a", LIMIT)
    with pytest.raises(RelayError, match="Another relay"):
        open_journal(tmp_path, "b", LIMIT)
    first.append([b"one"])
    first.close()
    assert list((tmp_path / "relay-journal").iterdir()) == []
    open_journal(tmp_path, "b", LIMIT).close()


def test_files_of_others_are_left_alone_and_those_of_a_killed_relay_removed(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("not ours")
    place = tmp_path / "relay-journal"
    place.mkdir()
    (place / "old-000000000001.log").write_text("o 1 left over\n")
    journal = open_journal(tmp_path, "new", LIMIT)
    assert [file.name for file in place.iterdir()] == ["new-000000000001.log"]
    journal.close()
    assert (tmp_path / "app.log").read_text() == "not ours"


def test_a_temporary_directory_is_for_the_owner_only_and_goes_with_the_relay() -> None:
    journal = open_journal(None, "e", LIMIT)
    directory = journal._directory.parent
    assert directory.stat().st_mode & 0o077 == 0
    journal.close()
    assert not directory.exists()


def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RelayError, match="cannot be kept") as refused:
        open_journal(tmp_path / "file", "e", LIMIT)
    assert "--journal" in refused.value.sentence()
