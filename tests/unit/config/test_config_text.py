from config.text import well_formed


def test_lone_surrogates_are_replaced_and_nothing_else() -> None:
    assert well_formed("cut \ud83d, \ude00 in two") == "cut \ufffd, \ufffd in two"
    assert well_formed("whole 😀 and plain é") == "whole 😀 and plain é"
    assert well_formed("plain") == "plain"
