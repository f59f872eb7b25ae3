"""Lists of permission rules as people write them into settings."""

import pytest

from config.rules import parse_rules


@pytest.mark.parametrize(
    ("written", "rules"),
    [
        ("", ()),
        ("WebFetch", ("WebFetch",)),
        ("Bash(git *), Edit(src/a,b), mcp__web__fetch", ("Bash(git *)", "Edit(src/a,b)", "mcp__web__fetch")),
        ('["Bash(echo a, b)", "Read"]', ("Bash(echo a, b)", "Read")),
        (["Read", "Read"], ("Read",)),
        ("mcp__web__*", ("mcp__web__*",)),
    ],
)
def test_rules(written: object, rules: tuple[str, ...]) -> None:
    assert parse_rules(written) == rules


@pytest.mark.parametrize("written", ["Bash(git *", "git push", '["Read"', "[1]", 7, "Bash()"])
def test_what_is_no_rule_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"rule|list"):
        parse_rules(written)
