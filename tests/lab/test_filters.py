"""--ingress-filter and --egress-filter: the user's own BPF programs judge packets beside systemd's, and where one is
not attached nothing is run."""

import contextlib
import os
import subprocess

import pytest

import bpf_programs
from bpf_programs import EGRESS, INGRESS, NOTHING, SOCKET_FILTER, datagrams_to, drops_packets, streams_from, streams_to
from launching import launched, started, unique
from test_fail_closed import ALLOW_BOB, DIRECT, MARKS, copy, drop_in, folder, marks, polkit_rule, refusal, \
    runs  # noqa: F401
from waiting import wait_until
from world_map import ORIGIN, ORIGIN6

ALONE = ["--via=none", "--wall=address"]
NAMESPACE = [*DIRECT, "--wall=namespace"]
PORT = 9999
BPFFS = "/sys/fs/bpf"
HELD = """#!/bin/sh
# Its launcher hears of no proof before this file is there.
[ "$1" != inside ] || until [ -e %s ]; do sleep 0.01; done
exec %s "$@"
"""


@pytest.fixture
def pinned(lab):
    """pinned(program): its path in the lab's bpffs, of any code or descriptor."""
    paths = []

    def make(program):
        path = lab.path(f"{BPFFS}/{unique('lab')}")
        bpf_programs.pin(path, program if isinstance(program, int) else bpf_programs.load(program))
        paths.append(path)
        return f"{BPFFS}/{path.name}"

    yield make
    for path in paths:
        path.unlink(missing_ok=True)


# What they drop

SEND = "import socket, sys\nfor word in sys.argv[1:]:\n  a, p = word.split()\n  s = socket.socket(" \
       "socket.AF_INET6 if ':' in a else socket.AF_INET, socket.SOCK_DGRAM)\n  try: s.sendto(b'x', (a, int(p)))\n" \
       "  except PermissionError: pass\n"


def sent(lab, *words):
    """To which places the world saw datagrams come."""
    places = [f"{address} {port}" for address in (ORIGIN, ORIGIN6) for port in (PORT, 9)]
    with lab.world.watch() as w:
        done = lab.run(["appfw-run", *words, "python3", "-c", SEND, *places])
    assert done.returncode == 0, done.stderr
    return {(packet["dst"], packet["dport"]) for packet in w.foreign() if packet["proto"] == "udp"}


def test_what_is_sent_passes_every_egress_filter(lab, pinned):
    first, second = pinned(drops_packets(datagrams_to(PORT))), pinned(drops_packets(datagrams_to(9)))
    everything = {(address, port) for address in (ORIGIN, ORIGIN6) for port in (PORT, 9)}
    rules = ["--via=none", "--deny=8.8.8.8"]
    assert sent(lab, *rules) == everything
    for words in rules, ALONE:
        assert sent(lab, *words, f"--egress-filter={first}") == {(ORIGIN, 9), (ORIGIN6, 9)}
    assert sent(lab, *ALONE, f"--egress-filter={first}", f"--egress-filter={second}") == set()
    # They open nothing that the lists deny.
    assert sent(lab, "--via=none", "--deny=any", f"--egress-filter={first}") == set()


def test_who_comes_in_passes_the_ingress_filter(lab, pinned):
    kept_out = ["10.0.0.9", "2001:db8:8::8"]
    comers = [("10.0.0.9", "10.0.0.2"), ("10.0.0.7", "10.0.0.2"), ("2001:db8:8::8", "2001:db8::2"),
              (ORIGIN6, "2001:db8::2")]
    path = pinned(drops_packets(streams_from(*kept_out)))
    for words, out in ([f"--ingress-filter={path}", *ALONE], kept_out), (["--via=none", "--deny=8.8.8.8"], []):
        served = came_in(lab, [*words, "--uid=bob"], comers)
        assert served == {(kind, source): kind == "udp" or source not in out for source, _ in comers
                          for kind in ("tcp", "udp")}


def came_in(lab, words, comers):
    """Who of COMERS was served, by TCP and by UDP."""
    port = "7290"
    app = ["python3", os.path.join(os.path.dirname(__file__), "rules_app.py"), "server", port]
    served = {}
    with launched(lab, *words, *app, stdin=subprocess.PIPE) as process:
        for source, target in comers:
            for kind in "tcp", "udp":
                with contextlib.suppress(TimeoutError):
                    served[kind, source] = lab.world.connect(source, target, int(port), kind, timeout=0.3) == b"served"
                served.setdefault((kind, source), False)
        process.stdin.close()
        assert process.wait(20) == 0
    return served


@pytest.mark.parametrize("words, port, bypass", [(DIRECT, 1080, []), (NAMESPACE, 80, ["--noproxy", "*"])],
                         ids=["strict", "namespace"])
def test_filters_judge_in_a_namespace_too(lab, world, pinned, words, port, bypass):
    path = pinned(drops_packets(streams_to(port)))
    for filters, arrives in ([], True), ([f"--egress-filter={path}"], False):
        with world.watch() as w:
            lab.run(["appfw-run", *words, *filters, "curl", "-s", *bypass, "--max-time", "0.7",
                     f"http://{ORIGIN}/"])
        assert bool(w.events(server="http", kind="request")) == arrives


# What is no filter

@pytest.mark.parametrize("what, says", [
    ("nothing", "nothing is pinned there"),
    ("a folder", "this is no pinned BPF program"),
    ("another type", "this BPF program is of type socket_filter, and only cgroup_skb judges packets of a unit"),
    ("a map", "what is pinned there is no BPF program, but a map or a link"),
])
@pytest.mark.parametrize("option", ["--ingress-filter", "--egress-filter"])
def test_what_is_no_filter_is_said_before_anything_starts(lab, pinned, option, what, says):
    path = {
        "nothing": lambda: f"{BPFFS}/not-there",
        "a folder": lambda: f"{BPFFS}/{unique('folder')}",
        "another type": lambda: pinned(bpf_programs.load(NOTHING, SOCKET_FILTER)),
        "a map": lambda: pinned(bpf_programs.make_map()),
    }[what]()
    if what == "a folder":
        lab.path(path).mkdir()
    said = refusal(lab, *ALONE, option, path)
    if what == "a folder":
        lab.path(path).rmdir()
    assert said.startswith(f"{option} {path}: ") and says in said


def test_a_file_elsewhere_is_no_filter(lab):
    assert "below /sys/fs/bpf" in refusal(lab, *DIRECT, "--egress-filter=/etc/passwd")


def test_an_ordinary_user_is_told_who_can(lab, pinned):
    path = pinned(drops_packets([]))
    words = [*DIRECT, f"--egress-filter={path}"]
    assert "use sudo appfw-run --system --uid USER" in refusal(lab, *words, user="bob")
    with polkit_rule(lab, ALLOW_BOB):
        assert "takes root" in refusal(lab, "--system", *words, user="bob")


# What systemd has not done

def test_filter_that_a_drop_in_takes_away_is_missed(lab, pinned):
    path = pinned(drops_packets([]))
    with drop_in(lab, "appfw-.service", "[Service]; IPEgressFilterPath=") as file:
        said = refusal(lab, *DIRECT, f"--egress-filter={path}")
    assert "IPEgressFilterPath=" in said and file in said


@pytest.fixture
def held(lab, folder):  # noqa: F811
    """held(words, meanwhile): launches with WORDS what leaves a mark, and calls MEANWHILE with its cgroup while
    `inside` has proven nothing yet; returns whether it ran, the launcher's code and what it said."""
    launcher, appfw = copy(lab, "appfw-run", folder), copy(lab, "appfw", folder)
    lab.path(appfw).rename(lab.path(f"{appfw}.real"))

    def launch(words, meanwhile):
        name, mark, go = unique("held"), unique("mark"), f"/run/{unique('go')}"
        lab.path(appfw).write_text(HELD % (go, f"{appfw}.real"))
        lab.path(appfw).chmod(0o755)
        command = [launcher, "--unit", name, *words, "touch", f"{MARKS}/{mark}"]
        with started(lab, command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            cgroup = lab.path(f"/sys/fs/cgroup/appfw.slice/appfw-{name}.service")
            # Its processes come after its programs.
            wait_until(lambda: cgroup.exists() and (cgroup / "cgroup.procs").read_text(), 10, "the unit's start")
            meanwhile(cgroup)
            lab.path(go).touch()
            said = process.stderr.read().decode()
            return (marks(lab) / mark).exists(), process.wait(20), said

    return launch


@pytest.mark.parametrize("words, where, option", [
    (DIRECT, EGRESS, "--egress-filter"), (NAMESPACE, EGRESS, "--egress-filter"), (ALONE, INGRESS, "--ingress-filter"),
], ids=["strict", "namespace", "address"])
def test_filter_that_is_no_longer_attached_is_missed(pinned, held, words, where, option):
    """As with a systemd that carries on without it, 259 and later: the setting is there, and the program isn't."""
    program = bpf_programs.load(drops_packets([]))
    filters = [option, pinned(os.dup(program))]
    assert held([*words, *filters], lambda cgroup: None) == (True, 0, "")
    ran, code, said = held([*words, *filters], lambda cgroup: bpf_programs.detach(cgroup, where, program))
    os.close(program)
    assert (ran, code) == (False, 125) and f"{option} {filters[1]}: systemd has not attached it" in said


@pytest.mark.parametrize("where", [EGRESS, INGRESS])
def test_systemds_own_filter_is_missed_behind_one_that_drops_everything(pinned, held, where):
    """From inside there is no difference."""
    program = bpf_programs.load(NOTHING)
    words = ["--via=none", f"--egress-filter={pinned(os.dup(program))}"]

    def detach_the_others(cgroup):
        for number in bpf_programs.attached(cgroup, where):
            other = bpf_programs.by_number(number)
            if bpf_programs.number(other) != bpf_programs.number(program):
                bpf_programs.detach(cgroup, where, other)
            os.close(other)

    assert held(words, lambda cgroup: None) == (True, 0, "")
    ran, code, said = held(words, detach_the_others)
    os.close(program)
    assert (ran, code) == (False, 125) and "keeps systemd from attaching its own BPF filter" in said


@pytest.mark.parametrize("words", [DIRECT, NAMESPACE], ids=["strict", "namespace"])
def test_systemd_that_may_not_call_bpf_leaves_the_app_unrun(lying_lab, words):
    path = lying_lab.path(f"{BPFFS}/{unique('lab')}")
    bpf_programs.pin(path, bpf_programs.load(drops_packets([])))
    refusal(lying_lab, *words, f"--egress-filter={BPFFS}/{path.name}")
    path.unlink()


@pytest.mark.parametrize("option", ["--ingress-filter", "--egress-filter"])
def test_filter_that_drops_everything_is_named_where_it_keeps_the_proof_out(lab, pinned, option):
    path = pinned(NOTHING)
    assert runs(lab, "--via=none", option, path) == "root"
    said = refusal(lab, *DIRECT, option, path)
    assert "--ingress-filter and --egress-filter must let datagrams of the app's loopback pass" in said
