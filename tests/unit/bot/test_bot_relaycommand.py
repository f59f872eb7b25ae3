"""The options of `flow relay`, and that its manual has them."""

import argparse
from pathlib import Path

from bot.relaycommand import _connect_parser, add_options

MANUAL = (Path(__file__).parents[3] / "docs" / "relay.md").read_text()


def relay_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser


def test_every_option_stands_in_the_manual() -> None:
    for parser in (relay_parser(), _connect_parser()):
        options = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
        assert [name for name in options if name != "--help" and f"`{name}" not in MANUAL] == []


def test_defaults_are_those_of_the_manual() -> None:
    args = relay_parser().parse_args(["--listen", "localhost:0", "--", "cat", "--listen"])
    assert (args.journal_limit, args.grace, args.linger, args.forget) == (64 << 20, 5.0, 10.0, 600.0)
    assert args.command[-2:] == ["cat", "--listen"]
    assert _connect_parser().parse_args(["ws://x/"]).linger == 0.5
