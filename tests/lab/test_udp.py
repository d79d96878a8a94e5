"""UDP by SOCKS5, seen from both ends: what the program gets, and what reaches the world."""

import json
import pathlib

import pytest

from inside_app import INSIDE, PORT
from launching import SOCKS, run, secret_file, unique
from world_map import DNS, LAB_ADDRESSES, ORIGIN, ORIGIN6, PASSWORD, UPSTREAM, plain

APP = pathlib.Path(__file__).with_name("udp_app.py")
AS = pytest.mark.parametrize("user", [[], ["--uid", "bob"]], ids=["root", "bob"])
ECHO = 7


def asked(lab, *words, targets, caller="root"):
    """What the program in such a launch was told, and what the launcher said."""
    result = run(lab, *words, "/usr/bin/python3", "-c", APP.read_text(), *targets, user=caller)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr.decode()


def echoed(w):
    """Where the world's echo was sent datagrams."""
    return {event["at"] for event in w.events(server="udp-echo")}


@AS
def test_direct_carries_datagrams_by_address_and_by_name(lab, world, user):
    targets = [f"{ORIGIN}/{ECHO}", f"{ORIGIN6}/{ECHO}", f"v4.test/{ECHO}"]
    with world.watch() as w:
        told, _ = asked(lab, "--via", "direct", *user, targets=targets)
    origin, origin6, name = told["answers"].values()
    assert (told["code"], origin, origin6, name) == (0, targets[0], targets[1], targets[0])
    assert echoed(w) == {ORIGIN, ORIGIN6}
    assert len(w.packets(proto="udp", dport=ECHO)) == 3
    assert w.foreign(allow=[(ORIGIN, ECHO), (ORIGIN6, ECHO), (DNS, 53)]) == []
    assert {event["name"] for event in w.events(server="dns", kind="query")} == {"v4.test"}


@AS
@pytest.mark.parametrize("password", [False, True])
def test_a_socks5_upstream_carries_them_and_gets_names(lab, world, user, password):
    via = SOCKS if not password else secret_file(lab, f"socks5h://{':'.join(PASSWORD)}@{UPSTREAM}:1081")
    targets = [f"=web.test/{ECHO}", f"{ORIGIN}/{ECHO}", f"{ORIGIN6}/{ECHO}", f"v4.test/{ECHO}"]
    with world.watch() as w:
        told, _ = asked(lab, "--via", via, *user, targets=targets)
    synthetic, origin, origin6, name = told["answers"].values()
    assert (told["code"], origin, origin6, name) == (0, targets[1], targets[2], targets[1])
    # Where the program sent to, which stands for the name.
    assert synthetic.startswith(("198.18.", "198.19.")) and synthetic.endswith(f"/{ECHO}")
    request, = w.events(kind="socks")
    assert (request["command"], request["auth"]) == (3, list(PASSWORD) if password else None)
    datagrams = w.events(kind="socks-datagram")
    assert [(event["name"], event["ip"]) for event in datagrams] == [
        ("web.test", None), (None, ORIGIN), (None, ORIGIN6), ("v4.test", None)]
    assert w.foreign(allow=[(UPSTREAM, None)]) == [] and w.events(server="dns") == []
    assert {packet["proto"] for packet in w.packets(dst=UPSTREAM)} == {"tcp", "udp"}


@pytest.mark.parametrize("user, more", [("root", ["--wall=namespace"]), ("bob", ["--user"]), ("bob", ["--standalone"])],
                         ids=["system", "user", "standalone"])
def test_the_namespace_wall_carries_them_for_who_asks_as_well(lab, world, user, more):
    targets = [f"web.test/{ECHO}", f"{ORIGIN}/{ECHO}"]
    with world.watch() as w:
        told, _ = asked(lab, *more, "--via", SOCKS, targets=targets, caller=user)
    assert told["code"] == 0 and None not in told["answers"].values()
    assert [event["name"] or event["ip"] for event in w.events(kind="socks-datagram")] == ["web.test", ORIGIN]
    assert w.foreign(allow=[(UPSTREAM, None)]) == [] and w.events(server="dns") == []


def test_rules_are_for_datagrams_too(lab, world):
    targets = [f"!tls.test/{ECHO}", f"!8.8.8.8/{ECHO}", f"!{ORIGIN}/{ECHO}", "!web.test/9", f"web.test/{ECHO}",
               f"=web.test/{ECHO}"]
    with world.watch() as w:
        told, said = asked(lab, "--via", "direct", "--only", f"web.test:{ECHO}", targets=targets)
    *refused, allowed, synthetic = told["answers"].values()
    assert refused == [None] * 4
    assert allowed in (f"{ORIGIN}/{ECHO}", f"{ORIGIN6}/{ECHO}")
    assert synthetic.startswith(("198.18.", "198.19.")), "where the program sent to, which stands for the name"
    assert echoed(w) in ({ORIGIN}, {ORIGIN6}) and w.events(server="udp-sink") == []
    assert {event["name"] for event in w.events(server="dns", kind="query")} == {"web.test"}
    assert "refused 4 names" in said and f"tls.test:{ECHO}" in said and "web.test:9" in said


@pytest.mark.parametrize("via", ["direct", SOCKS])
def test_inside_gets_no_datagram(lab, world, via):
    before = len(lab.bait_events())
    inside = [f"!{host}/{PORT}" for host in [*INSIDE, "10.1.2.3"]]
    if via == "direct":
        # What they lead to is known here; the last one leads outside, too.
        inside += [f"!{name}/{PORT}" for name in ("ten.test", "loopback.test", "mixed.test")]
    with world.watch() as w:
        told, _ = asked(lab, "--via", via, targets=[*inside, f"{ORIGIN}/{ECHO}"])
    *refused, last = told["answers"].values()
    assert (refused, last) == ([None] * len(inside), f"{ORIGIN}/{ECHO}")
    assert lab.bait_events()[before:] == []
    if via == "direct":
        assert echoed(w) == {ORIGIN}
        assert w.foreign(allow=[(ORIGIN, ECHO), (ORIGIN, PORT), (DNS, 53)]) == []
    else:
        assert [event["ip"] for event in w.events(kind="socks-datagram")] == [ORIGIN]
        assert w.foreign(allow=[(UPSTREAM, None)]) == []


def test_the_same_datagrams_arrive_where_that_is_let_through(lab):
    before = len(lab.bait_events())
    targets = [f"{host}/{PORT}" for host in ("127.1", "localhost", "::1", plain(LAB_ADDRESSES)[0])]
    told, _ = asked(lab, "--via", "direct", "--allow-destination", "any", targets=targets)
    assert None not in told["answers"].values()
    assert len(lab.bait_events()) - before == len(targets)


@pytest.mark.parametrize("words, why", [
    (["--via", f"http://{UPSTREAM}:3128"], "direct and a single SOCKS5 upstream carry"),
    (["--via", SOCKS, "--via", f"http://{UPSTREAM}:3128"], "direct and a single SOCKS5 upstream carry"),
    (["--via", f"socks4a://{UPSTREAM}:1080"], "direct and a single SOCKS5 upstream carry"),
    (["--via", "direct", "--wall", "address"], "the walls strict and namespace carry"),
])
def test_what_cannot_carry_it_refuses_and_says_why(lab, world, words, why):
    name = unique("udp")
    with world.watch() as w:
        told, _ = asked(lab, *words, "--unit", name, targets=[f"{ORIGIN}/{ECHO}"])
    assert told == {"code": 7, "answers": {}}
    assert w.foreign() == []
    assert why in lab.journal(f"appfw-{name}-forward.service")


def test_a_datagram_past_the_forwarder_goes_nowhere(lab, world):
    code = ("import socket\nclient = socket.socket(type=socket.SOCK_DGRAM)\n"
            f"try:\n    client.sendto(b'x', ('{ORIGIN}', {ECHO}))\n"
            "except OSError as error:\n    print(error.strerror)\n")
    with world.watch() as w:
        result = run(lab, "--via", "direct", "/usr/bin/python3", "-c", code)
    assert result.stdout == b"Network is unreachable\n"
    assert w.foreign() == []
