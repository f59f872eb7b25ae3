from pathlib import Path

from sessions.archive import ArchiveWriter, read_archive


def test_half_an_emoji_is_archived_as_a_replacement(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "x.jsonl.gz", 5, ())
    writer.add([{"said": "an \ud83d"}])
    writer.commit()
    assert [dict(line) for line in read_archive(tmp_path / "x.jsonl.gz")] == [{"said": "an \ufffd"}]
