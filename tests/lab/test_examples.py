"""The examples of units/examples/README.md, with the options that stand there: real programs against live servers, in
and out, version 4 and 6."""

import concurrent.futures
import contextlib
import itertools
import pathlib
import re
import socket
import struct
import subprocess

import pytest

import bpf_programs
from bpf_programs import datagrams_to, drops_packets, streams_from
from confining import service
from launching import launched, script, started, unique, variables
from namespaces import network_namespace
from test_filters import PORT, came_in, sent
from waiting import wait_until
from world_map import ORIGIN, ORIGIN6

README = pathlib.Path(__file__).parents[2] / "units/examples/README.md"
EXAMPLES = dict(re.findall(r"^\| `([\w-]+)` \| `(.*)` \| `.*` \|$", README.read_text(), re.MULTILINE))
PORTS = itertools.count(7300)
GOOGLE, OTHERS = ["8.8.8.8", "2001:4860:4860::8888"], ["1.1.1.1", "9.9.9.9", "2606:4700:4700::1111", "2620:fe::fe"]
LAB, LAB6 = "203.0.113.2", "2001:db8::2"
LIMIT = 1.5  # seconds for an answer; on a veth it takes microseconds, on a busy machine more


def options(name):
    return EXAMPLES[name].split()


def test_every_example_is_tried():
    text = pathlib.Path(__file__).read_text()
    assert EXAMPLES and [name for name in EXAMPLES if f'"{name}"' not in text] == []


# The resolver

def dnsmasq(port):
    """Asks all of its servers at once."""
    return ["/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", f"--port={port}", "--user=root",
            f"--listen-address=127.0.0.1,{LAB},{LAB6}", "--bind-interfaces", "--no-resolv", "--no-hosts",
            "--cache-size=0", "--pid-file", "--all-servers", "--log-facility=-",
            *(f"--server={server}" for server in GOOGLE + OTHERS)]


def question(name):
    """For the name's address."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def ask(lab, port, name):
    """The answer, as the lab's own loopback gets it."""
    with network_namespace(lab.pid):
        client = socket.socket(type=socket.SOCK_DGRAM)
    with client:
        client.settimeout(0.5)
        client.connect(("127.0.0.1", port))
        client.send(question(name))
        return client.recv(512)


def answered(lab, port, comers, payload):
    """Who of the world's COMERS is answered at that port of the lab's, and by what: "tcp 10.0.0.7" and its like."""
    def is_answered(kind, comer):
        framed = struct.pack("!H", len(payload)) + payload if kind == "tcp" else payload
        with contextlib.suppress(OSError):
            return lab.world.connect(*comer, port, kind, framed, timeout=0.5) != b""

    tries = list(itertools.product(["tcp", "udp"], comers))
    with concurrent.futures.ThreadPoolExecutor(len(tries)) as pool:
        results = pool.map(lambda one: is_answered(*one), tries)
    return {f"{kind} {source}" for (kind, (source, _)), was in zip(tries, results) if was}


def plain(lab, program):
    return started(lab, program, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@contextlib.contextmanager
def installed(lab, program, *words, name=None):
    """The same as a unit."""
    name = name or unique("example")
    try:
        lab.run(["appfw", "unit", "install", name, "--now", *words, "--", *program], check=True)
        yield None
    finally:
        lab.run(["appfw", "unit", "remove", name], check=True)


# Who in the world asks it: those it may not ask, those it may, and others.
CLIENTS = [*GOOGLE, *OTHERS, ORIGIN, ORIGIN6]


def asked_by(lab, run):
    """Which servers of dnsmasq's the world saw a question come to, who there had an answer of it, and where else
    anything went."""
    port = next(PORTS)
    with lab.world.watch() as w, run(dnsmasq(port)):
        def is_up():
            with contextlib.suppress(OSError):
                return ask(lab, port, "v4.test")

        assert socket.inet_aton(ORIGIN) in wait_until(is_up, 10, "an answer")
        clients = answered(lab, port, [(one, LAB6 if ":" in one else LAB) for one in CLIENTS], question("v4.test"))
    servers = {event["at"] for event in w.events(server="dns", name="v4.test")}
    # To a client goes what comes from its port alone.
    answers = {packet["dst"] for packet in w.foreign() if packet.get("sport") == port}
    assert answers == {client.split()[1] for client in clients}
    return servers, clients, {packet["dst"] for packet in w.foreign() if packet.get("sport") != port} - servers


def by_both(addresses):
    return {f"{kind} {address}" for kind in ("tcp", "udp") for address in addresses}


def test_unconfined_it_asks_and_answers_them_all(lab):
    assert asked_by(lab, lambda program: plain(lab, program)) == ({*GOOGLE, *OTHERS}, by_both(CLIENTS), set())


@pytest.mark.parametrize("name, clients", [("resolver", {*CLIENTS} - {*GOOGLE}), ("resolver-only", OTHERS)],
                         ids=["resolver", "resolver-only"])
@pytest.mark.parametrize("user", ["root", "bob"])
def test_resolver_asks_and_answers_those_it_may_and_never_the_denied(lab, name, clients, user):
    words = [*options(name), f"--uid={user}"]
    for run in (lambda program: plain(lab, ["appfw-run", *words, "--", *program]),
                lambda program: installed(lab, program, *words)):
        assert asked_by(lab, run) == ({*OTHERS}, by_both(clients), set())


# The file server

FILES = """#!/bin/sh
# What it tries to reach by itself, then what it is for.
for host in 10.0.0.7 203.0.113.10 8.8.8.8 '[fd00::7]' '[2001:db8::10]' '[2001:db8:8::8]'; do
    curl -s -g --max-time %s "http://$host/" >/dev/null &
done
wait
echo ready
exec /usr/bin/python3 -m http.server %d --bind :: --directory /etc >/dev/null 2>&1
"""
COMERS = [("10.0.0.7", "10.0.0.2"), ("10.0.0.9", "10.0.0.2"), (ORIGIN, "203.0.113.2"), ("8.8.8.8", "203.0.113.2"),
          ("10.1.2.3", "203.0.113.2"), ("fd00::7", "2001:db8::2"), (ORIGIN6, "2001:db8::2"),
          ("2001:db8:8::8", "2001:db8::2")]


def fetched(lab, source, target, port):
    """Whether that address of the world is served a file."""
    try:
        answer = lab.world.connect(source, target, port, payload=b"GET /hostname HTTP/1.0\r\n\r\n", timeout=LIMIT)
    except OSError:
        return False
    return b"200 OK" in answer


def served_by(lab, command):
    """Whom in the world the file server serves and answers at all, and what it reaches there itself."""
    port = next(PORTS)
    program = script(lab, "files", FILES % (LIMIT, port))
    with lab.world.watch() as w, command(program) as process:
        def listens():
            with network_namespace(lab.pid):
                local = socket.socket()
            with local:
                return local.connect_ex(("127.0.0.1", port)) == 0

        wait_until(listens, 10, "the file server")
        with concurrent.futures.ThreadPoolExecutor(len(COMERS)) as pool:
            results = pool.map(lambda comer: fetched(lab, *comer, port), COMERS)
        served = {source for (source, _), was in zip(COMERS, results) if was}
        if process:
            process.terminate()
            process.wait(20)
    answered = {packet["dst"] for packet in w.foreign() if packet.get("sport") == port}
    reached = {packet["dst"] for packet in w.foreign() if packet.get("dport") == 80}
    return served, answered, reached


def test_unconfined_it_serves_and_reaches_everyone(lab):
    everyone = {source for source, _ in COMERS}
    served, answered, reached = served_by(lab, lambda program: started(lab, [program], stdout=subprocess.DEVNULL))
    assert (served, answered) == (everyone, everyone)
    assert reached == everyone - {"10.0.0.9", "10.1.2.3"}


def test_file_server_serves_its_networks_and_reaches_nothing_else(lab):
    words = [*options("fileserver"), "--uid=bob"]
    for command in (lambda program: launched(lab, *words, "--", program),
                    lambda program: installed(lab, [program], *words)):
        served, answered, reached = served_by(lab, command)
        assert (served, answered, reached) == ({"10.0.0.7", "10.0.0.9", "fd00::7"},) * 2 + ({"10.0.0.7", "fd00::7"},)


# The service behind Tor

PROXIED = """#!/bin/sh
# Tells by its errors what it has and reaches, then serves everyone who comes, until its input ends.
{
env
curl -s --noproxy '*' --max-time 0.5 http://203.0.113.10/
curl -s --noproxy '*' --max-time 0.5 -g 'http://[2001:db8::10]/'
curl -s --noproxy '*' --max-time 0.5 -o /dev/null -w 'local_service=%%{http_code}\n' http://127.0.0.1:8023/
proxy=socks5h://${ALL_PROXY#socks://}
curl -s --max-time 20 --proxy "$proxy" -o /dev/null -w 'by_tor=%%{http_code}\n' http://web.test/
} >&2
exec /usr/bin/python3 %s server %d
"""


def served_on_the_host(lab, port):
    """On which loopback addresses the host's own clients are served."""
    served = set()
    for family, address in (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"):
        with network_namespace(lab.pid):
            client = socket.socket(family)
        with client, contextlib.suppress(OSError):
            client.settimeout(0.5)
            client.connect((address, port))
            if client.recv(64) == b"served":
                served.add(address)
    return served


@pytest.mark.parametrize("name, address, local, host", [
    ("proxied", None, "200", {"127.0.0.1", "::1"}), ("proxied-alone", "127.100.90.50", "000", set()),
], ids=["proxied", "proxied-alone"])
def test_service_leaves_by_tor_alone_and_nobody_in_the_world_comes_in(lab, world, tor, name, address, local, host):
    """That all of these come in without a wall is shown by test_filters.py."""
    port = next(PORTS)
    program = script(lab, name, PROXIED % (pathlib.Path(__file__).with_name("rules_app.py"), port))
    with world.watch() as w, launched(lab, *options(name), "--", program, stdin=subprocess.PIPE) as process:
        assert answered(lab, port, COMERS, b"hello") == set()
        assert served_on_the_host(lab, port) == host
        process.stdin.close()
        assert process.wait(20) == 0
        lines = process.said.to_the_end().decode().splitlines()
    said = variables("\n".join(line for line in lines if "=" in line))
    for variable in "ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY":
        assert re.fullmatch(r"socks://127\.100\.\d+\.\d+:1080", said[variable])
        assert address is None or said[variable] == f"socks://{address}:1080"
    assert (said["by_tor"], said["local_service"]) == ("200", local)
    assert w.foreign() == []
    assert [event["host"] for event in w.events(server="http", kind="request")] == ["web.test"]


# Filters of one's own

KEPT_OUT = ["10.0.0.9", "2001:db8:8::8"]


@pytest.fixture
def pinned(lab):
    """The filters of `filtered`."""
    pairs = {"lan-in": streams_from(*KEPT_OUT), "lan-out": datagrams_to(PORT)}
    with contextlib.ExitStack() as stack:
        for name, rules in pairs.items():
            path = lab.path(f"/sys/fs/bpf/{name}")
            bpf_programs.pin(path, bpf_programs.load(drops_packets(rules)))
            stack.callback(path.unlink)
        yield


@pytest.mark.usefixtures("pinned")
def test_filtered_service_is_judged_by_both_programs(lab):
    """That all of these pass without them is shown by test_filters.py."""
    comers = [comer for comer in COMERS if comer[0] in ["10.0.0.7", ORIGIN6, *KEPT_OUT]]
    assert sent(lab, *options("filtered")) == {(ORIGIN, 9), (ORIGIN6, 9)}
    served = came_in(lab, options("filtered"), comers)
    assert served == {(kind, source): kind == "udp" or source not in KEPT_OUT
                      for source, _ in comers for kind in ("tcp", "udp")}


# As something that lasts, each of them

@pytest.mark.usefixtures("pinned")
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_a_unit_and_confines_a_service(lab, name):
    """Proven: else neither starts."""
    sleep = ["/bin/sleep", "1000"]
    with service(lab, f"[Service]\nExecStart={' '.join(sleep)}\n") as svc:
        svc.confine(*options(name), "--now")
        svc.start()
        assert svc.is_proven()
        svc.unconfine("--now")
        unit = unique("example")
        with installed(lab, sleep, *options(name), name=unit):
            assert lab.run(["systemctl", "is-active", f"appfw-{unit}.service"]).stdout == b"active\n"
