"""DNS in the app: who answers, what leads to a name again, and that nothing of it reaches the world."""

import pytest

from launching import SOCKS, plan_of, run, text_of, unique
from world_map import DNS, ORIGIN, ORIGIN6, UPSTREAM

CURL = ["curl", "-sS", "--max-time", "20"]
WEB = str(sorted([ORIGIN, ORIGIN6]))
AS = pytest.mark.parametrize("user", [[], ["--uid", "bob"]], ids=["root", "bob"])

# A program that ignores proxies: it resolves, and connects to what it got.
IGNORES_PROXIES = """
import socket
address = socket.getaddrinfo("web.test", 80, socket.AF_INET, socket.SOCK_STREAM)[0][4]
print(address[0], flush=True)
try:
    socket.create_connection(address, timeout=20)
    print("connected")
except OSError as error:
    print(error.strerror)
"""

RESOLVE = """
import socket, sys
for name in sys.argv[1:]:
    try:
        print(sorted({entry[4][0] for entry in socket.getaddrinfo(name, 80)}))
    except OSError as error:
        print(error.strerror)
"""

# A question by UDP or TCP, in bytes: what comes back, from where.
ASK = """
import socket, struct, sys
kind, transport, name = int(sys.argv[1]), sys.argv[2], sys.argv[3]
question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\\0"
query = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + question + struct.pack("!HH", kind, 1)
client = socket.socket(type=socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM)
client.settimeout(20)
if transport == "udp":
    client.sendto(query, ("127.100.90.50", 53))
    answer, source = client.recvfrom(4096)
else:
    client.connect(("127.100.90.50", 53))
    client.sendall(struct.pack("!H", len(query)) + query)
    answer, source = client.recv(4096)[2:], client.getpeername()
identifier, flags, _, count = struct.unpack_from("!HHHH", answer)
print(identifier, flags & 15, count, *source)
"""


def python(program, *words):
    return ["/usr/bin/python3", "-c", program, *words]


def names_asked(w):
    return {event["name"] for event in w.events(kind="socks")}


@AS
def test_a_program_that_ignores_proxies_resolves_and_fails_at_once(lab, world, user):
    with world.watch() as w:
        result = run(lab, "--via", SOCKS, *user, *python(IGNORES_PROXIES))
    address, outcome = result.stdout.decode().splitlines()
    assert address.startswith(("198.18.", "198.19."))
    assert outcome == "Network is unreachable"
    assert w.foreign() == [] and w.events(server="dns") == []


@AS
def test_a_program_that_resolves_first_reaches_the_name(lab, world, user):
    with world.watch() as w:
        text = text_of(lab, "--via", SOCKS, *user, *CURL, "--proxy", "socks5://127.100.90.50:1080", "http://web.test/")
    assert text.startswith("world ")
    request, = w.events(server="socks5", kind="socks")
    assert (request["name"], request["ip"], request["dport"]) == ("web.test", None, 80)
    assert w.foreign(allow=[(UPSTREAM, 1080)]) == [] and w.events(server="dns") == []


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_answer_comes_from_the_forwarders_address(lab, transport):
    """Clients come from 127.0.0.1, which the app's filter does not let in: the answers' own source counts."""
    assert text_of(lab, "--via", SOCKS, *python(ASK, "1", transport, "web.test")) == "7 0 1 127.100.90.50 53\n"
    # HTTPS records: none, and said so, or programs would not do with addresses.
    assert text_of(lab, "--via", SOCKS, *python(ASK, "65", transport, "web.test")) == "7 0 0 127.100.90.50 53\n"


def test_names_of_this_host_are_refused(lab):
    for name in "localhost", "x.localhost", "_gateway":
        assert text_of(lab, "--via", SOCKS, *python(ASK, "1", "udp", name)).startswith("7 5 0 "), name


def test_both_families_are_answered_and_lead_back(lab):
    code = ("import socket\n"
            "for family in socket.AF_INET, socket.AF_INET6:\n"
            "    address = socket.getaddrinfo('Web.Test', 80, family)[0][4]\n"
            "    print(address[0], *socket.getnameinfo(address, socket.NI_NAMEREQD))\n")
    v4, v6 = text_of(lab, "--via", SOCKS, *python(code)).splitlines()
    assert v4.startswith(("198.18.", "198.19.")) and v4.endswith(" web.test http")
    assert v6.startswith("fd61:7070:6677::") and v6.endswith(" web.test http")


def test_direct_takes_the_hosts_resolver_and_hides_what_is_inside(lab, world):
    with world.watch() as w:
        said = text_of(lab, "--via", "direct", *python(RESOLVE, "web.test", "ten.test", "loopback.test", "no-such.test"))
    web, ten, loopback, missing = said.splitlines()
    assert web == WEB
    assert not any("10.0.0.7" in line or "127.0.0.1" in line for line in (ten, loopback, missing))
    assert missing == "Name or service not known"
    assert {event["name"] for event in w.events(server="dns", kind="query")} >= {"web.test", "no-such.test"}
    assert w.foreign(allow=[(DNS, 53)]) == []


@pytest.mark.parametrize("via", ["direct", SOCKS])
def test_a_resolver_through_the_way_out_is_asked_by_tcp(lab, world, via):
    with world.watch() as w:
        said = text_of(lab, "--via", via, "--dns", f"tcp://{DNS}", *python(RESOLVE, "web.test", "no-such.test"))
    assert said.splitlines() == [WEB, "Name or service not known"]
    assert {event["name"] for event in w.events(server="dns", kind="query")} == {"web.test", "no-such.test"}
    if via == SOCKS:
        requests = w.events(server="socks5", kind="socks")
        assert {(request["ip"], request["dport"]) for request in requests} == {(DNS, 53)}
        assert w.foreign(allow=[(UPSTREAM, 1080)]) == []
    else:
        assert w.packets(dst=DNS, dport=53, flags="S")


@pytest.mark.parametrize("words", [["--via", SOCKS, "--dns", "off"], ["--via", SOCKS, "--wall", "address"]])
def test_off_resolves_nothing_at_once(lab, world, words):
    with world.watch() as w:
        result = run(lab, *words, *python(RESOLVE, "web.test"))
    assert result.stdout.decode().strip() in ("Temporary failure in name resolution", "Name or service not known")
    assert w.foreign() == [] and w.events(server="dns") == []


def test_an_upstream_of_tor_gets_names_and_onions(lab, world):
    with world.watch() as w:
        run(lab, "--via", SOCKS, *CURL, "--proxy", "socks5://127.100.90.50:1080", "http://abcdefgh.onion.test/")
        # curl itself refuses .onion; others ask for it.
        said = text_of(lab, "--via", SOCKS, *python(RESOLVE, "abcdefgh.onion"))
    assert "198.1" in said
    assert names_asked(w) == {"abcdefgh.onion.test"}


def test_the_plan_says_who_answers(lab):
    name = unique("dns")
    run(lab, "--unit", name, "--detach", "--via", SOCKS, "sleep", "30")
    try:
        assert plan_of(lab, name)["dns"] == "synthetic"
    finally:
        lab.run(["appfw", "stop", name], check=True)
