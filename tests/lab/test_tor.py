"""Behind the private Tor network: whose circuits are whose, as Tor's control port tells it, and onion services."""

import contextlib
import socket
import time

import pytest

from launching import PROXY, launched, run, text_of
from namespaces import network_namespace
from tornet import CONTROL_PORT
from world_map import ORIGIN

CURL = ["curl", "-sS", "--max-time", "30"]
LIMIT = 30  # seconds for what has been asked of Tor to be told
EXIT_ONLY = "http://exit-only.test/"  # a name that nobody but the exits can resolve
FORWARDER = PROXY.removeprefix("http://")


class Control:
    """Tor's account of the streams that it is asked for (control-spec.txt, "Stream status changed")."""

    def __init__(self, lab, tor):
        with network_namespace(lab.pid):
            self._socket = socket.create_connection(("127.0.0.1", CONTROL_PORT), timeout=LIMIT)
        self._lines = self._socket.makefile("r")
        cookie = (tor.directory / "client" / "control_auth_cookie").read_bytes()
        for command in f"AUTHENTICATE {cookie.hex()}", "SETEVENTS STREAM":
            self._socket.sendall(command.encode() + b"\r\n")
            assert self._lines.readline().startswith("250")

    def close(self):
        self._lines.close()
        self._socket.close()

    def circuits(self, *destinations):
        """Waits until as many new streams are open, to these, in this order: the circuit of each. A stream that has
        changed its circuit counts by its last one, which carries it."""
        asked, carried, limit = {}, {}, time.monotonic() + LIMIT
        while len(carried) < len(destinations):
            stream, status, circuit, destination, *more = self._event(limit)
            # Tor opens some of its own, to its directories.
            if status == "NEW" and "PURPOSE=USER" in more:
                asked[stream] = destination
            elif status == "SUCCEEDED" and stream in asked:
                carried[stream] = circuit
        assert [asked[stream] for stream in carried] == list(destinations)
        return list(carried.values())

    def credentials(self, destination):
        """What the next new stream to DESTINATION says in SOCKS for its user and its password."""
        limit = time.monotonic() + LIMIT
        while True:
            _, status, _, asked, *more = self._event(limit)
            if (status, asked) == ("NEW", destination):
                fields = dict(word.split("=", 1) for word in more)
                return fields["SOCKS_USERNAME"], fields["SOCKS_PASSWORD"]

    def _event(self, limit):
        """The words of one, from the stream's number on."""
        line = self._lines.readline()
        # Tor has streams of its own to tell of, so that waiting for one that there isn't would never end.
        assert line and time.monotonic() < limit, "Tor tells of no such stream"
        return line.split()[2:]


@pytest.fixture
def control(lab, tor):
    with contextlib.closing(Control(lab, tor)) as control:
        yield control


# Circuits

@pytest.mark.parametrize("user", ["root", "bob"])
def test_the_launches_of_a_profile_share_a_circuit(lab, control, user):
    for profile in "curl", "curl", "wget":
        words = ["--via", "tor", "--isolate", "profile", "--profile", profile, *CURL, "-o", "/dev/null", EXIT_ONLY]
        assert run(lab, *words, user=user).returncode == 0
    first, second, other = control.circuits(*["exit-only.test:80"] * 3)
    assert first == second != other


def test_every_launch_keeps_a_circuit_of_its_own(lab, control):
    fetch = f"curl -sS --max-time 30 -o /dev/null {EXIT_ONLY}"
    script = f"{fetch} && echo ready && read line && {fetch} && {fetch}"
    with launched(lab, "--via", "tor", "sh", "-c", script, stdin=-1) as one:
        first = control.circuits("exit-only.test:80")
        text_of(lab, "--via", "tor", *CURL, EXIT_ONLY, EXIT_ONLY)
        other = control.circuits(*["exit-only.test:80"] * 2)
        # The first one's circuit is still its own, after another launch has come and gone.
        one.stdin.write(b"\n")
        one.stdin.flush()
        assert one.wait(60) == 0
        first += control.circuits(*["exit-only.test:80"] * 2)
    assert len(set(first)) == 1 and len(set(other)) == 1
    assert first[0] != other[0]


def test_two_destinations_share_a_circuit_unless_they_are_to_be_apart(lab, control):
    urls = [EXIT_ONLY, f"http://{ORIGIN}/", EXIT_ONLY]
    destinations = ["exit-only.test:80", f"{ORIGIN}:80", "exit-only.test:80"]
    text_of(lab, "--via", "tor", *CURL, *urls)
    assert len(set(control.circuits(*destinations))) == 1
    text_of(lab, "--via", "tor", "--isolate", "destination", *CURL, *urls)
    name, address, again = control.circuits(*destinations)
    assert name == again != address


def test_credentials_of_the_apps_divide_its_circuits_and_never_join_two_launches(lab, control):
    logins = ["one:x@", "two:x@", "one:y@", "", "one:x@"]
    fetch = f"curl -sS --max-time 30 --proxy socks5h://${{login}}{FORWARDER} {EXIT_ONLY}"
    launches = []
    for _ in range(2):
        text_of(lab, "--via", "tor", "sh", "-ec", f"for login; do {fetch}; done", "sh", *logins)
        launches.append(control.circuits(*["exit-only.test:80"] * len(logins)))
    for circuits in launches:
        assert circuits[0] == circuits[4] and len(set(circuits)) == 4
    assert not set(launches[0]) & set(launches[1])


def test_tor_is_not_told_what_an_app_says_for_its_credentials(lab, control):
    text_of(lab, "--via", "tor", *CURL, "--proxy", f"socks5h://chosen:word@{FORWARDER}", EXIT_ONLY)
    user, password = control.credentials("exit-only.test:80")
    assert user and password and "chosen" not in user and "word" not in password


# Names

RESOLVE = """
import socket, sys
client = socket.create_connection(("127.100.90.50", 1080))
name = sys.argv[1].encode()
client.sendall(b"\\5\\1\\0" + b"\\5\\xf0\\0\\3" + bytes([len(name)]) + name + b"\\0\\0")
answer = client.makefile("rb").read()
print(answer[3], socket.inet_ntoa(answer[6:10]))
"""


def python(program, *words):
    return ["/usr/bin/python3", "-c", program, *words]


def test_a_name_is_resolved_at_the_exit(lab, world, tor):
    with world.watch() as w:
        assert text_of(lab, "--via", "tor", *python(RESOLVE, "looked-up-once.test")) == f"0 {ORIGIN}\n"
        assert text_of(lab, "--via", "tor", *python(RESOLVE, "no-such.test")) == "4 0.0.0.0\n"
        # What leads inside there would do so here, for a program that resolves first.
        assert text_of(lab, "--via", "tor", *python(RESOLVE, "ten.test")) == "2 0.0.0.0\n"
    assert w.events(server="exit-dns", name="looked-up-once.test") and w.events(server="dns") == []
    assert w.foreign() == []


# Onion services

# It resolves by resolv.conf, and asks SOCKS for the address that it got. curl itself resolves no .onion.
RESOLVES_FIRST = """
import socket, struct, sys
address = socket.getaddrinfo(sys.argv[1], 80, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
client = socket.create_connection(("127.100.90.50", 1080))
client.sendall(b"\\5\\1\\0" + b"\\5\\1\\0\\1" + socket.inet_aton(address) + struct.pack("!H", 80))
answer = client.makefile("rb")
assert answer.read(2) == b"\\5\\0" and answer.read(10)[1] == 0
client.sendall(f"GET / HTTP/1.1\\r\\nHost: {sys.argv[1]}\\r\\nConnection: close\\r\\n\\r\\n".encode())
sys.stdout.buffer.write(answer.read())
"""
WAYS = {
    "by SOCKS": [*CURL, "--proxy", f"socks5h://{FORWARDER}", "http://{}/"],
    "by SOCKS4a": [*CURL, "--proxy", f"socks4a://{FORWARDER}", "http://{}/"],
    "by HTTP": [*CURL, "http://{}/"],
    "by CONNECT": [*CURL, "--proxytunnel", "http://{}/"],
    "by name through DNS": python(RESOLVES_FIRST, "{}"),
}


@pytest.fixture
def onion(tor):
    """The name of a service on Tor that is the world's web server."""
    return tor.wait_onion()


def asked_of_resolvers(w, name):
    return [event for event in w.events(kind="query") if event["name"] == name]


@pytest.mark.parametrize("way", WAYS)
def test_an_onion_service_is_reached(lab, world, onion, way):
    command = [word.replace("{}", onion) for word in WAYS[way]]
    # Each launch has a circuit of its own to the service, and on a busy machine a rendezvous is sometimes not kept.
    with world.watch() as w:
        for _ in range(3):
            result = run(lab, "--via", "tor", *command)
            if result.returncode == 0:
                break
    text = result.stdout.decode()
    assert result.returncode == 0, result.stderr
    assert f"world {ORIGIN} sees" in text
    assert {event["host"] for event in w.events(server="http", kind="request")} == {onion}
    assert asked_of_resolvers(w, onion) == []
    assert w.foreign() == []


def test_two_launches_meet_an_onion_service_by_different_circuits(lab, onion, control):
    launches = []
    for _ in range(2):
        text_of(lab, "--via", "tor", *CURL, f"http://{onion}/", f"http://{onion}/")
        launches.append(set(control.circuits(*[f"{onion}:80"] * 2)))
    assert [len(circuits) for circuits in launches] == [1, 1]
    assert launches[0] != launches[1]


@pytest.mark.parametrize("dns", ["host", "synthetic", "tcp://203.0.113.53"])
def test_an_onion_service_is_nothing_to_resolvers_where_there_is_no_tor(lab, world, onion, dns):
    """RFC 7686: whoever speaks no Tor must not ask DNS, or the name is out."""
    fetch = f"curl -sS http://{onion}/; curl -sS --proxy socks5h://{FORWARDER} http://{onion}/; getent ahosts {onion}"
    with world.watch() as w:
        run(lab, "--via", "direct", "--dns", dns, "sh", "-c", fetch)
    assert asked_of_resolvers(w, onion) == []
