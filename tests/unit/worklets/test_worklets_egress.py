"""What a worklet may reach, and which addresses are the public internet's."""

import asyncio
import ipaddress
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.slices.egress import EgressSettings
from worklets.claude import claude_command, system_prompt
from worklets.egress import EgressPolicy, is_public, told
from worklets.egressdial import LOOKUPS_OF_ONE, Dialer, Lookups, Undialled, is_outside, resolve
from worklets.egressgrants import tightened
from worklets.egressnetworks import Neighbours, on_link
from worklets.profile import Profile


def policy(mode: str = "allow-list", hosts: str = "", **more: str) -> EgressPolicy:
    """As it arrives in the gateway's process."""
    return EgressPolicy.of(told(EgressSettings(mode=mode, hosts=hosts, **more)))  # type: ignore[arg-type]


def test_named_hosts_at_the_usual_ports_or_at_their_own() -> None:
    allowed = policy(hosts="example.org, *.example.net, git.example.com:8443")
    assert allowed.refusal("example.org", 443) is None
    assert allowed.refusal("a.b.example.net", 80) is None
    assert allowed.refusal("git.example.com", 8443) is None
    assert "only at port 8443" in str(allowed.refusal("git.example.com", 443))
    assert "only at port 80 or 443" in str(allowed.refusal("example.org", 22))
    assert "ask for it to be added to FLOW_EGRESS_HOSTS" in str(allowed.refusal("www.example.org", 443))
    assert "allows example.org, *.example.net and git.example.com:8443" in str(allowed.refusal("evil.test", 443))


def test_deny_goes_before_allow() -> None:
    some = policy(hosts="*.example.org", deny="bad.example.org, x.example.org:80")
    assert "FLOW_EGRESS_DENY" in str(some.refusal("bad.example.org", 443))
    assert "FLOW_EGRESS_DENY" in str(some.refusal("x.example.org", 80))
    assert some.refusal("x.example.org", 443) is None
    assert "FLOW_EGRESS_DENY" in str(policy("open", deny="*.example.org").refusal("a.example.org", 443))


def test_open_reaches_every_name_at_its_ports() -> None:
    everything = policy("open", hosts="git.example.com:8443", ports="443")
    assert everything.refusal("whatever.test", 443) is None
    assert "only at port 443" in str(everything.refusal("whatever.test", 80))
    assert everything.refusal("git.example.com", 8443) is None
    assert everything.refusal("git.example.com", 443) is None
    assert "only at port 443 or 8443" in str(everything.refusal("git.example.com", 22))


@given(st.sampled_from(["example.org", "a.example.org", "evil.test"]), st.integers(1, 65535))
def test_none_reaches_nothing(host: str, port: int) -> None:
    assert "FLOW_EGRESS=none" in str(EgressPolicy.of(None).refusal(host, port))
    assert "FLOW_EGRESS=none" in str(policy("none", hosts="example.org, *.example.org").refusal(host, port))


NAMES = st.from_regex(r"[a-z]{1,3}(\.[a-z]{1,3}){1,3}", fullmatch=True)


@given(NAMES, NAMES, st.booleans())
def test_an_allow_list_covers_the_name_and_what_ends_in_it_after_a_dot(host: str, name: str, below: bool) -> None:
    refused = policy(hosts=f"*.{name}" if below else name).refusal(host, 443)
    labels, last = host.split("."), name.split(".")
    expected = len(labels) > len(last) and labels[-len(last) :] == last if below else labels == last
    assert (refused is None) == expected


def test_a_long_list_is_told_in_part() -> None:
    many = policy(hosts=",".join(f"h{n}.example" for n in range(40)))
    assert str(many.refusal("evil.test", 443)).count(".example") == 30
    assert "h29.example and 10 more" in many.described()


# What one worklet is granted


def grant(**of: object) -> dict[str, object]:
    return {"asks": True, **of}


def test_people_allow_what_may_be_asked_for_and_nothing_else() -> None:
    some = policy(hosts="example.org", ask="*.askable.test, git.test:8443", deny="bad.askable.test")
    granted = some.granted(grant(granted=["a.askable.test:443", "git.test:8443", "never.test:443"]))
    assert granted.refusal("a.askable.test", 443) is None
    assert granted.refusal("git.test", 8443) is None
    assert granted.refusal("a.askable.test", 80) is not None  # that port was not granted
    assert "ask for it to be added to FLOW_EGRESS_HOSTS" in str(granted.refusal("never.test", 443))
    for host, port, may in (
        ("b.askable.test", 443, True), ("b.askable.test", 22, False), ("git.test", 443, False),
        ("never.test", 443, False), ("bad.askable.test", 443, False), ("example.org", 22, False),
    ):  # fmt: skip
        assert granted.may_ask(host, port) is may, host
        assert granted.refusal(host, port) is not None


def test_nobody_is_asked_again_for_what_was_refused_nor_while_nobody_is_there() -> None:
    some = policy(ask="*")
    refused = some.granted(grant(refused=["a.test:443"]))
    assert not refused.may_ask("a.test", 443)
    assert "people in the thread have refused it" in str(refused.refusal("a.test", 443))
    assert refused.may_ask("a.test", 80)
    assert not some.granted({"asks": False}).may_ask("a.test", 443)
    assert "nobody works with Claude" in str(some.granted(None).refusal("a.test", 443))
    assert not some.granted(grant()).may_ask("a.test", 22)


def test_a_template_and_a_repository_only_tighten() -> None:
    some = policy("open", ask="far.test:8443", deny="bad.example.org")
    within = [["*.example.org", "example.net:443", "far.test"], ["*.example.org", "example.net", "far.test"]]
    tight = some.granted(grant(within=within, granted=["far.test:8443", "else.test:8443"]))
    assert tight.refusal("a.example.org", 443) is None
    assert tight.refusal("far.test", 8443) is None
    for host, port in (("example.net", 80), ("else.test", 443), ("else.test", 8443)):
        assert "allowedDomains" in str(tight.refusal(host, port))
        assert not tight.may_ask(host, port)
    assert "FLOW_EGRESS_DENY" in str(tight.refusal("bad.example.org", 443))
    assert some.granted({"within": [[]]}).refusal("a.example.org", 443) is not None
    assert "of these only *.example.org" in tight.described()
    assert policy("none").granted(grant(within=within, granted=["a.test:443"])).refusal("a.test", 443) is not None


@pytest.mark.parametrize(
    "broken",
    [{"within": ["a.test"]}, {"granted": ["a.test"]}, {"granted": [7]}, {"within": 3}, [], "x", {"within": None}],
)
def test_a_grant_that_cannot_be_read_allows_nothing(broken: object) -> None:
    assert policy("open").granted(broken).refusal("a.test", 443) is not None  # type: ignore[arg-type]


def test_parts_of_a_profile_tighten_one_after_the_other() -> None:
    profile = tightened(tightened(Profile(grants={"git": 1}), ["*.example.org", "a.test"]), ["a.test", "b.test"])
    both = policy("open").granted(profile.grants["egress"])
    assert profile.grants["git"] == 1
    assert [both.refusal(host, 443) is None for host in ("a.test", "b.test", "x.example.org")] == [True, False, False]
    with pytest.raises(ValueError, match=r'"10\.0\.0\.1" is wrong: hosts are named'):
        tightened(Profile(), ["10.0.0.1"])


HOSTS = st.sampled_from(["a.test", "b.a.test", "b.test", "c.org"])
LISTS = st.lists(st.sampled_from(["a.test", "*.a.test", "*.test", "b.test:443", "c.org:8443"]), max_size=3)
PLACES = st.lists(st.builds("{}:{}".format, HOSTS, st.sampled_from([443, 8443])), max_size=3)


@given(st.sampled_from(["none", "allow-list", "open"]), LISTS, LISTS, LISTS, st.lists(LISTS, max_size=2), PLACES,
       PLACES, HOSTS, st.sampled_from([443, 8443]))  # fmt: skip
def test_no_grant_goes_beyond_the_settings(
    mode: str, allow: list[str], deny: list[str], ask: list[str], within: list[list[str]], granted: list[str],
    refused: list[str], host: str, port: int,
) -> None:  # fmt: skip
    told_ = {"mode": mode, "hosts": allow, "deny": deny, "deny_networks": [], "ask": ask, "ask_wait": 1, "ports": [443]}
    plain, most = EgressPolicy.of(told_), EgressPolicy.of({**told_, "hosts": [*allow, *ask]})
    one = plain.granted({"within": within, "granted": granted, "refused": refused, "asks": True})
    reached = one.refusal(host, port) is None
    if reached or one.may_ask(host, port):
        assert most.refusal(host, port) is None  # the administrator allows it, or lets people allow it
        assert not one.grant.bounds(host, port)
    if reached and plain.refusal(host, port) is not None:
        assert f"{host}:{port}" in granted
    if one.may_ask(host, port):
        assert f"{host}:{port}" not in refused


def test_networks_on_a_link_are_those_without_a_gateway() -> None:
    routes_4 = (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t0071CB08\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n"
        "eth1\t00000A0A\t010200C0\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    )
    routes_6 = (
        f"2a01{'0' * 28} 40 {'0' * 32} 00 {'0' * 32} 00000100 00000001 00000000 00000001     eth0\n"
        f"{'0' * 32} 00 {'0' * 32} 00 fe80{'0' * 27}1 00000400 00000003 00000000 00000003     eth0\n"
        f"2a02{'0' * 28} 20 {'0' * 32} 00 fe80{'0' * 27}1 00000400 00000003 00000000 00000003     eth0\n"
    )
    assert [str(network) for network in on_link(routes_4, routes_6)] == ["8.203.113.0/24", "2a01::/64"]
    assert on_link("", "") == ()


def test_a_neighbour_is_not_outside_though_its_address_is_public() -> None:
    assert is_outside("1.1.1.1", neighbours=())
    assert not is_outside("1.1.1.1", neighbours=("1.1.1.1",))
    assert "127.0.0.1" not in Neighbours()  # the loopback's route is in another table
    assert "no address" not in Neighbours()


async def test_a_denied_network_is_not_dialled() -> None:
    dialer = Dialer(lambda host: ["203.0.113.9", "2001:db8::1"], lambda address: True)
    denied = policy("open", deny_networks="203.0.113.0/24 2001:db8::/32").networks
    with pytest.raises(Undialled, match="FLOW_EGRESS_DENY_NETWORKS") as refused:
        await dialer.dial("in.test", 443, Lookups(), denied)
    assert refused.value.status == 403
    dialer.close()


def test_claude_is_told_what_it_reaches() -> None:
    assert "The container has no network" in system_prompt()
    assert system_prompt(EgressPolicy()) == system_prompt() == claude_command("id")[-2].partition("=")[2]
    named = system_prompt(policy(hosts="example.org,*.example.net:8443", deny="x.example.net"))
    assert "reaches example.org and *.example.net:8443 at port 80 or 443, but not x.example.net." in named
    assert "every public host at port 80 or 443." in system_prompt(policy("open"))
    assert "no network" not in named
    assert "people in the thread" not in named
    asked = system_prompt(policy(ask="*.askable.test", ask_wait="90s"))
    assert "it reaches nothing by itself." in asked
    assert "For *.askable.test people in the thread are asked when you connect" in asked
    assert "up to 90 seconds" in asked
    tight = policy("open", ask="a.test:8443").granted({"within": [["a.test"]]})
    assert "every public host at port 80 or 443, of these only a.test." in system_prompt(tight)
    assert "import {createWorkletKVStore} from" in named


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.8.9.1", "169.254.169.254",
     "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1",
     "198.18.0.1", "198.51.100.7", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
     "168.63.129.16", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8",
     "64:ff9b::8.8.8.8", "64:ff9b::127.0.0.1", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378::1",
     "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
     "fe80::1%lo", "fec0::1", "ff02::1", "2606:4700::1%eth0", "", "example.org", "1.2.3", "0x7f.1"],
)  # fmt: skip
def test_no_inward_address_is_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "151.101.0.223", "2606:4700:4700::1111", "2a04:4e42::223"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses())
def test_public_addresses_are_global_unicast(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if is_public(str(address)):
        assert address.is_global
        assert not address.is_multicast
        assert not any([address.is_private, address.is_loopback, address.is_link_local, address.is_unspecified])


@given(st.ip_addresses(v=4))
def test_no_wrapped_ipv4_address_is_public(inner: ipaddress.IPv4Address) -> None:
    low = int(inner)
    for wrapped in (
        low,
        0xFFFF << 32 | low,
        (0x64FF9B << 96) | low,
        (0x2002 << 112) | (low << 80),
        0x20010000 << 96 | low,
    ):
        assert not is_public(str(ipaddress.IPv6Address(wrapped)))


# The dialer


def test_this_machine_is_not_outside() -> None:
    assert not is_outside("127.0.0.1")
    assert not is_outside("::1")
    assert not is_outside("169.254.169.254")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # what the kernel says of an own address
        probe.connect(("127.0.0.5", 9))
        assert probe.getsockname()[0] != "127.0.0.5" or not is_outside("127.0.0.5")


def test_a_name_that_does_not_exist_has_no_address() -> None:
    with pytest.raises(socket.gaierror):
        resolve("no-such-host.invalid")


async def test_what_is_told_of_such_a_name_says_what_to_look_at() -> None:
    def unknown(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    dialer = Dialer(unknown)
    with pytest.raises(Undialled) as told:
        await dialer.dial("typo.test", 443, Lookups())
    hint = "check its name, and whether Flow's machine can look names up"
    assert str(told.value) == f"it has no address (Name or service not known); {hint}"
    dialer.close()


async def test_the_real_check_refuses_loopback() -> None:
    dialer = Dialer(lambda host: ["127.0.0.1", "::1"])
    with pytest.raises(Undialled, match="not one of the public internet") as refused:
        await dialer.dial("rebound.test", 80, Lookups())
    assert refused.value.status == 403
    dialer.close()


async def test_a_dead_first_address_leaves_time_for_the_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as closed:
        closed.bind(("127.0.0.2", 0))
        dialer = Dialer(lambda host: ["127.0.0.2", "127.0.0.1"], lambda address: True)
        _, writer = await dialer.dial("two.test", server.getsockname()[1], Lookups())
        assert writer.get_extra_info("peername")[0] == "127.0.0.1"
        writer.close()
        await writer.wait_closed()
    dialer.close()


async def test_a_host_that_never_answers_costs_its_time_only() -> None:
    with socket.socket() as full:  # its queue is full, so connections hang
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        dialer = Dialer(lambda host: ["127.0.0.1"], lambda address: True, connect_seconds=0.3)
        with pytest.raises(Undialled, match="did not answer in time") as failed:
            await dialer.dial("dead.test", port, Lookups())
        assert failed.value.status == 504
        for filler in fillers:
            filler.close()
    dialer.close()


async def test_slow_lookups_of_one_worklet_leave_places_to_others() -> None:
    go_on = threading.Event()
    looked_up: list[str] = []

    def slow(host: str) -> list[str]:
        looked_up.append(host)
        if host.startswith("slow"):
            go_on.wait(30)
        return []

    dialer = Dialer(slow, connect_seconds=2)
    hostile = Lookups()
    dials = (dialer.dial(f"slow{n}.test", 443, hostile) for n in range(2 * LOOKUPS_OF_ONE))
    refused = await asyncio.gather(*dials, return_exceptions=True)
    assert {str(one) for one in refused} == {"its address was not found in time"}
    assert len(looked_up) == LOOKUPS_OF_ONE  # places are given back by threads, not by whoever lost patience
    dialer._seconds = 60  # a busy machine may take a while
    with pytest.raises(Undialled, match="not one of the public internet"):
        await dialer.dial("other.test", 443, Lookups())
    go_on.set()
    dialer.close()
