"""Ports of the host that lead to a program behind a wall: who is served, who is not, and that it is no way out."""

import contextlib
import itertools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess

import pytest

from launching import Output, command_lines, kill, launched, main_pid, run, unique, wait_gone
from namespaces import network_namespace
from test_escapes import Baits, PYTHON, TAKEOVER, reached, results_of, seen_by_world
from test_fail_closed import ALLOW_BOB, polkit_rule
from waiting import wait_until
from world_map import ORIGIN, ORIGIN6

LAB, LAB6 = "203.0.113.2", "2001:db8::2"
# Who launches, with what.
CALLERS = {
    "system": ("root", ["--wall=namespace"]),
    "system for bob": ("root", ["--wall=namespace", "--uid=bob"]),
    "user": ("bob", []),
    "standalone": ("bob", ["--standalone"]),
    "standalone of root": ("root", ["--standalone"]),
    "standalone of root for bob": ("root", ["--standalone", "--uid=bob"]),
}
BY = pytest.mark.parametrize("caller", CALLERS)
numbers = itertools.count(20_000 + os.getpid() % 10_000)

# Answers each client, when that one has said all, with what it was told and by whom.
SERVER = """
import socket, sys, threading
def answer(client):
    told = b""
    while block := client.recv(65536):
        told += block
    client.sendall(b"inside " + told)
    client.close()
address, port = sys.argv[1:3]
server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((address, int(port)))
server.listen(100)
print("ready", flush=True)
while True:
    threading.Thread(target=answer, args=[server.accept()[0]]).start()
"""


def port():
    """One that no other test uses."""
    return next(numbers)


@contextlib.contextmanager
def serving(lab, caller, *words, server=SERVER, at=("127.0.0.1", "8080"), via="none", name=None):
    user, more = CALLERS[caller]
    command = [PYTHON, "-c", server, *at]
    with launched(lab, *more, "--via", via, *words, "--", *command, user=user, name=name) as launch:
        yield launch
        # In order: not every launcher that is killed has somebody to remove its directory at once.
        launch.send_signal(signal.SIGTERM)
        launch.wait(10)


def say(address, number, told=b"hello", patience=10):
    """What is answered in the calling thread's network to who says that, and no more."""
    with socket.create_connection((address, number), patience) as client:
        client.sendall(told)
        client.shutdown(socket.SHUT_WR)
        heard = b""
        while block := client.recv(65536):
            heard += block
        return heard


def on_the_host(lab, address, number, *told):
    with network_namespace(lab.pid):
        return say(address, number, *told)


def in_the_world(world, address, number, *told):
    with network_namespace(world.pid):
        return say(address, number, *told)


def publishers(lab):
    return {pid for pid, words in command_lines(lab).items() if "appfw publish" in words}


def refuses(connect):
    with pytest.raises(OSError) as refused:
        connect()
    return isinstance(refused.value, (ConnectionRefusedError, ConnectionResetError))


# Who is served

def test_an_ordinary_user_whom_polkit_allows_publishes_as_well(lab):
    number = port()
    more = ["--system", "--wall=namespace", "--via=none", f"--publish={number}=8080"]
    command = [PYTHON, "-c", SERVER, "127.0.0.1", "8080"]
    with polkit_rule(lab, ALLOW_BOB), launched(lab, *more, "--", *command, user="bob") as launch:
        assert on_the_host(lab, "127.0.0.1", number) == b"inside hello"
        # In order: the system's systemd removes no directory of an ordinary user's.
        launch.send_signal(signal.SIGTERM)
        launch.wait(10)


def test_root_without_user_namespaces_publishes_as_well(lab):
    number = port()
    words = ["appfw-run", "--standalone", "--via=none", f"--publish={number}=8080", "--", PYTHON, "-c", SERVER]
    denied = [PYTHON, pathlib.Path(__file__).with_name("deny_calls.py"), "user-namespaces"]
    process = lab.popen([*denied, *words, "127.0.0.1", "8080"], stdout=subprocess.PIPE)
    with process:
        try:
            Output(process.stdout.fileno()).until(b"ready")
            assert on_the_host(lab, "127.0.0.1", number) == b"inside hello"
        finally:
            process.terminate()
    assert refuses(lambda: on_the_host(lab, "127.0.0.1", number))


def test_many_clients_at_once(lab):
    number = port()
    with serving(lab, "user", f"--publish={number}=8080"), network_namespace(lab.pid), contextlib.ExitStack() as kept:
        clients = [kept.enter_context(socket.create_connection(("127.0.0.1", number), 10)) for _ in range(200)]
        for client in clients:
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
        assert {client.makefile("rb").read() for client in clients} == {b"inside hello"}


@BY
def test_a_client_on_the_host_is_served_and_nobody_in_the_world(lab, world, caller):
    number = port()
    with serving(lab, caller, f"--publish={number}=8080"):
        assert on_the_host(lab, "127.0.0.1", number) == b"inside hello"
        assert refuses(lambda: in_the_world(world, LAB, number))
        assert refuses(lambda: on_the_host(lab, "::1", number))
    assert refuses(lambda: on_the_host(lab, "127.0.0.1", number))


@BY
def test_the_world_is_served_where_an_address_is_given(lab, world, caller):
    number = port()
    ports = [f"--publish=0.0.0.0:{number}=8080", f"--publish=[{LAB6}]:{number}=8080"]
    with world.watch() as w, serving(lab, caller, *ports):
        assert in_the_world(world, LAB, number) == b"inside hello"
        assert in_the_world(world, LAB6, number) == b"inside hello"
        assert refuses(lambda: on_the_host(lab, "::1", number))
    # The answers alone.
    assert {packet["sport"] for packet in w.foreign() if packet["proto"] == "tcp"} == {number}


@pytest.mark.parametrize("address", ["0.0.0.0", "::1", "::", "127.0.0.1"])
@pytest.mark.parametrize("caller", ["system", "user"])
@pytest.mark.parametrize("via", ["direct", "none"])
def test_wherever_on_its_loopback_the_program_listens(lab, caller, address, via):
    """With capture as well: what goes to its own loopback is not captured."""
    number = port()
    with serving(lab, caller, f"--publish={number}=8080", at=(address, "8080"), via=via):
        assert on_the_host(lab, "127.0.0.1", number) == b"inside hello"


@BY
def test_much_is_carried_and_half_of_a_connection_can_end(lab, caller):
    number = port()
    told = os.urandom(1 << 20) * 8
    with serving(lab, caller, f"--publish={number}=8080"):
        assert on_the_host(lab, "127.0.0.1", number, told) == b"inside " + told


@pytest.mark.parametrize("caller", ["system", "user", "standalone"])
def test_where_nobody_listens_the_client_is_told(lab, caller):
    number = port()
    with serving(lab, caller, f"--publish={number}=8081"):
        assert refuses(lambda: on_the_host(lab, "127.0.0.1", number))


@pytest.mark.parametrize("caller", ["system", "user", "standalone"])
def test_who_connects_early_is_served_when_the_program_is_there(lab, caller):
    """A connection waits from the moment on when the port is there, which is before the program."""
    number = port()
    with serving(lab, caller, f"--publish={number}=8080"):
        assert [on_the_host(lab, "127.0.0.1", number) for _ in range(50)] == [b"inside hello"] * 50


# It is no way out

# A program of the app's that looks for the publisher and for what of the host's it could take from it. A process of its
# own shows that it can.
TAKER = """
import ctypes, json, os, pathlib, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def outcome(act):
    try:
        result = act()
    except OSError as error:
        return type(error).__name__
    return "taken" if result not in (-1, None) else os.strerror(ctypes.get_errno())
def descriptor(pid, number):
    return libc.syscall(438, os.pidfd_open(pid), number, 0)
def traced(pid):
    result = libc.ptrace(16, pid, None, None)
    if result == 0:
        os.waitpid(pid, 0x40000000)
        libc.ptrace(17, pid, None, None)
    return result
def attempts(pid):
    found = {"ptrace": outcome(lambda: traced(pid)), "mem": outcome(lambda: open(f"/proc/{pid}/mem", "r+b")),
             "fd": outcome(lambda: os.readlink(f"/proc/{pid}/fd/0")),
             "root": outcome(lambda: os.listdir(f"/proc/{pid}/root/")),
             "environ": outcome(lambda: open(f"/proc/{pid}/environ").read() + "x"),
             "ns": outcome(lambda: os.open(f"/proc/{pid}/ns/net", os.O_RDONLY))}
    for number in range(20):
        found[f"descriptor {number}"] = outcome(lambda: descriptor(pid, number))
    return found
def is_publisher(process):
    try:
        return b"appfw\\0publish" in (process / "cmdline").read_bytes()
    except OSError:
        return False
own = subprocess.Popen(["sleep", "30"])
found = {process.name: attempts(int(process.name)) for process in pathlib.Path("/proc").iterdir()
         if process.name.isdigit() and is_publisher(process)}
print("found", json.dumps([found, attempts(own.pid)]), flush=True)
own.kill()
"""
# Connects out when it is told where.
SERVER_AND_TAKER = SERVER.replace('print("ready", flush=True)', f"""
print("ready", flush=True)
def answer(client):
    told = client.recv(100)
    if told == b"take":
        exec({TAKER!r}, {{}})
    else:
        try:
            socket.create_connection((told.decode(), 80), 3)
            client.sendall(b"out")
        except OSError as error:
            client.sendall(type(error).__name__.encode())
    client.close()
""")


@BY
def test_the_publisher_is_not_the_apps_to_take(lab, caller):
    number = port()
    with serving(lab, caller, f"--publish={number}=8080", server=SERVER_AND_TAKER) as launch:
        # The answer tells that it is at work.
        on_the_host(lab, "127.0.0.1", number, b"take")
        launch.shown.until(b"found ", 20)
        found, own = json.loads(launch.shown.seen.splitlines()[0])
    # With the system's a user namespace lies between the two; without a systemd it is not even seen.
    assert {name for name, outcome in own.items() if outcome == "taken"} >= {"mem", "fd", "descriptor 0"}
    if caller == "user":
        assert len(found) == 1
    if "standalone" in caller:
        assert found == {}
    for outcomes in found.values():
        assert {name: outcome for name, outcome in outcomes.items() if outcome == "taken"} == {}


@BY
def test_who_answers_connections_can_begin_none(lab, world, caller):
    number = port()
    with world.watch() as w, serving(lab, caller, f"--publish=0.0.0.0:{number}=8080", server=SERVER_AND_TAKER):
        for address in ORIGIN, ORIGIN6, LAB, "127.0.0.1", "10.0.0.7":
            said = in_the_world(world, LAB, number, address.encode())
            assert said in (b"OSError", b"ConnectionRefusedError", b"TimeoutError"), (address, said)
    assert {packet["sport"] for packet in w.foreign() if packet["proto"] == "tcp"} == {number}
    answers = w.packets(proto="tcp", sport=number)
    assert seen_by_world(w, [(packet["dst"], packet["dport"]) for packet in answers]) == set()


@pytest.mark.parametrize("caller", ["user", "standalone", "standalone of root"])
def test_the_publisher_keeps_no_capability(lab, caller):
    number = port()
    before = publishers(lab)
    with serving(lab, caller, f"--publish={number}=8080"):
        on_the_host(lab, "127.0.0.1", number)
        one, = publishers(lab) - before
        status = lab.path(f"/proc/{one}/status").read_text()
    held = {line.split(":")[0]: int(line.split()[1], 16) for line in status.splitlines() if line.startswith("Cap")}
    assert held == dict.fromkeys(["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"], 0)
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status


@pytest.mark.parametrize("caller", [
    pytest.param(caller, marks=() if caller in ("user", "standalone of root") else pytest.mark.slow)
    for caller in CALLERS
])
def test_a_port_adds_nothing_to_what_the_app_reaches(lab, world, caller):
    """The whole list of ways out, descriptors that it inherited among them."""
    user, more = CALLERS[caller]
    script = f'exec {PYTHON} {TAKEOVER} --json --forwarder="${{http_proxy#http://}}" all'

    def probed(*words):
        words = [*more, "--via=direct", "--no-capture", "--dns=synthetic", *words, "--", "sh", "-fc", script]
        with world.watch() as w:
            results = results_of(run(lab, *words, user=user, check=True, timeout=180).stdout)
        return results, reached(results), seen_by_world(w)

    with Baits(lab) as baits:
        _, *without = probed()
        results, *published = probed(f"--publish=0.0.0.0:{port()}=8080")
    assert len(results) > 100 and results["inherited-descriptors"]["outcome"] == "blocked"
    assert published == without
    # Root's that becomes another user is not contained where it sees that one's processes (docs/security.md).
    assert caller == "system" or published[1] == set()
    assert baits.servers == set()


def test_it_is_little_exposed(lab):
    number = port()
    with serving(lab, "system", f"--publish={number}=8080") as launch:
        on_the_host(lab, "127.0.0.1", number)
        unit = f"appfw-{launch.name}-publish.service"
        report = lab.run(["systemd-analyze", "--no-pager", "security", unit], check=True).stdout.decode()
        owner = lab.path(f"/proc/{main_pid(lab, unit)}").stat().st_uid
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", report).group(1)) <= 2.0, report
    assert 61184 <= owner <= 65519  # DynamicUser=, see systemd.exec(5)


# Life

@BY
def test_a_killed_publisher_comes_back(lab, caller):
    number = port()
    before = publishers(lab)
    with serving(lab, caller, f"--publish={number}=8080"):
        for _ in range(3):
            assert on_the_host(lab, "127.0.0.1", number) == b"inside hello"
            one, = publishers(lab) - before
            kill(lab, one, signal.SIGKILL.value)
            wait_until(lambda one=one: one not in publishers(lab), 5, "its end")
        assert on_the_host(lab, "127.0.0.1", number) == b"inside hello"
    wait_until(lambda: publishers(lab) == before, 5, "the end of all")


@BY
def test_a_detached_launch_goes_on_and_stops_with_its_ports(lab, caller):
    user, more = CALLERS[caller]
    number, name = port(), unique("detached")
    before = publishers(lab)
    words = ["--detach", "--unit", name, "--via=direct", f"--publish={number}=8080"]
    run(lab, *more, *words, "--", PYTHON, "-c", SERVER, "127.0.0.1", "8080", user=user, check=True)
    wait_until(lambda: not refuses_or_ends(lab, number), 10, "the server")
    one, = publishers(lab) - before
    kill(lab, one, signal.SIGKILL.value)
    wait_until(lambda: one not in publishers(lab), 5, "its end")
    wait_until(lambda: not refuses_or_ends(lab, number), 10, "another publisher")
    lab.run(["appfw", "stop", name], user=user, check=True, timeout=20)
    wait_until(lambda: publishers(lab) == before, 5, "the end of all")
    assert refuses(lambda: on_the_host(lab, "127.0.0.1", number))
    wait_gone(lab, name)


def refuses_or_ends(lab, number):
    try:
        return on_the_host(lab, "127.0.0.1", number) != b"inside hello"
    except OSError:
        return True


@BY
def test_a_port_in_use_is_told_before_anything_starts(lab, caller):
    user, more = CALLERS[caller]
    number, mark = port(), f"/tmp/{unique('mark')}"
    with network_namespace(lab.pid):
        holder = socket.create_server(("127.0.0.1", number))
    with holder:
        done = run(lab, *more, "--via=none", f"--publish={number}", "touch", mark, user=user)
    assert done.returncode == 125 and not lab.path(mark).exists()
    assert f"port {number} of 127.0.0.1 is in use on this host; choose another" in done.stderr.decode()


def test_a_privileged_port_is_as_the_caller_may(lab):
    done = run(lab, "--via=none", "--publish=81=8080", "true", user="bob")
    assert done.returncode == 125 and b"which only root may take" in done.stderr
    with serving(lab, "system", "--publish=81=8080"):
        assert on_the_host(lab, "127.0.0.1", 81) == b"inside hello"


def test_what_is_published_stands_in_the_record_and_is_printed(lab):
    number, name = port(), unique("record")
    with serving(lab, "system", f"--publish={number}=8080", name=name):
        record = json.loads(lab.path(f"/run/appfw/{name}/plan.json").read_text())
    assert record["publish"] == [f"127.0.0.1:{number}=8080"]
    for user, words in ("root", ["--wall=namespace"]), ("bob", []), ("bob", ["--standalone"]):
        printed = run(lab, *words, "--dry-run", "--via=none", f"--publish={number}=8080", "x", user=user, check=True)
        assert f"--publish=127.0.0.1:{number}=8080".encode() in printed.stdout


def test_a_publisher_that_cannot_start_is_told(lab):
    """Here it was brought nowhere: PID 1 has not its namespaces, and the host's ports are not the app's."""
    inode = lab.run(["stat", "-Lc", "%i", "/proc/self/ns/net"], check=True).stdout.decode().strip()
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        number = listener.getsockname()[1]
        words = ["appfw", "publish", f"--outside={inode}", f"--publish=127.0.0.1:{number}=80"]
        process = lab.popen(words, stdin=theirs, stderr=subprocess.PIPE)
        socket.send_fds(ours, [b"\n"], [listener.fileno()])
        said = Output(process.stderr.fileno()).to_the_end()
        assert process.wait(10) == 125
        report = json.loads(ours.recv(4096))
    assert report["event"] == "cannot-start" and "still the host's network" in report["message"]
    assert b"so nothing is published" in said
