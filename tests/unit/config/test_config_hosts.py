"""Names of hosts in one form, and lists of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.hosts import (
    HostRule,
    host_name,
    parse_askable,
    parse_host,
    parse_hosts,
    parse_networks,
    parse_ports,
)
from config.settings import SettingsError, load


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("Müller.example", "xn--mller-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("ｅxample。org", "example.org"),
        ("_dmarc.a-b.example.org", "_dmarc.a-b.example.org"),
    ],
)
def test_a_host_has_one_form(written: str, name: str) -> None:
    assert host_name(written) == name
    assert host_name(name) == name


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "1.2.3.4.", "::1", "[::1]",
     "fe80::1%eth0",     "1.2.3", "example.0x7f", "１２７.0.0.1", "::ffff:127.0.0.1"],
)  # fmt: skip
def test_an_address_is_no_name_however_it_is_spelled(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        host_name(address)


@pytest.mark.parametrize(
    "text",
    ["", ".", "localhost", "a..example", ".example.org", "example.org..", "-a.example", "a b.example", "a.example\n",
     "a\0.example", "user@a.example", "a.example/x", "*.example.org", "x" * 64 + ".example",
     ".".join(["abcdefgh"] * 40),
     "xn--\udc80.example", "\u200d.example"],
)  # fmt: skip
def test_what_names_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="name"):
        host_name(text)


@given(st.text(max_size=40))
def test_any_text_is_refused_or_gets_a_form_that_stays(text: str) -> None:
    try:
        name = host_name(text)
    except ValueError:
        return
    assert host_name(name) == name
    assert name.isascii()
    assert name == name.lower()
    assert not name.endswith(".")


def test_rules_are_written_as_people_do() -> None:
    assert parse_hosts("Example.org., *.Example.NET:8443\n example.org") == ("example.org", "*.example.net:8443")
    assert parse_hosts(["*.org"]) == ("*.org",)
    assert parse_host("*.org") == HostRule("org", below=True)


@pytest.mark.parametrize(
    "wrong",
    ["*", "*.*.example.org", "a*.example.org", "example.org:0", "example.org:x", "10.0.0.1", "https://example.org",
     "example.org:65536", "*.", "*.1", "example.org:"],
)  # fmt: skip
def test_a_wrong_rule_is_named(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"example\.org|FLOW_EGRESS"):
        parse_hosts(wrong)


@pytest.mark.parametrize("address", ["https://example.org", "https://example.org/x", "example.org/x"])
def test_an_address_in_place_of_a_host_is_told_as_such(address: str) -> None:
    with pytest.raises(ValueError, match=f'"{address}" is wrong: a host stands there without https://'):
        parse_hosts(address)


def test_a_wildcard_covers_every_depth_and_not_the_name_itself() -> None:
    rule = parse_host("*.example.org:443")
    assert rule.covers("a.b.example.org", 443)
    assert not rule.covers("example.org", 443)
    assert not rule.covers("evilexample.org", 443)
    assert not rule.covers("a.example.org", 80)
    assert not parse_host("example.org").covers("example.org.evil.test", 443)


def test_ports_are_numbers() -> None:
    assert parse_ports("80, 443 80") == (80, 443)
    assert parse_ports([8080]) == (8080,)
    assert parse_ports(8080) == (8080,)
    for wrong in ("", "http", "0", "65536", "-1", None):
        with pytest.raises(ValueError, match="write it like 80,443"):
            parse_ports(wrong)


def test_settings_say_what_they_mean(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load().egress.mode == "none"
    monkeypatch.setenv("FLOW_EGRESS_HOSTS", "example.org, *.Example.net:8443")
    with pytest.raises(SettingsError, match="set FLOW_EGRESS=allow-list too"):
        load()
    monkeypatch.setenv("FLOW_EGRESS", "none")  # said so, it is meant
    assert load().egress.hosts == ("example.org", "*.example.net:8443")
    monkeypatch.setenv("FLOW_EGRESS", "allow-list")
    assert load().egress.ports == (80, 443)
    monkeypatch.setenv("FLOW_EGRESS_PORTS", "443")
    assert load().egress.ports == (443,)
    monkeypatch.setenv("FLOW_EGRESS_HOSTS", "10.0.0.1")
    with pytest.raises(SettingsError, match=r'FLOW_EGRESS_HOSTS is wrong: "10\.0\.0\.1" is wrong: hosts are named'):
        load()
    monkeypatch.delenv("FLOW_EGRESS_HOSTS")
    with pytest.raises(SettingsError, match="needs FLOW_EGRESS_HOSTS or FLOW_EGRESS_ASK"):
        load()


def test_what_may_be_asked_for_is_a_list_or_everything() -> None:
    assert parse_askable("*.Example.org, b.test:8443") == ("*.example.org", "b.test:8443")
    assert parse_askable("a.test:8443, *") == ("*", "a.test:8443")  # "*" is at FLOW_EGRESS_PORTS only
    assert parse_askable(["*"]) == ("*",)
    assert parse_askable("") == ()
    with pytest.raises(ValueError, match="hosts are named"):
        parse_askable("127.0.0.1")


def test_networks_are_written_with_their_prefix() -> None:
    assert parse_networks("203.0.113.0/24, 2001:DB8::/48 203.0.113.0/24") == ("203.0.113.0/24", "2001:db8::/48")
    assert parse_networks(["192.0.2.1"]) == ("192.0.2.1/32",)
    for wrong in ("example.org", "203.0.113.1/24", 7):
        with pytest.raises(ValueError, match=r"203\.0\.113\.0/24"):
            parse_networks(wrong)
