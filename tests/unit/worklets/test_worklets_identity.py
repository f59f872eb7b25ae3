import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from worklets.errors import WorkletError
from worklets.identity import Identity


def test_it_is_made_once_and_kept_private(tmp_path: Path) -> None:
    made = Identity.load(tmp_path / "deep" / "data")
    assert Identity.load(tmp_path / "deep" / "data") == made
    assert len(made.instance) == 8
    assert stat.S_IMODE((tmp_path / "deep" / "data" / "instance.json").stat().st_mode) == 0o600
    assert [p.name for p in (tmp_path / "deep" / "data").iterdir()] == ["instance.json"]


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: Identity.load(tmp_path), range(40)))
    assert len(made) == 1


def test_tokens_survive_a_restart_and_differ_by_purpose_name_and_instance(tmp_path: Path) -> None:
    one, other = Identity.load(tmp_path / "a"), Identity.load(tmp_path / "b")
    assert Identity.load(tmp_path / "a").token("relay", "x") == one.token("relay", "x")
    tokens = {one.token("relay", "x"), one.token("gateway", "x"), one.token("relay", "y"), other.token("relay", "x")}
    assert len(tokens) == 4
    assert one.key.hex() not in repr(one)
    assert repr(one.key) not in repr(one)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"instance": "x", "key": "00"}', '{"instance": 1, "key": 2}', "\x00"]
)
def test_a_damaged_file_is_named_and_not_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "instance.json").write_text(content)
    with pytest.raises(WorkletError, match=r"instance\.json"):
        Identity.load(tmp_path)
    assert (tmp_path / "instance.json").read_text() == content


def test_the_file_holds_what_tokens_are_made_from(tmp_path: Path) -> None:
    made = Identity.load(tmp_path)
    data = json.loads((tmp_path / "instance.json").read_text())
    assert (data["instance"], bytes.fromhex(data["key"])) == (made.instance, made.key)
