"""--allow-destination of what is on the host's loopback: reached there whatever the way out, by a plain connect() and
by the proxy, and nothing beside it. The lab's host has bait on 127.0.0.1:8023, [::1]:8023 and every address's 8022."""

import json

import pytest

from launching import SOCKS, run, text_of, unique
from world_map import UPSTREAM

PYTHON = "/usr/bin/python3"
V4, V6 = "127.0.0.1:8023", "[::1]:8023"
ALLOWED = [f"--allow-destination={V4}", f"--allow-destination={V6}"]
VIA = pytest.mark.parametrize("via", ["direct", SOCKS])
AS = pytest.mark.parametrize("user", ["root", "bob"])

# What comes of each destination in its arguments: connected to, and asked for by CONNECT.
APP = r"""
import json, os, socket, sys
def split(target):
    host, _, port = target.rpartition(":")
    return host.strip("[]"), int(port)
def outcome(dial, request):
    try:
        with dial() as s:
            s.sendall(request)
            heard = b""
            while block := s.recv(4096):
                heard += block
            return "bait" if heard.endswith(b"bait\n") else heard[:12].decode()
    except TimeoutError:
        return "silence"
    except OSError as error:
        return error.strerror
results = {}
for target in sys.argv[1:]:
    results["plain " + target] = outcome(lambda: socket.create_connection(split(target), 1), b"x")
    proxy = lambda: socket.create_connection(split(os.environ["http_proxy"].partition("//")[2]), 20)
    results["proxy " + target] = outcome(proxy, f"CONNECT {target} HTTP/1.1\r\n\r\nx".encode())
print(json.dumps(results))
"""

# The ports of 127.0.0.1 that take a connection.
SCAN = """
import json, socket
found = []
for port in range(1, 65536):
    with socket.socket() as s:
        s.settimeout(5)
        # A socket that the kernel has given this very port may meet itself.
        if s.connect_ex(("127.0.0.1", port)) == 0 and s.getsockname() != s.getpeername():
            found.append(port)
print(json.dumps(found))
"""


def outcomes(lab, *words, targets):
    """What comes of TARGETS in a launch, and which bait was taken meanwhile."""
    before = len(lab.bait_events())
    results = json.loads(text_of(lab, *words, PYTHON, "-c", APP, *targets))
    return results, [event["server"] for event in lab.bait_events()[before:]]


@AS
@VIA
def test_what_is_opened_is_reached_with_and_without_the_proxy(lab, world, via, user):
    with world.watch() as w:
        results, taken = outcomes(lab, "--via", via, "--uid", user, *ALLOWED, targets=[V4, V6])
    assert results == {f"{way} {target}": "bait" for way in ("plain", "proxy") for target in (V4, V6)}
    assert sorted(taken) == sorted([V4, V4, "::1:8023", "::1:8023"])
    assert w.foreign() == [] and w.events(server="socks5") == []


@VIA
def test_nothing_beside_it_is_reached(lab, world, via):
    targets = ["127.0.0.1:8022", "127.0.0.2:8022", "127.100.90.51:8022", "[::1]:8022", V6]
    with world.watch() as w:
        results, taken = outcomes(lab, "--via", via, f"--allow-destination={V4}", targets=targets)
    assert taken == []
    assert {results[f"proxy {target}"] for target in targets} == {"HTTP/1.1 403"}
    # Its address is there, and has nothing else; the others are closed by the filter.
    assert results["plain 127.0.0.1:8022"] == "Connection refused"
    assert {results[f"plain {target}"] for target in targets[1:]} == {"silence"}
    assert w.foreign() == [] and w.events(server="socks5") == []


def test_all_other_ports_of_its_address_are_closed(lab):
    assert json.loads(text_of(lab, "--via", SOCKS, *ALLOWED, PYTHON, "-c", SCAN)) == [8023]


def test_what_is_opened_of_the_apps_own_loopback_is_the_hosts(lab):
    """What the variables leave out is the program's own in the namespace wall, but for these."""
    for opened in "127.0.0.2:8022", "127.0.0.0/8:8022", "[::]:8022":
        target = opened.replace("127.0.0.0/8", "127.0.0.2")
        words = ["--via=direct", "--wall=namespace", f"--allow-destination={opened}"]
        answer = run(lab, *words, "curl", "-gsS", "--http0.9", "--max-time", "9", f"http://{target}/")
        assert answer.stdout.endswith(b"bait\n"), (opened, answer)


def test_a_name_is_another_thing_to_open(lab):
    """A program that resolves it goes to the address; asked for by name it is not what was opened."""
    results, _ = outcomes(lab, "--via", SOCKS, f"--allow-destination={V4}", targets=["localhost:8023"])
    assert results == {"plain localhost:8023": "bait", "proxy localhost:8023": "HTTP/1.1 403"}


@VIA
def test_localhost_is_the_hosts_by_the_proxy_alone(lab, world, via):
    with world.watch() as w:
        opened = "--allow-destination=localhost:8023"
        results, taken = outcomes(lab, "--via", via, opened, targets=["localhost:8023", V6])
    assert results["proxy localhost:8023"] == results[f"proxy {V6}"] == "bait"
    assert "bait" not in (results["plain localhost:8023"], results[f"plain {V6}"])
    assert taken == [V4, "::1:8023"]
    assert w.foreign() == [] and w.events(server="socks5") == []


@VIA
def test_in_the_address_wall_it_is_reached_by_the_proxy_alone(lab, world, via):
    with world.watch() as w:
        results, taken = outcomes(lab, "--via", via, "--wall=address", *ALLOWED, targets=[V4, "127.0.0.1:8022"])
    assert results == {f"plain {V4}": "silence", f"proxy {V4}": "bait",
                       "plain 127.0.0.1:8022": "silence", "proxy 127.0.0.1:8022": "HTTP/1.1 403"}
    assert taken == [V4]
    assert w.foreign() == [] and w.events(server="socks5") == []


@pytest.mark.parametrize("rules", [["--block", V4], ["--only", "web.test"]])
def test_rules_keep_out_what_is_opened(lab, rules):
    results, taken = outcomes(lab, "--via", SOCKS, *ALLOWED, *rules, targets=[V4])
    assert results == {f"plain {V4}": "Connection reset by peer", f"proxy {V4}": "HTTP/1.1 403"}
    assert taken == []


def test_a_service_that_is_not_there_is_a_reset(lab):
    results, _ = outcomes(lab, "--via", SOCKS, "--allow-destination=127.0.0.1:8029", targets=["127.0.0.1:8029"])
    assert results == {"plain 127.0.0.1:8029": "Connection reset by peer", "proxy 127.0.0.1:8029": "HTTP/1.1 502"}


def test_what_is_opened_elsewhere_goes_by_the_way_out(lab, world):
    """A private address is the upstream's to find."""
    with world.watch() as w:
        run(lab, "--via", SOCKS, "--allow-destination=10.0.0.7:80", "curl", "-sS", "--max-time", "9", "http://10.0.0.7/")
    request, = w.events(server="socks5", kind="socks")
    assert (request["ip"], request["dport"]) == ("10.0.0.7", 80)
    assert w.foreign(allow=[(UPSTREAM, 1080)]) == []


def test_the_journal_says_which_way_it_went(lab):
    name = unique("opened")
    outcomes(lab, "--via", SOCKS, "--unit", name, *ALLOWED, targets=[V4])
    lines = [line for line in lab.journal(f"appfw-{name}-forward.service").splitlines() if V4 in line]
    assert len(lines) == 2 and all('via="direct"' in line for line in lines), lines
