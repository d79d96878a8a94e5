"""The forwarder as a way to the inside: in every spelling, by every protocol, and by names that change their mind.

What connects is told by those that would be connected to: the services of the lab's host, and the world.
"""

import json
import pathlib

import pytest

from inside_app import INSIDE, NO_HOST, PORT, REACHED
from launching import SOCKS, run, text_of
from world_map import DNS, LAB_ADDRESSES, ORIGIN, UPSTREAM, plain

APP = ["/usr/bin/python3", pathlib.Path(__file__).with_name("inside_app.py")]
HOST, HOST6 = plain(LAB_ADDRESSES)[0], plain(LAB_ADDRESSES)[3]
# How each protocol says that something is not let through, and that it is not even a host.
REFUSED = {
    "SOCKS5 by name": (2, 1), "SOCKS5 by address": (2, None), "SOCKS4": (0x5B, None), "SOCKS4a": (0x5B, 0x5B),
    "RESOLVE": (2, 1), "RESOLVE_PTR": (2, None), "CONNECT": (403, 400), "CONNECT without brackets": (403, None),
    "a request": (403, 400), "a request with a user": (403, 400), "DNS, A": (5, 5), "DNS, AAAA": (5, 5),
}
VIAS = ["direct", SOCKS, f"http://{UPSTREAM}:3128", f"tor://{UPSTREAM}:1080"]


def asks_for_the_inside(lab, *words):
    """The replies, by protocol and spelling, and which of the host's services were connected to."""
    before = len(lab.bait_events())
    replies = json.loads(text_of(lab, *words))
    return replies, lab.bait_events()[before:]


@pytest.mark.parametrize("via", VIAS)
def test_every_spelling_is_refused_by_every_protocol_and_nothing_connects(lab, world, via):
    with world.watch() as w:
        replies, baits = asks_for_the_inside(lab, "--via", via, *APP)
    assert baits == [] and w.foreign() == [] and w.events() == []
    # Somebody else than the forwarder has read it, or not at all.
    assert set(replies.pop("libc").values()) == {2, "unresolved"}
    assert set(replies) == set(REFUSED)
    for protocol, (inside, no_host) in REFUSED.items():
        expected = {target: inside if target in INSIDE else no_host for target in replies[protocol]}
        assert replies[protocol] == expected, protocol
    assert len(INSIDE) >= 100 and set(replies["CONNECT"]) == {*INSIDE, *NO_HOST}


def test_the_same_questions_lead_inside_where_that_is_let_through(lab):
    """The counterpart of the above: what is asked for is there, and the program gets it."""
    spellings = ["localhost", "127.1", "0x7f.1", "2130706433", "0.0.0.0", "::1", "::ffff:127.0.0.1", "lab", HOST, HOST6]
    replies, baits = asks_for_the_inside(lab, "--via", "direct", "--allow-destination", "any", *APP, *spellings)
    for protocol in "SOCKS5 by name", "SOCKS5 by address", "SOCKS4", "SOCKS4a", "CONNECT", "a request", "libc":
        assert set(replies[protocol].values()) == {REACHED}, protocol
    assert len(baits) > 50


# Names that lead inside

FETCH = """
for url; do
    curl -sS -o /dev/null --max-time 20 -w '%{http_code} ' $url
    curl -s -o /dev/null --max-time 20 --proxy socks5h://127.100.90.50:1080 $url; echo $?
done
"""
SERVED, REFUSED_NAME = "200 0", "403 97"  # 97 is CURLE_PROXY


def fetches(lab, *urls, words=()):
    """How curl fared by HTTP, and by SOCKS, with each of them; and which of the host's services were connected to."""
    before = len(lab.bait_events())
    text = text_of(lab, "--via", "direct", *words, "sh", "-c", FETCH, "sh", *urls)
    return text.splitlines(), lab.bait_events()[before:]


def test_a_name_that_leads_inside_too_leads_outside_alone(lab, world):
    # On the second port nobody outside answers: whoever tries the next address gets inside.
    urls = "http://mixed.test/", f"http://mixed.test:{PORT}/"
    outcomes, baits = fetches(lab, *urls, words=["--allow-destination", "any"])
    assert outcomes == [SERVED] * 2 and baits
    with world.watch() as w:
        outcomes, baits = fetches(lab, *urls)
        addresses = text_of(lab, "--via", "direct", "getent", "ahosts", "mixed.test")
    assert outcomes == [SERVED, "502 97"]
    assert {line.split()[0] for line in addresses.splitlines()} == {ORIGIN}
    assert baits == []
    assert w.foreign(allow=[(DNS, 53), (ORIGIN, 80), (ORIGIN, PORT)]) == []


def test_a_name_that_leads_inside_once_it_is_trusted_is_refused_then(lab, world):
    with world.watch() as w:
        outcomes, baits = fetches(lab, "http://rebound.test/", "http://rebound.test/", f"http://rebound.test:{PORT}/")
        looked_up = run(lab, "--via", "direct", "getent", "ahosts", "rebound.test")
    assert outcomes[0] == "200 97"
    assert outcomes[1:] == [REFUSED_NAME] * 2
    assert looked_up.returncode != 0 and looked_up.stdout == b""
    assert baits == []
    assert w.foreign(allow=[(DNS, 53), (ORIGIN, 80)]) == []


def test_the_address_that_was_judged_is_the_one_that_is_dialled(lab, world):
    """Whoever resolved once to judge and again to dial would be led inside by every second answer."""
    with world.watch() as w:
        outcomes, baits = fetches(lab, *[f"http://flipping.test:{PORT}/"] * 8)
    assert set(outcomes) <= {"502 97", REFUSED_NAME}
    assert len(w.events(kind="query", name="flipping.test")) >= 16
    assert baits == []
    assert w.foreign(allow=[(DNS, 53), (ORIGIN, PORT)]) == []
