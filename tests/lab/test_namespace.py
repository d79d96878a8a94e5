"""The namespace wall under the system manager: the app's own loopback, and every connection captured. What programs
that know no proxy reach is what the upstream has seen, names included; nothing else is on the wire."""

import json
import pathlib

import pytest

from launching import SOCKS, run, text_of
from world_map import ORIGIN, ORIGIN6, UPSTREAM

PYTHON = "/usr/bin/python3"
WALL = ["--via", SOCKS, "--wall", "namespace"]
UPSTREAM_ALONE = [(UPSTREAM, 1080)]
AS = pytest.mark.parametrize("user", ["root", "bob"])
# Without a proxy variable; what curl says when it fails is the test's failure.
CURL = ["env", "-i", "PATH=/usr/bin:/bin", "curl", "-sS", "--max-time", "20"]
STATIC = pathlib.Path(__file__).resolve().parents[2] / "target/lab/connect"


def asked(w):
    """What the upstream was asked for."""
    return {(event["name"] or event["ip"], event["dport"]) for event in w.events(server="socks5", kind="socks")}


def python(program, *words):
    return [PYTHON, "-c", program, *words]


@AS
@pytest.mark.parametrize("url, wanted", [
    ("http://web.test/", ("web.test", 80)),
    (f"http://{ORIGIN}/", (ORIGIN, 80)),
    (f"http://[{ORIGIN6}]/", (ORIGIN6, 80)),
])
def test_who_knows_no_proxy_arrives_at_the_upstream(lab, world, user, url, wanted):
    with world.watch() as w:
        text = text_of(lab, *WALL, "--uid", user, *CURL, url)
    assert text.startswith("world ")
    assert asked(w) == {wanted}
    assert w.foreign(allow=UPSTREAM_ALONE) == [] and w.events(server="dns") == []


@AS
def test_a_static_program_arrives_too(lab, world, user):
    with world.watch() as w:
        text = text_of(lab, *WALL, "--uid", user, STATIC, ORIGIN, "80", "GET / HTTP/1.0")
    assert "world " in text
    assert asked(w) == {(ORIGIN, 80)}
    assert w.foreign(allow=UPSTREAM_ALONE) == []


# DNS as libraries of their own ask it, of whichever server they have heard.
ASK = """
import socket, struct, sys
server, transport = sys.argv[1:]
question = b"\\3web\\4test\\0" + struct.pack("!HH", 1, 1)
query = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + question
family = socket.AF_INET6 if ":" in server else socket.AF_INET
client = socket.socket(family, socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM)
client.settimeout(20)
client.connect((server, 53))
if transport == "udp":
    client.send(query)
    answer = client.recv(4096)
else:
    client.sendall(struct.pack("!H", len(query)) + query)
    answer = client.recv(4096)[2:]
client.close()
address = socket.inet_ntoa(answer[-4:])
print(address)
web = socket.create_connection((address, 80), 20)
web.sendall(b"GET / HTTP/1.0\\r\\nHost: web.test\\r\\n\\r\\n")
assert web.recv(1)  # else the launch may be over before the forwarder has asked
"""


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("server", ["127.100.90.50", "8.8.8.8", "203.0.113.53", "2001:db8::53"])
def test_every_dns_server_is_the_forwarder(lab, world, server, transport):
    with world.watch() as w:
        address = text_of(lab, *WALL, "--uid=bob", *python(ASK, server, transport))
    assert address.startswith(("198.18.", "198.19."))
    assert asked(w) == {("web.test", 80)}
    assert w.foreign(allow=UPSTREAM_ALONE) == [] and w.events(server="dns") == []


# By a plain connect(), and by a client that has the variables.
OWN = """
import json, os, socket, subprocess
heard = {}
for address in "127.0.0.1", "::1", "127.0.0.2", "127.9.9.9", "0.0.0.0", "::":
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family)
    server.bind((address, 0))
    server.listen()
    server.settimeout(9)
    host, port = server.getsockname()[:2]
    client = socket.create_connection((host, port), 5)
    accepted, _ = server.accept()
    accepted.sendall(b"own")
    heard[address] = client.recv(9).decode()
    url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    if address == "::" and not os.environ.get("no_proxy", ",::").endswith(",::"):
        continue  # named where there is capture alone
    with subprocess.Popen(["curl", "-gsS", "--max-time", "9", url], stdout=subprocess.PIPE) as curl:
        accepted, _ = server.accept()
        accepted.recv(999)
        accepted.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nown")
        accepted.close()
        heard["curl " + address] = curl.stdout.read().decode()
print(json.dumps(heard))
"""


@AS
@pytest.mark.parametrize("words", [WALL, [*WALL, "--no-capture"], ["--via=none", "--wall=namespace"]],
                         ids=["capture", "no-capture", "none"])
def test_the_apps_own_loopback_is_its_own(lab, world, user, words):
    with world.watch() as w:
        heard = json.loads(text_of(lab, *words, "--uid", user, *python(OWN)))
    assert set(heard.values()) == {"own"}
    assert w.foreign() == []


# What a datagram, or an echo request, to each address comes to.
REFUSALS = """
import errno, json, os, socket, sys
def outcome(send):
    try:
        return send() or "sent"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
def datagram(address, port):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.connect((address, port))
        client.send(b"x")
        client.recv(9)
def ping(address):
    v6 = ":" in address
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as client:
        client.settimeout(3)
        client.sendto(bytes([128 if v6 else 8, 0, 0, 0, 0, 1, 0, 1]), (address, 0))
        client.recv(99)
        return "answered"
print(json.dumps({address: [outcome(lambda: datagram(address, 443)), outcome(lambda: ping(address))]
                  for address in sys.argv[1:]}))
"""
ADDRESSES = ["8.8.8.8", "10.0.0.7", "169.254.10.10", "192.0.2.50", "2001:db8::10", "fd00::7"]


@AS
def test_datagrams_are_refused_at_once_and_no_address_answers_a_ping(lab, world, user):
    with world.watch() as w:
        results = json.loads(text_of(lab, *WALL, "--uid", user, *python(REFUSALS, *ADDRESSES)))
    assert {address: outcome[0] for address, outcome in results.items()} == dict.fromkeys(ADDRESSES, "ECONNREFUSED")
    # Without CAP_NET_RAW there is no such socket at all, unless the group is in net.ipv4.ping_group_range.
    assert {outcome[1] for outcome in results.values()} <= {"EACCES", "EPERM"}
    assert w.foreign() == []


@AS
def test_without_capture_there_is_no_way_at_all(lab, world, user):
    with world.watch() as w:
        done = run(lab, *WALL, "--no-capture", "--uid", user, *CURL, "--max-time", "3", f"http://{ORIGIN}/")
        results = json.loads(text_of(lab, *WALL, "--no-capture", "--uid", user, *python(REFUSALS, "8.8.8.8")))
        by_proxy = text_of(lab, *WALL, "--no-capture", "--uid", user, "curl", "-sS", "http://web.test/")
    assert done.returncode == 7 and results["8.8.8.8"][0] == "ENETUNREACH"
    assert by_proxy.startswith("world ") and asked(w) == {("web.test", 80)}
    assert w.foreign(allow=UPSTREAM_ALONE) == []


@pytest.mark.parametrize("address", ["127.0.0.1:8023", "10.0.0.7", "169.254.10.10", "192.168.1.1", "fd00::7"])
def test_a_captured_address_that_is_inside_is_refused(lab, world, address):
    before = len(lab.bait_events())
    with world.watch() as w:
        target = address if ":80" in address else f"[{address}]" if ":" in address else address
        done = run(lab, *WALL, *CURL, f"http://{target}/")
    assert done.returncode in (7, 35, 52, 56), done
    assert asked(w) == set() and w.foreign() == []
    assert len(lab.bait_events()) == before


# What would change where packets go; each says that it may not.
CHANGES = """
import ctypes, json, os, subprocess
def refused(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    return done.returncode != 0 and ("permitted" in done.stderr or "denied" in done.stderr), done.stderr
print(json.dumps({" ".join(words): refused(*words) for words in (
    ("ip", "route", "add", "10.9.9.0/24", "dev", "appfw0"),
    ("ip", "route", "del", "local", "default", "dev", "lo", "table", "local"),
    ("ip", "link", "set", "lo", "down"),
    ("ip", "link", "set", "appfw1", "netns", str(os.getpid())),
    ("ip", "link", "add", "other", "type", "dummy"),
    ("ip", "addr", "add", "10.9.9.9/24", "dev", "lo"),
    ("ip", "rule", "add", "from", "all", "table", "main", "pref", "1"),
    (TRANSACTION),
)}))
"""
# An empty transaction of nf_tables, which is refused before it is read.
TRANSACTION = """
import socket, struct, sys
client = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
def message(kind, flags, body):
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body
general = struct.pack("!BBH", 0, 0, 10)
name = struct.pack("=HH", 10, 1) + b"appfw\\0\\0\\0"
table = message(10 << 8 | 2, 5, struct.pack("!BBH", 2, 0, 0) + name)
client.send(message(16, 1, general) + table + message(17, 1, general))
code = -struct.unpack_from("=i", client.recv(4096), 16)[0]
sys.exit({0: 0, 1: "Operation not permitted"}.get(code, f"error {code}"))
"""


@AS
def test_routes_interfaces_and_rules_are_not_the_apps_to_change(lab, world, user):
    program = CHANGES.replace("(TRANSACTION)", f'("{PYTHON}", "-c", {TRANSACTION!r})')
    with world.watch() as w:
        results = json.loads(text_of(lab, *WALL, "--uid", user, *python(program)))
    assert len(results) == 8
    assert [change for change, (refused, said) in results.items() if not refused] == [], results
    assert w.foreign() == []


@AS
def test_there_is_a_second_interface_that_is_up(lab, user):
    shown = json.loads(text_of(lab, *WALL, "--uid", user, "ip", "-j", "addr"))
    by_name = {link["ifname"]: link for link in shown}
    assert set(by_name) == {"lo", "appfw0", "appfw1"}
    assert by_name["appfw0"]["operstate"] == "UP"
    assert [address["local"] for address in by_name["appfw0"]["addr_info"]] == ["192.0.2.50"]
    assert by_name["appfw1"]["addr_info"] == []
    none = json.loads(text_of(lab, "--via=none", "--wall=namespace", "--uid", user, "ip", "-j", "link"))
    assert [link["ifname"] for link in none] == ["lo"]
