"""Names that the host's resolver is asked for, and addresses that are this host's without being an interface's."""

import contextlib
import time

import pytest

from inside_app import PORT
from launching import run, text_of
from world_map import DNS, LAB_LINK, ORIGIN

CURL = ["curl", "-sS", "-o", "/dev/null", "--max-time", "25", "-w", "%{http_code}\n"]
# A question for an address by UDP: the code of the answer.
ASK = """
import socket, struct, sys
question = b"".join(bytes([len(label)]) + label.encode() for label in sys.argv[1].split(".")) + b"\\0"
client = socket.socket(type=socket.SOCK_DGRAM)
client.settimeout(20)
client.sendto(struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + question + struct.pack("!HH", 1, 1), ("127.100.90.50", 53))
print(client.recv(4096)[3] & 15)
"""
# Connections to names whose servers are dead, and while they wait one to a name that is there, and its address.
FLOOD = """
import socket, sys, time
def ask(request):
    client = socket.create_connection(("127.100.90.50", 1080), timeout=20)
    client.sendall(request)
    return client
dead = [ask(b"CONNECT n%d.unanswered.test:80 HTTP/1.1\\r\\n\\r\\n" % number) for number in range(int(sys.argv[1]))]
time.sleep(1)
started = time.monotonic()
answer = ask(b"GET http://web.test/ HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n").recv(4096)
address = socket.getaddrinfo("web.test", 80, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
print(answer.split()[1].decode(), address, time.monotonic() - started < 3)
"""


@contextlib.contextmanager
def appended(path, text):
    """A file of the lab's that says more for a while."""
    before = path.read_text()
    path.write_text(before + text)
    try:
        yield
    finally:
        path.write_text(before)


@contextlib.contextmanager
def completing(lab, domain):
    """A host whose resolver completes names by a domain."""
    if lab.path("/usr/bin/resolvectl").exists():
        # Domains go with servers.
        lab.run(["resolvectl", "dns", LAB_LINK, DNS], check=True)
        lab.run(["resolvectl", "domain", LAB_LINK, domain], check=True)
        try:
            yield
        finally:
            lab.run(["resolvectl", "revert", LAB_LINK], check=True)
    else:
        with appended(lab.path("/etc/resolv.conf"), f"search {domain}\n"):
            yield


@pytest.fixture
def searching(lab):
    with completing(lab, "b.test"):
        yield


@pytest.mark.parametrize("rules", [["--block", "*.b.test"], ["--only", "x"], []])
def test_no_search_list_makes_another_name_of_the_apps(lab, world, searching, rules):
    assert lab.run(["getent", "hosts", "x"]).stdout, "the host itself does not search"
    with world.watch() as w:
        result = run(lab, "--via", "direct", *rules, *CURL, "http://x/")
    assert result.stdout == b"502\n"
    # systemd-resolved asks nobody for a single label.
    assert {event["name"] for event in w.events(server="dns", kind="query")} <= {"x"}
    assert w.events(server="http") == []


def test_nor_does_dns(lab, world, searching):
    with world.watch() as w:
        assert text_of(lab, "--via", "direct", "/usr/bin/python3", "-c", ASK, "x") == "3\n"
    assert {event["name"] for event in w.events(server="dns", kind="query")} <= {"x"}


def test_a_name_of_the_hosts_file_needs_no_resolver(lab, world):
    with appended(lab.path("/etc/hosts"), f"{ORIGIN} db\n"), world.watch() as w:
        assert text_of(lab, "--via", "direct", *CURL, "http://DB./") == "200\n"
        assert text_of(lab, "--via", "direct", "/usr/bin/python3", "-c", ASK, "db") == "0\n"
    assert w.events(server="dns") == []


def test_an_upstream_may_be_called_as_the_host_knows_it(lab, world):
    with completing(lab, "test"):
        assert text_of(lab, "--via", "socks5h://upstream:1080", *CURL, "http://web.test/") == "200\n"


@pytest.mark.parametrize("route, address", [
    ("192.0.2.0/24", "192.0.2.5"), ("192.0.2.0/24 src 203.0.113.2", "192.0.2.5"), ("2001:db8:6::/64", "[2001:db8:6::5]"),
])
def test_an_address_that_is_routed_to_this_host_is_inside(lab, world, route, address):
    family = "-6" if ":" in route else "-4"
    url = f"http://{address}:{PORT}/"
    lab.run(["ip", family, "route", "add", "local", *route.split(), "dev", "lo"])
    try:
        before = len(lab.bait_events())
        assert text_of(lab, "--via", "direct", *CURL, url) == "403\n"
        assert lab.bait_events()[before:] == []
        run(lab, "--via", "direct", "--allow-destination", address, *CURL, url)
        assert lab.bait_events()[before:], "nobody is there to be protected"
    finally:
        lab.run(["ip", family, "route", "del", "local", *route.split(), "dev", "lo"])


@pytest.mark.slow
def test_names_of_dead_servers_hold_up_no_other(lab, world):
    if lab.path("/usr/bin/resolvectl").exists():
        pytest.xfail("systemd-resolved, one for all programs, is itself held up by names whose servers are dead")
    said = text_of(lab, "--via", "direct", "/usr/bin/python3", "-c", FLOOD, "800")
    assert said == f"200 {ORIGIN} True\n"
    # Resolvers ask again every five seconds, but not when the launch is over.
    with world.watch() as w:
        time.sleep(6)
    assert w.events(server="dns") == []
